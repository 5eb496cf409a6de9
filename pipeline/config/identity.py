"""Which settings decide what a run learns, and so which of them must be the same where one is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Sections that decide a run, beside its arm, its models and its seed.
DECIDING = ("task", "ppo", "sampling", "evaluation", "objective")
# Of sampling: where a server of responses runs decides nothing.
SERVED = "vllm"


def what_decides_a_run(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sections of a config's plain values that decide a run, without what does not."""
    found = {name: chosen[name] for name in DECIDING if name in chosen}
    if "sampling" in found:
        found["sampling"] = {name: value for name, value in found["sampling"].items() if name != SERVED}
    return found
