"""Ways to compute one thing for many rows, held against the model alone on one row, without padding.

A model may look at more than its row: at padding, at the longest row of a pass, at a token's place in it. So no way
to forward several rows at once is trusted. The first batch that takes a way is a trial of it: some of its rows are
computed alone as well, and have to agree as far as the model's own rounding lets them. A way that fails is left for
good. As rows, passes or padding grow beyond what was tried, or past a length that the model's config names (a
window, a change of rotary frequencies), there is another trial.
"""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedModel

from shaping.errors import ConfigError, ShapetuneError, is_out_of_memory
from shaping.reward_models.layouts import Laid
from shaping.reward_models.rounding import allowed_difference, least_difference
from shaping.tree_attention import UnsupportedAttention

logger = logging.getLogger(__name__)

# From a part of a layout to the values of its rows: ``n x K``.
Values: TypeAlias = Callable[[Laid], Tensor]

# A trial holds good until something grows by more than this.
GROWTH = 1.25
# Rows of a trial that are computed alone, and those of them on which rounding is measured.
MOST_ROWS, MEASURED_ROWS = 6, 3
# Batches of at least so many rows have one more of them computed alone, whatever was tried before.
LARGE = 64


@dataclass(frozen=True)
class Extent:
    """How far a batch goes: a trial holds good for what is no larger.

    Attributes:
        longest: Tokens of the longest row.
        pass_tokens: Tokens of the largest forward pass, padding included.
        padding: Most tokens by which a row is shorter than another one of its pass.
    """

    longest: int
    pass_tokens: int
    padding: int

    @classmethod
    def of(cls, lengths: Tensor, passes: Sequence[tuple[Tensor, int]]) -> Extent:
        """Return the extent of rows of some ``lengths`` in passes: the rows of each, and its tokens."""
        gaps = [int(lengths[rows].max() - lengths[rows].min()) for rows, _ in passes]
        return cls(int(lengths.max()), max(tokens for _, tokens in passes), max(gaps))

    def sizes(self) -> tuple[int, int, int]:
        """Return its numbers."""
        return self.longest, self.pass_tokens, self.padding

    def joined(self, other: Extent) -> Extent:
        """Return the larger of each number."""
        return Extent(*(max(pair) for pair in zip(self.sizes(), other.sizes(), strict=True)))


@dataclass(frozen=True)
class Way:
    """One way to compute something for all rows.

    Attributes:
        name: In the log: ``with shared prefixes``.
        passes: Rows of each forward pass, and its tokens.
        compute: Returns a value, or several, for each row: ``R x K``.
        even: Whether all rows of a pass have one length, and nothing is read but at their ends.
        sample: The same at a part of the price, in the same passes: what a trial looks at; ``None`` looks at all of it.
    """

    name: str
    passes: Sequence[tuple[Tensor, int]]
    compute: Callable[[], Tensor]
    even: bool = False
    sample: Callable[[], Tensor] | None = None

    @classmethod
    def of_layout(cls, name: str, layout: Sequence[Laid], of: Values, count: int, sample: Values | None = None) -> Way:
        """Return the way that computes ``of`` for each part of a layout of ``count`` rows: ``n x K`` values each.

        A trial looks at ``sample`` in its place.
        """

        def compute(each: Values = of) -> Tensor:
            """Return the values of all rows, whatever part each was in."""
            parts = [each(laid) for laid in layout]
            values = parts[0].new_zeros(count, parts[0].shape[1])
            for laid, part in zip(layout, parts, strict=True):
                values[laid.rows] = part
            return values

        passes = [(laid.rows.cpu(), laid.inputs["input_ids"].numel()) for laid in layout]
        return cls(name, passes, compute, sample=None if sample is None else partial(compute, sample))

    @classmethod
    def packed(
        cls, name: str, packs: Sequence[tuple[Tensor, int]], of: Callable[[Tensor, int], Tensor], even: bool = False
    ) -> Way:
        """Return the way that computes ``of``, ``n x 1`` values, for each pack: rows and their width."""

        def compute() -> Tensor:
            """Return the values of all rows, whatever pack each was in."""
            parts = [of(rows, width).float() for rows, width in packs]
            values = parts[0].new_zeros(sum(len(part) for part in parts), 1)
            for (rows, _), part in zip(packs, parts, strict=True):
                values[rows] = part
            return values

        return cls(name, [(rows, len(rows) * width) for rows, width in packs], compute, even)


@dataclass
class Trials:
    """Which ways a model was found right in, and how far.

    Attributes:
        model: The model.
        name: What it is called in messages.
    """

    model: PreTrainedModel
    name: str
    _passed: dict[tuple[str, str], Extent] = field(default_factory=dict)
    _refused: set[tuple[str, str]] = field(default_factory=set)
    _allowed: dict[str, float] = field(default_factory=dict)
    _looked: int = 0
    _lengths: tuple[int, ...] | None = None

    def refused(self, what: str, way: str) -> bool:
        """Return whether a way was found wrong."""
        return (what, way) in self._refused

    def refuse(self, what: str, way: str, reason: str) -> None:
        """Leave a way for good, and say so once."""
        if (what, way) not in self._refused:
            self._refused.add((what, way))
            kind = self.model.config.model_type
            logger.warning("reward model %s (%s) computes %s not %s: %s", self.name, kind, what, way, reason)

    def first_right(
        self,
        what: str,
        ways: Iterable[Way],
        lengths: Tensor,
        alone: Callable[[int], Tensor],
        at: Callable[[int], Tensor] | None = None,
    ) -> tuple[Tensor, Way] | None:
        """Return the values of the first way that gives what the model gives for one row alone, and that way.

        Args:
            what: What is computed, in the log: ``scores``.
            ways: Quickest first; later ones are not made where an earlier one serves.
            lengths: Tokens of each row: ``R``.
            alone: From a row to its values, one row at a time and without padding; of a way with a ``sample``, its.
            at: Which of a row's values ``alone`` gives; by default the first ones.

        Returns:
            ``R x K`` and the way, or ``None`` where no way is right.

        Raises:
            ConfigError: The model gives one row two different values.
        """
        for way in ways:
            if self.refused(what, way.name):
                continue
            extent = Extent.of(lengths, way.passes)
            if not way.even and extent.longest > self._picked():
                self.refuse(what, way.name, "it picks which tokens it looks at, and ties fall by the width of a pass")
                continue
            tried = self._passed.get((what, way.name))
            known = tried is not None and not self._grew(tried, extent)
            reason, values = "", None
            looked = not known or len(lengths) >= LARGE
            try:
                values = way.sample() if looked and way.sample is not None else way.compute()
            except UnsupportedAttention as error:
                reason = str(error)
            except ShapetuneError:
                raise
            except Exception as error:  # a model's own code may fail in any way on a layout it was not made for
                if known or is_out_of_memory(error):
                    raise
                reason = in_words(error)
            if values is not None and looked:
                reason = self._reason(what, way, values, lengths, alone, at, known)
            if values is not None and not reason:
                self._passed[what, way.name] = extent if tried is None else tried.joined(extent)
                return (way.compute() if looked and way.sample is not None else values), way
            self.refuse(what, way.name, reason)
        return None

    def _reason(
        self,
        what: str,
        way: Way,
        values: Tensor,
        lengths: Tensor,
        alone: Callable[[int], Tensor],
        at: Callable[[int], Tensor] | None,
        known: bool,
    ) -> str:
        """Return in words why values are not those of rows alone; nothing where some rows show that they are."""
        if known:
            self._looked += 1
            rows = [self._looked * 7919 % len(lengths)]
            return self._difference(values, {row: _exact(alone(row)) for row in rows}, at, self._allowed[what])
        rows = _telling_rows(lengths, way.passes)
        expected = {row: _exact(alone(row)) for row in rows}
        self._check_repeatable(what, expected[rows[0]], _exact(alone(rows[0])))
        measured = {row: expected[row] for row in rows[:MEASURED_ROWS]}
        allowed = allowed_difference(self.model, lambda row: _exact(alone(row)), measured)
        self._allowed[what] = max(allowed, self._allowed.get(what, 0.0))
        return self._difference(values, expected, at, allowed)

    def _check_repeatable(self, what: str, before: Tensor, again: Tensor) -> None:
        difference = _largest(again - before)
        if difference > least_difference(self.model, _largest(before)):
            raise ConfigError(
                f"reward model {self.name} gives one text two values of its {what}, which differ by {difference:.2g}",
                "use a model whose scores depend on nothing but the text",
            )

    def _difference(
        self, values: Tensor, expected: dict[int, Tensor], at: Callable[[int], Tensor] | None, allowed: float
    ) -> str:
        found = {row: _exact(values[row]) for row in expected}
        found = {row: each[at(row)] if at else each[: len(expected[row])] for row, each in found.items()}
        # Where both are no numbers there is nothing to compare: such scores are refused elsewhere.
        if any(bool((found[row].isfinite() != expected[row].isfinite()).any()) for row in expected):
            return "some would be no numbers, unlike those of each row alone"
        worst = max(_largest(found[row] - expected[row]) for row in expected)
        if worst <= allowed:
            return ""
        return f"its results would differ by {worst:.2g} from those of each row alone, rounding by {allowed:.1g}"

    def _picked(self) -> float:
        """Return how many tokens the model's sparse attention picks of a row; infinite where it takes them all."""
        config = vars(self.model.config.get_text_config())
        picked = [size for name, size in config.items() if name.startswith("index_topk") and isinstance(size, int)]
        return min(picked, default=math.inf)

    def _grew(self, tried: Extent, now: Extent) -> bool:
        if self._lengths is None:
            self._lengths = named_lengths(self.model.config.to_dict())
        return any(
            new > GROWTH * old or any(old <= length < new for length in self._lengths)
            for old, new in zip(tried.sizes(), now.sizes(), strict=True)
        )


def _exact(values: Tensor) -> Tensor:
    return values.detach().double().cpu()


def _largest(difference: Tensor) -> float:
    finite = difference[difference.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


def _telling_rows(lengths: Tensor, passes: Sequence[tuple[Tensor, int]]) -> list[int]:
    """Return rows that show most: at the ends of the largest and of the most uneven pass, and some others."""
    largest = max(passes, key=lambda each: each[1])[0]
    widest = max(passes, key=lambda each: int(lengths[each[0]].max() - lengths[each[0]].min()))[0]
    chosen = [int(widest[int(lengths[widest].argmin())]), int(widest[int(lengths[widest].argmax())])]
    chosen += [int(largest[-1]), int(largest[int(lengths[largest].argmin())])]
    # What goes wrong may depend on the text: some more, from all over the batch.
    every = torch.cat([rows for rows, _ in passes])
    chosen += [int(every[len(every) * place // MOST_ROWS]) for place in range(MOST_ROWS)]
    return list(dict.fromkeys(chosen))[:MOST_ROWS]


def named_lengths(config: object) -> tuple[int, ...]:
    """Return all whole numbers of a config: where a model changes what it does with a length, it stands there."""
    if isinstance(config, bool):
        return ()
    if isinstance(config, int):
        return (config,) if config > 1 else ()
    parts = list(config.values()) if isinstance(config, dict) else config if isinstance(config, list | tuple) else []
    return tuple(sorted({number for part in parts for number in named_lengths(part)}))


@contextmanager
def refusing_failures(name: str) -> Iterator[None]:
    """Refuse a model whose own code cannot score a short text.

    Raises:
        ConfigError: What is computed inside ends in an error of another kind than ours.
    """
    try:
        yield
    except ShapetuneError:
        raise
    except Exception as error:  # whatever a model's own code raises
        if is_out_of_memory(error):
            raise
        raise ConfigError(
            f"reward model {name} cannot score a short text: {in_words(error)}",
            "use a sequence classifier that takes the ids of any text alone",
        ) from error


def in_words(error: Exception) -> str:
    """Return what failed in a model's own code, and where: its words alone rarely tell."""
    frames = traceback.extract_tb(error.__traceback__)
    where = next((frame for frame in reversed(frames) if "/torch/" not in frame.filename), frames[-1])
    words = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    # That something is None says nothing of what was wanted.
    words = "" if words.startswith("'NoneType'") else f": {words}"
    return f"its code fails ({type(error).__name__} in {where.filename.rsplit('/', 1)[-1]}, line {where.lineno}){words}"
