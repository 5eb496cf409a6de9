"""Credit methods, one file each, and their registry by name."""

from shaping.credit import attention, kernel_shap, lime, prefix, random, shapley, sparse, uniform
from shaping.credit.base import Credit, CreditMethod, ScoredBatch

METHODS: dict[str, CreditMethod] = {
    module.METHOD.name: module.METHOD
    for module in (sparse, uniform, random, prefix, attention, shapley, kernel_shap, lime)
}

__all__ = ["METHODS", "Credit", "CreditMethod", "ScoredBatch"]
