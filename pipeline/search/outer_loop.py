"""The outer loop: asks Ax for points, tells it what trials found. The only file that knows the study's Ax client.

Ax's database is the only truth about which trials exist and how they ended.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ax.api.client import Client
from ax.core.trial_status import TrialStatus
from ax.exceptions.core import AxError
from ax.utils.common.random import with_rng_seed

from pipeline.config.settings import SearchSettings
from pipeline.runtime.logging import quiet_libraries
from pipeline.search import ax_patches
from pipeline.search.ax_patches import experiment_of, node_of, strategy_of
from pipeline.search.detached import detached
from pipeline.search.early_stopping import Projection
from pipeline.search.generation_strategy import SOBOL, discrete_points, fit_effort, generation_strategy
from pipeline.search.observations import Observations, seed_metric
from pipeline.search.posterior import Posterior, Prediction
from pipeline.search.proposal import EarlierTrial, Proposal
from pipeline.search.store import Store, as_stored
from pipeline.search.tracked import TRACKED
from pipeline.storage.database import Database, sqlite_file
from pipeline.storage.keys import (
    DEVIATION,
    OBJECTIVE,
    ORIGIN,
    PROJECTED,
    REASON,
    SHAPE,
    TAKEN_OVER,
    TRAINER,
    plain_text,
)
from pipeline.trials.records import Origin
from search_spaces import BaselineArm, StudySpace, filling
from shaping.errors import ShapetuneError
from shaping.method_names import SPARSE

# Of a parameter's range: closer points are the same.
NEAR = 1e-3
ATTEMPTS = 2
# Reasons go into a column of this width.
REASON_CHARACTERS = 100


class OuterLoop:
    """The search over one space, kept in one database.

    Args:
        name: The study's name in the database.
        space: What may vary.
        database: Where it is kept, or a SQLite file, made when it is not there; ``None`` keeps nothing.
        search: Trials, seeds, model and constraints.
        earlier: Trials of another study that count as this one's data, but not as its trials.
        first_arms: Arms that are tried after the baselines.
    """

    def __init__(
        self,
        name: str,
        space: StudySpace,
        database: Database | Path | None,
        search: SearchSettings,
        earlier: Sequence[EarlierTrial] = (),
        first_arms: Sequence[BaselineArm] = (),
    ) -> None:
        ax_patches.install()
        self._space, self._search = space, search
        self._baselines, self._first_arms = space.baselines(), list(first_arms)
        self._filling = _filling_arms(space, max(0, search.sobol_trials - len(earlier)), search.seed)
        self._handed_out: set[int] = set()
        if isinstance(database, Path):
            database = sqlite_file(database)
        self._store = None if database is None else Store(database, name)
        with quiet_libraries():
            names = [trial.arm for trial in earlier]
            make = partial(self._configured, name, names)
            self._client = make() if self._store is None else self._store.open(make)
            known = set(self._experiment.arms_by_name)
            for trial in earlier:
                if trial.arm not in known:
                    self._add(trial)
        self._observations = Observations(self._experiment, search)

    def _configured(self, name: str, earlier: Sequence[str]) -> Client:
        search = self._search
        client = Client(random_seed=search.seed)
        client.configure_experiment(
            parameters=self._space.parameters(), parameter_constraints=self._space.constraints(), name=name
        )
        client.configure_optimization(OBJECTIVE, outcome_constraints=_outcome_constraints(search) or None)
        constrained = set(experiment_of(client).metrics)
        seeds = [seed_metric(seed) for seed in search.seeds]
        client.configure_tracking_metrics(
            [each for each in (*TRACKED, *seeds, PROJECTED, DEVIATION) if each not in constrained]
        )
        unknown = [arm for arm in (*self._baselines, *self._first_arms) if arm.name not in earlier]
        # An earlier study's trials fill the space as well as new ones.
        initial = len(earlier) + len(unknown) + max(0, search.sobol_trials - len(earlier))
        client.set_generation_strategy(
            generation_strategy(initial, search.model, search.seed, discrete_points(experiment_of(client)))
        )
        return client

    def _add(self, trial: EarlierTrial) -> None:
        index = self._attached(BaselineArm(trial.arm, self._space.encode(trial.candidate)))
        self._experiment.trials[index].update_run_metadata({TAKEN_OVER: True})
        # Before it is saved: a kill in between would leave a trial that looks like this study's own.
        self._complete(index, trial.values, trial.tracked)
        self._save_new(index)

    def ask(self) -> Proposal | None:
        """Return the next trial, or ``None`` when none is left or none can be proposed before others end.

        Trials that an earlier process left running come first, then the baseline arms, then an earlier study's best
        arms, then proposals.

        Raises:
            ShapetuneError: Nothing can be proposed any more although trials are left.
        """
        for index, trial in sorted(self._experiment.trials.items()):
            if trial.status is TrialStatus.RUNNING and index not in self._handed_out:
                return self._hand_out(index)
        if len(self._own()) >= self._search.trials:
            return None
        known = {arm.name for arm in self._experiment.arms_by_name.values()}
        for arm in self._baselines:
            if arm.name not in known:
                return self._hand_out(self.attach(arm))
        for arm in (*self._first_arms, *self._filling):
            if arm.name not in known and not self._is_known(arm.point):
                return self._hand_out(self.attach(arm))
        return self._propose()

    def attach(self, arm: BaselineArm) -> int:
        """Begin a trial of an arm and return its index."""
        index = self._attached(arm)
        self._save_new(index)
        return index

    def _attached(self, arm: BaselineArm) -> int:
        with quiet_libraries():
            if arm.name == SPARSE:
                # Constraints relative to it look for it there.
                return int(self._client.attach_baseline(arm.point, arm_name=arm.name))
            return int(self._client.attach_trial(arm.point, arm_name=arm.name))

    def _save_new(self, index: int) -> None:
        """Save a trial for the first time, with what a reader without the study's space must know of it."""
        proposal, trial = self.proposal(index), self._experiment.trials[index]
        settings = {TRAINER: dict(proposal.trainer)} if proposal.trainer else {}
        trial.update_run_metadata({SHAPE: proposal.shape.to_dict(), ORIGIN: str(proposal.origin), **settings})
        self._save(index, whole=proposal.arm == SPARSE)

    def _save(self, index: int, whole: bool = False) -> None:
        if self._store is not None:
            self._store.save(self._client, index, whole)

    def _propose(self) -> Proposal | None:
        self._check_sparse()
        self._observations.refresh()
        try:
            index = next((i for i in map(self._generated, range(ATTEMPTS)) if i is not None), None)
        except AxError as error:
            if self.running():
                return None
            raise ShapetuneError(f"no further trial could be proposed: {error}", "lower search.trials") from error
        if index is None:
            arm = self._other_arm()
            if arm is None:
                return None
            index = self.attach(arm)
        return self._hand_out(index)

    def _generated(self, attempt: int) -> int | None:
        """Return the trial of the strategy's next point; ``None`` where it was tried already, or as good as that.

        All trials share their seeds, so a second run of a point would tell nothing. Ax compares points digit by digit.
        """
        experiment, strategy = self._experiment, strategy_of(self._client)
        fit_effort(strategy, discrete_points(experiment), len(experiment.trials))
        seed = self._search.seed * 100_003 + len(experiment.trials) + 7_919 * attempt
        # Ax draws from the global generators: seeding them by trial makes proposals repeatable.
        with quiet_libraries(), with_rng_seed(seed):
            [[run]] = strategy.gen(experiment=experiment, n=1, num_trials=1)
            if self._is_known(run.arms[0].parameters):
                return None
            trial = experiment.new_trial(generator_run=run)
            trial.mark_running(no_runner_required=True)
        self._save_new(trial.index)
        return int(trial.index)

    def _is_known(self, point: Mapping[str, Any]) -> bool:
        """Return whether every parameter is, within a thousandth of its range, that of one trial."""
        ranges = {
            name: parameter.upper - parameter.lower
            for name, parameter in self._experiment.search_space.parameters.items()
            if hasattr(parameter, "upper")
        }

        def near(name: str, other: Any) -> bool:
            return bool(abs(point[name] - other) <= NEAR * ranges[name] if name in ranges else point[name] == other)

        return any(
            all(near(name, value) for name, value in arm.parameters.items())
            for arm in self._experiment.arms_by_name.values()
        )

    def _other_arm(self) -> BaselineArm | None:
        """Return a space-filling arm in place of a proposal that repeats itself."""
        known = set(self._experiment.arms_by_name)
        arms = _filling_arms(self._space, len(self._experiment.trials) + 1, self._search.seed)
        return next((arm for arm in arms if arm.name not in known and not self._is_known(arm.point)), None)

    def _check_sparse(self) -> None:
        limit = self._search.constraints.kl_over_sparse
        given_up = [t for t in self._experiment.trials.values() if t.status is TrialStatus.ABANDONED]
        if limit is not None and SPARSE in [trial.arms[0].name for trial in given_up]:
            raise ShapetuneError(
                "the sparse arm failed, and search.constraints.kl_over_sparse is measured against it",
                "start a new study with search.constraints.kl_nats in its place",
            )

    def _hand_out(self, index: int) -> Proposal:
        self._handed_out.add(index)
        return self.proposal(index)

    def proposal(self, index: int) -> Proposal:
        """Return a trial as it was handed out."""
        arm = self._experiment.trials[index].arms[0]
        return Proposal(index, arm.name, self._space.decode(arm.parameters), self._origin(index))

    def _origin(self, index: int) -> str:
        trial = self._experiment.trials[index]
        if trial.run_metadata.get(TAKEN_OVER) or trial.arms[0].name in {arm.name for arm in self._first_arms}:
            return Origin.EARLIER
        if trial.arms[0].name in {baseline.name for baseline in self._baselines}:
            return Origin.BASELINE
        if trial.arms[0].name.startswith(f"{Origin.SOBOL} "):
            return Origin.SOBOL
        return Origin.SOBOL if node_of(trial.generator_runs[0]) == SOBOL else Origin.MODEL

    def _own(self) -> list[int]:
        """Return the indices of this study's own trials."""
        return [index for index, trial in self._experiment.trials.items() if not trial.run_metadata.get(TAKEN_OVER)]

    def finished(self) -> bool:
        """Return whether all trials exist and none is running."""
        return len(self._own()) >= self._search.trials and not self.running()

    def running(self) -> list[int]:
        """Return the indices of running trials."""
        return [i for i, trial in self._experiment.trials.items() if trial.status is TrialStatus.RUNNING]

    def any_completed(self) -> bool:
        """Return whether at least one trial succeeded."""
        return any(trial.status is TrialStatus.COMPLETED for trial in self._experiment.trials.values())

    def tell(self, index: int, values: Mapping[int, float], tracked: Mapping[str, float]) -> None:
        """Complete a trial.

        Args:
            index: The trial's.
            values: Seed to objective, higher is better.
            tracked: Name to value of what else was measured.

        Raises:
            ShapetuneError: A value is not finite; such a trial must be failed instead.
        """
        self._complete(index, values, tracked)
        self._save(index)

    def _complete(self, index: int, values: Mapping[int, float], tracked: Mapping[str, float]) -> None:
        seeds = {seed_metric(seed): value for seed, value in values.items()}
        told = {OBJECTIVE: math.fsum(values.values()) / len(values), **seeds, **tracked}
        _check_finite(index, told)
        with quiet_libraries():
            self._client.complete_trial(trial_index=index, raw_data=as_stored(told))

    def stop(self, index: int, projection: Projection) -> None:
        """End a trial early, with what it would have reached: a value to learn from, but never a winner."""
        value = projection.objective
        told = {OBJECTIVE: value, PROJECTED: value, DEVIATION: projection.deviation}
        _check_finite(index, told)
        with quiet_libraries():
            self._client.attach_data(trial_index=index, raw_data=as_stored(told))
            self._client.mark_trial_early_stopped(trial_index=index)
        self._save(index)

    def fail(self, index: int, reason: str = "") -> None:
        """Give a trial up. Abandoned, not failed: Ax proposes the point of a failed trial again."""
        trial, reason = self._experiment.trials[index], plain_text(reason)
        with quiet_libraries():
            trial.mark_abandoned(reason=reason[:REASON_CHARACTERS] or None)
        if reason:
            trial.update_run_metadata({REASON: reason})
        self._save(index)

    def ranking(self) -> list[Prediction]:
        """Return the completed arms, best first, by the model's posterior mean of J.

        Arms that the model expects to break a constraint come last. With too few trials for a model, or one that
        cannot predict, observed values take the place of its predictions.
        """
        completed = [i for i, t in sorted(self._experiment.trials.items()) if t.status is TrialStatus.COMPLETED]
        return self.posterior().ranking(completed, self._observations)

    def observed(self) -> dict[int, tuple[float, float | None]]:
        """Return each trial's value and standard error as the model is given them; see ``Observations``."""
        self._observations.refresh()
        return self._observations.told()

    def analysis_cards(self) -> list[Any]:
        """Return Ax's own analyses of all that was told so far."""
        self._observations.refresh()
        return list(self._client.compute_analyses(display=False))

    def detached_client(self) -> Client:
        """Return a client of Ax that knows all that was told so far and keeps nothing; see ``detached``."""
        self._observations.refresh()
        return detached(self._experiment, self._search.model)

    def posterior(self) -> Posterior:
        """Return the model of all that was told so far."""
        self._observations.refresh()
        return Posterior(self._experiment, self._search)

    def trials(self) -> list[dict[str, Any]]:
        """Return every trial as plain values: index, arm, origin, status, what it tries, why it failed."""
        rows = []
        for index, trial in sorted(self._experiment.trials.items()):
            proposal = self.proposal(index)
            rows.append(
                {
                    "index": index,
                    "arm": proposal.arm,
                    "origin": proposal.origin,
                    "status": trial.status.name.lower(),
                    "shape": proposal.shape.to_dict(),
                    "trainer": dict(proposal.trainer),
                    "reason": str(trial.run_metadata.get(REASON, "")),
                }
            )
        return rows

    @property
    def _experiment(self) -> Any:
        return experiment_of(self._client)


def _filling_arms(space: StudySpace, count: int, seed: int) -> list[BaselineArm]:
    """Return the space-filling arms; a space that cannot say how leaves them to Ax, which rejects what misses it."""
    points = filling(space, count, seed) if space.is_fillable else []
    return [BaselineArm(f"{Origin.SOBOL} {place + 1}", point) for place, point in enumerate(points)]


def _outcome_constraints(search: SearchSettings) -> list[str]:
    """Return the constraints in Ax's notation, made of numbers only: it evaluates what it reads."""
    limits = search.constraints
    found = []
    if limits.kl_nats is not None:
        found.append(f"kl_nats <= {limits.kl_nats!r}")
    if limits.kl_over_sparse is not None:
        found.append(f"kl_nats <= {limits.kl_over_sparse!r} * baseline")
    if limits.certificate_error is not None:
        found.append(f"certificate_error <= {limits.certificate_error!r}")
    return found


def _check_finite(index: int, values: Mapping[str, float]) -> None:
    if not all(math.isfinite(value) for value in values.values()):
        raise ShapetuneError(f"trial {index} reports a value that is not finite: {dict(values)}")
