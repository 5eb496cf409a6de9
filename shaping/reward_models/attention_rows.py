"""One row of one attention layer: from the position where a score is read to all others.

A model's eager attention gives a map of ``L x L`` a head and layer, and keeps all of them until its pass has ended: 28
layers of 1,024 tokens are gigabytes a response. Only one row of each is ever read. So each map is cut to that row as
soon as its layer has made it, before anything keeps it, and rows of a batch go in portions. What is left is what one
layer needs for one portion, whatever the family: its own code makes the map.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from shaping.attention_implementation import attention_of, implementation_of
from shaping.errors import ConfigError, ShapeError
from shaping.shape import check_layer

WITHOUT = "set attention's weight to 0"
# Of one layer's map, for the rows of a portion; while it is made, a layer holds some three of them.
MAP_BYTES = 64 * 2**20


def attention_row(
    model: PreTrainedModel, inputs: dict[str, Tensor], read: Tensor, layer: int, heads: str, expected: int
) -> Tensor:
    """Return ``B x L`` attention of the positions ``read`` (``B``) in one layer, its heads reduced.

    Args:
        model: The reward model; only the eager attention returns weights, so it is used for this call.
        inputs: Of the model's backbone.
        read: The position whose attention is wanted.
        layer: From 0, or from the end below 0.
        heads: ``mean`` or ``max`` over the heads.
        expected: The model's layers: each has to give a map.

    Raises:
        ConfigError: The model has no such layer, or does not give one map of the sequence for each.
    """
    with attention_of(model, "eager"):
        if implementation_of(model) != "eager":
            raise ConfigError(
                f"the reward model {type(model).__name__} cannot change its attention to one that returns weights",
                f"load it with attn_implementation = eager, or {WITHOUT}",
            )
        parts = torch.split(torch.arange(len(read), device=read.device), rows_of_a_portion(model, inputs))
        found = [
            _portion(model, {name: each[rows] for name, each in inputs.items()}, read[rows], layer, heads, expected)
            for rows in parts
        ]
    return torch.cat(found)


def rows_of_a_portion(model: PreTrainedModel, inputs: dict[str, Tensor]) -> int:
    """Return of how many rows the maps of one layer are made at once."""
    width, heads = inputs["input_ids"].shape[1], getattr(model.config.get_text_config(), "num_attention_heads", None)
    return max(1, MAP_BYTES // (4 * (heads if isinstance(heads, int) else 1) * width * width))


def _portion(
    model: PreTrainedModel, inputs: dict[str, Tensor], read: Tensor, layer: int, heads: str, expected: int
) -> Tensor:
    name, backbone = type(model).__name__, model.base_model
    # What a layer keeps for tokens that never come is of no use, and larger than a row of its map.
    options = {"use_cache": False} if "use_cache" in signature(backbone.forward).parameters else {}
    with _cut_to_a_row(backbone, read, inputs["input_ids"].shape[1]):
        layers = getattr(backbone(**inputs, output_attentions=True, **options), "attentions", None)
    if not layers or layers[0] is None:
        raise ConfigError(f"the reward model {name} gives no attention", WITHOUT)
    if len(layers) != expected or any(each is None for each in layers):
        given = sum(each is not None for each in layers)
        raise ConfigError(
            f"the reward model {name} gives {given} attention maps for {expected} layers: which belongs to which is "
            "not told",
            WITHOUT,
        )
    check_layer(layer, len(layers), name)
    weights, rows, width = layers[layer].float(), *inputs["input_ids"].shape
    if weights.dim() == 4 and (weights.shape[0], *weights.shape[2:]) == (rows, width, width):
        # Made by something that is no module of its own.
        weights = _row_of(weights, read)
    if weights.dim() != 4 or (weights.shape[0], *weights.shape[2:]) != (rows, 1, width):
        raise ConfigError(
            f"the reward model {name} gives attention of size {tuple(weights.shape)} for {rows} rows of {width} tokens"
            ": that is no map from each token to each",
            WITHOUT,
        )
    row: Tensor = weights.mean(dim=1) if heads == "mean" else weights.amax(dim=1)
    return row.squeeze(1)


def _row_of(weights: Tensor, read: Tensor) -> Tensor:
    """Return the read row of each map, ``B x H x 1 x L`` of ``B x H x L x L``, in memory of its own."""
    return weights[torch.arange(len(read), device=read.device), :, read].unsqueeze(2)


def _may_be_maps(value: Any, rows: int, width: int) -> bool:
    return isinstance(value, Tensor) and value.dim() == 4 and value.shape[:1] + value.shape[2:] == (rows, width, width)


def _cut(value: Tensor, read: Tensor) -> Tensor:
    row = _row_of(value, read)
    # Queries have the same size where a head is as wide as a row is long; they are below 0 somewhere.
    return row if bool((row >= 0).all()) else value


@contextmanager
def _cut_to_a_row(backbone: nn.Module, read: Tensor, width: int) -> Iterator[None]:
    """Let every module that returns maps return the row that is read of each, before others can keep the maps."""

    def cut(module: nn.Module, arguments: Any, output: Any) -> Any:
        """Return a module's output with its maps cut; ``None`` leaves it as it is."""
        if not isinstance(output, tuple):
            return None
        if not any(_may_be_maps(each, len(read), width) for each in output):
            return None
        return tuple(_cut(each, read) if _may_be_maps(each, len(read), width) else each for each in output)

    # Before the library's own hooks, which keep what they see.
    handles = [each.register_forward_hook(cut, prepend=True) for each in backbone.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def share_of_response(row: Tensor, response_mask: Tensor, name: str) -> Tensor:
    """Return ``B x T`` attention restricted to the response (its first ``T`` columns), each row summing to 1.

    Raises:
        ShapeError: No token of some response is attended to: there is nothing to share.
    """
    kept = row[:, : response_mask.shape[1]] * response_mask
    total = kept.sum(dim=1, keepdim=True)
    unseen = (total[:, 0] <= 0) & response_mask.any(dim=1)
    if bool(unseen.any()):
        raise ShapeError(
            f"where the reward model {name} reads its score, it attends to no token of response "
            f"{int(unseen.nonzero()[0, 0])} of the batch",
            "choose another attention_layer, or set attention's weight to 0",
        )
    return kept / total.clamp(min=torch.finfo(kept.dtype).tiny)
