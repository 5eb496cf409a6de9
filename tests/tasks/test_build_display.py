"""Who waits for models is told what was measured on this machine, and nothing that was measured on another one."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.tasks import build_display
from pipeline.tasks.build_display import building_shown, progress_words
from pipeline.tasks.models.build_progress import building_told_to
from pipeline.tasks.models.language_model import fine_tune
from pipeline.tasks.settings import Recipe
from tests.support.models.tiny_models import tiny_tokenizer

RECIPE = Recipe(
    vocabulary=300,
    hidden_size=16,
    intermediate_size=32,
    layers=1,
    heads=2,
    policy_epochs=2,
    batch_size=4,
)
ROWS = [[1, *range(4, 4 + length), 2] for length in (3, 4, 5, 6, 7, 8, 9, 10)]


def trained(scratch: Path) -> None:
    fine_tune(RECIPE, tiny_tokenizer(), ROWS, scratch)


def test_every_step_of_a_training_is_told_to_whoever_listens_and_to_nobody_afterwards(tmp_path: Path) -> None:
    heard: list[tuple[str, float, float]] = []
    with building_told_to(lambda *told: heard.append(told)):
        trained(tmp_path)
    assert [(words, share) for words, share, _ in heard] == [("the policy", done / 4) for done in (1, 2, 3, 4)]
    seconds = [each for *_, each in heard]
    assert seconds == sorted(seconds) and seconds[0] >= 0
    trained(tmp_path)
    assert len(heard) == 4


@pytest.mark.parametrize(
    ("share", "seconds", "said"),
    [
        (0.25, 60.0, "training the policy, 25%, about 3 min left"),
        # A machine ten times as slow is told ten times as long.
        (0.25, 600.0, "training the policy, 25%, about 30 min left"),
        (0.9, 60.0, "training the policy, 90%, less than a minute left"),
        (0.5, 1.0, ""),
        (0.001, 30.0, ""),
    ],
)
def test_the_time_left_is_that_of_the_steps_so_far(share: float, seconds: float, said: str) -> None:
    assert progress_words("the policy", share, seconds) == said


def test_lines_are_printed_where_none_can_be_redrawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_display, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(build_display, "LINE_SECONDS", 0.0)
    said = io.StringIO()
    with building_shown(Console(file=said, width=100), "building a policy, once"):
        trained(tmp_path)
    lines = said.getvalue().splitlines()
    assert lines[0] == "building a policy, once ..."
    assert lines[1] == "training the policy, 25%, less than a minute left"
    assert lines[-1] == "training the policy, 100%, less than a minute left"
