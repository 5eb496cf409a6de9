"""Questions of everyday subjects, to which constraints are added: no subject is both trained on and held out."""

from __future__ import annotations

import random
from dataclasses import dataclass

from pipeline.tasks.corpora import hashed_position
from pipeline.tasks.instruction.constraints import Constraint, draw_constraints

HELD_OUT_SHARE = 0.2
MOST_CONSTRAINTS = 3
SUBJECTS = tuple(
    "apples bees bicycles birds boats bread bridges butter cameras candles cats chairs cheese chess chocolate cities "
    "clocks clouds coffee coins computers cows dance deserts dogs dreams eggs elephants engines farms ferries fire "
    "fish flowers football forests friends frogs gardens glass gold grass guitars hats honey horses hospitals ice "
    "insects islands jazz keys kites lakes lamps leaves lemons letters libraries lions maps markets milk mirrors money "
    "monkeys mountains museums music oceans onions oranges owls painting paper parks pencils pianos planes plants "
    "poems potatoes radios rain rice rivers roads robots rockets salt sand schools ships shoes silk sleep snow soap "
    "soup spiders sports stars steel stories sugar summer swimming tables tea teachers telephones tents theatres "
    "tigers tomatoes towers toys trains trees trucks umbrellas valleys villages violins volcanoes walls watches whales "
    "wheels wind windows winter wolves wood wool".split()
)
FORMS = (
    "What is special about {}?",
    "Why do people like {}?",
    "Tell me something about {}.",
    "Describe {} to a child.",
    "What can go wrong with {}?",
    "How would life be without {}?",
    "Where do you find {}?",
    "Say what you think of {}.",
)
BRIEFLY = "Answer in one sentence."


@dataclass(frozen=True)
class Question:
    """A question and what is demanded of its answer.

    Attributes:
        subject: What it is about.
        text: The question alone.
        constraints: What its answer shall fulfil.
    """

    subject: str
    text: str
    constraints: tuple[Constraint, ...]

    @property
    def prompt(self) -> str:
        """The question with its constraints, as a user says them."""
        return " ".join([self.text, BRIEFLY, *(constraint.words for constraint in self.constraints)])


def draw_questions(count: int, held_out: bool, seed: int) -> list[Question]:
    """Return ``count`` distinct questions with one to three constraints each.

    Args:
        count: How many; there are more combinations than anyone asks for.
        held_out: Of the held-out subjects, or of the others.
        seed: Decides the draws.
    """
    chooser = random.Random(f"{seed} {held_out}")
    subjects = [subject for subject in SUBJECTS if is_held_out(subject) == held_out]
    found: dict[str, Question] = {}
    while len(found) < count:
        subject, form = chooser.choice(subjects), chooser.choice(FORMS)
        constraints = draw_constraints(chooser, chooser.randint(1, MOST_CONSTRAINTS))
        question = Question(subject, form.format(subject), constraints)
        found.setdefault(question.prompt, question)
    return list(found.values())


def is_held_out(subject: str) -> bool:
    """Return whether a subject is held out, from a hash of its name: stable, order-free."""
    return hashed_position(subject) < HELD_OUT_SHARE
