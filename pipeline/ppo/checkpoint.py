"""Checkpoints of an inner run: one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on as if it had never stopped.

    Attributes:
        tensors: Parameters, optimizer moments and generator states, by name.
        values: The rest, as plain values.
    """

    tensors: dict[str, Tensor]
    values: dict[str, Any]


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint in place of the last one; a run killed meanwhile leaves the last one."""
    partial = path.with_suffix(f".partial-{os.getpid()}")
    for left in path.parent.glob(f"{path.stem}.partial-*"):
        left.unlink(missing_ok=True)
    # Tied weights share memory, which the format refuses.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in checkpoint.tensors.items()}
    save_file(tensors, partial, {"values": json.dumps(checkpoint.values)})
    os.replace(partial, path)


def read_checkpoint(path: Path) -> Checkpoint | None:
    """Return the checkpoint, or ``None`` where there is none that can be read."""
    try:
        with safe_open(path, "pt") as file:
            values = json.loads(file.metadata()["values"])
            return Checkpoint({name: file.get_tensor(name) for name in file.keys()}, values)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
