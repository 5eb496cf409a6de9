"""A user's own tiny models and prompts, as files: what a task of prompts is read from."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tests.support.models.tiny_families import byte_tokenizer, tiny_family, word_tokenizer
from tests.support.models.tiny_models import tiny_config

END = "<end>"
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "<s>{{ m.role }}\n{{ m.content }}<end>\n{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
OTHER_TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m.role }}: {{ m.content }}] {% endfor %}"
# Some more than the tokenizer has, as models are often padded.
VOCABULARY = 336
CHAT = [{"role": "user", "content": "What of the Plot?"}]
TEXTS = ["The film", "a great cast", "why was", "The end of it", "dull", "so good was the", "music and", "i liked"]


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer whose chats end with a token of their own, not with end-of-sequence."""
    tokenizer = copy.deepcopy(byte_tokenizer(330))
    tokenizer.add_special_tokens({"additional_special_tokens": [END]})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def other_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of other tokens, with a template of its own and a token that opens every text."""
    tokenizer = copy.deepcopy(byte_tokenizer(290, with_bos=True))
    tokenizer.chat_template = OTHER_TEMPLATE
    return tokenizer


def own_policy(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(tiny_config(VOCABULARY, max_position_embeddings=256)).eval()


def write_models(folder: Path) -> None:
    """Write ``policy``, ``reward``, ``other`` (another tokenizer) and ``encoder`` into the folder."""
    models: dict[str, tuple[Any, Any]] = {
        "policy": (own_policy(), chat_tokenizer()),
        "reward": (tiny_family("Llama", VOCABULARY, max_position_embeddings=256), chat_tokenizer()),
        "other": (tiny_family("Llama", len(other_tokenizer()), seed=2), other_tokenizer()),
        "encoder": (tiny_family("DistilBert", len(word_tokenizer()), seed=3, pad_token_id=0), word_tokenizer()),
    }
    for name, (model, tokenizer) in models.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def text_rows(count: int = 8) -> list[dict[str, str]]:
    return [{"prompt": TEXTS[index % len(TEXTS)] + " and" * (index // len(TEXTS))} for index in range(count)]


def own_values(folder: Path, **task: Any) -> dict[str, Any]:
    """Return the plain values of a config beside the models; ``task`` changes or adds keys of its task."""
    return {
        "name": "own",
        "task": {
            "name": "prompts",
            "policy": {"model": str(folder / "policy")},
            "reward_model": {"model": str(folder / "reward")},
            "prompts": str(folder / "prompts.jsonl"),
            "held_out_share": 0.25,
            **task,
        },
        "space": {"name": "balance", "methods": ["prefix"]},
        "sampling": {"response_tokens": 6, "stop_at_eos": True},
        "ppo": {"steps": 2, "batch_size": 4, "device": "cpu"},
        "evaluation": {"prompts": 4, "kept_texts": 1},
        "search": {"trials": 2, "sobol_trials": 0, "seeds": [0]},
        "confirm": {"seeds": [100]},
        "executor": {"name": "local"},
    }


def write_config(folder: Path, values: dict[str, Any]) -> Path:
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(values))
    return path
