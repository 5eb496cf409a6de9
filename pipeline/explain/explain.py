"""Where the reward of a text falls: token credits under credit methods and shapes, row under row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from pipeline.explain.question import (
    ALL,
    ExplainRequest,
    Subject,
    asked_texts,
    check_method_names,
    find_subject,
    named_shapes,
    shape_file,
)
from pipeline.explain.samples import TokenRow, TokenSample
from pipeline.explain.token_rewards import (
    explain_response,
    make_shapers,
    method_shape,
    plain_sample,
    served_methods,
    winner_texts,
)
from pipeline.tasks.prompt_file import PromptRow
from pipeline.trainers.base import Judge
from pipeline.trials.task_models import open_judge
from shaping.certificate import Certificate
from shaping.credit import METHODS, check_served
from shaping.errors import ConfigError, ShapeError
from shaping.shape import Shape
from shaping.shaper import Shaper


@dataclass(frozen=True)
class Explanation:
    """Token credits of some responses.

    Attributes:
        title: Whose they are.
        reward_model: Its name.
        shapes: What was asked for, by the names of the rows, in their order.
        certificates: What was seen of each over all responses.
        samples: The responses; their rows are the shapes.
    """

    title: str
    reward_model: str
    shapes: dict[str, Shape]
    certificates: dict[str, Certificate]
    samples: tuple[TokenSample, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as plain values."""
        return {
            "title": self.title,
            "reward_model": self.reward_model,
            "shapes": {name: shape.to_dict() for name, shape in self.shapes.items()},
            "certificates": {name: each.to_dict() for name, each in self.certificates.items()},
            "texts": [
                {**plain_sample(sample), "moved": {row.method: moved(sample.rows[0], row) for row in sample.rows[1:]}}
                for sample in self.samples
            ],
        }


def moved(one: TokenRow, other: TokenRow) -> float:
    """Return how much reward stands on other tokens: ``0.5 * sum_t |r_t - r'_t|``, in reward-model units.

    Both rows sum to the same score, so what one has more on some tokens the other has more on the rest.
    """
    return 0.5 * math.fsum(abs(a - b) for a, b in zip(one.rewards, other.rewards, strict=True))


@dataclass(frozen=True)
class _Text:
    """A prompt and its response as ids of the policy's tokenizer, and what names it in messages."""

    place: str
    prompt_ids: list[int]
    response_ids: list[int]


def explain(question: ExplainRequest, console: Console) -> Explanation:
    """Return the token credits that a user asked for.

    Args:
        question: What was asked.
        console: Says what is built or loaded.

    Raises:
        ShapetuneError: Something of the question cannot be used; names it and the remedy.
    """
    check_method_names(question.methods)
    subject = find_subject(question)
    shapes = named_shapes(question, subject)
    asked = asked_texts(question, subject)
    judge = open_judge(subject.config, [row for row, _ in asked], console)
    files = [subject.shape_file] if subject.shape_file else []
    for file in (*files, *map(shape_file, question.shapes)):
        Shape.load(file, judge.reward_model)
    shapers = make_shapers(judge, shapes)
    shapers |= make_shapers(judge, _method_rows(question, subject, judge))
    texts = _asked_texts(question, subject, asked, judge) if asked else _kept_texts(subject)
    return _explanation(subject.title, judge, shapers, texts)


def _method_rows(question: ExplainRequest, subject: Subject, judge: Judge) -> dict[str, Shape]:
    """Return the rows that are methods: those asked for, or what the only shape is made of."""
    base = subject.shape[1] if subject.shape else subject.config.base_shape()
    served = served_methods(judge.reward_model, base)
    methods = list(question.methods)
    if ALL in methods:
        methods = served
    elif not methods and not question.shapes:
        methods = list(subject.config.space.methods)
        if subject.shape:
            methods = list(base.active_methods())
            # The rewards of one method alone are the shape's own.
            methods = methods if len(methods) > 1 else []
    for name in methods:
        try:
            check_served([METHODS[name]], judge.reward_model, base)
        except ConfigError as error:
            reason = error.message.removeprefix(f"weights.{name}: ")
            place = "--method" if name in question.methods else "space.methods,"
            raise ConfigError(f"{place} {name}: {reason}", f"choose from {', '.join(served)}") from error
    return {name: method_shape(name, base) for name in methods}


def _asked_texts(
    question: ExplainRequest, subject: Subject, asked: list[tuple[PromptRow, str]], judge: Judge
) -> list[_Text]:
    """Return the texts of the command; where the task's responses end with a token of their own, so do they."""
    ends, found = judge.end_token_ids, []
    finished = subject.config.sampling.stop_at_eos and not question.unfinished
    for (row, response), prompt_ids in zip(asked, judge.prompt_ids, strict=True):
        ids = list(judge.tokenizer(response, add_special_tokens=False)["input_ids"])
        if not ids:
            raise ConfigError(f"{row.place}: the response has no token", "give it a text")
        found.append(_Text(row.place, prompt_ids, [*ids, ends[0]] if finished and ids[-1] not in ends else ids))
    return found


def _kept_texts(subject: Subject) -> list[_Text]:
    assert subject.study is not None
    kept = [_Text("a kept response", text.prompt_ids, text.response_ids) for text in winner_texts(subject.study)]
    kept = [text for text in kept if text.response_ids]
    if not kept:
        raise ConfigError(f"{subject.study.root} has kept no responses", "give --prompt and --response, or --file")
    return kept


def _explanation(title: str, judge: Judge, shapers: dict[str, Shaper], texts: list[_Text]) -> Explanation:
    shapes = {name: shaper.shape for name, shaper in shapers.items()}
    samples, seen = [], {name: Certificate.empty(shape) for name, shape in shapes.items()}
    for text in texts:
        try:
            sample, certificates = explain_response(judge, shapers, text.prompt_ids, text.response_ids)
        except (ConfigError, ShapeError) as error:
            raise ConfigError(f"{text.place}: {error.message}", error.hint) from error
        samples.append(sample)
        seen = {name: seen[name].merged(certificate) for name, certificate in certificates.items()}
    return Explanation(title, judge.reward_model.name, shapes, seen, tuple(samples))
