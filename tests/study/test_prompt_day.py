"""Prompts whose chat template writes the date: a study that goes on later has those that it began with."""

from __future__ import annotations

import json
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import chat_template_utils

from pipeline.config.load import load_config, parse_config
from pipeline.config.schema import StudyConfig
from pipeline.study.folder import StudyFolder
from pipeline.study.prompt_day import with_day_of_run, with_first_day, with_kept_day
from pipeline.study.provenance import check_prompts, note_launch
from pipeline.tasks.custom.task import load
from shaping.errors import ConfigError
from tests.support.models.own_models import TEMPLATE, chat_tokenizer, own_values, write_lines, write_models

DATED = "Today is {{ strftime_now('%d %b %Y') }}. " + TEMPLATE


class Later(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> Later:
        return cls(2031, 5, 4)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dated")
    write_models(folder)
    rows = [{"messages": [{"role": "user", "content": text}]} for text in ("the film", "a cast", "dull", "so good")]
    write_lines(folder / "prompts.jsonl", rows)
    return folder


def config_of(models: Path, template: str, **changes: Any) -> StudyConfig:
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(models / "policy")
    return parse_config(own_values(models, **changes), "test")


def texts(config: StudyConfig) -> list[str]:
    task = load(config.task, None)  # type: ignore[arg-type]
    return [str(task.tokenizer.decode(ids)) for ids in task.train_prompts.to_ids() + task.held_out_prompts.to_ids()]


def test_a_study_keeps_the_day_of_its_first_launch(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = config_of(models, DATED), StudyFolder(tmp_path / "study")
    first = with_first_day(with_kept_day(config, folder), folder)
    assert first.task.template_date == date.today()  # type: ignore[union-attr]
    folder.create(first)
    before = texts(first)
    assert all(text.startswith(f"Today is {date.today():%d %b %Y}. ") for text in before)
    monkeypatch.setattr(chat_template_utils, "datetime", Later)
    assert all(text.startswith("Today is 04 May 2031. ") for text in texts(config))
    again = with_kept_day(config, folder)
    folder.check(again)
    assert again == first
    assert texts(with_first_day(again, folder)) == before
    with pytest.raises(ConfigError, match=r"task\.template_date"):
        folder.check(with_kept_day(config_of(models, DATED, template_date="2031-05-04"), folder))


def test_a_study_of_an_earlier_version_has_the_day_that_its_launches_noted(models: Path, tmp_path: Path) -> None:
    config, folder = config_of(models, DATED), StudyFolder(tmp_path / "study")
    folder.create(config)
    assert "template_date" not in folder.config_file.read_text()
    lines = [json.dumps({"at": f"2025-03-0{day}T12:00:00+00:00"}) for day in (2, 7)]
    folder.provenance_file.write_text("\n".join(lines) + "\n")
    kept = with_kept_day(config, folder)
    folder.check(kept)
    assert kept == config
    assert texts(with_first_day(kept, folder))[0].startswith("Today is 02 Mar 2025. ")


def test_without_a_clock_in_the_template_nothing_is_added(models: Path, tmp_path: Path) -> None:
    config, folder = config_of(models, TEMPLATE), StudyFolder(tmp_path / "study")
    assert with_first_day(with_kept_day(config, folder), folder) == config
    assert with_day_of_run(config, tmp_path / "run.json") == config
    assert "template_date" not in config.to_yaml()


def test_a_run_outside_a_study_keeps_its_day_too(models: Path, tmp_path: Path) -> None:
    config, file = config_of(models, DATED), tmp_path / "run.json"
    begun = with_day_of_run(config, file)
    assert begun.task.template_date == date.today()  # type: ignore[union-attr]
    file.write_text(json.dumps({"task": {"template_date": "2025-03-02"}}))
    assert texts(with_day_of_run(config, file))[0].startswith("Today is 02 Mar 2025. ")
    file.write_text(json.dumps({"task": {}}))
    assert with_day_of_run(config, file) == config


@pytest.mark.parametrize("day", ["5", "yes", "2025-13-01", "[]"])
def test_what_is_no_day_is_refused_by_name(day: str, models: Path, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(config_of(models, TEMPLATE).to_yaml())
    with pytest.raises(ConfigError, match=r"task\.template_date"):
        load_config(tmp_path / "own.yaml", (f"task.template_date={day}",))
    assert "2025-01-02" in load_config(tmp_path / "own.yaml", ("task.template_date=2025-01-02",)).to_yaml()


def test_prompts_whose_tokens_changed_are_refused(models: Path, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "study")
    folder.create(config_of(models, TEMPLATE))
    check_prompts(folder, "one")
    # Earlier versions noted nothing of them.
    note_launch(folder, {})
    check_prompts(folder, "one")
    note_launch(folder, {}, "one")
    check_prompts(folder, "one")
    check_prompts(folder, "")
    with pytest.raises(ConfigError, match=r"task\.prompts: the prompts' tokens have changed"):
        check_prompts(folder, "other")


def test_the_hash_of_prompts_follows_their_tokens_and_sides(models: Path) -> None:
    found = [
        load(config_of(models, template, **changes).task, None).prompts_identity  # type: ignore[arg-type]
        for template, changes in (
            (TEMPLATE, {}),
            (TEMPLATE, {}),
            (f"x{TEMPLATE}", {}),
            (TEMPLATE, {"held_out_share": 0.6}),
        )
    ]
    assert found[0] == found[1]
    assert len(set(found)) == 3
