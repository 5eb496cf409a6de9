"""How far a model's own rounding carries: the yardstick for two computations that should give the same.

How much results differ that differ in rounding alone depends on the type of the weights, the depth and the weights
themselves, so it is measured: the output of each of the model's innermost modules is moved at random, by as much as
rounding moves it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# Results further apart than this many times the measured rounding are not the same. What rounds inside a module is not
# measured; in float32 there is room for it, as wrong results stand thousands of times further off.
FACTOR, FACTOR_IN_HALF_PRECISION = 40.0, 8.0
# Of the largest value: what is left where rounding happens to cancel out.
LEAST = 8.0


@contextmanager
def rounded(model: nn.Module, seed: int) -> Iterator[None]:
    """Run with every innermost module's output moved by about one unit in its last place, at random."""
    handles = [
        module.register_forward_hook(_move(torch.Generator().manual_seed(seed + number)))
        for number, module in enumerate(module for module in model.modules() if not any(module.children()))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _move(generator: torch.Generator) -> Callable[[nn.Module, Any, Any], Any]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        """Return a module's output, moved by as much as its type rounds."""
        if not isinstance(output, Tensor) or not output.is_floating_point() or not output.dim():
            return output
        exact = output.detach().double()
        scale = exact.square().mean(dim=-1, keepdim=True).sqrt() * torch.finfo(output.dtype).eps
        noise = torch.randn(output.shape, generator=generator, dtype=torch.float32).to(output.device)
        # Added to the output, as a backward pass may lead through it.
        return (output.to(torch.promote_types(output.dtype, torch.float32)) + scale.float() * noise).to(output.dtype)

    return hook


def allowed_difference(model: nn.Module, values: Callable[[int], Tensor], plain: Mapping[int, Tensor]) -> float:
    """Return by how much values may differ and still be alike, measured on some rows.

    Args:
        model: The model that computes them.
        values: From a row to its values, in any shape; computed anew at each call.
        plain: The values of those rows, as they are.
    """
    squares, largest = [], 0.0
    for row, unmoved in plain.items():
        with rounded(model, seed=row):
            moved = values(row)
        finite = (moved - unmoved)[(moved - unmoved).isfinite()]
        squares.append(float(finite.square().mean()) if finite.numel() else 0.0)
        largest = max(largest, float(unmoved[unmoved.isfinite()].abs().max()) if finite.numel() else 0.0)
    # The largest is left out: where rounding changes a choice, such as an expert, it would allow anything.
    kept = sorted(squares)[: max(1, len(squares) - 1)]
    measured = float(sum(kept) / len(kept)) ** 0.5
    factor = FACTOR if torch.finfo(_dtype(model)).bits >= 32 else FACTOR_IN_HALF_PRECISION
    return float(max(factor * measured, least_difference(model, largest)))


def least_difference(model: nn.Module, largest: float) -> float:
    """Return by how much two values as large as ``largest`` may differ that went through the same computation."""
    eps: float = torch.finfo(_dtype(model)).eps
    return LEAST * eps * largest


def _dtype(model: nn.Module) -> torch.dtype:
    return next((weight.dtype for weight in model.parameters() if weight.is_floating_point()), torch.float32)
