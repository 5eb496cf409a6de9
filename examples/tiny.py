"""Random models of a few units and a tokenizer of thirty words: what the examples train, without fetching anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast
from transformers.utils import logging

from shaping import Rollouts

logging.disable_progress_bar()

END = "</s>"
WORDS = (
    "the a this film plot cast end music story is was has and but not very good great moving fresh fine bad dull weak "
    "slow long"
).split()
PROMPTS = ("the film is", "this story was", "the cast is", "a plot has")


def tokenizer() -> Any:
    """Return the tokenizer: one token for each word, each punctuation mark, and end-of-sequence."""
    # Ġ stands for the blank before a word, as in GPT-2's vocabulary.
    tokens = [END, ".", ",", *(f"Ġ{word}" for word in WORDS)]
    made = Tokenizer(models.WordLevel({token: number for number, token in enumerate(tokens)}, unk_token=END))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, padding_side="left", eos_token=END, pad_token=END)


def _config(**changes: Any) -> Any:
    words = tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": None, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    return LlamaConfig(vocab_size=len(words), max_position_embeddings=64, **sizes, **ends, **changes)


def policy(seed: int = 0) -> Any:
    """Return a causal language model that knows nothing yet: it says all words about equally often."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(_config())


def classifier(seed: int = 1) -> Any:
    """Return a random sequence classifier with one label: a reward model with a taste of its own."""
    torch.manual_seed(seed)
    # Wide weights: at the usual width a random model hardly depends on its input.
    return LlamaForSequenceClassification(_config(num_labels=1, initializer_range=0.1))


def save_policy(folder: Path) -> None:
    """Save policy and tokenizer, as ``task.policy.model`` of a config wants them."""
    policy().save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def log_probabilities(policy: Any, rollouts: Rollouts) -> Tensor:
    """Return ``B x T``: the log-probability of each response token under the policy."""
    ids = torch.cat([rollouts.prompt_ids, rollouts.response_ids], dim=1)
    mask = torch.cat([rollouts.prompt_mask, rollouts.response_mask], dim=1)
    logits = policy(input_ids=ids, attention_mask=mask.long()).logits[:, rollouts.prompt_ids.shape[1] - 1 : -1]
    found: Tensor = logits.log_softmax(dim=-1).gather(2, rollouts.response_ids[..., None]).squeeze(2)
    return found


def told(tokenizer: Any, ids: Tensor, rewards: Tensor) -> str:
    """Return a response in words, with the reward of each token."""
    words = [token.lstrip("Ġ") for token in tokenizer.convert_ids_to_tokens(ids.tolist())]
    return "  ".join(f"{word} {reward:+.0f}" if reward else word for word, reward in zip(words, rewards, strict=True))
