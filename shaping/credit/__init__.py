"""Credit methods, one file each, and their registry by name."""

from shaping.credit import attention, gradient, kernel_shap, lime, owen, prefix, random, shapley, sparse, uniform
from shaping.credit.base import Credit, CreditMethod, ScoredBatch, check_served, find_credits, score_batch

METHODS: dict[str, CreditMethod] = {
    module.METHOD.name: module.METHOD
    for module in (sparse, uniform, random, prefix, attention, gradient, shapley, owen, kernel_shap, lime)
}

__all__ = ["METHODS", "Credit", "CreditMethod", "ScoredBatch", "check_served", "find_credits", "score_batch"]
