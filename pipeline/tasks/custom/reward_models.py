"""Reward models as a config names them, and functions of the user's own, seen in the policy's tokens."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from pipeline.tasks.models.pretrained import check_folder, end_of_response, load_classifier, load_tokenizer
from pipeline.tasks.prompt_file import PromptRow
from pipeline.tasks.settings import RewardSettings
from shaping.alignment import texts_of
from shaping.errors import ConfigError
from shaping.reward_models import (
    CausalRewardModel,
    EncoderRewardModel,
    RetokenizedRewardModel,
    RewardModel,
    TextRewardModel,
)
from shaping.rollouts import opening_tokens
from shaping.user_code import error_and_place, load_callable

RewardFunction = Callable[[list[str], list[str]], Sequence[float]]


class FunctionRewardModel(TextRewardModel):
    """A function of prompts and responses, as texts.

    Args:
        reference: ``package.module:name`` or ``file.py:name``.
        function: Takes a list of prompts and a list of responses, and returns as many scores.
        tokenizer: The policy's tokenizer.
        prompt_text: From the text of a prompt's tokens to what the function gets as prompt.
        mean: The score that becomes 0.
        deviation: The difference that becomes 1.
        mask_text: What stands for each absent token under ``absent: mask``.
    """

    def __init__(
        self,
        reference: str,
        function: RewardFunction,
        tokenizer: Any,
        prompt_text: Callable[[str], str],
        mean: float = 0.0,
        deviation: float = 1.0,
        mask_text: str | None = None,
    ) -> None:
        def scaled(prompts: list[str], responses: list[str]) -> list[float]:
            scores = function([prompt_text(prompt) for prompt in prompts], responses)
            return [(float(score) - mean) / deviation for score in scores]

        super().__init__(scaled, tokenizer, separate=True, name=reference, mask_text=mask_text)
        self._scale, self._source = (mean, deviation), _source(function)

    def identity(self) -> str:
        """Return a hash of the function's name, its file and the scale: what an exported shape is bound to."""
        name = Path(self.name).name
        return hashlib.sha256(repr((name, self._source, self._scale)).encode()).hexdigest()


def load_function(reference: str, field: str) -> RewardFunction:
    """Return the function that ``package.module:name`` or ``file.py:name`` names, tried on an empty response.

    Coalitions leave out any part of a response, so a reward function meets empty ones.

    Raises:
        ConfigError: There is no such function, or it does not return one number for one text.
    """
    function, name = load_callable(reference, field), reference.rpartition(":")[2]
    try:
        scores = [float(score) for score in function(["A prompt."], [""])]
    except Exception as error:
        raise ConfigError(
            f"{field}: {name}(['A prompt.'], ['']) fails with {error_and_place(error)}",
            "it takes a list of prompts and a list of responses, also empty ones, and returns a list of numbers",
        ) from error
    if len(scores) != 1:
        raise ConfigError(
            f"{field}: {name} returns {len(scores)} scores for one text", "return one number for each text"
        )
    return function


def _source(function: RewardFunction) -> str:
    module = sys.modules.get(getattr(function, "__module__", ""))
    file = getattr(module, "__file__", None)
    return Path(file).read_text(encoding="utf-8") if file else repr(function)


@dataclass(frozen=True)
class PolicySide:
    """What a reward model must know of the policy.

    Attributes:
        tokenizer: Its tokenizer.
        tokens: Different tokens that it can say.
        prompts: All prompts with their ids, of the training and held out.
        more_ends: Tokens that end a response beside the tokenizer's end-of-sequence.
    """

    tokenizer: Any
    tokens: int
    prompts: Sequence[tuple[PromptRow, list[int]]]
    more_ends: tuple[int, ...] = ()

    @property
    def chat(self) -> bool:
        """Whether any prompt is a chat."""
        return any(row.messages is not None for row, _ in self.prompts)


class PromptTexts:
    """From the text of a prompt's tokens to what a reward model gets in its place.

    Args:
        policy: Whose prompts are known; any other stays as it is.
        rewrite: What becomes of each.
    """

    def __init__(self, policy: PolicySide, rewrite: Callable[[PromptRow], str]) -> None:
        texts = texts_of(policy.tokenizer, [ids for _, ids in policy.prompts])
        rows = [row for row, _ in policy.prompts]
        self._known = {text.strip(): rewrite(row) for text, row in zip(texts, rows, strict=True)}

    def __call__(self, text: str) -> str:
        """Return what stands for the prompt of that text."""
        return self._known.get(text.strip(), text)


@dataclass(frozen=True)
class RewardSource:
    """A reward model of the config, found but not loaded.

    Attributes:
        settings: What the config says of it.
        field: Its place in the config.
        function: The function, where it is one.
    """

    settings: RewardSettings
    field: str
    function: RewardFunction | None

    @classmethod
    def find(cls, settings: RewardSettings, field: str) -> RewardSource:
        """Return where a reward model comes from, before anything large is loaded.

        Raises:
            ConfigError: There is no such folder, or no such function.
        """
        if settings.function is not None:
            return cls(settings, field, load_function(settings.function, f"{field}.function"))
        check_folder(f"{field}.model", settings.model or "")
        return cls(settings, field, None)

    def load(self, policy: PolicySide) -> RewardModel:
        """Return the reward model, behind a change of tokenizers where its own is not the policy's.

        Raises:
            ConfigError: It cannot be loaded or cannot serve; names the field.
        """
        settings = self.settings
        if self.function is not None:
            texts, scale = PromptTexts(policy, lambda row: row.text), _scale(settings, None)
            options: dict[str, Any] = {"mask_text": settings.mask_text}
            return FunctionRewardModel(
                settings.function or "", self.function, policy.tokenizer, texts, *scale, **options
            )
        tokenizer = load_tokenizer(settings, self.field)
        model = load_classifier(settings, self.field)
        try:
            build = _encoder if settings.kind == "encoder" else _causal
            return build(settings, model, tokenizer, policy)
        except ConfigError as error:
            raise ConfigError(f"{self.field}: {error.message}", error.hint) from error


def _causal(settings: RewardSettings, model: PreTrainedModel, tokenizer: Any, policy: PolicySide) -> RewardModel:
    name, (mean, deviation) = _name(settings), _scale(settings, model)
    if model.config.num_labels != 1:
        raise ConfigError(
            f"reward model {name} has {model.config.num_labels} labels",
            "use one with num_labels = 1, or an encoder (kind: encoder) with label",
        )
    ending = tokenizer.eos_token_id
    if settings.read_at_eos and ending is None:
        raise ConfigError(f"the tokenizer of {name} has no end-of-sequence", "set read_at_eos to false")
    known = model.get_input_embeddings().num_embeddings
    if settings.read_at_eos and int(ending) >= known:
        raise ConfigError(
            f"the tokenizer of {name} says that token {ending} is end-of-sequence, but the model knows {known} tokens",
            "give model and tokenizer that belong together, or set read_at_eos to false",
        )
    read_at = int(ending) if settings.read_at_eos else None
    inner = CausalRewardModel(model, mean, deviation, name, read_at, mask_token_id=settings.mask_token_id)
    if _same_tokens(model, tokenizer, policy):
        return inner
    ended_by = read_at if settings.read_at_eos else end_of_response(tokenizer, chat=policy.chat)
    return _retokenized(inner, tokenizer, policy, framed=True, eos_token_id=ended_by)


def _encoder(settings: RewardSettings, model: PreTrainedModel, tokenizer: Any, policy: PolicySide) -> RewardModel:
    name, (mean, deviation) = _name(settings), _scale(settings, model)
    if hasattr(model, "score"):
        raise ConfigError(f"reward model {name} is a {type(model).__name__}, no encoder", "set kind to causal")
    inner = EncoderRewardModel(
        model,
        tokenizer,
        settings.label,
        settings.pair,
        mean,
        deviation,
        name,
        mask_token_id=settings.mask_token_id,
    )
    return _retokenized(inner, tokenizer, policy, framed=False, eos_token_id=None)


def _retokenized(
    inner: RewardModel, tokenizer: Any, policy: PolicySide, framed: bool, eos_token_id: int | None
) -> RetokenizedRewardModel:
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError(
            f"reward model {inner.name} has another tokenizer than the policy, and it gives no character offsets",
            "save its fast version there (a tokenizer.json)",
        )
    templated = bool(tokenizer.chat_template) and all(row.messages is not None for row, _ in policy.prompts)
    # A chat template opens the text itself.
    opening = opening_tokens(tokenizer) if framed and not templated else []
    start = tokenizer.bos_token if opening and opening[0] == tokenizer.bos_token_id else ""

    def rewrite(row: PromptRow) -> str:
        if row.messages is None:
            return row.text
        if not tokenizer.chat_template:
            return f"{row.text}\n"
        text: str = row.templated(tokenizer, tokenize=False)
        return text.removeprefix(start)

    texts = PromptTexts(policy, rewrite)
    framed = framed and not templated
    return RetokenizedRewardModel(inner, tokenizer, policy.tokenizer, texts, framed, eos_token_id, policy.more_ends)


def _same_tokens(model: PreTrainedModel, tokenizer: Any, policy: PolicySide) -> bool:
    """Return whether every token of the policy is the same one to the reward model."""
    theirs = tokenizer.get_vocab()
    known = all(theirs.get(token) == number for token, number in policy.tokenizer.get_vocab().items())
    return known and model.get_input_embeddings().num_embeddings >= policy.tokens


def _name(settings: RewardSettings) -> str:
    return Path(settings.model or "").name


def _scale(settings: RewardSettings, model: PreTrainedModel | None) -> tuple[float, float]:
    config = None if model is None else model.config
    mean = getattr(config, "score_mean", 0.0) if settings.mean is None else settings.mean
    deviation = getattr(config, "score_deviation", 1.0) if settings.deviation is None else settings.deviation
    return float(mean), float(deviation)
