"""What the Gaussian process believes once it has seen everything: of the arms that were tried, and of parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ax.adapter.cross_validation import cross_validate
from ax.adapter.registry import Generators
from ax.core.observation import ObservationFeatures
from ax.core.utils import get_pending_observation_features_based_on_trial_status
from ax.exceptions.core import AxError
from ax.utils.common.random import with_rng_seed
from ax.utils.sensitivity.sobol_measures import ax_parameter_sens

from pipeline.config.settings import SearchSettings
from pipeline.runtime.logging import quiet_libraries
from pipeline.search.generation_strategy import discrete_points, model_options, optimizer_options
from pipeline.search.observations import Observations
from pipeline.storage.keys import OBJECTIVE
from search_spaces import Point

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
    """The model of all the data that an experiment holds now; the one that proposes stops at its last proposal.

    Fitted once, when it is first asked: what is told afterwards is for the next one.

    Args:
        experiment: Ax's.
        search: Model and constraints.
    """

    def __init__(self, experiment: Any, search: SearchSettings) -> None:
        self._experiment, self._search = experiment, search
        self._fitted: dict[str, Any] = {}

    def ranking(self, completed: Sequence[int], observations: Observations) -> list[Prediction]:
        """Return what is believed of completed trials, best first; those that break a constraint come last."""
        if not completed:
            return []
        points = [self._experiment.trials[index].arms[0].parameters for index in completed]
        predicted, observed = self._believed(self._search.model, points), observations.objective()
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
        if model not in self._fitted:
            self._fitted[model] = Generators.BOTORCH_MODULAR(
                experiment=self._experiment, data=self._experiment.lookup_data(), **model_options(model)
            )
        return self._fitted[model]

    def _believed(self, model: str, points: Sequence[Point]) -> dict[str, list[tuple[float, float]]] | None:
        """Return each modelled metric's mean and standard deviation at each point; ``None`` without a model."""
        features = [ObservationFeatures(parameters=dict(point)) for point in points]
        with quiet_libraries():
            try:
                means, covariances = self._adapter(model).predict(features)
            except CANNOT:
                return None
        found = {}
        for name in means:
            deviations = [math.sqrt(max(value, 0.0)) for value in covariances[name][name]]
            found[name] = [(float(mean), each) for mean, each in zip(means[name], deviations, strict=True)]
        finite = all(math.isfinite(mean) for pairs in found.values() for mean, _ in pairs)
        return found if finite and OBJECTIVE in found else None

    def predict(self, points: Sequence[Point]) -> list[tuple[float, float]] | None:
        """Return the mean and standard deviation of J at each point; ``None`` without a model.

        By the Gaussian process, whatever model the search used: SAASBO's many would take minutes.
        """
        found = (self._believed("gp", points) or {}).get(OBJECTIVE)
        return found if found and all(math.isfinite(value) for pair in found for value in pair) else None

    def left_out(self) -> dict[int, tuple[float, float]]:
        """Return, for each trial, what the model of all others says that its J will be measured as.

        Its mean and the standard deviation of a measurement, noise included. Hyperparameters are those of all trials
        together. Empty without a model.
        """
        with quiet_libraries():
            try:
                folds = cross_validate(self._adapter("gp"), use_posterior_predictive=True)
            except CANNOT:
                return {}
        arms = {trial.arms[0].name: trial.index for trial in self._experiment.trials.values()}
        found = {}
        for fold in folds:
            place = fold.predicted.metric_signatures.index(OBJECTIVE)
            variance = max(float(fold.predicted.covariance[place][place]), 0.0)
            found[arms[fold.observed.arm_name]] = (float(fold.predicted.means[place]), math.sqrt(variance))
        return found if all(math.isfinite(value) for pair in found.values() for value in pair) else {}

    def proposals(self, count: int) -> list[Point]:
        """Return the points that would be tried next if so many were asked for at once; empty without a model.

        Nothing is begun. Trials that run are taken into account.
        """
        experiment = self._experiment
        with quiet_libraries(), with_rng_seed(self._search.seed):
            try:
                made = self._adapter("gp").gen(
                    n=count,
                    pending_observations=get_pending_observation_features_based_on_trial_status(experiment),
                    model_gen_options=optimizer_options(discrete_points(experiment), len(experiment.trials)),
                )
            except CANNOT:
                return []
        return [dict(arm.parameters) for arm in made.arms]

    def sensitivity(self) -> dict[str, dict[str, float]]:
        """Return each parameter's Sobol indices of J, by the model's mean over the whole space.

        ``total`` is the share of the variance that the parameter has a part in, ``first`` the share that it explains
        alone, and ``direction`` the sign of J's mean slope along it, 0 where it has none. Empty without a model.
        """
        with quiet_libraries():
            try:
                # SAASBO's many models would take minutes to integrate.
                adapter = self._adapter("gp")
                first = ax_parameter_sens(adapter, [OBJECTIVE], order="first", signed=False)[OBJECTIVE]
                # A total is never negative: its sign is the slope's, and it need not be found without one, too.
                signed = ax_parameter_sens(adapter, [OBJECTIVE], order="total", signed=True)[OBJECTIVE]
            except CANNOT:
                return {}
        if not all(math.isfinite(float(value)) for value in signed.values()):
            return {}  # nothing varied
        return {
            str(name): {
                # Estimates of shares, which sampling may push below 0 or above 1.
                "total": min(abs(float(total)), 1.0),
                "first": min(max(float(first[name]), 0.0), 1.0),
                "direction": float((total > 0) * 1 - (total < 0) * 1),
            }
            for name, total in signed.items()
        }
