"""What is known of the credit methods without loading them: they need torch, which takes seconds to import.

The methods say the same of themselves; a test holds the two together.
"""

from __future__ import annotations

# Plain RLHF, and the control; baseline arms that give all reward by one of them are called by its name.
SPARSE, UNIFORM = "sparse", "uniform"
# In the registry's order.
METHOD_NAMES = (
    SPARSE,
    UNIFORM,
    "random",
    "prefix",
    "attention",
    "gradient",
    "shapley",
    "owen",
    "kernel_shap",
    "lime",
)
CAUSAL = frozenset({SPARSE, "prefix"})
SUMS_TO_SCORE = frozenset({SPARSE, UNIFORM, "random", "attention"})
BY_UNITS = frozenset({"shapley", "owen", "kernel_shap", "lime"})
