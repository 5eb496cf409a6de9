"""Wall seconds and peak memory of a part, on a device whose work is not done when its call returns."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from pipeline.estimate.fit import GIB

Found = TypeVar("Found")


@dataclass
class Spent:
    """What a part took.

    Attributes:
        wall_seconds: From its call to the end of what it started.
        peak_gib: Most memory of the device that was allocated meanwhile; ``None`` on a CPU.
    """

    wall_seconds: float = 0.0
    peak_gib: float | None = None

    def add(self, other: Spent) -> None:
        """Count a further call of the same part."""
        self.wall_seconds += other.wall_seconds
        peaks = [each for each in (self.peak_gib, other.peak_gib) if each is not None]
        self.peak_gib = max(peaks, default=None)


class Clock:
    """Measures calls on a device.

    Args:
        device: ``cuda`` or ``cpu``.
    """

    def __init__(self, device: str) -> None:
        self._is_gpu = device == "cuda"

    def measured(self, call: Callable[[], Found]) -> tuple[Found, Spent]:
        """Return what a call gives, and what it took."""
        if self._is_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        found = call()
        if self._is_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        return found, Spent(seconds, torch.cuda.max_memory_allocated() / GIB if self._is_gpu else None)

    @contextmanager
    def watching(self, parts: dict[str, Spent], owner: object, **methods: str) -> Iterator[None]:
        """Count the calls of an object's methods, each as the part that it is given, while the block runs."""
        before = {name: getattr(owner, name) for name in methods}

        def watched(name: str, part: str) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                found, spent = self.measured(lambda: before[name](*arguments, **options))
                parts.setdefault(part, Spent()).add(spent)
                return found

            return call

        for name, part in methods.items():
            setattr(owner, name, watched(name, part))
        try:
            yield
        finally:
            for name, method in before.items():
                setattr(owner, name, method)

    def release(self) -> None:
        """Give back what nobody holds any more."""
        gc.collect()
        if self._is_gpu:
            torch.cuda.empty_cache()
