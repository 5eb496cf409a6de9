"""One run of this project's PPO, in a process of its own: ``python -m benchmarks.ppo.ours RUN CRITIC``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.ppo.run import Run, Watch, hand_back
from pipeline.trainers.base import Prompts, Task
from pipeline.trainers.ppo.settings import PPOSettings, SamplingSettings
from pipeline.trainers.ppo.trainer import PPOTrainer
from shaping import CausalRewardModel, Shape


def trainer_of(run: Run, critic: str) -> PPOTrainer:
    """Return the trainer of a run with the sparse reward."""
    folder, ids = Path(run.folder), run.prompts()
    prompts = Prompts(ids, torch.ones_like(ids, dtype=torch.bool))
    reward_model = CausalRewardModel.from_pretrained(folder / "reward_model")
    task = Task(
        name=run.model,
        policy=AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.float32).eval(),
        tokenizer=AutoTokenizer.from_pretrained(folder / "policy"),
        reward_model=reward_model,
        # Never asked: training does not look at it.
        gold_model=reward_model,
        train_prompts=prompts,
        held_out_prompts=prompts,
        quality={},
    )
    settings = PPOSettings(
        steps=run.warm_up + run.steps,
        batch_size=run.batch_size,
        num_ppo_epochs=run.epochs,
        learning_rate=run.learning_rate,
        critic=critic,
        save_steps=0,
    )
    return PPOTrainer(task, Shape(), settings, SamplingSettings(response_tokens=run.response_tokens), run.seed)


def main() -> None:
    """Train and print what it took."""
    run, watch = Run.given(), Watch()
    trainer = trainer_of(run, sys.argv[2])
    watch.tick()
    for step in range(run.warm_up + run.steps):
        trainer.step(step)
        watch.tick()
    hand_back(watch.spent(run))


if __name__ == "__main__":
    main()
