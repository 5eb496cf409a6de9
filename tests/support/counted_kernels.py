"""Counts what torch is asked to do."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class CountedKernels(TorchDispatchMode):
    """Counts the operations of the block that compute something: views do not.

    Attributes:
        count: Operations so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not getattr(function, "is_view", False)
        return function(*args, **(kwargs or {}))
