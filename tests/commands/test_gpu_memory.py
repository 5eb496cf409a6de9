"""``shapetune doctor CONFIG --gpu-memory``, as it is typed."""

from __future__ import annotations

import pytest

from pipeline.cli import _run


def test_doctor_shows_what_each_part_takes_and_what_a_study_may_cost(capsys) -> None:
    assert _run(["doctor", "quickstart", "--gpu-memory", "8"]) == 0
    said = capsys.readouterr().out
    for word in ("policy", "optimizer", "sampling", "updating", "would fit", "GiB at its peak", "hours for the study"):
        assert word in said
    # A program scores: there is no model of it.
    assert "reward model" not in said


def test_doctor_refuses_what_cannot_fit_with_the_setting_that_would(capsys) -> None:
    changes = ["--set", "sampling.response_tokens=2000", "--set", "ppo.batch_size=512"]
    assert _run(["doctor", "sentiment", "--gpu-memory", "2", *changes]) == 2
    said = capsys.readouterr().err
    assert "updating takes" in said and "set ppo.micro_batch_size to" in said and "Traceback" not in said


@pytest.mark.parametrize("arguments", [["quickstart"], ["--gpu-memory", "80"]])
def test_doctor_wants_a_config_and_a_gpu_together(arguments: list[str], capsys) -> None:
    assert _run(["doctor", *arguments]) == 2
    assert "CONFIG and --gpu-memory together" in capsys.readouterr().err


def test_doctor_says_that_a_custom_trainer_is_its_owners(capsys) -> None:
    changes = ["--set", "trainer.function=mine.py:train", "--set", "space.trainer={}"]
    assert _run(["doctor", "quickstart", "--gpu-memory", "8", *changes]) == 2
    assert "custom trainer" in capsys.readouterr().err
