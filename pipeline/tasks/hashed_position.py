"""A place for a name: which part of a corpus it belongs to, whatever else the corpus holds and in what order."""

from __future__ import annotations

import hashlib


def hashed_position(name: str) -> float:
    """Return a number from 0 to 1 by a hash of the name: even over many names, and the same one on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
