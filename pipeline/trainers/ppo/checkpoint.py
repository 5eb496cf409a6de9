"""Checkpoints of an inner run: one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.runtime.files import remove_partials, replacing


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to resume as if it had never stopped.

    Attributes:
        tensors: Parameters, optimizer moments and generator states, by name.
        values: The rest, as plain values.
    """

    tensors: dict[str, Tensor]
    values: dict[str, Any]


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint and keep the one before it; a run killed meanwhile leaves at least one whole file.

    Raises:
        OSError: The disk is full, or takes nothing.
    """
    remove_partials(path)
    # Tied weights share memory, which the format refuses.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in checkpoint.tensors.items()}
    values = json.dumps(checkpoint.values)
    with replacing(path) as partial:
        try:
            save_file(tensors, partial, {"values": values, "checksum": _checksum(tensors, values)})
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        if path.exists():
            path.replace(previous_checkpoint(path))


def previous_checkpoint(path: Path) -> Path:
    """Return where the checkpoint before the last one is kept."""
    return path.with_suffix(".previous.safetensors")


def remove_checkpoints(path: Path) -> None:
    """Remove a run's checkpoints once its result is kept."""
    path.unlink(missing_ok=True)
    previous_checkpoint(path).unlink(missing_ok=True)


def read_checkpoint(path: Path) -> Checkpoint | None:
    """Return the last checkpoint, the one before it where the last is damaged, or ``None`` without either."""
    return _read(path) or _read(previous_checkpoint(path))


def _read(path: Path) -> Checkpoint | None:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            if metadata["checksum"] != _checksum(tensors, metadata["values"]):
                return None
            return Checkpoint(tensors, json.loads(metadata["values"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def _checksum(tensors: dict[str, Tensor], values: str) -> str:
    """Return what a flipped bit, a missing tensor or another value changes; against accidents, not against forgers."""
    found = zlib.crc32(values.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), found)
        found = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"
