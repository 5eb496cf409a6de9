"""What training came to, as typed records: one seed's run, and all seeds of an arm together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from statistics import fmean
from typing import Any

from pipeline.trainers.base import SampleText
from pipeline.trials.statistics import mean_and_error
from shaping.certificate import Certificate

DISTINCT = ("distinct_unigrams", "distinct_bigrams", "distinct_trigrams")
EVALUATED = ("objective", "reward", "kl_nats", "response_tokens", "entropy_nats", *DISTINCT, "gold_reward")
# How the machine of a custom trainer's run says its precision: of its credit's cost nothing is known.
CUSTOM_TRAINER = "own trainer"

Metrics = Mapping[str, tuple[float, float | None]]


@dataclass(frozen=True)
class RunResult:
    """One seed's finished run; what it did not measure is ``None``.

    Attributes:
        seed: Of everything random.
        curve: Each training step's measures, by name.
        evaluation: Measures on held-out prompts at the end, by name, and the responses kept word for word (``texts``).
        certificate: Of all responses that the run was trained on.
        held_out: Evaluations during the run, each with ``done_steps`` before it.
        untrained: The evaluation before training.
        credit_tokens: Tokens that the reward model read for credit, beyond scoring each response once.
        credit_coalitions: Coalitions that were scored.
        training_cpu_seconds: Processor seconds of training, evaluations not counted.
        wall_seconds: From the last attempt's start to the end.
        machine: Where it ran, as ``runtime.environment.where`` tells it.
    """

    seed: int
    curve: tuple[Mapping[str, float], ...]
    evaluation: Mapping[str, Any]
    certificate: Certificate
    held_out: tuple[Mapping[str, Any], ...] = ()
    untrained: Mapping[str, Any] | None = None
    credit_tokens: int | None = None
    credit_coalitions: int | None = None
    training_cpu_seconds: float | None = None
    wall_seconds: float | None = None
    machine: Mapping[str, Any] | None = None

    @property
    def objective(self) -> float:
        """J on held-out prompts at the end; higher is better."""
        return float(self.evaluation["objective"])

    @property
    def objective_curve(self) -> list[float]:
        """J at every training step."""
        return [float(point["objective"]) for point in self.curve]

    @property
    def is_custom(self) -> bool:
        """Whether a trainer of the user's made it."""
        return self.machine is not None and self.machine.get("precision") == CUSTOM_TRAINER

    def measured(self, name: str) -> float | None:
        """Return what the evaluation at the end measured under a name."""
        value = self.evaluation.get(name)
        return None if value is None else float(value)

    def searched(self, objective: str) -> float:
        """Return what the search compares: the final J, or for ``curve`` the mean of J along the curve.

        Args:
            objective: ``search.objective``; gains are counted from the final J.
        """
        return fmean(self.objective_curve) if objective == "curve" else self.objective

    def texts(self) -> list[SampleText]:
        """Return the responses that were kept word for word."""
        return [SampleText.from_dict(text) for text in self.evaluation["texts"]]

    def before_training(self) -> RunResult | None:
        """Return the policy before training as if it were a run of this seed; ``None`` where it was not measured."""
        return None if not self.untrained else RunResult(self.seed, (), self.untrained, self.certificate)

    def to_dict(self) -> dict[str, Any]:
        """Return the run as plain values; what a custom trainer has not is left out, as earlier versions did."""
        values: dict[str, Any] = {"seed": self.seed, "curve": list(self.curve), "held_out": list(self.held_out)}
        if not self.is_custom:
            values["untrained"] = self.untrained
        values |= {"evaluation": self.evaluation, "certificate": self.certificate.to_dict()}
        optional = ("credit_tokens", "credit_coalitions", "training_cpu_seconds", "wall_seconds", "machine")
        return values | {name: value for name in optional if (value := getattr(self, name)) is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunResult:
        """Return the run of ``to_dict``'s values.

        Raises:
            KeyError: It has no seed, curve, evaluation or certificate.
            TypeError: A value is of another kind.
            ValueError: A value is no number.
        """
        run = cls(
            seed=int(values["seed"]),
            curve=tuple(_measures(point) for point in values["curve"]),
            evaluation=_measures(values["evaluation"]),
            certificate=Certificate.from_dict(values["certificate"]),
            held_out=tuple(_measures(point) for point in values.get("held_out") or ()),
            untrained=optional(_measures, values.get("untrained")),
            credit_tokens=optional(int, values.get("credit_tokens")),
            credit_coalitions=optional(int, values.get("credit_coalitions")),
            training_cpu_seconds=optional(float, values.get("training_cpu_seconds")),
            wall_seconds=optional(float, values.get("wall_seconds")),
            machine=values.get("machine"),
        )
        # Read once, so that a file without numbers is refused where it is read.
        assert run.objective is not None and run.objective_curve is not None
        return run


@dataclass(frozen=True)
class TrialResult:
    """What an arm found: means over its seeds, with standard errors where there are at least two.

    Attributes:
        metrics: Name to ``(mean, standard error or None)``.
        certificate: Of all seeds together.
        runs: Each seed's.
    """

    metrics: Metrics
    certificate: Certificate
    runs: tuple[RunResult, ...]

    @classmethod
    def of(cls, runs: Sequence[RunResult]) -> TrialResult:
        """Return means and standard errors over at least one run."""
        # A task may have no gold model, and a custom trainer measures what it measures.
        names = [name for name in EVALUATED if all(run.measured(name) is not None for run in runs)]
        series = {name: [float(run.evaluation[name]) for run in runs] for name in names}
        series["curve_objective"] = [run.searched("curve") for run in runs]
        seconds = [run.training_cpu_seconds for run in runs]
        series["training_cpu_seconds"] = [each for each in seconds if each is not None]
        metrics = {name: mean_and_error(values) for name, values in series.items() if len(values) == len(runs)}
        return cls(metrics, certificate_of(runs), tuple(runs))

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values."""
        runs = [run.to_dict() for run in self.runs]
        return {"metrics": dict(self.metrics), "certificate": self.certificate.to_dict(), "runs": runs}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrialResult:
        """Return the result of ``to_dict``'s values."""
        runs = tuple(RunResult.from_dict(run) for run in values["runs"])
        if "metrics" not in values:
            return cls.of(runs)
        return cls(metrics_of(values), Certificate.from_dict(values["certificate"]), runs)


def metrics_of(values: Mapping[str, Any]) -> Metrics:
    """Return the means and standard errors of a result's plain values."""
    return {str(name): (float(pair[0]), optional(float, pair[1])) for name, pair in values["metrics"].items()}


def certificate_of(runs: Iterable[RunResult]) -> Certificate:
    """Return one certificate for all runs of an arm, of which there is at least one."""
    return reduce(Certificate.merged, (run.certificate for run in runs))


def optional(kind: Callable[[Any], Any], value: Any) -> Any:
    """Return a value as one of a kind; ``None`` stays."""
    return None if value is None else kind(value)


def _measures(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return measures by name, each a number or ``None``; what else a file holds under a name is no measure."""
    for name, value in values.items():
        if name != "texts" and not isinstance(value, int | float | None):
            raise ValueError(f"{name} is {value!r}, no number")
    return dict(values)
