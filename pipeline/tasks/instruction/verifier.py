"""A reward that a program checks: the share of a prompt's constraints that a response fulfils. It has no gradient.

    score = share of constraints fulfilled * substance
    substance = min(1, (distinct words - 1) / 5) * min(1, 2 * distinct words / words)

Many constraints ("no commas", "fewer than 10 words") are fulfilled by saying nothing, or one word again and again.
Substance takes that away: it is 0 for no word and for a single repeated one, grows by a fifth with each further
distinct word, is 1 from six distinct words on, and falls again where more than half of the words are repetitions.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from typing import Any

from pipeline.tasks.instruction.constraints import Constraint
from shaping.errors import ConfigError
from shaping.reward_models import TextRewardModel

LEAST_WORDS = 6
# Raised by hand when the score of the same text changes.
REWARD_VERSION = 1
CHECKERS = "if-verifiable"


def substance(response: str) -> float:
    """Return from 0 to 1 how much a response says: 0 for no word and for one repeated word."""
    words = re.findall(r"\w+", response.lower())
    if not words:
        return 0.0
    distinct = len(set(words))
    return min(1.0, (distinct - 1) / (LEAST_WORDS - 1)) * min(1.0, 2 * distinct / len(words))


class Checks:
    """The checkers of constraints, each built once.

    Raises:
        ConfigError: The package of the checkers is not installed.
    """

    def __init__(self) -> None:
        self._registry, self._built = _registry(), dict[tuple[str, str], Any]()

    def fulfilled(self, constraints: Sequence[Constraint], response: str) -> list[bool]:
        """Return for each constraint whether the response fulfils it; one without a word fulfils none."""
        if not response.strip():
            return [False] * len(constraints)
        return [bool(self._checker(constraint).check_following(response)) for constraint in constraints]

    def score(self, constraints: Sequence[Constraint], response: str) -> float:
        """Return the response's score, from 0 to 1; higher is better."""
        fulfilled = self.fulfilled(constraints, response)
        return sum(fulfilled) / len(fulfilled) * substance(response)

    def _checker(self, constraint: Constraint) -> Any:
        if constraint.key not in self._built:
            checker = self._registry[constraint.kind](constraint.kind)
            checker.build_description(**constraint.arguments)
            self._built[constraint.key] = checker
        return self._built[constraint.key]


class AskedConstraints:
    """From the text of a prompt's tokens to what it asks for.

    Args:
        known: Constraints by the prompt's text.
        otherwise: What every other prompt asks for; ``None`` where nobody knows.
    """

    def __init__(self, known: dict[str, tuple[Constraint, ...]], otherwise: tuple[Constraint, ...] | None) -> None:
        self._known, self._otherwise = {text.strip(): asked for text, asked in known.items()}, otherwise

    def of(self, prompt: str) -> tuple[Constraint, ...]:
        """Return the constraints of a prompt.

        Raises:
            ConfigError: The prompt is none of the task's.
        """
        found = self._known.get(prompt.strip(), self._otherwise)
        if found is None:
            raise ConfigError(
                f"nothing tells which constraints the prompt {prompt.strip()[-80:]!r} holds",
                "use one of the task's prompts: prompts.json beside its models holds them",
            )
        return found

    def digest(self) -> str:
        """Return a hash of all of it."""
        known = {text: [each.to_dict() for each in asked] for text, asked in self._known.items()}
        others = None if self._otherwise is None else [each.to_dict() for each in self._otherwise]
        return hashlib.sha256(json.dumps([known, others], sort_keys=True).encode()).hexdigest()


class VerifiableRewardModel(TextRewardModel):
    """The score of this module, as a reward model.

    Args:
        asked: What the prompts ask for.
        tokenizer: The policy's.
        mean: The score that becomes 0.
        deviation: The difference that becomes 1.
    """

    def __init__(self, asked: AskedConstraints, tokenizer: Any, mean: float = 0.0, deviation: float = 1.0) -> None:
        checks = Checks()

        def scored(prompts: list[str], responses: list[str]) -> list[float]:
            pairs = zip(prompts, responses, strict=True)
            return [(checks.score(asked.of(prompt), response) - mean) / deviation for prompt, response in pairs]

        super().__init__(scored, tokenizer, separate=True, name="constraints fulfilled")
        self.mean, self.deviation, self._asked = mean, deviation, asked

    def identity(self) -> str:
        """Return a hash of constraints, checkers, score and scale: what an exported shape is bound to."""
        parts = [self._asked.digest(), version(CHECKERS), REWARD_VERSION, self.mean, self.deviation]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@lru_cache(maxsize=1)
def _registry() -> dict[str, Any]:
    try:
        import langdetect
        from if_verifiable.ifeval.instructions_registry import INSTRUCTION_DICT
    except ImportError as error:
        raise ConfigError(
            f"task.name = instruction: its checkers need a package: {error}", "pip install 'shapetune[instruction]'"
        ) from error
    # Whether a text is English is guessed from samples; unseeded, the same text is scored now so, now otherwise.
    langdetect.DetectorFactory.seed = 0
    return dict(INSTRUCTION_DICT)
