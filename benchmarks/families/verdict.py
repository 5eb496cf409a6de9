"""Whether a family's scores and credit are those of the raw library, or refused by name: never silently wrong."""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.families import oracle
from benchmarks.families.build import tiny_classifier
from benchmarks.families.sizes import BOS, EOS, MASK, VOCABULARY
from shaping import CausalRewardModel, Rollouts
from shaping.errors import ShapetuneError
from shaping.reward_models.encoder import EncoderRewardModel
from shaping.reward_models.trial import in_words
from shaping.variants import Variants

# Longer than the windows of the tiny models (16) and their chunks (8), and of every relation to them.
PROMPTS = (3, 20, 9, 1)
RESPONSES = (30, 12, 5, 17)
# Values further apart than this many times the rounding of float32, seen in float64, are wrong.
ROUNDING = 100.0
# And than this share of their spread: below it nothing of a reward is changed.
SHARE = 1e-4
STEPS = 2
# Of all prefixes one in so many is looked at: of every length, in one response or another.
STRIDE = 5


@dataclass
class Verdict:
    """What was found of one family.

    Attributes:
        family: Its name in the library's configs.
        side: ``causal`` or ``encoder``.
        path: How its scores are computed: ``shared prefixes``, ``padded``, ``one length``, ``alone`` or ``refused``.
        methods: What it serves beyond scores: ``prefix``, ``attention``, ``gradient``, ``absent_attention``.
        refused: Of what it does not serve, the reason.
        wrong: What is silently wrong, with how much.
    """

    family: str
    side: str
    path: str = "refused"
    methods: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)


class Unbuilt(Exception):
    """A family that the library itself cannot build tiny, or cannot score one text with."""


class FramingTokenizer:
    """Says how a text is framed, and nothing else."""

    mask_token_id = MASK

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        """Return one token for a text, between two special ones."""
        return {"input_ids": [BOS, 7, EOS] if add_special_tokens else [7]}


def judged(kind: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Verdict:
    """Return what is found of a family.

    Raises:
        Unbuilt: The library itself cannot build it tiny, or cannot score one text with it.
    """
    try:
        classifier = tiny_classifier(kind, **changes).to(dtype)
        side = "causal" if hasattr(classifier, "score") else "encoder"
        alone = Alone(classifier, copy.deepcopy(classifier), side)
        for row in kept_rows(Variants.whole(rollouts())):
            alone.score(*row)
    except Exception as error:
        raise Unbuilt(in_words(error)) from error
    found = Verdict(kind, side)
    with _quiet():
        model = _refusable(found, "scores", lambda: _reward_model(classifier, side, kind))
        if model is not None:
            _judge(found, model, alone)
    return found


def _reward_model(classifier: PreTrainedModel, side: str, kind: str) -> Any:
    if side == "causal":
        model: Any = CausalRewardModel(classifier, name=kind)
    else:
        model = EncoderRewardModel(classifier, FramingTokenizer(), name=kind)
    _ = model.abilities
    return model


def _judge(found: Verdict, model: Any, alone: Alone) -> None:
    batch = rollouts()
    variants = some_variants(batch, "delete")
    scores = _refusable(found, "scores", lambda: model.score(variants).values)
    if scores is None:
        return
    found.path = path_of(model)
    _compare(found, "scores", scores, [alone.score(*row) for row in kept_rows(variants)])
    prefixes = _refusable(found, "prefix", lambda: model.prefix_scores(batch))
    if prefixes is not None:
        flat, rows = prefixes.flatten()[::STRIDE], list(kept_rows(Variants.prefixes(batch)))[::STRIDE]
        _compare(found, "prefix", flat, [alone.score(*row) for row in rows])
    for name, judge in (("absent_attention", _hidden), ("attention", _attention), ("gradient", _gradient)):
        if name in model.abilities:
            _refusable(found, name, lambda judge=judge: judge(found, model, alone, batch))  # type: ignore[misc]
        else:
            found.refused[name] = model.lacking.get(name, "it takes no positions")
    served = ("prefix", "attention", "gradient", "absent_attention")
    found.methods = [name for name in served if name not in found.refused]


def _hidden(found: Verdict, model: Any, alone: Alone, batch: Rollouts) -> None:
    variants = some_variants(batch, "attention")
    values = model.score(variants).values
    expected = []
    for row in range(len(variants)):
        prompt, response = whole_row(batch, int(variants.owner[row]))
        keep = variants.keep[row, : len(response)].tolist()
        expected.append(alone.hidden(prompt, response, keep))
    _compare(found, "absent_attention", values, expected)


def _attention(found: Verdict, model: Any, alone: Alone, batch: Rollouts) -> None:
    for layer in range(model.layers):
        values = model.response_attention(batch, layer)
        for row in range(len(batch)):
            expected = alone.attention(*whole_row(batch, row), layer)
            _compare(found, "attention", values[row, : len(expected[0])], list(zip(*expected, strict=True)))


def _gradient(found: Verdict, model: Any, alone: Alone, batch: Rollouts) -> None:
    values = model.integrated_gradients(batch, batch.response_mask, STEPS)
    for row in range(2):
        expected = alone.gradients(*whole_row(batch, row))
        _compare(found, "gradient", values[row, : len(expected[0])], list(zip(*expected, strict=True)))


class Alone:
    """One text at a time through the raw library, in the model's own type and in float64."""

    def __init__(self, model: PreTrainedModel, exact: PreTrainedModel, side: str) -> None:
        # Some ways to compute experts know no float64.
        if hasattr(exact, "set_experts_implementation"):
            exact.set_experts_implementation("eager")
        self._models, self._side = (model, exact.double()), side

    def score(self, prompt: Sequence[int], response: Sequence[int]) -> tuple[float, float]:
        """Return the score of a text, in both types."""
        ids, inputs = self._framed(prompt, response)
        one, other = (oracle.score(model, ids, **inputs) for model in self._models)
        return one, other

    def hidden(self, prompt: Sequence[int], response: Sequence[int], keep: Sequence[bool]) -> tuple[float, float]:
        """Return the score of a text some of whose response is hidden, in both types."""
        ids, inputs = self._framed(prompt, response)
        before = len(ids) - len(response) - (self._side == "encoder")
        seen = [True] * before + list(keep) + [True] * (len(ids) - before - len(response))
        if self._side == "causal":
            one, other = (oracle.hidden_score(model, ids, seen) for model in self._models)
        else:
            mask = {"attention_mask": torch.tensor([seen]).long()}
            one, other = (oracle.score(model, ids, **{**inputs, **mask}) for model in self._models)
        return one, other

    def attention(self, prompt: Sequence[int], response: Sequence[int], layer: int) -> tuple[list[float], list[float]]:
        """Return the shares of a response's tokens, in both types."""
        ids, inputs = self._framed(prompt, response)
        read = len(ids) - 1 if self._side == "causal" else 0
        first = len(prompt) + (self._side == "encoder")
        found = []
        for model in self._models:
            row = oracle.attention(model, ids, layer, read, **inputs)[first : first + len(response)]
            found.append((row / row.sum()).tolist())
        return found[0], found[1]

    def gradients(self, prompt: Sequence[int], response: Sequence[int]) -> tuple[list[float], list[float]]:
        """Return the integrated gradients of a response's tokens, in both types."""
        ids, inputs = self._framed(prompt, response)
        first = len(prompt) + (self._side == "encoder")
        replaced = [first <= place < first + len(response) for place in range(len(ids))]
        model, exact = self._models
        one, other = (oracle.gradients(each, ids, replaced, STEPS, **inputs) for each in (model, exact))
        return one[first : first + len(response)].tolist(), other[first : first + len(response)].tolist()

    def _framed(self, prompt: Sequence[int], response: Sequence[int]) -> tuple[list[int], dict[str, Tensor]]:
        if self._side == "causal":
            return [*prompt, *response], {}
        ids = [BOS, *prompt, *response, EOS]
        return ids, {"attention_mask": torch.ones(1, len(ids), dtype=torch.long)}


def rollouts(seed: int = 0) -> Rollouts:
    """Return prompts and responses of real lengths."""
    generator = torch.Generator().manual_seed(seed)

    def row(size: int) -> list[int]:
        return torch.randint(5, VOCABULARY, (size,), generator=generator).tolist()

    return Rollouts.of_ids([row(size) for size in PROMPTS], [row(size) for size in RESPONSES])


def some_variants(batch: Rollouts, absent: str, each: int = 3) -> Variants:
    """Return the whole responses and some without some of their tokens."""
    owner = torch.arange(len(batch)).repeat_interleave(each)
    keep = torch.rand(len(owner), batch.response_ids.shape[1], generator=torch.Generator().manual_seed(1)) < 0.6
    keep[::each] = True
    return Variants(batch, owner, keep & batch.response_mask[owner], absent)


def whole_row(batch: Rollouts, row: int) -> tuple[list[int], list[int]]:
    """Return a row's prompt and response, without padding."""
    prompt = batch.prompt_ids[row][batch.prompt_mask[row]].tolist()
    return prompt, batch.response_ids[row][batch.response_mask[row]].tolist()


def kept_rows(variants: Variants) -> Iterator[tuple[list[int], list[int]]]:
    """Yield each variant's prompt and the tokens that it keeps."""
    for owner, keep in zip(variants.owner.tolist(), variants.keep, strict=True):
        prompt, response = whole_row(variants.rollouts, owner)
        yield prompt, list(itertools.compress(response, keep.tolist()))


def path_of(model: Any) -> str:
    """Return how a model's scores are computed, from what its trials left."""
    ways = {"with shared prefixes": "shared prefixes", "in padded passes": "padded"}
    ways["in passes of rows of one length"] = "one length"
    trials = model._trials
    if isinstance(model, EncoderRewardModel):
        del ways["with shared prefixes"]
    return next((path for way, path in ways.items() if not trials.refused("scores", way)), "alone")


def _compare(found: Verdict, what: str, values: Tensor, expected: Sequence[tuple[float, float]]) -> None:
    ours = values.double().cpu()
    rounded, exact = (torch.tensor(column).double() for column in zip(*expected, strict=True))
    finite = rounded.isfinite() & exact.isfinite()
    if not bool(finite.any()):
        return
    rounding = float((rounded - exact)[finite].square().mean().sqrt())
    spread = float(rounded[finite].abs().max())
    allowed = max(ROUNDING * rounding, SHARE * spread, 1e-7)
    worst = float((ours - rounded)[finite].abs().max())
    if not worst <= allowed:
        found.wrong[what] = f"off by {worst:.2g} of a spread of {spread:.2g}, rounding {rounding:.1g}"


def _refusable(found: Verdict, what: str, compute: Callable[[], Any]) -> Any:
    try:
        return compute()
    except ShapetuneError as error:
        found.refused[what] = error.message
        return None
    except Exception as error:
        found.wrong[what] = in_words(error)
        return None


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("shaping")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
