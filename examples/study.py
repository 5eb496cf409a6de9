"""A study from Python: launched, then its trials as a table, its best shape, its verdict and its search's model.

    python examples/study.py

The trainer is a formula in place of hours of training, so that it takes 26 s on two cores. It prints

           arm      state      J  shape.weights.prefix  shape.gae_lambda
    0   sparse  completed  0.488                 0.000             0.950
    …
    7      7_0  completed  1.007                 0.689             0.804

    best shape: 0.69 prefix + 0.31 sparse, lambda 0.80
    7_0 beats every baseline in J on fresh seeds.
    J against sparse: +0.512 [+0.487, +0.537] (bootstrap [+0.502, +0.528]) over 4 paired seeds.
    …
    the model predicts J 1.00 ± 0.003 at {'weight_prefix': 0.69, 'gae_lambda': 0.8}
    the model predicts J 0.86 ± 0.017 at {'weight_prefix': 0.3, 'gae_lambda': 0.9}
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import shapetune
from shapetune import TrainingJob

# The formula's best shape has this share of prefix credit, and this lambda.
BEST_SHARE, BEST_LAMBDA = 0.7, 0.8
CONFIG = {
    "name": "formula",
    "trainer": {"function": f"{__file__}:train"},
    "ppo": {"steps": 10},
    "space": {"name": "balance", "methods": ["prefix"], "gae_lambda": [0.6, 1.0]},
    "search": {"trials": 8, "sobol_trials": 2, "seeds": [0, 1]},
    "confirm": {"seeds": [100, 101, 102, 103]},
    "executor": {"name": "local"},
}


def train(job: TrainingJob) -> Iterator[tuple[int, Mapping[str, float]]]:
    """Yield every step with its measures, as any trainer of your own would."""
    luck = random.Random(f"{job.seed} {job.shape}").gauss(0.0, 0.01)
    share = job.shape.active_methods().get("prefix", 0.0)
    peak = 1.0 - (share - BEST_SHARE) ** 2 - (job.shape.gae_lambda - BEST_LAMBDA) ** 2
    for step in range(job.first_step, job.steps):
        reward = peak * (step + 1) / job.steps + luck
        yield step, {"objective": reward, "reward": reward, "kl_nats": 0.0}


def main() -> dict[str, Any]:
    """Launch the study, and return all that it found, with the J that its model predicts at two points."""
    with tempfile.TemporaryDirectory() as studies:
        study = shapetune.launch(CONFIG, studies, quiet=True)
        trials, best, verdict = study.trials(), study.best_shape, study.verdict
        assert verdict is not None
        print(trials[["arm", "state", "J", "shape.weights.prefix", "shape.gae_lambda"]].round(3).to_string())
        print("\nbest shape:", best.describe())
        print(*verdict.text, sep="\n")
        # A point has the names of the space's parameters.
        near = {name: round(float(value), 2) for name, value in study.point(best).items()}
        points = [near, {"weight_prefix": 0.3, "gae_lambda": 0.9}]
        predicted = [each["J"] for each in study.ax_client().predict(points)]
    for point, (mean, error) in zip(points, predicted, strict=True):
        print(f"the model predicts J {mean:.2f} ± {error:.3f} at {point}")
    return {"trials": trials, "best": best, "verdict": verdict, "predicted": predicted}


if __name__ == "__main__":
    main()
