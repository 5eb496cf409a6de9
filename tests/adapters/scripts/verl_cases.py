"""What goes through verl: rows as its agent loops make them, and the settings under which they do."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from shaping import Shape, Shaper
from tests.support.models.tiny_models import EOS, encode, tiny_reward_model, tiny_tokenizer

KL_COEF = 0.3
DENSE = {"prefix": 0.5, "shapley": 0.3, "attention": 0.2}


@dataclass(frozen=True)
class Row:
    """One output of an agent loop, under the key ``{prompt}_{session}_{output}`` that verl gives it."""

    key: str
    prompt: list[int]
    response: list[int]
    mask: list[int]
    score: float

    def noise(self, name: str) -> list[float]:
        """Return one number for each token, such as the critic's value: of the row and the name alone."""
        generator = torch.Generator().manual_seed(sum(ord(letter) for letter in self.key + name))
        return torch.randn(len(self.response), generator=generator).tolist()


def _row(key: str, prompt: str, turns: list[tuple[int, str]], score: float, end: bool = True) -> Row:
    ids = [(token, written) for written, text in turns for token in encode(text)] + ([(EOS, 1)] if end else [])
    return Row(key, encode(prompt), [token for token, _ in ids], [written for _, written in ids], score)


ROWS = [
    _row("a_0_0", "the film", [(1, "was good, the plot was not; why?")], 1.5),
    _row("a_1_0", "the film", [], -0.75),
    _row("b_0_0", "i liked", [(1, "the cast,"), (0, "a dull film"), (1, "great!"), (0, "why?"), (1, "the end.")], 2.25),
    # Two outputs of one trajectory: verl gives each the score of the whole.
    _row("b_1_0", "a great cast! was it", [(1, "good music")], 0.5),
    _row("b_1_1", "a great cast! was it good music and", [(1, "bad acting: dull"), (0, "film"), (1, "the end")], 0.5),
]
# Cut off inside a tool's answer: verl puts the score on its last token, where the mask is false.
CUT = [_row("c_0_0", "the end", [(1, "was bad, i"), (0, "liked the film")], 1.0, end=False)]


@dataclass(frozen=True)
class Case:
    """A batch, the shape that places its rewards (none: verl as it is) and the settings of verl."""

    shape: Shape | None
    rows: list[Row] = field(default_factory=lambda: ROWS)
    gamma: float = 1.0
    gae_lambda: float = 0.6
    kl: bool = False
    mode: str = "sync"


def _shape(weights: dict[str, float], gae_lambda: float = 0.6, **options: object) -> Shape:
    return Shape(weights=weights, gae_lambda=gae_lambda, **options)


DISCOUNTED = {"gamma": 0.9, "gae_lambda": 0.8}
CASES = {
    "verl": Case(None),
    "sparse": Case(_shape({"sparse": 1.0})),
    "dense": Case(_shape(DENSE)),
    "turns": Case(_shape({"shapley": 1.0}, unit="turn")),
    "half": Case(_shape(DENSE, balance=0.5)),
    "verl, undiscounted": Case(None, gae_lambda=1.0),
    "dense, undiscounted": Case(_shape(DENSE, gae_lambda=1.0), gae_lambda=1.0),
    "dense, discounted": Case(_shape(DENSE, policy_preserving=False, **DISCOUNTED), **DISCOUNTED),
    "verl, KL": Case(None, kl=True),
    "dense, KL": Case(_shape(DENSE), kl=True),
    "verl, cut": Case(None, rows=CUT),
    "sparse, cut": Case(_shape({"sparse": 1.0}), rows=CUT),
    "dense, colocate_async": Case(_shape(DENSE), mode="colocate_async"),
    "dense, separate_async": Case(_shape(DENSE), mode="separate_async"),
}


def tiny_shaper(shape: Shape) -> Shaper:
    """Return a shaper with the tests' reward model, the same in every process."""
    return Shaper(shape, tiny_reward_model(), tiny_tokenizer())
