"""What the Gaussian process believes once it has seen everything: of the arms that were tried, and of parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ax.adapter.registry import Generators
from ax.core.observation import ObservationFeatures
from ax.exceptions.core import AxError
from ax.utils.sensitivity.sobol_measures import ax_parameter_sens

from pipeline.generation import surrogate
from pipeline.observations import Observations
from pipeline.quiet import quiet_libraries
from pipeline.stored_trial import OBJECTIVE
from pipeline.study_settings import SearchSettings

# Ax raises whatever its parts raise where a model cannot be fitted or asked.
CANNOT = (AxError, ValueError, RuntimeError, NotImplementedError, AttributeError)


@dataclass(frozen=True)
class Prediction:
    """What the model believes of an arm.

    Attributes:
        index: Of its trial.
        arm: Its name.
        mean: Posterior mean of J; higher is better. Observed where there was no model.
        deviation: Posterior standard deviation.
        from_model: Whether a model said so.
        feasible: Whether it is expected to keep the search's constraints.
    """

    index: int
    arm: str
    mean: float
    deviation: float
    from_model: bool
    feasible: bool = True


class Posterior:
    """The model fitted to all of an experiment's data; the one that proposes stops at its last proposal.

    Args:
        experiment: Ax's.
        search: Model and constraints.
    """

    def __init__(self, experiment: Any, search: SearchSettings) -> None:
        self._experiment, self._search = experiment, search

    def ranking(self, completed: Sequence[int], observations: Observations) -> list[Prediction]:
        """Return what is believed of completed trials, best first; those that break a constraint come last."""
        if not completed:
            return []
        predicted, observed = self._predicted(completed), observations.objective()
        tracked = self._tracked()
        rows = []
        for place, index in enumerate(completed):
            arm = self._experiment.trials[index].arms[0].name
            mean, deviation = (observed[index], 0.0)
            believed = tracked.get(index, {})
            if predicted is not None:
                mean, deviation = predicted[OBJECTIVE][place]
                believed = {**believed, **{name: pairs[place][0] for name, pairs in predicted.items()}}
            rows.append(Prediction(index, arm, mean, deviation, predicted is not None, self._keeps(believed, tracked)))
        return sorted(rows, key=lambda row: (not row.feasible, -row.mean))

    def _keeps(self, believed: dict[str, float], tracked: dict[int, dict[str, float]]) -> bool:
        limits = self._search.constraints
        bounds = {"kl_nats": [limits.kl_nats], "certificate_error": [limits.certificate_error]}
        if limits.kl_over_sparse is not None:
            sparse = [t.index for t in self._experiment.trials.values() if t.arms[0].name == "sparse"]
            baseline = tracked.get(sparse[0], {}).get("kl_nats") if sparse else None
            bounds["kl_nats"].append(None if baseline is None else limits.kl_over_sparse * baseline)
        return all(bound is None or believed.get(name, 0.0) <= bound for name, each in bounds.items() for bound in each)

    def _tracked(self) -> dict[int, dict[str, float]]:
        found: dict[int, dict[str, float]] = {}
        for row in self._experiment.lookup_data().df.itertuples():
            found.setdefault(int(row.trial_index), {})[str(row.metric_name)] = float(row.mean)
        return found

    def _adapter(self, model: str) -> Any:
        return Generators.BOTORCH_MODULAR(
            experiment=self._experiment,
            data=self._experiment.lookup_data(),
            fit_tracking_metrics=False,
            surrogate_spec=surrogate(model),
        )

    def _predicted(self, indices: Sequence[int]) -> dict[str, list[tuple[float, float]]] | None:
        """Return each modelled metric's mean and standard deviation at trials' points; ``None`` without a model."""
        points = [self._experiment.trials[index].arms[0].parameters for index in indices]
        with quiet_libraries():
            try:
                means, covariances = self._adapter(self._search.model).predict(
                    [ObservationFeatures(parameters=point) for point in points]
                )
            except CANNOT:
                return None
        found = {}
        for name in means:
            deviations = [math.sqrt(max(value, 0.0)) for value in covariances[name][name]]
            found[name] = [(float(mean), each) for mean, each in zip(means[name], deviations, strict=True)]
        finite = all(math.isfinite(mean) for pairs in found.values() for mean, _ in pairs)
        return found if finite and OBJECTIVE in found else None

    def sensitivity(self) -> dict[str, dict[str, float]]:
        """Return each parameter's Sobol indices of J, by the model's mean over the whole space.

        ``total`` is the share of the variance that the parameter has a part in, ``first`` the share that it explains
        alone, and ``direction`` the sign of J's mean slope along it, 0 where it has none. Empty without a model.
        """
        with quiet_libraries():
            try:
                # SAASBO's many models would take minutes to integrate.
                adapter = self._adapter("gp")
                total = ax_parameter_sens(adapter, [OBJECTIVE], order="total", signed=False)[OBJECTIVE]
                first = ax_parameter_sens(adapter, [OBJECTIVE], order="first", signed=False)[OBJECTIVE]
                signed = ax_parameter_sens(adapter, [OBJECTIVE], order="total", signed=True)[OBJECTIVE]
            except CANNOT:
                return {}
        if not all(math.isfinite(float(value)) for value in total.values()):
            return {}  # nothing varied
        return {
            str(name): {
                # Estimates of shares, which sampling may push below 0 or above 1.
                "total": min(max(float(total[name]), 0.0), 1.0),
                "first": min(max(float(first[name]), 0.0), 1.0),
                "direction": float((signed[name] > 0) * 1 - (signed[name] < 0) * 1),
            }
            for name in total
        }
