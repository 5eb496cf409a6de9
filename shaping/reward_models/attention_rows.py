"""One row of one attention layer: from the position where a score is read to all others."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from shaping.attention_implementation import attention_of, implementation_of
from shaping.errors import ConfigError
from shaping.shape import check_layer


def attention_row(model: PreTrainedModel, inputs: dict[str, Tensor], read: Tensor, layer: int, heads: str) -> Tensor:
    """Return ``B x L`` attention of the positions ``read`` (``B``) in one layer, its heads reduced.

    Args:
        model: The reward model; only the eager attention returns weights, so it is used for this call.
        inputs: Of the model's backbone.
        read: The position whose attention is wanted.
        layer: From 0, or from the end below 0.
        heads: ``mean`` or ``max`` over the heads.

    Raises:
        ConfigError: The model has no such layer, or gives no attention at all.
    """
    with attention_of(model, "eager"):
        if implementation_of(model) != "eager":
            raise ConfigError(
                f"the reward model {type(model).__name__} cannot change its attention to one that returns weights",
                "load it with attn_implementation = eager, or set attention's weight to 0",
            )
        layers = model.base_model(**inputs, output_attentions=True).attentions
    if not layers or layers[0] is None:
        raise ConfigError(f"the reward model {type(model).__name__} gives no attention", "set attention's weight to 0")
    check_layer(layer, len(layers), type(model).__name__)
    weights = layers[layer].float()
    reduced = weights.mean(dim=1) if heads == "mean" else weights.amax(dim=1)
    row: Tensor = reduced[torch.arange(len(read), device=read.device), read]
    return row


def share_of_response(row: Tensor, response_mask: Tensor) -> Tensor:
    """Return ``B x T`` attention restricted to the response (its first ``T`` columns), each row summing to 1."""
    kept = row[:, : response_mask.shape[1]] * response_mask
    return kept / kept.sum(dim=1, keepdim=True).clamp(min=torch.finfo(kept.dtype).tiny)
