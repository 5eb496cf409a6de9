"""What stands against comparing studies: differences between configs that touch J itself, its luck, or its price."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Doubt:
    """What a difference between configs does to a comparison.

    Attributes:
        fields: Beginnings of the fields that bring it up.
        words: What is said; ``{}`` stands for the fields that differ.
        same_scale: Whether J still means the same in both.
        same_training: Whether a difference in J can still be put down to the shapes.
    """

    fields: tuple[str, ...]
    words: str
    same_scale: bool = True
    same_training: bool = True


# The first that a field belongs to is the one that is said of it.
DOUBTS = (
    Doubt(("task.", "trainer"), "They train on different tasks ({}): their J is not on one scale.", same_scale=False),
    Doubt(
        ("ppo.kl_coef", "sampling."),
        "They price KL or sample responses differently ({}): their J is not on one scale.",
        same_scale=False,
    ),
    Doubt(
        ("ppo.",),
        "They train differently ({}): what differs in J may come from that, and not from their shapes.",
        same_training=False,
    ),
    Doubt(
        ("evaluation.prompts",),
        "They were judged on different numbers of held-out prompts ({}): their J holds other luck.",
        same_training=False,
    ),
    Doubt(
        ("confirm.seeds",),
        "Their winners ran on different fresh seeds ({}): their J holds other luck, and only seeds that both ran are "
        "paired.",
    ),
    Doubt(
        ("search.objective",),
        "Their searches maximised different things ({}): best so far is not of one quantity.",
    ),
    Doubt(
        ("search.seeds",),
        "Their searches ran on different seeds ({}): what they observed, and best so far, holds other luck.",
    ),
)


def doubts(fields: Iterable[str]) -> list[tuple[Doubt, list[str]]]:
    """Return what fields that differ bring up, gravest first, each with its fields; each field is named once."""
    left, found = list(fields), []
    for doubt in DOUBTS:
        touched = [field for field in left if field.startswith(doubt.fields)]
        left = [field for field in left if field not in touched]
        if touched:
            found.append((doubt, touched))
    return found


def may_be_subtracted(found: Sequence[tuple[Doubt, list[str]]]) -> bool:
    """Return whether the J of one winner less that of another says something of their shapes."""
    return all(doubt.same_scale and doubt.same_training for doubt, _ in found)
