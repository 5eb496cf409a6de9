"""What is known of the credit methods without loading them: they need torch, which takes seconds to import.

The methods say the same of themselves; a test holds the two together.
"""

from __future__ import annotations

# In the registry's order.
METHOD_NAMES = (
    "sparse",
    "uniform",
    "random",
    "prefix",
    "attention",
    "gradient",
    "shapley",
    "owen",
    "kernel_shap",
    "lime",
)
CAUSAL = frozenset({"sparse", "prefix"})
SUMS_TO_SCORE = frozenset({"sparse", "uniform", "random", "attention"})
BY_UNITS = frozenset({"shapley", "owen", "kernel_shap", "lime"})
