"""The raw library as oracle: each text alone, one row, no padding, nothing of ours between."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel


@torch.no_grad()
def score(model: PreTrainedModel, ids: Sequence[int], **inputs: Tensor) -> float:
    """Return the raw score of one text."""
    return float(model(input_ids=torch.tensor([list(ids)]), **inputs).logits[0, 0])


@torch.no_grad()
def hidden_score(model: PreTrainedModel, ids: Sequence[int], seen: Sequence[bool]) -> float:
    """Return the raw score of one text some of whose tokens are hidden from attention, all others in their places."""
    last = max(place for place, each in enumerate(seen) if each) + 1
    inputs: dict[str, Any] = {"attention_mask": torch.tensor([list(seen[:last])]).long()}
    if "position_ids" in inspect.signature(model.base_model.forward).parameters:
        inputs["position_ids"] = torch.arange(last)[None]
    return score(model, ids[:last], **inputs)


@torch.no_grad()
def attention(model: PreTrainedModel, ids: Sequence[int], layer: int, read: int, **inputs: Tensor) -> Tensor:
    """Return ``L`` attention of position ``read``, the mean over heads."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        found = model(input_ids=torch.tensor([list(ids)]), output_attentions=True, **inputs).attentions
    finally:
        model.set_attn_implementation(before)
    row: Tensor = found[layer][0].float().mean(dim=0)[read]
    return row


def gradients(
    model: PreTrainedModel, ids: Sequence[int], replaced: Sequence[bool], steps: int, **inputs: Tensor
) -> Tensor:
    """Return ``L`` integrated gradients on the tokens in ``replaced``, by Gauss and Legendre, one point at a time."""
    table = model.get_input_embeddings()
    own = table(torch.tensor([list(ids)])).detach()
    mean = table.weight.detach().mean(dim=0) * getattr(table, "embed_scale", 1.0)
    start = torch.where(torch.tensor(list(replaced))[None, :, None], mean, own)
    total = torch.zeros_like(own)
    for point, weight in zip(*np.polynomial.legendre.leggauss(steps), strict=True):
        place = (start + (point + 1) / 2 * (own - start)).requires_grad_(True)
        output = model(inputs_embeds=place.clone(), **inputs).logits[0, 0]
        total += weight / 2 * torch.autograd.grad(output, place)[0]
    found: Tensor = ((own - start) * total).sum(dim=2)[0]
    return found
