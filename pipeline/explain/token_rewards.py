"""Where the reward falls in a few real responses, under every method and under a shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pipeline.explain.samples import TokenRow, TokenSample
from pipeline.runtime.files import understood, write_json
from pipeline.study.confirm_stage import confirmation_runs
from pipeline.study.folder import StudyFolder
from pipeline.study.prepared import PreparedStudy
from pipeline.tasks.registry import load_task
from pipeline.trainers.base import Judge, SampleText, Task
from pipeline.trials.arm import WINNER
from pipeline.trials.records import trial_files
from pipeline.trials.results import RunResult
from shaping.alignment import DecodedRollouts, texts_of
from shaping.certificate import Certificate
from shaping.credit import METHODS, check_served
from shaping.errors import ConfigError
from shaping.reward_models import RewardModel
from shaping.rollouts import Rollouts
from shaping.shape import Shape
from shaping.shaper import Shaper
from shaping.texts.invisible import invisible_tokens

# Coalitions of a response whose credit is looked at and not trained on: enough for some sixty tokens.
SHOWN_BUDGET = 128


def token_rewards(task: Task, shape: Shape, texts: list[SampleText]) -> list[dict[str, Any]]:
    """Return, for each text, its tokens and its token rewards under every method and under ``winner``.

    Methods that the reward model cannot serve are left out. Each row of rewards sums to ``score``, in reward-model
    units. Methods that the shape does not use are shown at their best, beyond the budget of training.
    """
    richer = shape.with_changes(budget=max(shape.budget, SHOWN_BUDGET))
    shapes = {
        name: method_shape(name, shape if name in shape.active_methods() else richer)
        for name in served_methods(task.reward_model, shape)
    }
    shapers = make_shapers(task, {**shapes, "winner": shape})
    return [plain_sample(explain_response(task, shapers, text.prompt_ids, text.response_ids)[0]) for text in texts]


def write_token_rewards(prepared: PreparedStudy) -> None:
    """Write where the reward falls in the winner's own responses, where it was not written yet.

    A custom trainer's responses are not known.
    """
    folder, config = prepared.folder, prepared.config
    winner = folder.winner()
    if winner is None or folder.tokens_file.exists():
        return
    samples: list[dict[str, Any]] = []
    if config.trainer is None:
        task = load_task(config.task, "" if prepared.models.assets is None else str(prepared.models.assets))
        samples = token_rewards(task, winner.shape, winner_texts(folder))
    write_json(folder.tokens_file, samples)


def plain_sample(sample: TokenSample) -> dict[str, Any]:
    """Return a sample as plain values."""
    return {
        "prompt": sample.prompt,
        "tokens": list(sample.tokens),
        "score": sample.score,
        "rewards": {row.method: list(row.rewards) for row in sample.rows},
    }


def method_shape(name: str, shape: Shape) -> Shape:
    """Return the shape that gives all reward by one method, at the other settings of ``shape``."""
    return shape.with_changes(weights={name: 1.0}, balance=1.0)


def served_methods(reward_model: RewardModel, shape: Shape) -> list[str]:
    """Return the methods that a reward model can serve with the shape's options."""
    return [name for name in METHODS if _served(name, reward_model, shape)]


def _served(method: str, reward_model: RewardModel, shape: Shape) -> bool:
    try:
        check_served([METHODS[method]], reward_model, shape)
    except ConfigError:
        return False
    return True


def make_shapers(judge: Judge | Task, shapes: Mapping[str, Shape]) -> dict[str, Shaper]:
    """Return what gives tokens their reward under each shape.

    Raises:
        ConfigError: A shape uses a method that the reward model cannot serve; the shape is named.
    """
    shapers = {}
    for name, shape in shapes.items():
        try:
            shapers[name] = Shaper(shape, judge.reward_model, judge.tokenizer)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error.message}", error.hint) from error
    return shapers


def explain_response(
    judge: Judge | Task, shapers: Mapping[str, Shaper], prompt_ids: list[int], response_ids: list[int]
) -> tuple[TokenSample, dict[str, Certificate]]:
    """Return where the reward of one response falls under each shape, and what was seen of each shape.

    Methods that sample begin anew with each response, so that its numbers do not depend on others.
    """
    rollouts = Rollouts.of_ids([prompt_ids], [response_ids])
    rows, certificates, score = [], {}, 0.0
    for name, shaper in shapers.items():
        shaper.set_generator_state(torch.Generator().manual_seed(0).get_state())
        shaped = shaper.shaped(rollouts)
        score = float(shaped.scores[0])
        rows.append(TokenRow(name, tuple(shaped.token_rewards[0].tolist())))
        certificates[name] = Certificate.empty(shaper.shape).including(shaped.token_rewards, shaped.scores, rollouts)
    (prompt,) = texts_of(judge.tokenizer, [prompt_ids])
    return TokenSample(prompt, _token_texts(rollouts, judge.tokenizer), score, tuple(rows)), certificates


def _token_texts(rollouts: Rollouts, tokenizer: Any) -> tuple[str, ...]:
    """Return what each token adds to the text; a special one, which adds nothing, is named.

    Alone, some tokenizers would show a token without its leading space.
    """
    decoded, ids = DecodedRollouts.of(rollouts, tokenizer), rollouts.response_ids[0].tolist()
    text, ends, special = decoded.responses[0], decoded.ends[0], invisible_tokens(tokenizer)
    parts = [text[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    names = tokenizer.convert_ids_to_tokens(ids)
    return tuple(str(name) if token in special else part for token, part, name in zip(ids, parts, names, strict=True))


def winner_texts(folder: StudyFolder) -> list[SampleText]:
    """Return what the winner answered in its first run on fresh seeds, or of the search where there is none.

    Raises:
        ShapetuneError: A file of the study is not what shapetune writes.
    """
    runs = confirmation_runs(folder).get(WINNER) or _search_runs(folder)
    with understood(folder.root):
        return runs[0].texts() if runs else []


def _search_runs(folder: StudyFolder) -> list[RunResult]:
    winner = folder.winner()
    found = (files.result() for files in trial_files(folder.trials))
    return [run for saved in found if saved and winner and saved.arm.name == winner.name for run in saved.result.runs]
