"""Several studies side by side: what each found, where their configs differ, and whether their numbers may be compared.

J is only on one scale where studies share task, sampling and the price of KL; what a shape is worth only shows where
they also train alike. What stands against a comparison is said in words, before any number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from pipeline.report.data import ArmResult, ReportData
from pipeline.report.load import load_report_data
from pipeline.report.run_record import Ratio, cpu_ratio
from pipeline.study.folder import StudyFolder, what_decides
from pipeline.study.verdict import Difference, paired_difference
from pipeline.trials.arm import WINNER
from shaping.errors import ConfigError
from shaping.method_names import SPARSE

NAME = "name"


@dataclass(frozen=True)
class ComparedStudy:
    """One of the studies.

    Attributes:
        label: Its name; with as much of its folder as tells it apart where names are the same.
        data: What its report shows.
    """

    label: str
    data: ReportData

    @property
    def decides(self) -> dict[str, Any]:
        """Config values that decide the study's results, flat, without its name."""
        return {key: value for key, value in what_decides(self.data.config).items() if key != NAME}

    @property
    def confirmed(self) -> dict[str, ArmResult]:
        """Arm to what it found on fresh seeds."""
        return {each.arm.name: each.result for each in self.data.confirmed}

    @property
    def winner(self) -> ArmResult | None:
        """What the winner found: on fresh seeds, or else in the search, or nothing."""
        if WINNER in self.confirmed:
            return self.confirmed[WINNER]
        name = self.data.winner.name if self.data.winner else None
        return next((trial.result for trial in self.data.trials if trial.result and trial.arm == name), None)

    @property
    def is_confirmed(self) -> bool:
        """Whether the winner ran on fresh seeds."""
        return WINNER in self.confirmed

    @property
    def over_rival(self) -> Difference | None:
        """The winner's difference in J to the study's tuned sparse arm."""
        verdict = self.data.verdict
        found = verdict.differences if verdict else ()
        return next((each for each in found if verdict and each.rival == verdict.tuned_rival), None)

    @property
    def step_ratio(self) -> float | None:
        """Steps that the winner took to its tuned rival's final level, over those of the rival; ``None`` if never."""
        verdict = self.data.verdict
        if verdict is None:
            return None
        ours, theirs = (verdict.steps_to_level.get(arm) for arm in (WINNER, verdict.tuned_rival))
        return ours / theirs if ours and theirs else None

    @property
    def cost(self) -> Ratio | None:
        """Processor time of the winner's runs over that of the sparse ones."""
        return cpu_ratio(*(self.confirmed[arm].records if arm in self.confirmed else () for arm in (WINNER, SPARSE)))


@dataclass(frozen=True)
class StudyComparison:
    """The studies together.

    Attributes:
        studies: In the order in which they were given.
        same_scale: Whether J means the same in all of them.
        cautions: What stands against comparing them, in words; empty where nothing does.
        differing: Config field to its value in each study, for fields that differ.
        over_first: For each study, the difference of its winner's J to the first one's over shared fresh seeds;
            ``None`` for the first one, and where the two may not be compared.
    """

    studies: tuple[ComparedStudy, ...]
    same_scale: bool
    cautions: tuple[str, ...]
    differing: dict[str, tuple[Any, ...]]
    over_first: tuple[Difference | None, ...]


MISSING = object()


def load_comparison(roots: Sequence[Path]) -> StudyComparison:
    """Return the comparison of the studies in the given folders.

    Raises:
        ConfigError: A folder holds no study, or one is given twice.
        ShapetuneError: A file of a study is damaged.
    """
    folders = [StudyFolder.existing(root) for root in roots]
    places = [folder.root.resolve() for folder in folders]
    twice = next((root for root, place in zip(roots, places, strict=True) if places.count(place) > 1), None)
    if twice is not None:
        raise ConfigError(f"{twice} is given twice", "name each study once")
    found = [load_report_data(folder) for folder in folders]
    labels = _labels([data.config.name for data in found], places)
    return compare([ComparedStudy(label, data) for label, data in zip(labels, found, strict=True)])


def compare(studies: Sequence[ComparedStudy]) -> StudyComparison:
    """Return what the studies show together."""
    differing, first = _differing(studies), studies[0]
    found = doubts(differing)
    return StudyComparison(
        studies=tuple(studies),
        same_scale=all(doubt.same_scale for doubt, _ in found),
        cautions=tuple(_cautions(studies, found)),
        differing=differing,
        over_first=(None, *(_paired(each, first) for each in studies[1:])),
    )


def _labels(names: Sequence[str], places: Sequence[Path]) -> list[str]:
    """Return each study's name, with the end of its folder's path where another has the same name."""
    labels = []
    for name, place in zip(names, places, strict=True):
        others = [other for its, other in zip(names, places, strict=True) if its == name and other != place]
        parts = 1
        while any(other.parts[-parts:] == place.parts[-parts:] for other in others):
            parts += 1
        labels.append(f"{name} ({'/'.join(place.parts[-parts:])})" if others else name)
    return labels


def _differing(studies: Sequence[ComparedStudy]) -> dict[str, tuple[Any, ...]]:
    flat, held = [study.decides for study in studies], [study.data.provenance.files for study in studies]
    # Where all of them looked into a file, what was in it counts.
    for field in set.intersection(*(set(files) for files in held)):
        for values, files in zip(flat, held, strict=True):
            values[field] = f"{Path(values[field]).name} ({files[field][:12]})"
    fields = sorted({field for values in flat for field in values})
    rows = {field: tuple(values.get(field, MISSING) for values in flat) for field in fields}
    return {field: row for field, row in rows.items() if any(value != row[0] for value in row[1:])}


def _paired(ours: ComparedStudy, theirs: ComparedStudy) -> Difference | None:
    """Return the difference of two winners over the fresh seeds that both ran; ``None`` where J may not be compared."""
    comparable = may_be_subtracted(doubts(_differing([ours, theirs])))
    if not (comparable and ours.is_confirmed and theirs.is_confirmed):
        return None
    values = [{r.seed: r.objective for r in study.confirmed[WINNER].records} for study in (ours, theirs)]
    shared = sorted(set(values[0]) & set(values[1]))
    return paired_difference(theirs.label, *([of[seed] for seed in shared] for of in values)) if shared else None


def _cautions(studies: Sequence[ComparedStudy], found: Sequence[tuple[Doubt, list[str]]]) -> list[str]:
    said = [doubt.words.format(", ".join(fields)) for doubt, fields in found]
    for study in studies:
        if study.winner is not None and not study.is_confirmed:
            said.append(
                f"{study.label} has nothing on fresh seeds: its winner is shown with the search's own values, which "
                "flatter it."
            )
    said += [
        f"{one.label} and {other.label} hold the same results: one is a copy of the other, or a repetition of it."
        for one, other in combinations(studies, 2)
        if _results(one) and _results(one) == _results(other)
    ]
    if _vary(studies, _code):
        said.append("They were trained by different versions of the code, which may train differently.")
    if _vary(studies, lambda data: {place for place, _ in data.provenance.places}):
        said.append("They were trained on different machines or versions of torch: their times cannot be compared.")
    return said


def _results(study: ComparedStudy) -> list[tuple[int, int, float]]:
    return [(trial.index, each.seed, each.objective) for trial in study.data.trials for each in trial.records]


def _vary(studies: Sequence[ComparedStudy], of: Callable[[ReportData], set[str]]) -> bool:
    """Return whether something differs between the studies that tell it at all."""
    known = [found for study in studies if (found := of(study.data))]
    return any(found != known[0] for found in known[1:])


def _code(data: ReportData) -> set[str]:
    return {launch.commit or launch.versions.get("shapetune", "") for launch in data.provenance.launches}


@dataclass(frozen=True)
class Doubt:
    """What a difference between configs does to a comparison.

    Attributes:
        fields: Beginnings of the fields that bring it up.
        words: What is said; ``{}`` stands for the fields that differ.
        same_scale: Whether J still means the same in both.
        same_training: Whether a difference in J can still be put down to the shapes.
    """

    fields: tuple[str, ...]
    words: str
    same_scale: bool = True
    same_training: bool = True


# The first that a field belongs to is the one that is said of it.
DOUBTS = (
    Doubt(("task.", "trainer"), "They train on different tasks ({}): their J is not on one scale.", same_scale=False),
    Doubt(
        ("ppo.kl_coef", "objective.", "sampling."),
        "They price KL or sample responses differently ({}): their J is not on one scale.",
        same_scale=False,
    ),
    Doubt(
        ("ppo.", "space.trainer"),
        "They train differently ({}): what differs in J may come from that, and not from their shapes.",
        same_training=False,
    ),
    Doubt(
        ("evaluation.prompts",),
        "They were judged on different numbers of held-out prompts ({}): their J holds other luck.",
        same_training=False,
    ),
    Doubt(
        ("confirm.seeds",),
        "Their winners ran on different fresh seeds ({}): their J holds other luck, and only seeds that both ran are "
        "paired.",
    ),
    Doubt(
        ("search.objective",),
        "Their searches maximised different things ({}): best so far is not of one quantity.",
    ),
    Doubt(
        ("search.seeds",),
        "Their searches ran on different seeds ({}): what they observed, and best so far, holds other luck.",
    ),
)


def doubts(fields: Iterable[str]) -> list[tuple[Doubt, list[str]]]:
    """Return what fields that differ bring up, gravest first, each with its fields; each field is named once."""
    left, found = list(fields), []
    for doubt in DOUBTS:
        touched = [field for field in left if field.startswith(doubt.fields)]
        left = [field for field in left if field not in touched]
        if touched:
            found.append((doubt, touched))
    return found


def may_be_subtracted(found: Sequence[tuple[Doubt, list[str]]]) -> bool:
    """Return whether the J of one winner less that of another says something of their shapes."""
    return all(doubt.same_scale and doubt.same_training for doubt, _ in found)
