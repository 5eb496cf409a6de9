"""The row of an attention map, without the maps: against the library's own maps, and what it takes of memory."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from pipeline.estimate.live_bytes import LiveBytes
from shaping.errors import ConfigError
from shaping.reward_models import attention_rows
from shaping.reward_models.attention_rows import attention_row
from tests.support.models.tiny_families import FAMILIES, tiny_family

# Falcon changes its attention only as it is loaded.
NAMES = sorted(FAMILIES)
REDUCE = {"mean": lambda maps: maps.mean(dim=1), "max": lambda maps: maps.amax(dim=1)}


def maps_of(model, ids):
    return model.base_model(input_ids=ids, output_attentions=True).attentions


def eager(family, **changes):
    return tiny_family(family, attn_implementation="eager", pad_token_id=0, **changes).eval()


@torch.no_grad()
@pytest.mark.parametrize("map_bytes", [attention_rows.MAP_BYTES, 1], ids=["together", "row by row"])
@pytest.mark.parametrize("heads", ["mean", "max"])
@pytest.mark.parametrize("family", NAMES)
def test_row_is_that_of_the_whole_maps_in_every_family(family, heads, map_bytes, monkeypatch):
    monkeypatch.setattr(attention_rows, "MAP_BYTES", map_bytes)
    model, ids = eager(family), torch.randint(10, 200, (3, 11), generator=torch.Generator().manual_seed(0))
    read = torch.tensor([10, 4, 7])
    for layer in (0, 1, -1):
        expected = REDUCE[heads](maps_of(model, ids)[layer].float())[torch.arange(3), read]
        found = attention_row(model, {"input_ids": ids}, read, layer, heads, 2)
        assert torch.allclose(found, expected, atol=1e-5) and float(found.sum()) > 0.5


@torch.no_grad()
@pytest.mark.parametrize("family", ["Llama", "GPT2", "Bloom", "Bert"])
def test_nothing_is_left_behind_in_the_model(family):
    model, ids = eager(family), torch.arange(10, 18)[None]
    before = model(input_ids=ids).logits
    attention_row(model, {"input_ids": ids}, torch.tensor([7]), -1, "mean", 2)
    assert maps_of(model, ids)[0].shape[2:] == (8, 8)
    with pytest.raises(ConfigError):
        attention_row(model, {"input_ids": ids}, torch.tensor([7]), 9, "mean", 2)
    assert maps_of(model, ids)[0].shape[2:] == (8, 8)
    assert torch.equal(model(input_ids=ids).logits, before)


@torch.no_grad()
def test_heads_as_wide_as_a_row_is_long_are_not_taken_for_maps():
    # Queries, keys and values are then of a map's size.
    model = eager("Llama", num_key_value_heads=2)
    ids = torch.randint(10, 200, (2, 8), generator=torch.Generator().manual_seed(0))
    assert model.config.hidden_size // model.config.num_attention_heads == ids.shape[1]
    read = torch.tensor([7, 3])
    found = attention_row(model, {"input_ids": ids}, read, -1, "mean", 2)
    expected = maps_of(model, ids)[-1].mean(dim=1)[torch.arange(2), read]
    assert torch.allclose(found, expected, atol=1e-6)


@torch.no_grad()
def test_rows_of_a_deep_model_take_little_beside_it():
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=16,
        num_key_value_heads=8,
        num_labels=1,
        pad_token_id=0,
    )
    model = LlamaForSequenceClassification(config).eval()
    ids = torch.randint(10, 200, (4, 1024), generator=torch.Generator().manual_seed(0))
    with LiveBytes() as live:
        attention_row(model, {"input_ids": ids}, torch.full((4,), 1023), -1, "mean", 4)
    # The maps of all layers are 1 GiB; what is taken does not grow with them.
    assert live.most < 2**29
