"""One row of one attention layer: from the position where a score is read to all others."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from shaping.attention_implementation import attention_of, implementation_of
from shaping.errors import ConfigError, ShapeError
from shaping.shape import check_layer

WITHOUT = "set attention's weight to 0"


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
    name = type(model).__name__
    with attention_of(model, "eager"):
        if implementation_of(model) != "eager":
            raise ConfigError(
                f"the reward model {type(model).__name__} cannot change its attention to one that returns weights",
                f"load it with attn_implementation = eager, or {WITHOUT}",
            )
        layers = getattr(model.base_model(**inputs, output_attentions=True), "attentions", None)
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
    if weights.dim() != 4 or (weights.shape[0], *weights.shape[2:]) != (rows, width, width):
        raise ConfigError(
            f"the reward model {name} gives attention of size {tuple(weights.shape)} for {rows} rows of {width} tokens"
            ": that is no map from each token to each",
            WITHOUT,
        )
    reduced = weights.mean(dim=1) if heads == "mean" else weights.amax(dim=1)
    row: Tensor = reduced[torch.arange(len(read), device=read.device), read]
    return row


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
