"""How the outer loop makes points: space-filling ones first, then a Gaussian process with qLogNEI."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from ax.adapter.registry import Generators
from ax.core.trial_status import TrialStatus
from ax.generation_strategy.generation_strategy import GenerationNode, GenerationStrategy
from ax.generation_strategy.generator_spec import GeneratorSpec
from ax.generation_strategy.transition_criterion import MinTrials
from ax.generators.torch.botorch_modular.surrogate import ModelConfig, SurrogateSpec
from botorch.acquisition.logei import qLogNoisyExpectedImprovement
from botorch.models import SingleTaskGP
from botorch.optim.optimize_mixed import ALTERNATING_OPTIMIZER_THRESHOLD

from shaping.errors import ConfigError

SOBOL, MODEL = "Sobol", "GP"
# The acquisition's optimizer at these settings costs a quarter of the defaults' CPU time. Most of it went into walks
# through the simplex for starting points; one of four dimensions is well mixed after far fewer steps.
WALK = {"n_burnin": 500, "n_thinning": 8}
OPTIMIZER = {"num_restarts": 4, "raw_samples": 128}
CONTINUOUS = {"maxiter": 60, **WALK}
# Where units or budgets are searched, too, another optimizer runs, with names of its own.
MIXED = {"maxiter_continuous": 30, "maxiter_alternating": 16, "maxiter_discrete": 4}
FULL_EFFORT_TRIALS = 50
# NUTS at these settings takes seconds, and its predictions differ little from those of longer chains.
SAMPLER = {"disable_progbar": True, "warmup_steps": 128, "num_samples": 128, "thinning": 8}


def generation_strategy(initial_trials: int, model: str, seed: int, discrete_points: int) -> GenerationStrategy:
    """Return the strategy.

    Args:
        initial_trials: Trials before the first proposal of the model, those that it did not make included.
        model: ``gp`` or ``saasbo``.
        seed: Seed of the space-filling points.
        discrete_points: Combinations of the space's discrete parameters; 1 where there are none.
    """
    enough = MinTrials(
        threshold=initial_trials,
        transition_to=MODEL,
        use_all_trials_in_exp=True,
        not_in_statuses=[TrialStatus.FAILED, TrialStatus.ABANDONED],
    )
    # A model needs something to learn from: two finished trials, whatever the plan says.
    observed = MinTrials(
        threshold=2,
        transition_to=MODEL,
        use_all_trials_in_exp=True,
        only_in_statuses=[TrialStatus.COMPLETED],
        count_only_trials_with_data=True,
    )
    sobol = GenerationNode(
        name=SOBOL,
        generator_specs=[GeneratorSpec(generator_enum=Generators.SOBOL, generator_kwargs={"seed": seed})],
        transition_criteria=[enough, observed],
        should_deduplicate=True,
    )
    return GenerationStrategy(name="baselines+Sobol+qLogNEI", nodes=[sobol, _proposing(model, discrete_points)])


def model_strategy(model: str, discrete_points: int) -> GenerationStrategy:
    """Return a strategy that asks the model from the start; see ``generation_strategy``."""
    return GenerationStrategy(name="qLogNEI", nodes=[_proposing(model, discrete_points)])


def _proposing(model: str, discrete_points: int) -> GenerationNode:
    proposer = GeneratorSpec(
        generator_enum=Generators.BOTORCH_MODULAR,
        generator_kwargs=model_options(model),
        generator_gen_kwargs={"model_gen_options": optimizer_options(discrete_points)},
    )
    return GenerationNode(name=MODEL, generator_specs=[proposer], should_deduplicate=True)


def model_options(model: str) -> dict[str, Any]:
    """Return what makes the model and its acquisition function, ``model`` being ``gp`` or ``saasbo``."""
    return {
        "surrogate_spec": surrogate(model),
        "botorch_acqf_class": qLogNoisyExpectedImprovement,
        # What is only watched needs no Gaussian process of its own.
        "fit_tracking_metrics": False,
    }


def optimizer_options(discrete_points: int, trials: int = 0) -> dict[str, Any]:
    """Return how the acquisition is maximised.

    Args:
        discrete_points: Combinations of the space's discrete parameters.
        trials: That the model knows. Each evaluation costs in proportion to them: beyond fifty, fewer are made.
    """
    # Few combinations are enumerated, each with the continuous optimizer; beyond, the two kinds are taken by turns.
    options = CONTINUOUS if discrete_points <= ALTERNATING_OPTIMIZER_THRESHOLD else MIXED
    effort = min(1.0, FULL_EFFORT_TRIALS / max(trials, 1))
    fewer = {name: max(1, round(effort * count)) for name, count in options.items() if name.startswith("maxiter")}
    return {"optimizer_kwargs": {**OPTIMIZER, "options": {**options, **fewer}}}


def fit_effort(strategy: GenerationStrategy, discrete_points: int, trials: int) -> None:
    """Let a strategy's next proposal take the effort that so many trials leave."""
    [spec] = strategy.nodes_by_name[MODEL].generator_specs
    spec.generator_gen_kwargs["model_gen_options"] = optimizer_options(discrete_points, trials)


def discrete_points(experiment: Any) -> int:
    """Return the combinations of the parameters that are not continuous; 1 where all are."""
    count = 1
    for parameter in experiment.search_space.parameters.values():
        if hasattr(parameter, "values"):
            count *= len(parameter.values)
        elif parameter.parameter_type.name == "INT":
            count *= int(parameter.upper - parameter.lower) + 1
    return count


def surrogate(model: str) -> SurrogateSpec:
    """Return the Gaussian process: one set of hyperparameters, or SAASBO's posterior over them.

    Raises:
        ConfigError: SAASBO's extra is not installed.
    """
    if model == "gp":
        return SurrogateSpec(model_configs=[ModelConfig(botorch_model_class=SingleTaskGP, name="SingleTaskGP")])
    if not all(find_spec(package) for package in ("jax", "numpyro")):
        raise ConfigError("search.model = saasbo needs jax and numpyro", "pip install 'shapetune[saasbo]', or set gp")
    from botorch.models.fully_bayesian import SaasFullyBayesianSingleTaskGP

    config = ModelConfig(botorch_model_class=SaasFullyBayesianSingleTaskGP, mll_options=dict(SAMPLER), name="SAASBO")
    return SurrogateSpec(model_configs=[config])
