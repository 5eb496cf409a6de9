"""TRL's GRPO with token rewards: each token of a response has an advantage of its own.

    python examples/trl_grpo.py

Policy and reward model are random and tiny. Any others take their place: TRL gets the policy, the shaper gets the
reward model. It takes 8 s on two cores, and prints

    step  1   loss  0.0445   mean score -0.009
    step  6   loss  0.0570   mean score  0.014
    step 12   loss -0.1120   mean score  0.365
    step 18   loss -0.0086   mean score  0.585
    step 24   loss -0.0577   mean score  0.639
"""

from __future__ import annotations

import tempfile
from typing import Any

import tiny
from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOConfig

from shaping import CausalRewardModel, Shape, Shaper
from shaping.adapters.trl import DenseGRPOTrainer

STEPS = 24


def main() -> list[dict[str, Any]]:
    """Train, and return what TRL logged at each step."""
    reward_model = CausalRewardModel(tiny.classifier(), name="tiny")
    shape = Shape(weights={"prefix": 0.6, "attention": 0.4}, closure="first", gae_lambda=1.0)
    with tempfile.TemporaryDirectory() as temporary:
        trainer = DenseGRPOTrainer(
            tiny.policy(),
            make_shaper=lambda tokenizer: Shaper(shape, reward_model, tokenizer),
            args=GRPOConfig(
                output_dir=temporary,
                max_steps=STEPS,
                per_device_train_batch_size=32,
                num_generations=8,
                max_completion_length=10,
                learning_rate=1e-2,
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_dict({"prompt": list(tiny.PROMPTS)}),
            processing_class=tiny.tokenizer(),
        )
        # TRL's own lines are long: a few of their numbers follow.
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    logs: list[dict[str, Any]] = [entry for entry in trainer.state.log_history if "reward" in entry]
    for entry in [logs[0], *logs[5::6]]:
        print(f"step {entry['step']:2}   loss {entry['loss']:7.4f}   mean score {entry['reward']:6.3f}")
    return logs


if __name__ == "__main__":
    main()
