"""Telling a lack of memory from other errors."""

from __future__ import annotations

import sys


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory did not suffice; on a CPU torch says so in words only."""
    # Whoever has not imported torch cannot have met its error, and may lack the memory for it.
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "alloc" in str(error) and "memory" in str(error)
