"""Studies as objects: launched from a config, or opened from a folder or a database's address."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.load import find_config, parse_config
from pipeline.config.load import load_config as load_file
from pipeline.config.schema import StudyConfig
from pipeline.explain.samples import TokenSample, read_samples
from pipeline.runtime.console import open_console
from pipeline.runtime.files import read_saved
from pipeline.runtime.logging import quiet_libraries
from pipeline.study.examined import examined
from pipeline.study.folder import StudyFolder
from pipeline.study.status import best_of, read_status
from search_spaces.base import Candidate
from shaping.errors import ConfigError
from shaping.shape import Shape

if TYPE_CHECKING:
    import pandas
    from ax.api.client import Client

    from pipeline.study.verdict import Verdict

STUDIES = Path("studies")


def load_config(config: str | Path, *changes: str) -> StudyConfig:
    """Return a checked config.

    Args:
        config: A YAML file, or a built-in config's name such as ``quickstart``.
        changes: ``key=value`` overrides, such as ``"search.trials=20"``.

    Raises:
        ConfigError: There is no such config, or a value cannot be used; names field, value and remedy.
    """
    return load_file(find_config(str(config)), changes)


def launch(
    config: StudyConfig | Mapping[str, Any] | str | Path,
    studies: str | Path = STUDIES,
    quiet: bool = False,
) -> Study:
    """Run a study to its end, or resume it where it stopped, and return it.

    Args:
        config: A config, its plain values, or what ``load_config`` takes.
        studies: The folder that studies are in.
        quiet: Whether nothing is printed; otherwise progress and verdict are, as by ``shapetune launch``.

    Raises:
        ConfigError: A value cannot be used; nothing was begun.
        ShapetuneError: The study cannot run; nothing that was finished is lost.
    """
    if isinstance(config, str | Path):
        config = load_config(config)
    elif isinstance(config, Mapping):
        config = parse_config(dict(config), "config")
    with quiet_libraries():  # Ax announces its database as soon as it is imported
        asked = examined(config, Path(studies))
        from pipeline.commands.launch import launch_study
    return Study.open(launch_study(asked, open_console(quiet=quiet)).root)


@dataclass(frozen=True)
class Study:
    """A study that runs or has ended; looked at anew at every call, and never changed.

    Attributes:
        folder: Its folder; ``None`` where only its database is known.
        storage: Its database's address; ``None`` for a folder.
        name: Its name in the database; of a folder, the folder's.
    """

    folder: Path | None
    storage: str | None = None
    name: str = ""

    @classmethod
    def open(cls, study: str | Path, storage: str | None = None) -> Study:
        """Return a study that was launched.

        Args:
            study: Its folder; with ``storage``, its name in the database.
            storage: A PostgreSQL database's address, without a password.

        Raises:
            ConfigError: There is no such study, or the address cannot be used.
            ShapetuneError: The database cannot be reached.
        """
        if storage is None:
            return cls(StudyFolder.existing(Path(study)).root, name=Path(study).resolve().name)
        opened = cls(None, storage, str(study))
        # Refuses a name that the database does not hold.
        _ = opened.is_running
        return opened

    def _files(self, wanted: str) -> StudyFolder:
        if self.folder is None:
            raise ConfigError(
                f"{wanted} of study {self.name}: only its database is known, which does not hold it",
                "open the study by its folder",
            )
        return StudyFolder.existing(self.folder)

    def _rows(self) -> list[dict[str, Any]]:
        if self.storage is None:
            return read_status(self._files("trials"))
        from pipeline.study.database_status import read_stored_status

        rows: list[dict[str, Any]] = read_stored_status(self.storage, self.name)["trials"]
        return rows

    @property
    def config(self) -> StudyConfig:
        """The resolved config.

        Raises:
            ConfigError: Only the study's database is known.
            ShapetuneError: Its file is damaged.
        """
        return self._files("config").config()

    @property
    def is_running(self) -> bool:
        """Whether a process runs the study now."""
        if self.storage is None:
            return self._files("lock").runner() is not None
        from pipeline.study.database_status import read_stored_status

        return read_stored_status(self.storage, self.name)["running"] is not None

    def trials(self) -> pandas.DataFrame:
        """Return one row a trial, in their order.

        Columns: ``index``, ``arm``, ``origin``, ``state``, ``J`` and ``J_standard_error`` (higher is better, in the
        reward's units), ``kl_nats``, ``projected_J`` and its deviation of trials that were stopped early, ``steps``,
        ``reason``, ``taken_over``, the shape as ``shape.weights.prefix``, ``shape.gae_lambda`` and so on, and
        settings of the trainer that are searched as ``trainer.ppo.critic``.

        Raises:
            ShapetuneError: The study's files or its database cannot be read.
        """
        import pandas

        return pandas.json_normalize(self._rows())

    @property
    def best_shape(self) -> Shape:
        """The winner's shape; before the search has chosen one, that of the best observed J.

        Raises:
            ConfigError: No trial has completed yet.
        """
        return self._best().shape

    def _best(self) -> Candidate:
        if self.storage is None:
            winner = self._files("winner").winner()
            if winner is not None:
                return winner.candidate
        best = best_of(self._rows())
        if best is None or best["shape"] is None:
            raise ConfigError(f"study {self.name}: no trial has completed yet", "wait for the first one")
        return Candidate(Shape.from_dict(best["shape"]), best.get("trainer", {}))

    @property
    def verdict(self) -> Verdict | None:
        """What the confirmation on fresh seeds found, with its paired differences; ``None`` before there is one.

        Raises:
            ConfigError: Only the study's database is known.
        """
        from pipeline.study.verdict import Verdict

        return read_saved(self._files("verdict").verdict_file, Verdict.from_dict)

    @property
    def tokens(self) -> tuple[TokenSample, ...]:
        """Where the reward falls in real responses of the winner, under every method; empty before there are any.

        Raises:
            ConfigError: Only the study's database is known.
        """
        return read_saved(self._files("tokens").tokens_file, read_samples) or ()

    @property
    def best_settings(self) -> dict[str, Any]:
        """The winner's settings of the trainer, by their place in the config; empty where none are searched.

        Raises:
            ConfigError: No trial has completed yet.
        """
        return dict(self._best().trainer)

    def point(self, shape: Shape, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return a shape as a point of the study's space: what the client of Ax is asked about.

        Args:
            shape: One that the space holds, such as ``best_shape``.
            settings: The trainer's, such as ``best_settings``; those that are left out are the study's own.

        Raises:
            ConfigError: The space does not hold it, or only the study's database is known.
        """
        return dict(self.config.make_space().encode(Candidate(shape, settings or {})))

    def ax_client(self) -> Client:
        """Return a client of Ax that knows the search as it stands now, with its model fitted: it takes seconds.

        ``predict``, ``compute_analyses`` and ``get_next_trials`` answer as for any client. It holds a copy: nothing
        that it is told or asked reaches the study, its folder or its database.

        Raises:
            ShapetuneError: Fewer than two trials have completed, or the study cannot be read.
        """
        with quiet_libraries():  # Ax announces its database as soon as it is imported
            from pipeline.search.detached import detached_from_database
            from pipeline.study.replay import replayed

            if self.storage is not None:
                from pipeline.config.database_url import check_url

                self._rows()
                url = check_url(self.storage).render_as_string(hide_password=False)
                return detached_from_database(url, self.name)
            return replayed(self._files("search")).outer.detached_client()
