"""What a report shows: plain records, filled from a study's folder and turned into a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.config.schema import StudyConfig
from pipeline.explain.samples import TokenSample
from pipeline.report.provenance import Attempt, Provenance
from pipeline.report.run_record import RunRecord, merged_certificate
from pipeline.study.verdict import Verdict
from pipeline.trials.arm import Arm
from pipeline.trials.records import FailureRecord, Origin, StopRecord, TrialState
from pipeline.trials.statistics import mean_and_error
from search_spaces.base import Candidate
from shaping.certificate import Certificate

if TYPE_CHECKING:
    from pipeline.analysis.landscape import Landscape
    from pipeline.search.ax_analyses import AxAnalysis


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its standard error; ``None`` where there is only one seed."""

    mean: float
    error: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Return the estimate of at least one value."""
        return cls(*mean_and_error(values))


@dataclass(frozen=True)
class HeldOut:
    """What runs measured on held-out prompts while they trained.

    Attributes:
        steps: Training steps that were done at each measurement.
        values: Metric name to one series a seed; empty where nothing was measured.
    """

    steps: tuple[int, ...]
    values: dict[str, tuple[tuple[float, ...], ...]]


@dataclass(frozen=True)
class ArmResult:
    """What an arm's finished runs found.

    Attributes:
        seeds: One finished run each.
        metrics: Name to its mean over the seeds; ``objective`` is J, higher is better.
        certificate: Of all seeds together.
        curves: Metric name to one series a seed, in the order of ``seeds``.
        held_out: The same on held-out prompts, at the steps where that was measured.
        records: What each run kept beside its values, in the order of ``seeds``.
    """

    seeds: tuple[int, ...]
    metrics: dict[str, Estimate]
    certificate: Certificate
    curves: dict[str, tuple[tuple[float, ...], ...]]
    held_out: HeldOut
    records: tuple[RunRecord, ...]


@dataclass(frozen=True)
class Belief:
    """What the search believed of an arm's J at its end.

    Attributes:
        mean: Higher is better.
        deviation: Standard deviation of the belief.
        from_model: False where it only averaged.
        feasible: Whether it expected the arm to keep ``search.constraints``.
    """

    mean: float
    deviation: float
    from_model: bool
    feasible: bool = True


@dataclass(frozen=True)
class TrialRow:
    """One trial of the search.

    Attributes:
        index: Its number in the search.
        arm: What the search calls it.
        origin: ``baseline``, ``sobol``, ``model``, or ``earlier study`` where its arm was taken over.
        is_baseline: Whether every study of the space runs its arm first.
        is_taken_over: Whether an earlier study ran it.
        tried: ``None`` while no file of the trial tells it.
        records: Of the seeds that were trained to the end.
        attempts: Those that failed, oldest first, whatever became of the trial.
        result: ``None`` unless every seed finished.
        belief: ``None`` where the search ranked nothing.
        failure: ``None`` unless a run of the trial was given up.
        stop: ``None`` unless the trial was stopped early.
    """

    index: int
    arm: str
    origin: str
    is_baseline: bool
    is_taken_over: bool
    tried: Candidate | None
    records: tuple[RunRecord, ...]
    attempts: tuple[Attempt, ...]
    result: ArmResult | None
    belief: Belief | None
    failure: FailureRecord | None
    stop: StopRecord | None

    @property
    def state(self) -> TrialState:
        """How the trial stands.

        A result whose certificate broke has failed; a stopped trial has not, though a seed of it that was still out
        may have.
        """
        if self.stop is not None:
            return TrialState.STOPPED
        if self.failure is not None:
            return TrialState.FAILED
        return TrialState.COMPLETED if self.result is not None else TrialState.RUNNING

    @property
    def state_word(self) -> str:
        """The state in a word: a report does not know whether anybody still runs what has not ended."""
        return "unfinished" if self.state is TrialState.RUNNING else self.state

    @property
    def finished_seeds(self) -> int:
        """Seeds that were trained to the end."""
        return len(self.records)

    @property
    def certificate(self) -> Certificate | None:
        """Of every seed that was trained to the end; ``None`` where none was."""
        return merged_certificate(self.records)

    @property
    def retries(self) -> tuple[Attempt, ...]:
        """The failed attempts that were followed by another, or will be."""
        return tuple(attempt for attempt in self.attempts if attempt.was_retried)

    @property
    def is_from_earlier_study(self) -> bool:
        """Whether its arm comes from an earlier study, with its result or without."""
        return self.origin == Origin.EARLIER

    @property
    def breaks_constraints(self) -> bool:
        """Whether the search expected the arm to break ``search.constraints``."""
        return self.belief is not None and not self.belief.feasible


@dataclass(frozen=True)
class ConfirmedArm:
    """An arm on fresh seeds."""

    arm: Arm
    result: ArmResult


@dataclass(frozen=True)
class Sensitivity:
    """How much a parameter decides about J, as a model of the trials believes.

    Attributes:
        parameter: Its name in words.
        total: Share of J's variance over the space that it has a part in; between 0 and 1.
        first: Share that it explains alone; at most ``total``.
        direction: Which way J rises, in words.
    """

    parameter: str
    total: float
    first: float
    direction: str


@dataclass(frozen=True)
class ReportData:
    """Everything that a report shows.

    Attributes:
        config: The study's resolved config.
        config_yaml: The same, word for word as it stands in the study's folder.
        trials: The search's trials, by index.
        winner: The search's winner; ``None`` before the search ended.
        verdict: ``None`` where nothing was confirmed.
        confirmed: Arms with at least one finished run on fresh seeds, winner first, then by J.
        untrained: Metrics of the policy before training, on the same seeds; empty where nothing measured it.
        confirmation_failures: Runs on fresh seeds that were given up.
        confirmation_attempts: Failed attempts of runs on fresh seeds, each with its arm.
        sensitivity: Of the space's parameters, what matters most first; empty where no model was fitted.
        samples: Real responses; may be empty.
        provenance: Where the results come from.
        landscape: What the search's model believes of the space; ``None`` while there is no model, or none was asked.
        is_modelled: Whether a model was asked.
        analyses: Ax's own, of the same trials; empty where none were asked for.
    """

    config: StudyConfig
    config_yaml: str
    trials: tuple[TrialRow, ...]
    winner: Arm | None
    verdict: Verdict | None
    confirmed: tuple[ConfirmedArm, ...]
    untrained: dict[str, Estimate]
    confirmation_failures: tuple[FailureRecord, ...]
    confirmation_attempts: tuple[tuple[str, Attempt], ...]
    sensitivity: tuple[Sensitivity, ...]
    samples: tuple[TokenSample, ...]
    provenance: Provenance
    landscape: Landscape | None = None
    is_modelled: bool = False
    analyses: tuple[AxAnalysis, ...] = ()

    def trials_in(self, state: str) -> tuple[TrialRow, ...]:
        """Return the trials of one state."""
        return tuple(trial for trial in self.trials if trial.state == state)

    @property
    def trial_steps(self) -> int:
        """Training steps of a trial, over all its seeds."""
        return self.config.ppo.steps * len(self.config.search.seeds)

    @property
    def has_gold(self) -> bool:
        """Whether a second reward model scored anything."""
        results = [trial.result for trial in self.trials] + [confirmed.result for confirmed in self.confirmed]
        return any("gold_reward" in result.metrics for result in results if result)

    @property
    def ranked(self) -> tuple[TrialRow, ...]:
        """Trials that did not fail, best first: by what the search believed, by what was observed, by projection.

        What is expected to break a constraint stands behind what is not.
        """
        return tuple(sorted((trial for trial in self.trials if trial.state is not TrialState.FAILED), key=_place))


def _place(trial: TrialRow) -> tuple[int, float, int]:
    if trial.belief is not None:
        return (int(trial.breaks_constraints), -trial.belief.mean, trial.index)
    if trial.result is not None:
        return (2, -trial.result.metrics["objective"].mean, trial.index)
    if trial.stop is not None:
        return (3, -trial.stop.objective, trial.index)
    return (4, 0.0, trial.index)
