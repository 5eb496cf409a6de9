"""A user's own function as a reward model, named in the config."""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shaping.errors import ConfigError
from shaping.reward_models import TextRewardModel
from shaping.user_code import own_module

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
    place, _, name = reference.rpartition(":")
    module = own_module(place, field)
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"{field}: {place} has no function {name}", "check its spelling")
    try:
        scores = [float(score) for score in function(["A prompt."], [""])]
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"{field}: {name}(['A prompt.'], ['']) fails with {type(error).__name__}: {error} "
            f"({where.filename}, line {where.lineno})",
            "it takes a list of prompts and a list of responses, also empty ones, and returns a list of numbers",
        ) from error
    if len(scores) != 1:
        raise ConfigError(
            f"{field}: {name} returns {len(scores)} scores for one text", "return one number for each text"
        )
    chosen: RewardFunction = function
    return chosen


def _source(function: RewardFunction) -> str:
    module = sys.modules.get(getattr(function, "__module__", ""))
    file = getattr(module, "__file__", None)
    return Path(file).read_text(encoding="utf-8") if file else repr(function)
