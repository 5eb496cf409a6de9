"""The tokens that end a policy's response, and special tokens that the policy does not know."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from pipeline.tasks.models.pretrained import end_of_response
from shaping.errors import ConfigError
from shaping.texts.invisible import set_ends

FIELD = "task.policy.model"


def settle_ends(tokenizer: Any, policy: PreTrainedModel, chat: bool) -> tuple[int, ...]:
    """Make the tokenizer's end-of-sequence the token that ends a response, and return all others that end one.

    The others are what the generation config lists: the library's own ``generate`` ends there, too.

    Args:
        tokenizer: The policy's; it is changed.
        policy: With or without its weights.
        chat: Whether prompts go through the chat template.

    Raises:
        ConfigError: Nothing tells which token it is, or the model or the tokenizer does not know it.
    """
    for role, name in (("end-of-sequence", "eos_token_id"), ("padding", "pad_token_id")):
        own = getattr(tokenizer, name)
        if own is not None:
            _check_known(int(own), role, "the tokenizer", policy)
        for token in _declared(policy, name):
            if own is None or not _is_default(policy, name, token):
                _check_known(token, role, "the model's config", policy)
    declared = [token for token in _declared(policy, "eos_token_id") if 0 <= token < _known(policy)]
    end = end_of_response(tokenizer, declared, chat)
    if end is None:
        raise ConfigError(
            f"{FIELD}: neither tokenizer nor generation config has an end-of-sequence token",
            "add eos_token to the model's tokenizer_config.json",
        )
    _check_known(end, "end of a turn", "the chat template", policy)
    if tokenizer.eos_token_id != end:
        written = tokenizer.convert_ids_to_tokens(end)
        if written is None:
            raise ConfigError(
                f"{FIELD}: token {end} ends a response, but the tokenizer has no such token",
                "add eos_token to the model's tokenizer_config.json",
            )
        tokenizer.eos_token = written
    others = tuple(dict.fromkeys(token for token in declared if token != end))
    # What turns responses into text knows them as ends, too.
    set_ends(tokenizer, others)
    return others


def _declared(policy: PreTrainedModel, name: str) -> list[int]:
    """Return the ids that the generation config says; those of the model's config where there is no such."""
    config = policy.generation_config or policy.config
    value = getattr(config, name, None)
    return [int(token) for token in (value if isinstance(value, list | tuple) else [value]) if token is not None]


def _is_default(policy: PreTrainedModel, name: str, token: int) -> bool:
    """Return whether a token is but what the library writes for models of another vocabulary, in nobody's name."""
    # Old configs write -1 for no padding.
    return token == getattr(type(policy.config), name, None) or (name == "pad_token_id" and token == -1)


def _known(policy: PreTrainedModel) -> int:
    """Return how many tokens a model can read and say."""
    return int(min(policy.get_input_embeddings().num_embeddings, policy.get_output_embeddings().weight.shape[0]))


def _check_known(token: int, role: str, source: str, policy: PreTrainedModel) -> None:
    known = _known(policy)
    if not 0 <= token < known:
        raise ConfigError(
            f"{FIELD}: {source} says that token {token} is {role}, but the model knows {known} tokens",
            "name one of the model's tokens there, or give model and tokenizer that belong together",
        )
