"""A study's search once more, from its folder alone: every trial told to an outer loop that keeps nothing.

The model is a function of what the trials found, so the replay believes what the search believed. Whoever reads a
study needs neither its database nor its lock.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.config.schema import StudyConfig
from pipeline.search.early_stopping import Projection
from pipeline.search.outer_loop import OuterLoop
from pipeline.search.tracked import tracked_values
from pipeline.study.folder import StudyFolder
from pipeline.trials.records import TrialFiles, trial_files
from search_spaces import BaselineArm, Candidate, StudySpace
from search_spaces.base import Value

# Ax's figures show names as they are, and Plotly formats what looks like markup.
PLAIN = re.compile(r"[\w ,.+()-]{1,60}")


@dataclass(frozen=True)
class Replay:
    """The search as it stands.

    Attributes:
        space: The study's.
        outer: Knows every trial of which the folder tells what it tried.
        tried: The trial's index in the study to what it tried.
        indices: The trial's index in the study to that in ``outer``.
    """

    space: StudySpace
    outer: OuterLoop
    tried: dict[int, Candidate]
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
    tried: dict[int, Candidate] = {}
    indices: dict[int, int] = {}
    names: dict[tuple[tuple[str, Value], ...], str] = {}
    for files in trial_files(folder.trials):
        arm, index = files.arm(), int(files.folder.name)
        if arm is None:
            continue
        name = arm.name if PLAIN.fullmatch(arm.name) else f"trial {index}"
        point = space.encode(arm.candidate)
        # As the space writes it: a shape may be written in several ways.
        tried[index] = space.decode(point)
        # Ax knows an arm by its point: the second of two that are alike goes by the first one's name.
        name = names.setdefault(tuple(sorted(point.items())), name)
        indices[index] = outer.attach(BaselineArm(name, point))
        _tell(outer, indices[index], files, config)
    return Replay(space, outer, tried, indices)


def _tell(outer: OuterLoop, index: int, files: TrialFiles, config: StudyConfig) -> None:
    """Tell how a trial ended; one that has not, stays running."""
    stop, failure, saved = files.stop(), files.failure(), files.result()
    if stop is not None:
        outer.stop(index, Projection(stop.objective, stop.deviation))
    elif failure is not None:
        outer.fail(index, failure.reason)
    elif saved is not None:
        runs = saved.runs_of(config.search.seeds)
        values = {run.seed: run.searched(config.search.objective) for run in runs}
        outer.tell(index, values, tracked_values(saved.result.metrics, saved.result.certificate))
