"""One run of TRL 1.12's PPO, in a process of its own: ``python -m benchmarks.ppo.peer RUN``.

Its settings for a CPU: no checkpoints, reports, progress bar or sample generations, whole batches everywhere,
float32, cached keys and values, no gradient checkpointing, its own default optimizer (fused AdamW, no decay). No stop
token: every response has full length. The value network starts as the reward model.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PrinterCallback,
    TrainerCallback,
)

from benchmarks.ppo.run import Run, Watch, hand_back

# The last release with a PPO trainer.
WANTED = "1.12.0"


class Clock(TrainerCallback):
    """Looks at the watch when training begins and after every step."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Begin."""
        self._watch.tick()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """A step is over."""
        self._watch.tick()


def library() -> Any:
    """Return TRL's PPO module; stop with a message where it is another release."""
    import trl

    if trl.__version__ != WANTED:
        sys.exit(
            f"this benchmark compares with TRL {WANTED}, but found {trl.__version__} in {Path(trl.__file__).parent}: "
            f"give --trl the folder made by `python -m pip install --no-deps --target DIR trl=={WANTED}`"
        )
    from trl.experimental import ppo

    return ppo


def trainer_of(run: Run, ppo: Any, watch: Watch, output: str) -> Any:
    """Return the trainer of a run."""
    folder = Path(run.folder)
    arguments = ppo.PPOConfig(
        output_dir=output,
        per_device_train_batch_size=run.batch_size,
        local_rollout_forward_batch_size=run.batch_size,
        gradient_accumulation_steps=1,
        num_mini_batches=1,
        num_ppo_epochs=run.epochs,
        total_episodes=run.batch_size * (run.warm_up + run.steps),
        response_length=run.response_tokens,
        stop_token=None,
        temperature=1.0,
        learning_rate=run.learning_rate,
        kl_coef=0.05,
        num_sample_generations=0,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        seed=run.seed,
    )

    def scorer() -> Any:
        return AutoModelForSequenceClassification.from_pretrained(folder / "reward_model", dtype=torch.float32)

    trainer = ppo.PPOTrainer(
        args=arguments,
        processing_class=AutoTokenizer.from_pretrained(folder / "policy"),
        model=AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.float32),
        ref_model=None,
        reward_model=scorer(),
        value_model=scorer(),
        train_dataset=Dataset.from_dict({"input_ids": run.prompts().tolist()}),
        callbacks=[Clock(watch)],
    )
    # It would print every step's numbers.
    trainer.remove_callback(PrinterCallback)
    return trainer


def main() -> None:
    """Train and print what it took."""
    run, ppo = Run.given(), library()
    watch = Watch()
    with tempfile.TemporaryDirectory() as output:
        trainer_of(run, ppo, watch, output).train()
    hand_back(watch.spent(run))


if __name__ == "__main__":
    main()
