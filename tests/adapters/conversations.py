"""A batch as generators of production trainers hand it over: rows without padding, with answers of tools."""

from __future__ import annotations

from dataclasses import dataclass

from shaping import Rollouts, Shape, Shaper
from tests.support.models.tiny_models import BOS, EOS, encode, tiny_reward_model, tiny_tokenizer

# Every option away from its default, so that one that is lost on the way shows.
SHAPE = Shape(
    weights={"prefix": 0.5, "attention": 0.2, "shapley": 0.3}, balance=0.9, unit="token", max_units=6, gae_lambda=0.7
)
SPARSE = SHAPE.with_changes(weights={"sparse": 1.0})
DISCOUNTED = SHAPE.with_changes(gamma=0.8, policy_preserving=False)


@dataclass(frozen=True)
class Conversations:
    """Prompts, responses, which tokens of each the policy wrote, and a score of each; two responses a prompt."""

    prompts: list[list[int]]
    responses: list[list[int]]
    written: list[list[int]]
    scores: list[float]
    uids: list[str]

    def rollouts(self) -> Rollouts:
        return Rollouts.of_ids(self.prompts, self.responses, policy_masks=self.written)

    def select(self, places: list[int]) -> Conversations:
        chosen = (self.prompts, self.responses, self.written, self.scores, self.uids)
        return Conversations(*([rows[place] for place in places] for rows in chosen))


def make_shaper(shape: Shape, seed: int = 0) -> Shaper:
    return Shaper(shape, tiny_reward_model(), tiny_tokenizer(), seed)


# Rows of ``conversations()`` whose last token is not the policy's, and of which nothing is trained.
TOOL_LAST, MASKED = 4, 5


def conversations() -> Conversations:
    """Return responses with a tool's answer in the middle, of a single token, with a tool's answer last, all masked."""
    turns = [
        [("the film was good, the plot was not; why?", 1)],
        [("a great cast", 1), ("the end was bad", 0), ("i liked the film", 1), ("bad", 0), ("good music.", 1)],
        [("good", 1)],
        [("dull", 0), ("the music was great!", 1)],
        [("bad acting, good music:", 1), ("the plot", 0)],
        [("i liked the cast was great", 0)],
    ]
    responses, written = [], []
    for row in turns:
        pieces = [(encode(text), mine) for text, mine in row]
        pieces = [(ids[:1], mine) for ids, mine in pieces] if len(row) == 1 and row[0][0] == "good" else pieces
        responses.append([token for ids, _ in pieces for token in ids])
        written.append([mine for ids, mine in pieces for _ in ids])
    responses[0], written[0] = [*responses[0], EOS], [*written[0], 1]
    prompts = [[BOS, *encode(text)] for text in ("the film", "why", "i liked the cast of the film")]
    return Conversations(
        prompts=[prompt for prompt in prompts for _ in range(2)],
        responses=responses,
        written=written,
        scores=[1.25, -0.75, 0.5, 2.0, -1.5, 0.25],
        uids=["a", "a", "b", "b", "c", "c"],
    )
