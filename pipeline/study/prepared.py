"""A study before its first trial: everything that can be refused was looked at, and everything it needs is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console

from pipeline.config.schema import StudyConfig
from pipeline.runtime.files import write_json
from pipeline.runtime.signals import interruption
from pipeline.storage.database import locked, study_database
from pipeline.study.examined import ExaminedStudy
from pipeline.study.folder import StudyFolder
from pipeline.study.progress import finished_runs
from pipeline.study.provenance import check_prompts, note_launch
from pipeline.trials.task_models import ReadyModels, ready_models


@dataclass(frozen=True)
class PreparedStudy:
    """What a study needs to run.

    Attributes:
        config: Its config.
        folder: Where it is.
        models: What is known of its task's models.
        files: Config field to a hash of the user's own file that it names.
    """

    config: StudyConfig
    folder: StudyFolder
    models: ReadyModels
    files: Mapping[str, str] = field(default_factory=dict)

    def note_launch(self) -> None:
        """Write down in the study's folder what it is launched with."""
        note_launch(self.folder, self.files, self.models.prompts)


@contextmanager
def prepared_study(asked: ExaminedStudy, console: Console) -> Iterator[PreparedStudy]:
    """Hold a study while the block runs it: its lock, its database's lock, and its folder, made where it is new.

    Nothing is built or written for a study that cannot run. Ctrl+C and SIGTERM end the block with a line that says
    what was finished.

    Args:
        asked: The study, looked at as far as that goes without its models.
        console: Where to say what is built.

    Raises:
        ShapetuneError: Something the user can act on; nothing that was finished is lost.
    """
    config, folder = asked.config, asked.folder
    for name in asked.changed:
        console.print(f"{name}: its code has changed since the last launch; runs that have ended keep what they found")

    def standing(signal: str) -> str:
        done = finished_runs(folder.trials) + finished_runs(folder.confirm)
        return f"stopped by {signal} with {done} runs finished; nothing of them is lost"

    with interruption(standing, "the same command resumes, those that had begun from their last checkpoints"):
        # A database that cannot be reached, or whose study runs elsewhere, is refused before models are built.
        with locked(study_database(config.storage, folder.root), config.name):
            models = ready_models(config, console)
            check_prompts(folder, models.prompts)
            folder.create(config)
            with folder.locked():
                if models.quality:
                    write_json(folder.models_file, models.quality)
                yield PreparedStudy(config, folder, models, asked.files)
