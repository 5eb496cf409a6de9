"""The day that chat templates write into prompts: a study's is that of its first launch, however late it goes on."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Any

from pipeline.config.load import parse_config
from pipeline.config.schema import StudyConfig
from pipeline.runtime.files import read_json, read_lines, understood
from pipeline.study.folder import StudyFolder
from pipeline.tasks.settings import PromptsSettings
from pipeline.tasks.template_day import asks_for_the_day
from shaping.errors import ConfigError


def with_kept_day(config: StudyConfig, folder: StudyFolder) -> StudyConfig:
    """Return the config with the day that its study was begun with, where the folder's config says one.

    Raises:
        ConfigError: The folder's config is damaged, or a newer version's.
    """
    if not _is_open(config) or not folder.config_file.exists():
        return config
    theirs = folder.config().task
    return _on(config, theirs.template_date if isinstance(theirs, PromptsSettings) else None)


def with_first_day(config: StudyConfig, folder: StudyFolder) -> StudyConfig:
    """Return the config with the day of the study's first launch, where a chat template of its task asks for a day.

    Raises:
        DamagedFileError: What launches noted cannot be read.
    """
    if not _is_open(config) or not _asks_for_the_day(config.task):
        return config
    with understood(folder.provenance_file):
        launches = read_lines(folder.provenance_file)
        # Written in UTC; templates ask for the day of the place.
        return _on(config, datetime.fromisoformat(launches[0]["at"]).astimezone().date() if launches else date.today())


def with_day_of_run(config: StudyConfig, run_file: Path) -> StudyConfig:
    """Return the config with the day on which a run outside any study began, as its record keeps it.

    Raises:
        DamagedFileError: The record cannot be read.
    """
    if not _is_open(config) or not _asks_for_the_day(config.task):
        return config
    with understood(run_file):
        kept = read_json(run_file)
        if kept is None:
            return _on(config, date.today())
        day = kept["task"].get("template_date")
        return _on(config, None if day is None else date.fromisoformat(day))


def _is_open(config: StudyConfig) -> bool:
    task = config.task
    return config.trainer is None and isinstance(task, PromptsSettings) and task.template_date is None


def _on(config: StudyConfig, day: date | None) -> StudyConfig:
    if day is None:
        return config
    values = config.model_dump(mode="json")
    return parse_config({**values, "task": {**values["task"], "template_date": day.isoformat()}}, config.name)


def _asks_for_the_day(task: Any) -> bool:
    """Return whether the template of the policy or of a reward model asks; one that cannot be loaded does not."""
    # With transformers, which takes seconds to import.
    from pipeline.tasks.models.pretrained import check_folder, load_tokenizer

    for section in ("policy", "reward_model", "gold_model"):
        settings = getattr(task, section)
        if settings is None or settings.model is None:
            continue
        try:
            check_folder(f"task.{section}.model", settings.model)
            if asks_for_the_day(load_tokenizer(settings, f"task.{section}").chat_template):
                return True
        except ConfigError:
            # Whoever loads the models says it in the order in which it is best told.
            continue
    return False
