"""Tiny random policies, one for each kind of architecture."""

from __future__ import annotations

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.support.models.tiny_families import COMMON

SMALL = {"intermediate_size": 32, "num_key_value_heads": 2}
POLICIES: dict[str, dict[str, object]] = {
    "Llama": SMALL,
    "GPT2": {"n_inner": 32},
    "GPTNeoX": {"intermediate_size": 32},
    "GPTJ": {"rotary_dim": 4},
    "Bloom": {},
    "OPT": {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "Qwen3": {**SMALL, "head_dim": 8},
    "Gemma2": {**SMALL, "head_dim": 8, "final_logit_softcapping": 0.5},
    "Cohere": {**SMALL, "logit_scale": 0.0625},
    "Granite": {**SMALL, "logits_scaling": 3.0},
}


def policy_of(name: str) -> PreTrainedModel:
    """Return a random policy of 60 tokens."""
    torch.manual_seed(0)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = getattr(transformers, f"{name}Config")(**{**COMMON, **special, "vocab_size": 60, **POLICIES[name]})
    return AutoModelForCausalLM.from_config(config).eval()
