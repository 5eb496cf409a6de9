"""Curves of runs in TensorBoard, Weights & Biases or MLflow, through accelerate's trackers.

The study's own files stay the record. So a tracker that fails is said once and left out: it costs no training.
Addresses, keys and offline modes are those of the libraries' own variables (``WANDB_MODE``, ``MLFLOW_TRACKING_URI``).
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.runtime.dotted import dotted
from pipeline.runtime.files import read_json, write_json
from shaping.errors import ConfigError

logger = logging.getLogger(__name__)

# What each is imported as.
PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
# Keeps MLflow's name of a run, by which a later attempt goes on in it.
KEPT = "tracking.json"


def check_trackers(names: tuple[str, ...]) -> None:
    """Refuse trackers that are not installed.

    Raises:
        ConfigError: One is not.
    """
    for name in names:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise ConfigError(f"tracking.to has {name}, which is not installed", f"pip install 'shapetune[{name}]'")


class RunTrackers:
    """The trackers of one run.

    Args:
        names: Which.
        project: What they group runs by.
        run: The run's name.
        folder: Keeps TensorBoard's files, those of runs that are offline, and what a later attempt needs.
        settings: Of the run, for tables of runs.
    """

    def __init__(
        self, names: tuple[str, ...], project: str, run: str, folder: Path, settings: Mapping[str, Any]
    ) -> None:
        self._project, self._run, self._folder = project, run, folder
        self._open: dict[str, Any] = {}
        if names:
            from accelerate import PartialState

            # The trackers' own messages ask for it.
            PartialState()
            folder.mkdir(parents=True, exist_ok=True)
        makers: dict[str, Callable[[], Any]] = {
            "tensorboard": self._tensorboard,
            "wandb": self._wandb,
            "mlflow": self._mlflow,
        }
        for name in names:
            self._try(name, partial(self._begin, name, makers[name]))
        for name, tracker in list(self._open.items()):
            # TensorBoard's would start a table of its own for them.
            if name != "tensorboard":
                self._try(name, partial(tracker.store_init_configuration, plain(settings)))

    def log(self, part: str, values: Mapping[str, Any], step: int) -> None:
        """Add numbers of a step under ``part/NAME``."""
        numbers = {f"{part}/{name}": value for name, value in values.items() if _is_number(value)}
        for name, tracker in list(self._open.items()):
            self._try(name, partial(tracker.log, numbers, step=step))

    def close(self) -> None:
        """Write what is left to write."""
        for name, tracker in list(self._open.items()):
            self._try(name, tracker.finish)
        self._open.clear()

    def _begin(self, name: str, make: Callable[[], Any]) -> None:
        self._open[name] = make()

    def _try(self, name: str, do: Callable[[], object]) -> None:
        try:
            do()
        # Whatever a tracker raises, of its own or of the network's, is no reason to end the training.
        except Exception as error:
            self._open.pop(name, None)
            logger.warning("%s is left out for %s: %s: %s", name, self._run, type(error).__name__, error)

    def _tensorboard(self) -> Any:
        from accelerate.tracking import TensorBoardTracker

        return _started(TensorBoardTracker("tensorboard", logging_dir=self._folder))

    def _wandb(self) -> Any:
        from accelerate.tracking import WandBTracker

        # A later attempt of the run goes on under the same id.
        name = hashlib.sha256(f"{self._project} {self._folder} {self._run}".encode()).hexdigest()[:16]
        options = {"name": self._run, "id": name, "resume": "allow", "dir": str(self._folder)}
        return _started(WandBTracker(self._project, **options))

    def _mlflow(self) -> Any:
        from accelerate.tracking import MLflowTracker

        file = self._folder / KEPT
        before = (read_json(file) or {}).get("mlflow")
        try:
            found = _started(MLflowTracker(self._project, run_id=before, run_name=self._run))
        # Gone meanwhile, or another worker made the project at the same moment.
        except Exception:
            found = _started(MLflowTracker(self._project, run_name=self._run))
        write_json(file, {"mlflow": found.tracker.info.run_id})
        return found


def _started(tracker: Any) -> Any:
    tracker.start()
    return tracker


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as tables of runs take them: under names with dots, as numbers or words."""
    return {
        name: value if isinstance(value, str | int | float | bool) else str(value)
        for name, value in dotted(settings).items()
    }
