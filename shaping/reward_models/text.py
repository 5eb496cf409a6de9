"""Any function of texts as a reward model: verifiable rewards, a judge behind a service."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from shaping.alignment import DecodedRollouts
from shaping.errors import ConfigError, TrialFailed
from shaping.reward_models.base import VariantScores, check_absent
from shaping.reward_models.returned_scores import asked_scores, first_words
from shaping.rollouts import Rollouts
from shaping.variants import Variants

# Of one call, unless told otherwise.
TEXTS_PER_CALL = 256


class TextRewardModel:
    """A function ``texts -> scores``. Absent tokens' characters are left out of the text, or replaced.

    Args:
        function: Takes a list of texts and returns as many numbers. With ``separate`` it takes two lists, prompts
            and responses.
        tokenizer: The policy's tokenizer: turns tokens into text.
        separate: Give prompts and responses apart, not joined.
        texts_per_call: Most texts of one call.
        name: What the reward model is called in messages.
        mask_text: What stands for each absent token under ``absent: mask``, such as ``" _"``.

    Raises:
        ConfigError: ``function`` cannot be called.
    """

    added_tokens = layers = 0

    def __init__(
        self,
        function: Callable[..., Sequence[float]],
        tokenizer: Any,
        separate: bool = False,
        texts_per_call: int = TEXTS_PER_CALL,
        name: str = "",
        mask_text: str | None = None,
    ) -> None:
        if not callable(function):
            raise ConfigError(
                f"the reward function {function!r} cannot be called", "pass a function of a list of texts"
            )
        self.name = name or getattr(function, "__name__", type(function).__name__)
        self._function, self._tokenizer, self._separate = function, tokenizer, separate
        self._texts_per_call, self._mask_text = max(1, texts_per_call), mask_text
        self.abilities = frozenset() if mask_text is None else frozenset({"absent_mask"})
        self._decoded: DecodedRollouts | None = None

    def score(self, variants: Variants) -> VariantScores:
        """Return the score of every variant; texts that are alike are scored once.

        Raises:
            ConfigError: Absent tokens are to be hidden, or masked without a text for them; or the function fails, or
                returns something else than numbers.
            ShapeError: The function returned another number of scores than it was given texts.
            TrialFailed: A score is not finite (``nan``).
        """
        check_absent(variants.absent, self.abilities, self.name)
        blank = self._mask_text or "" if variants.absent == "mask" else ""
        decoded = self._decode(variants.rollouts)
        keeps = variants.keep.tolist()
        owners = variants.owner.tolist()
        texts = [
            (decoded.prompts[owner], decoded.kept_text(owner, keep, blank))
            for owner, keep in zip(owners, keeps, strict=True)
        ]
        known: dict[tuple[str, str], float] = dict.fromkeys(texts, 0.0)
        distinct = list(known)
        for start in range(0, len(distinct), self._texts_per_call):
            part = distinct[start : start + self._texts_per_call]
            known.update(zip(part, self._call(part), strict=True))
        scores = [known[text] for text in texts]
        self._check_finite(scores, owners, [response for _, response in texts])
        return VariantScores(torch.tensor(scores, device=variants.owner.device), 0)

    def _check_finite(self, scores: list[float], owners: list[int], responses: list[str]) -> None:
        for score, owner, response in zip(scores, owners, responses, strict=True):
            if not math.isfinite(score):
                shown = f"response {owner} of the batch as {score}: {first_words(response)}"
                raise TrialFailed(
                    "nan",
                    f"reward model {self.name} scored {shown}",
                    "return a finite number for each text",
                )

    def prefix_scores(self, rollouts: Rollouts) -> Tensor:
        """Return ``B x (T + 1)`` scores, one call for each distinct prefix of each response."""
        scores = self.score(Variants.prefixes(rollouts)).values
        return scores.view(len(rollouts), rollouts.response_ids.shape[1] + 1)

    def response_attention(self, rollouts: Rollouts, layer: int = -1, heads: str = "mean") -> Tensor:
        """Refuse: a function has no attention."""
        raise ConfigError(f"the reward function {self.name} has no attention", "set attention's weight to 0")

    def integrated_gradients(self, rollouts: Rollouts, absent: Tensor, steps: int) -> Tensor:
        """Refuse: a function of texts has no gradient."""
        raise ConfigError(f"the reward function {self.name} has no gradient", "set gradient's weight to 0")

    def _decode(self, rollouts: Rollouts) -> DecodedRollouts:
        if self._decoded is None or self._decoded.rollouts is not rollouts:
            self._decoded = DecodedRollouts.of(rollouts, self._tokenizer)
        return self._decoded

    def _call(self, texts: list[tuple[str, str]]) -> list[float]:
        prompts, responses = [prompt for prompt, _ in texts], [response for _, response in texts]
        lists = [prompts, responses] if self._separate else [[prompt + response for prompt, response in texts]]
        return asked_scores(self._function, self.name, lists, responses)
