"""Starting from an earlier study: its trials as data where it asked the same question, its best arms otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config.schema import StudyConfig
from pipeline.runtime.files import read_json, write_json
from pipeline.search.proposal import EarlierTrial
from pipeline.search.tracked import tracked_values
from pipeline.study.folder import StudyFolder
from pipeline.study.provenance import differing, noted, user_files
from pipeline.trials.records import Origin, SavedResult, TrialFiles, TrialRecord, trial_files
from pipeline.trials.results import TrialResult
from search_spaces import BaselineArm, Candidate, StudySpace
from shaping.errors import ConfigError
from shaping.shape import Shape

# With these alike, a trial of one study is a trial of the other; more seeds or trials change nothing.
ALIKE = ("task", "space", "shape", "sampling", "ppo", "evaluation", "objective")


@dataclass(frozen=True)
class WarmStart:
    """What a study takes over.

    Attributes:
        trials: Data, where the earlier study asked the same question.
        arms: What is tried first, where it asked another one.
        sources: Name of each of ``trials``'s arms to the folder that it stands in.
    """

    trials: tuple[EarlierTrial, ...] = ()
    arms: tuple[BaselineArm, ...] = ()
    sources: Mapping[str, Path] = field(default_factory=dict)


def check_warm_start(config: StudyConfig) -> None:
    """Refuse a study to start from that is not there.

    Raises:
        ConfigError: There is no study, or it is the one that is launched.
    """
    if config.search.warm_start is None:
        return
    try:
        earlier = StudyFolder.existing(config.search.warm_start)
    except ConfigError as error:
        raise ConfigError(f"search.warm_start: {error.message}", error.hint) from error
    if not any(files.has_result for files in trial_files(earlier.trials)):
        raise ConfigError(f"search.warm_start = {earlier.root} has no finished trial", "wait for it, or leave it out")


def read_warm_start(config: StudyConfig, folder: StudyFolder) -> WarmStart:
    """Return what the study takes over; its first launch keeps it, so that later ones find the same.

    Raises:
        ConfigError: There is no earlier study in the folder that the config names.
    """
    if config.search.warm_start is None:
        return WarmStart()
    kept = read_json(folder.warm_start_file)
    if kept is None:
        kept = _found(config, StudyFolder.existing(config.search.warm_start))
        write_json(folder.warm_start_file, kept)
    return WarmStart(
        trials=tuple(_trial(values) for values in kept["trials"]),
        arms=tuple(BaselineArm(arm["name"], arm["point"]) for arm in kept["arms"]),
        sources={values["arm"]: Path(values["source"]) for values in kept["trials"]},
    )


def _found(config: StudyConfig, earlier: StudyFolder) -> dict[str, Any]:
    theirs, space = earlier.config(), config.make_space()
    same_question = _question(theirs) == _question(config) and set(config.search.seeds) <= set(theirs.search.seeds)
    # Files may be large: they are only summed where nothing else tells the studies apart.
    if same_question and not differing(noted(earlier), user_files(config)):
        return {"trials": _data(config, earlier, space), "arms": []}
    arms = _best_arms(earlier, space, config.search.first_arms)
    return {"trials": [], "arms": [{"name": arm.name, "point": dict(arm.point)} for arm in arms]}


def _trial(kept: Mapping[str, Any]) -> EarlierTrial:
    values = {int(seed): float(value) for seed, value in kept["values"].items()}
    tried = Candidate(Shape.from_dict(kept["shape"]), kept.get("trainer", {}))
    return EarlierTrial(kept["arm"], tried, values, kept["tracked"])


def copy_results(folder: StudyFolder, index: int, arm: str, source: Path, seeds: Sequence[int]) -> None:
    """Let a trial that was taken over stand among the study's own, with its seeds, for whoever reads the folder."""
    target = TrialFiles(folder.trial_folder(index))
    if target.has_begun:
        return
    theirs = TrialFiles(source).result()
    assert theirs is not None
    target.folder.mkdir(parents=True, exist_ok=True)
    runs = theirs.runs_of(seeds)
    for run in runs:
        target.write_run(run)
    target.write_result(theirs.arm, TrialResult.of(runs))
    target.write_record(TrialRecord(index, arm, Origin.EARLIER))


def _question(config: StudyConfig) -> dict[str, Any]:
    plain = config.model_dump(mode="json")
    return {**{name: plain.get(name) for name in ALIKE}, "search.objective": config.search.objective}


def _results(earlier: StudyFolder) -> list[tuple[int, Path, SavedResult]]:
    """Return index, folder and result of the trials that succeeded."""
    found = [(files, files.result()) for files in trial_files(earlier.trials) if not files.has_failure]
    return [(int(files.folder.name), files.folder, saved) for files, saved in found if saved is not None]


def _data(config: StudyConfig, earlier: StudyFolder, space: StudySpace) -> list[dict[str, Any]]:
    """Return the earlier study's trials as plain values, under names that are free here."""
    baselines = {arm.name for arm in space.baselines()}
    trials = []
    for index, path, saved in _results(earlier):
        name, runs = saved.arm.name, saved.runs_of(config.search.seeds)
        trials.append(
            {
                "arm": name if name in baselines else f"{earlier.root.name} {index}",
                "source": str(path),
                "shape": saved.arm.shape.to_dict(),
                "trainer": dict(saved.arm.trainer),
                "values": {str(run.seed): run.searched(config.search.objective) for run in runs},
                "tracked": tracked_values(saved.result.metrics, saved.result.certificate),
            }
        )
    return trials


def _best_arms(earlier: StudyFolder, space: StudySpace, count: int) -> list[BaselineArm]:
    """Return the best arms that the space holds, as the earlier study believed, without the space's own baselines."""
    ranking = read_json(earlier.ranking_file) or []
    believed = {int(row["index"]): float(row["mean"]) for row in ranking}
    results = sorted(_results(earlier), key=lambda each: -believed.get(each[0], each[2].result.metrics["objective"][0]))
    taken = [dict(arm.point) for arm in space.baselines()]
    arms: list[BaselineArm] = []
    for index, _, saved in results:
        try:
            point = dict(space.encode(saved.arm.candidate))
        except ConfigError:
            continue
        if point not in taken and len(arms) < count:
            arms.append(BaselineArm(f"{earlier.root.name} {index}", point))
            taken.append(point)
    return arms
