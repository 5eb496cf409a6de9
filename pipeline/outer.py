"""The outer loop: asks Ax for points, tells it what trials found. The only file that knows Ax's client.

Ax's database is the only truth about which trials exist and how they ended.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ax.adapter.registry import Generators
from ax.api.client import Client
from ax.api.configs import StorageConfig
from ax.core.observation import ObservationFeatures
from ax.core.trial_status import TrialStatus
from ax.exceptions.core import AxError
from ax.generation_strategy.generation_strategy import GenerationNode, GenerationStrategy
from ax.generation_strategy.generator_spec import GeneratorSpec
from ax.generation_strategy.transition_criterion import MinTrials
from ax.generators.torch.botorch_modular.surrogate import ModelConfig, SurrogateSpec
from ax.storage.sqa_store.db import create_all_tables, get_engine, init_engine_and_session_factory
from ax.storage.sqa_store.load import _get_experiment_id
from ax.storage.sqa_store.sqa_config import SQAConfig
from botorch.acquisition.logei import qLogNoisyExpectedImprovement
from botorch.models import SingleTaskGP

from pipeline import face_tolerance
from pipeline.quiet import quiet_libraries
from search_spaces import SearchSpace
from shaping.errors import ShapetuneError
from shaping.shape import Shape

OBJECTIVE = "J"
TRACKED = ("reward", "kl_nats", "gold_reward", "certificate_error")
# The acquisition's optimizer at these settings costs less than half of the defaults' CPU time.
OPTIMIZER = {"num_restarts": 4, "raw_samples": 128, "options": {"maxiter": 60}}
DEFAULT_SEED = 0


@dataclass(frozen=True)
class Proposal:
    """A trial to run: its index in the database, its arm's name, its shape and how it came about."""

    index: int
    arm: str
    shape: Shape
    origin: str


@dataclass(frozen=True)
class Prediction:
    """What the model believes of an arm: posterior mean of J and its standard deviation; higher is better."""

    index: int
    arm: str
    mean: float
    deviation: float
    from_model: bool


class OuterLoop:
    """The search over one space, kept in one database.

    Args:
        name: The study's name in the database.
        space: What may vary.
        database: The SQLite file; made when it is not there.
        trials: Trials in all.
        sobol_trials: Space-filling trials after the baselines.
        seed: Seed of the proposals.
    """

    def __init__(
        self, name: str, space: SearchSpace, database: Path, trials: int, sobol_trials: int, seed: int = DEFAULT_SEED
    ) -> None:
        face_tolerance.install()
        self._space, self._trials, self._seed = space, trials, seed
        self._baselines = space.baselines()
        self._handed_out: set[int] = set()
        url = f"sqlite:///{database}"
        storage = StorageConfig(url=url)
        with quiet_libraries():
            # Ax keeps one engine a process; without force a second study would write into the first one's file.
            init_engine_and_session_factory(url=url, force_init=True)
            create_all_tables(get_engine())
            if _is_stored(name):
                self._client = Client.load_from_database(name, storage_config=storage)
            else:
                self._client = Client(storage_config=storage, random_seed=seed)
                self._configure(name, sobol_trials)

    def _configure(self, name: str, sobol_trials: int) -> None:
        client = self._client
        client.configure_experiment(
            parameters=self._space.parameters(), parameter_constraints=self._space.constraints(), name=name
        )
        client.configure_optimization(OBJECTIVE)
        client.configure_tracking_metrics(list(TRACKED))
        strategy = generation_strategy(len(self._baselines), sobol_trials, self._seed)
        client.set_generation_strategy(strategy)

    def ask(self) -> Proposal | None:
        """Return the next trial, or ``None`` when none is left or none can be proposed before others end.

        Trials that an earlier process left running come first, then the baseline arms, then proposals.
        """
        for index, trial in sorted(self._experiment.trials.items()):
            if trial.status is TrialStatus.RUNNING and index not in self._handed_out:
                return self._hand_out(index)
        known = {arm.name for arm in self._experiment.arms_by_name.values()}
        for baseline in self._baselines:
            if baseline.name not in known and len(self._experiment.trials) < self._trials:
                with quiet_libraries():
                    return self._hand_out(self._client.attach_trial(baseline.point, arm_name=baseline.name))
        if len(self._experiment.trials) >= self._trials:
            return None
        return self._propose()

    def _propose(self) -> Proposal | None:
        # Ax draws initial points from torch's global generator: seeding it by trial makes proposals repeatable.
        with quiet_libraries(), torch.random.fork_rng():
            torch.manual_seed(self._seed * 100_003 + len(self._experiment.trials))
            try:
                proposed = self._client.get_next_trials(max_trials=1)
            except AxError as error:
                if self.running():
                    return None
                raise ShapetuneError(f"no further trial could be proposed: {error}", "lower search.trials") from error
        return self._hand_out(next(iter(proposed))) if proposed else None

    def _hand_out(self, index: int) -> Proposal:
        self._handed_out.add(index)
        trial = self._experiment.trials[index]
        arm = trial.arms[0]
        return Proposal(index, arm.name, self._space.decode(arm.parameters), self._origin(index))

    def _origin(self, index: int) -> str:
        trial = self._experiment.trials[index]
        if trial.arms[0].name in {baseline.name for baseline in self._baselines}:
            return "baseline"
        node = trial.generator_runs[0]._generation_node_name
        return {"Sobol": "sobol", "GP": "model"}.get(node or "", "model")

    def finished(self) -> bool:
        """Return whether all trials exist and none is running."""
        return len(self._experiment.trials) >= self._trials and not self.running()

    def running(self) -> list[int]:
        """Return the indices of running trials."""
        return [i for i, trial in self._experiment.trials.items() if trial.status is TrialStatus.RUNNING]

    def any_completed(self) -> bool:
        """Return whether at least one trial succeeded."""
        return any(trial.status is TrialStatus.COMPLETED for trial in self._experiment.trials.values())

    def tell(self, index: int, objective: float, tracked: dict[str, float]) -> None:
        """Complete a trial.

        No standard error is passed: one from a handful of seeds is itself noise that the model would take at
        its word. The model infers one noise level from all arms instead.

        Raises:
            ShapetuneError: A value is not finite; such a trial must be failed instead.
        """
        values = {OBJECTIVE: objective, **tracked}
        if not all(math.isfinite(value) for value in values.values()):
            raise ShapetuneError(f"trial {index} reports a value that is not finite: {values}")
        with quiet_libraries():
            self._client.complete_trial(trial_index=index, raw_data=values)

    def fail(self, index: int) -> None:
        """Give a trial up. Abandoned, not failed: Ax proposes the point of a failed trial again."""
        with quiet_libraries():
            self._client.mark_trial_abandoned(trial_index=index)

    def ranking(self) -> list[Prediction]:
        """Return the completed arms, best first, by the model's posterior mean of J.

        With too few trials for a model, or a model that cannot predict, observed means take its place.
        """
        completed = [i for i, t in sorted(self._experiment.trials.items()) if t.status is TrialStatus.COMPLETED]
        if not completed:
            return []
        observed = self._observed()
        predicted = self._predicted(completed)
        rows = []
        for place, index in enumerate(completed):
            mean, deviation = predicted[place] if predicted else (observed[index], 0.0)
            arm = self._experiment.trials[index].arms[0].name
            rows.append(Prediction(index, arm, mean, deviation, bool(predicted)))
        return sorted(rows, key=lambda row: -row.mean)

    def _observed(self) -> dict[int, float]:
        frame = self._experiment.lookup_data().df
        mine = frame[frame["metric_name"] == OBJECTIVE]
        return {int(index): float(mean) for index, mean in zip(mine["trial_index"], mine["mean"], strict=True)}

    def _predicted(self, indices: list[int]) -> list[tuple[float, float]]:
        points = [self._experiment.trials[index].arms[0].parameters for index in indices]
        with quiet_libraries():
            try:
                # Fit to everything observed by now: the strategy's own model stops at its last proposal.
                adapter = Generators.BOTORCH_MODULAR(
                    experiment=self._experiment, data=self._experiment.lookup_data(), surrogate_spec=_surrogate()
                )
                means, covariances = adapter.predict([ObservationFeatures(parameters=point) for point in points])
            except (AxError, ValueError, RuntimeError):
                return []
        deviations = [math.sqrt(max(value, 0.0)) for value in covariances[OBJECTIVE][OBJECTIVE]]
        pairs = [(float(mean), deviation) for mean, deviation in zip(means[OBJECTIVE], deviations, strict=True)]
        return pairs if all(math.isfinite(mean) for mean, _ in pairs) else []

    def trials(self) -> list[dict[str, Any]]:
        """Return every trial as plain values: index, arm, origin, status and shape."""
        rows = []
        for index, trial in sorted(self._experiment.trials.items()):
            shape = self._space.decode(trial.arms[0].parameters)
            rows.append(
                {
                    "index": index,
                    "arm": trial.arms[0].name,
                    "origin": self._origin(index),
                    "status": trial.status.name.lower(),
                    "shape": shape.to_dict(),
                }
            )
        return rows

    @property
    def _experiment(self) -> Any:
        return self._client._experiment


def generation_strategy(baselines: int, sobol_trials: int, seed: int) -> GenerationStrategy:
    """Return the strategy: space-filling points after the baselines, then a Gaussian process with qLogNEI."""
    model = GeneratorSpec(
        generator_enum=Generators.BOTORCH_MODULAR,
        generator_kwargs={"surrogate_spec": _surrogate(), "botorch_acqf_class": qLogNoisyExpectedImprovement},
        generator_gen_kwargs={"model_gen_options": {"optimizer_kwargs": OPTIMIZER}},
    )
    gp = GenerationNode(name="GP", generator_specs=[model], should_deduplicate=True)
    enough = MinTrials(
        threshold=baselines + sobol_trials,
        transition_to="GP",
        use_all_trials_in_exp=True,
        not_in_statuses=[TrialStatus.FAILED, TrialStatus.ABANDONED],
    )
    # A model needs something to learn from: two finished trials, whatever the plan says.
    observed = MinTrials(
        threshold=2,
        transition_to="GP",
        use_all_trials_in_exp=True,
        only_in_statuses=[TrialStatus.COMPLETED],
        count_only_trials_with_data=True,
    )
    sobol = GenerationNode(
        name="Sobol",
        generator_specs=[GeneratorSpec(generator_enum=Generators.SOBOL, generator_kwargs={"seed": seed})],
        transition_criteria=[enough, observed],
        should_deduplicate=True,
    )
    return GenerationStrategy(name="baselines+Sobol+qLogNEI", nodes=[sobol, gp])


def _surrogate() -> SurrogateSpec:
    return SurrogateSpec(model_configs=[ModelConfig(botorch_model_class=SingleTaskGP, name="SingleTaskGP")])


def _is_stored(name: str) -> bool:
    return _get_experiment_id(name, SQAConfig()) is not None
