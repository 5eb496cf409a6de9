"""Starting from an earlier study: its trials as data where it asked the same question, its best arms otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config.schema import StudyConfig
from pipeline.runtime.files import read_json, write_json
from pipeline.search.outer_loop import EarlierTrial, tracked_values
from pipeline.storage.keys import EARLIER
from pipeline.study.folder import StudyFolder
from pipeline.study.provenance import differing, noted, own_files
from pipeline.trials.run import searched_value, seed_file, summarize
from search_spaces import BaselineArm, SearchSpace
from shaping.errors import ConfigError
from shaping.shape import Shape

# With these alike, a trial of one study is a trial of the other; more seeds or trials change nothing.
ALIKE = ("task", "space", "shape", "sampling", "ppo", "evaluation")


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
    if not any(earlier.trials.glob("*/result.json")):
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
    if same_question and not differing(noted(earlier), own_files(config)):
        return {"trials": _data(config, earlier, space), "arms": []}
    arms = _best_arms(earlier, space, config.search.first_arms)
    return {"trials": [], "arms": [{"name": arm.name, "point": dict(arm.point)} for arm in arms]}


def _trial(kept: Mapping[str, Any]) -> EarlierTrial:
    values = {int(seed): float(value) for seed, value in kept["values"].items()}
    return EarlierTrial(kept["arm"], Shape.from_dict(kept["shape"]), values, kept["tracked"])


def copy_results(folder: StudyFolder, index: int, arm: str, source: Path, seeds: Sequence[int]) -> None:
    """Let a trial that was taken over stand among the study's own, with its seeds, for whoever reads the folder."""
    target = folder.trial_folder(index)
    if (target / "trial.json").exists():
        return
    target.mkdir(parents=True, exist_ok=True)
    theirs = read_json(source / "result.json")
    runs = {int(run["seed"]): run for run in theirs["runs"] if run["seed"] in seeds}
    for seed, run in runs.items():
        write_json(seed_file(target, seed), run)
    outcome = summarize([runs[seed] for seed in seeds])
    write_json(target / "result.json", {**outcome.to_dict(), "arm": theirs["arm"], "seeds": list(seeds)})
    write_json(target / "trial.json", {"index": index, "arm": arm, "origin": EARLIER})


def _question(config: StudyConfig) -> dict[str, Any]:
    plain = config.model_dump(mode="json")
    return {**{name: plain[name] for name in ALIKE}, "objective": config.search.objective}


def _results(earlier: StudyFolder) -> list[tuple[int, Path, dict[str, Any]]]:
    """Return index, folder and result of the trials that succeeded."""
    folders = sorted((path.parent for path in earlier.results()), key=lambda path: int(path.name))
    return [
        (int(path.name), path, read_json(path / "result.json"))
        for path in folders
        if not (path / "failure.json").exists()
    ]


def _data(config: StudyConfig, earlier: StudyFolder, space: SearchSpace) -> list[dict[str, Any]]:
    """Return the earlier study's trials as plain values, under names that are free here."""
    baselines = {arm.name for arm in space.baselines()}
    trials = []
    for index, path, result in _results(earlier):
        name = result["arm"]["name"]
        runs = [run for run in result["runs"] if run["seed"] in config.search.seeds]
        trials.append(
            {
                "arm": name if name in baselines else f"{earlier.root.name} {index}",
                "source": str(path),
                "shape": result["arm"]["shape"],
                "values": {str(run["seed"]): searched_value(run, config.search.objective) for run in runs},
                "tracked": tracked_values(result["metrics"], result["certificate"]),
            }
        )
    return trials


def _best_arms(earlier: StudyFolder, space: SearchSpace, count: int) -> list[BaselineArm]:
    """Return the best arms that the space holds, as the earlier study believed, without the space's own baselines."""
    ranking = read_json(earlier.ranking_file) or []
    believed = {int(row["index"]): float(row["mean"]) for row in ranking}
    results = sorted(
        _results(earlier), key=lambda each: -believed.get(each[0], float(each[2]["metrics"]["objective"][0]))
    )
    taken = [dict(arm.point) for arm in space.baselines()]
    arms: list[BaselineArm] = []
    for index, _, result in results:
        try:
            point = dict(space.encode(Shape.from_dict(result["arm"]["shape"])))
        except ConfigError:
            continue
        if point not in taken and len(arms) < count:
            arms.append(BaselineArm(f"{earlier.root.name} {index}", point))
            taken.append(point)
    return arms
