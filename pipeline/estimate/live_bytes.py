"""How many bytes of tensors are alive at once, while something is computed.

The tensors may be real, or fake ones that have sizes alone: then the memory of a model that fits nowhere near is
counted by running its own code. What counts is the storage of tensors, each once however many tensors look at it.
The one file that knows private names of torch.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

# Each private name that is used below: why, and what would replace it.
PRIVATE_NAMES = {
    "_apply": "of nn.Module: how the adapters' library changes the type of a module's tensors; fake ones that take it",
    "torch._subclasses.fake_tensor": "tensors of sizes alone that take the kernels of a device, as the "
    "meta device does not; a public way to them",
    "torch.utils._python_dispatch": "sees every operation with its results; a public hook of that",
}


class FakeTensors:
    """Makes tensors of sizes alone while its blocks run: nothing is allocated, and nothing computed.

    Those of one block may be used in another one of the same object. They have no place in memory, which the library
    notes wherever it asks for one: nobody is told.
    """

    def __init__(self) -> None:
        self._mode, self._plain = _FakeTensors(), nn.Module._apply

    def __enter__(self) -> None:
        nn.Module._apply = _converted  # type: ignore[method-assign]
        # Entered once each: an object of its own for every block.
        self._quiet = warnings.catch_warnings(action="ignore")
        self._quiet.__enter__()
        self._mode.__enter__()

    def __exit__(self, *error: Any) -> None:
        nn.Module._apply = self._plain  # type: ignore[method-assign]
        self._mode.__exit__(*error)
        self._quiet.__exit__(*error)


def _converted(module: nn.Module, convert: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """Put new tensors into a module, where torch would exchange the contents of the old ones, which refuse that."""
    for child in module.children() if recurse else ():
        _converted(child, convert)
    for name, weight in list(module.named_parameters(recurse=False)):
        setattr(module, name, nn.Parameter(convert(weight.detach()), weight.requires_grad))
    for name, buffer in list(module.named_buffers(recurse=False)):
        setattr(module, name, convert(buffer))
    return module


def size_of(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of some tensors."""
    return sum(int(each.numel() * each.element_size()) for each in tensors)


class _FakeTensors(FakeTensorMode):  # type: ignore[no-untyped-call]
    """Stays one mode where a model is copied with its tensors."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _FakeTensors:
        return self


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the storages that the block makes.

    Attributes:
        now: Bytes that are alive.
        most: The most that were alive at once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        for each in found if isinstance(found, list | tuple) else (found,):
            if isinstance(each, Tensor):
                self._note(each.untyped_storage())
        return found

    def leave_out(self, tensors: Iterable[Tensor]) -> None:
        """Count nothing of what was there before the block: an operation in place returns it."""
        self._seen |= {id(tensor.untyped_storage()) for tensor in tensors}

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size
