"""Checkpoints of an inner run: one safetensors file, written whole or not at all, here or at an address of fsspec."""

from __future__ import annotations

import json
import os
import re
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.runtime.files import remove_partials, replacing

# A file, or an address that fsspec knows.
Place = Path | str


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to resume as if it had never stopped.

    Attributes:
        tensors: Parameters, optimizer moments and generator states, by name.
        values: The rest, as plain values.
    """

    tensors: dict[str, Tensor]
    values: dict[str, Any]


def write_checkpoint(place: Place, checkpoint: Checkpoint) -> None:
    """Write a checkpoint and keep the one before it; a run killed meanwhile leaves at least one whole file.

    Raises:
        OSError: The disk is full, or takes nothing.
    """
    # Tied weights share memory, which the format refuses.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in checkpoint.tensors.items()}
    if isinstance(place, Path):
        remove_partials(place)
        with replacing(place) as partial:
            _save(partial, tensors, checkpoint.values)
            if place.exists():
                place.replace(previous_checkpoint(place))
        return
    system, path = fsspec.url_to_fs(place)
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "checkpoint.safetensors"
        _save(local, tensors, checkpoint.values)
        system.makedirs(path.rpartition("/")[0], exist_ok=True)
        # Where an address is an object's, nothing is moved at once: the one before stays until this one is there.
        system.put_file(str(local), f"{path}.partial")
    if system.exists(path):
        system.mv(path, str(previous_checkpoint(path)))
    system.mv(f"{path}.partial", path)


def _save(file: Path, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    said = json.dumps(values)
    try:
        save_file(tensors, file, {"values": said, "checksum": _checksum(tensors, said)})
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(file)) from error


def previous_checkpoint(place: Place) -> Place:
    """Return where the checkpoint before the last one is kept."""
    if isinstance(place, Path):
        return place.with_suffix(".previous.safetensors")
    return f"{place.removesuffix('.safetensors')}.previous.safetensors"


def remove_checkpoints(place: Place) -> None:
    """Remove a run's checkpoints once its result is kept."""
    for each in (place, previous_checkpoint(place)):
        if isinstance(each, Path):
            each.unlink(missing_ok=True)
            continue
        system, path = fsspec.url_to_fs(each)
        if system.exists(path):
            system.rm_file(path)


def read_checkpoint(place: Place) -> Checkpoint | None:
    """Return the last checkpoint, the one before it where the last is damaged, or ``None`` without either.

    Raises:
        OSError: The address cannot be reached: that is no sign that nothing was kept there.
    """
    return _read(place) or _read(previous_checkpoint(place))


def _read(place: Place) -> Checkpoint | None:
    if isinstance(place, Path):
        return _read_file(place)
    system, path = fsspec.url_to_fs(place)
    if not system.exists(path):
        return None
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "checkpoint.safetensors"
        system.get_file(path, str(local))
        return _read_file(local)


def _read_file(path: Path) -> Checkpoint | None:
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
