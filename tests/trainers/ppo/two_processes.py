"""What each of two processes does in ``test_processes.py``: trains, and the first writes down what came out."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from pipeline.trainers.ppo.evaluation import evaluate
from pipeline.trainers.ppo.trainer import PPOTrainer
from shaping.shape import Shape
from tests.support.models.tiny_task import ending_policy, tiny_task, tiny_trainer

SPANS = {"unit": "span", "max_span": 2, "max_units": 4, "estimator": "exact"}
CASES: dict[str, dict[str, Any]] = {
    "uneven rows, full length": {"shape": Shape(weights={"prefix": 0.6, "sparse": 0.4})},
    "responses that end": {
        "shape": Shape(weights={"shapley": 0.5, "attention": 0.5}, **SPANS),
        "sampling": {"stop_at_eos": True, "missing_eos_penalty": 0.5, "temperature": 1.5},
        "batch_size": 7,
        "num_mini_batches": 3,
        "critic": "reward_model",
    },
    "micro-batches, adapter": {"micro_batch_size": 2, "lora": {"rank": 2}, "batch_size": 6, "critic": "network"},
    "critic first": {"critic": "network", "critic_warmup_steps": 2, "batch_size": 7},
}


def trained(case: str) -> tuple[PPOTrainer, dict[str, Any]]:
    """Return a trainer at its end, and what it said on the way."""
    trainer = tiny_trainer(task=tiny_task(policy=ending_policy()), **CASES[case])
    points = [point.to_dict() for point in trainer.steps()]
    evaluation = asdict(evaluate(trainer, 8, kept_texts=2))
    said = {"curve": points, "evaluation": evaluation, "certificate": trainer.certificate.to_dict()}
    return trainer, {**said, "credit_tokens": trainer.credit_tokens}


def main() -> None:
    """Train every case."""
    for number, case in enumerate(CASES):
        trainer, said = trained(case)
        assert trainer.processes.count == 2
        if trainer.processes.rank == 0:
            folder = Path(sys.argv[1])
            (folder / f"{number}.json").write_text(json.dumps(said))
            weights = {name: weight.detach().clone() for name, weight in trainer.actor.named_parameters()}
            save_file(weights, folder / f"{number}.safetensors")


if __name__ == "__main__":
    main()
