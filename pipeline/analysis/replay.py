"""A study's search once more, from its folder alone: every trial told to an outer loop that keeps nothing.

The model is a function of what the trials found, so the replay believes what the search believed. Whoever reads a
study needs neither its database nor its lock.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.schema import StudyConfig
from pipeline.runtime.files import read_kept
from pipeline.search.early_stopping import Projection
from pipeline.search.outer_loop import OuterLoop, tracked_values
from pipeline.study.folder import StudyFolder
from pipeline.trials.arm import Arm
from pipeline.trials.run import searched_value
from search_spaces import BaselineArm, SearchSpace
from search_spaces.base import Value
from shaping.shape import Shape

# Ax's figures show names as they are, and Plotly formats what looks like markup.
PLAIN = re.compile(r"[\w ,.+()-]{1,60}")


@dataclass(frozen=True)
class Replay:
    """The search as it stands.

    Attributes:
        space: The study's.
        outer: Knows every trial whose shape the folder tells.
        shapes: The trial's index in the study to its shape.
        indices: The trial's index in the study to that in ``outer``.
    """

    space: SearchSpace
    outer: OuterLoop
    shapes: dict[int, Shape]
    indices: dict[int, int]


def replayed(folder: StudyFolder) -> Replay:
    """Return the search that a study's folder tells of.

    Raises:
        ConfigError: The study's config cannot be used, or a trial's shape is not of its space.
        ShapetuneError: A file of the study is not what shapetune writes; the file is named.
    """
    config = folder.config()
    space = config.make_space()
    outer = OuterLoop(config.name, space, None, config.search)
    shapes: dict[int, Shape] = {}
    indices: dict[int, int] = {}
    names: dict[tuple[tuple[str, Value], ...], str] = {}
    paths = [path for path in folder.trials.glob("*") if path.name.isdigit()]
    for path in sorted(paths, key=lambda path: int(path.name)):
        arm = _arm(path)
        if arm is None:
            continue
        index = int(path.name)
        name = arm.name if PLAIN.fullmatch(arm.name) else f"trial {index}"
        point = space.encode(arm.shape)
        # As the space writes it: a shape may be written in several ways.
        shapes[index] = space.decode(point)
        # Ax knows an arm by its point: the second of two that are alike goes by the first one's name.
        name = names.setdefault(tuple(sorted(point.items())), name)
        indices[index] = outer.attach(BaselineArm(name, point))
        _tell(outer, indices[index], path, config)
    return Replay(space, outer, shapes, indices)


def _arm(path: Path) -> Arm | None:
    """Return what a trial ran; ``None`` while its folder does not tell."""
    for name in ("result", "failure"):
        arm = read_kept(path / f"{name}.json", lambda kept: Arm.from_dict(kept["arm"]))
        if arm is not None:
            return arm
    return read_kept(path / "trial.json", _begun)


def _begun(made: dict[str, Any]) -> Arm | None:
    return Arm(str(made["arm"]), Shape.from_dict(made["shape"])) if made.get("shape") else None


def _tell(outer: OuterLoop, index: int, path: Path, config: StudyConfig) -> None:
    """Tell how a trial ended; one that has not, stays running."""
    projection = read_kept(path / "stopped.json", Projection.from_dict)
    failure = read_kept(path / "failure.json", lambda kept: str(kept["reason"]))
    found = read_kept(path / "result.json", lambda kept: _found(kept, config))
    if projection is not None:
        outer.stop(index, projection)
    elif failure is not None:
        outer.fail(index, failure)
    elif found is not None:
        outer.tell(index, *found)


def _found(kept: dict[str, Any], config: StudyConfig) -> tuple[dict[int, float], dict[str, float]]:
    """Return what the search was told of a trial: seed to value, and name to what else was measured."""
    # A trial of an earlier study may have had more seeds.
    runs = [run for run in kept["runs"] if int(run["seed"]) in config.search.seeds]
    values = {int(run["seed"]): searched_value(run, config.search.objective) for run in runs}
    return values, tracked_values(kept["metrics"], kept["certificate"])
