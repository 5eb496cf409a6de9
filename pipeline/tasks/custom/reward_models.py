"""Reward models as a config names them, and functions of the user's own, seen in the policy's tokens."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from pipeline.tasks.custom.prompt_forms import PolicySide, PromptForms, PromptTexts, reads_otherwise
from pipeline.tasks.custom.service import RewardService
from pipeline.tasks.model_settings import RewardSettings
from pipeline.tasks.models.pretrained import check_folder, end_of_response, load_classifier, load_tokenizer
from shaping.errors import ConfigError, ShapeError
from shaping.reward_models import (
    CausalRewardModel,
    EncoderRewardModel,
    RetokenizedRewardModel,
    RewardModel,
    TextRewardModel,
)
from shaping.reward_models.returned_scores import asked_scores, checked_scores
from shaping.reward_models.text import TEXTS_PER_CALL
from shaping.user_code import error_and_place, load_callable

RewardFunction = Callable[[list[str], list[str]], Sequence[float]]
# A reward model, and lines on what a user should know of it.
_Found = tuple[RewardModel, tuple[str, ...]]


class FunctionRewardModel(TextRewardModel):
    """A function of prompts and responses, as texts; a server is one that is asked.

    Args:
        reference: ``package.module:name`` or ``file.py:name``, or a server's address.
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
        function: RewardFunction | RewardService,
        tokenizer: Any,
        prompt_text: Callable[[str], str],
        mean: float = 0.0,
        deviation: float = 1.0,
        mask_text: str | None = None,
    ) -> None:
        def scaled(prompts: list[str], responses: list[str]) -> list[float]:
            given = [[prompt_text(prompt) for prompt in prompts], responses]
            return [(score - mean) / deviation for score in asked_scores(function, reference, given, responses)]

        texts_per_call = function.texts_at_once if isinstance(function, RewardService) else TEXTS_PER_CALL
        super().__init__(scaled, tokenizer, True, texts_per_call, reference, mask_text)
        self._scale, self._source = (mean, deviation), _source(function)

    def identity(self) -> str:
        """Return a hash of the function's name, its file and the scale: what an exported shape is bound to.

        Of a server it is the path and what is asked there, on whatever machine.
        """
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
        found = function(["A prompt."], [""])
        # A generator runs as it is read.
        scores = list(islice(found, 2)) if isinstance(found, Iterator) else found
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{field}: {name}(['A prompt.'], ['']) fails with {error_and_place(error)}",
            "it takes a list of prompts and a list of responses, also empty ones, and returns a list of numbers",
        ) from error
    try:
        score = checked_scores(scores, name, [""])[0]
    except ConfigError as error:
        raise ConfigError(f"{field}: TypeError: {error.message}", error.hint) from error
    except ShapeError as error:
        raise ConfigError(f"{field}: {error.message}", error.hint) from error
    if not math.isfinite(score):
        raise ConfigError(f"{field}: {name} returned {score} for an empty response", "return a finite number")
    return function


def _source(function: RewardFunction | RewardService) -> str:
    if isinstance(function, RewardService):
        return repr(function.asked)
    module = sys.modules.get(getattr(function, "__module__", ""))
    file = getattr(module, "__file__", None)
    return Path(file).read_text(encoding="utf-8") if file else repr(function)


@dataclass(frozen=True)
class RewardSource:
    """A reward model of the config, found but not loaded.

    Attributes:
        settings: What the config says of it.
        field: Its place in the config.
        function: The function, or the server, where it is one.
    """

    settings: RewardSettings
    field: str
    function: RewardFunction | RewardService | None

    @classmethod
    def find(cls, settings: RewardSettings, field: str) -> RewardSource:
        """Return where a reward model comes from, before anything large is loaded.

        Raises:
            ConfigError: There is no such folder or function, or a server does not speak as the config says.
            ServiceFailed: A server gives no answer.
        """
        if settings.url is not None:
            service = RewardService(settings.url, settings.service, field)
            # As of a function: coalitions leave out any part of a response, so that it meets empty ones.
            service(["A prompt."], [""])
            return cls(settings, field, service)
        if settings.function is not None:
            return cls(settings, field, load_function(settings.function, f"{field}.function"))
        check_folder(f"{field}.model", settings.model or "")
        return cls(settings, field, None)

    def load(self, policy: PolicySide) -> tuple[RewardModel, tuple[str, ...]]:
        """Return the reward model with lines on what a user should know of it.

        It stands behind a change of tokenizers where its own is not the policy's, or where it has a form of its own of
        the prompts.

        Raises:
            ConfigError: It cannot be loaded or cannot serve; names the field.
        """
        settings = self.settings
        if self.function is not None:
            texts, scale = PromptTexts(policy, lambda row: row.text), _scale(settings, None)
            options: dict[str, Any] = {"mask_text": settings.mask_text}
            named = settings.function or settings.url or ""
            function = FunctionRewardModel(named, self.function, policy.tokenizer, texts, *scale, **options)
            return function, tuple(f"{self.field}: {note}" for note in texts.notes)
        tokenizer = load_tokenizer(settings, self.field)
        model = load_classifier(settings, self.field)
        try:
            build = _encoder if settings.kind == "encoder" else _causal
            found, notes = build(settings, model, tokenizer, policy)
            return found, tuple(f"{self.field}: {note}" for note in notes)
        except ConfigError as error:
            raise ConfigError(f"{self.field}: {error.message}", error.hint) from error


def _causal(settings: RewardSettings, model: PreTrainedModel, tokenizer: Any, policy: PolicySide) -> _Found:
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
        if not reads_otherwise(policy, tokenizer):
            return inner, ()
        if not getattr(tokenizer, "is_fast", False):
            return inner, ("reads prompts in the policy's form, not in its own: its tokenizer gives no offsets",)
    ended_by = read_at if settings.read_at_eos else end_of_response(tokenizer, chat=policy.chat)
    return _retokenized(inner, tokenizer, policy, framed=True, eos_token_id=ended_by)


def _encoder(settings: RewardSettings, model: PreTrainedModel, tokenizer: Any, policy: PolicySide) -> _Found:
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
) -> _Found:
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError(
            f"reward model {inner.name} has another tokenizer than the policy, and it gives no character offsets",
            "save its fast version there (a tokenizer.json)",
        )
    forms = PromptForms(policy, tokenizer, opened=not framed)
    # A chat template opens the text itself.
    framed, ends = framed and not forms.templated, policy.more_ends
    seen = RetokenizedRewardModel(inner, tokenizer, policy.tokenizer, None, framed, eos_token_id, forms, None, ends)
    return seen, forms.notes


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
