"""TRL 1.16: the script that trains by GRPO with an exported shape."""

from __future__ import annotations

import json
from typing import Any

from pipeline.export.template import Exported, PolicySource, origin
from pipeline.export.trainer_settings import searched_overrides

MODULE = '''\
"""Trains by TRL's GRPO with dense rewards; all of TRL's own options go behind:

python shapetune_trl.py --max_steps 100 --learning_rate 1e-5 --output_dir policy
"""

{origin}
import json
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset
{imports}
from transformers import AutoModelForCausalLM{more}
from trl import GRPOConfig, TrlParser

from shaping.adapters.trl import DenseGRPOTrainer

SHAPE = Path(__file__).resolve().with_name("shape.json")
# As the study had it. GRPO has no critic: the shape's lambda does not apply. KL is charged in TRL's loss, at this price
# for scores that GRPO divides by their spread.
SETTINGS = {{
    "output_dir": str(SHAPE.with_name("policy")),
{settings}
}}
MISSING_EOS_PENALTY = {penalty!r}


@dataclass
class Files:
    policy: str = {policy!r}
    prompts: str = str(SHAPE.with_name("prompts.jsonl"))


{make_shaper}


def main():
    parser = TrlParser((Files, GRPOConfig))
    parser.set_defaults(**SETTINGS)
    files, config = parser.parse_args_and_config()
    rows = [json.loads(line) for line in Path(files.prompts).read_text(encoding="utf-8").splitlines() if line]
    tokenizer = AutoTokenizer.from_pretrained(files.policy{options})
    tokenizer.eos_token = {eos_token!r}  # ends a response
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    trainer = DenseGRPOTrainer(
        AutoModelForCausalLM.from_pretrained(files.policy{options}),
        make_shaper,
        missing_eos_penalty=MISSING_EOS_PENALTY,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model(config.output_dir)
    AutoTokenizer.from_pretrained(files.policy{options}).save_pretrained(config.output_dir)  # as it came


if __name__ == "__main__":
    main()
'''


def snippet(exported: Exported) -> dict[str, str]:
    """Return ``shapetune_trl.py``, which trains by GRPO, and the study's prompts, as file names and texts."""
    policy = exported.policy or PolicySource("POLICY")
    tokens, content = exported.sampling.response_tokens, exported.content
    settings: dict[str, Any] = {
        "beta": content.kl_coef,
        "max_completion_length": tokens,
        "temperature": exported.sampling.temperature,
        **searched_overrides("trl", content),
    }
    if not exported.sampling.stop_at_eos:
        settings["generation_kwargs"] = {"min_new_tokens": tokens}
    automatic = any("AutoTokenizer" in line for line in exported.reward_model.imports)
    module = MODULE.format(
        origin=origin(content),
        imports="\n".join(exported.reward_model.imports),
        more="" if automatic else ", AutoTokenizer",
        settings="\n".join(f"    {json.dumps(name)}: {value!r}," for name, value in settings.items()),
        penalty=content.missing_eos_penalty,
        policy=policy.model,
        options="".join(f", {name}={value!r}" for name, value in policy.options.items()),
        eos_token=policy.eos_token,
        make_shaper=exported.reward_model.make_shaper(),
    )
    rows = "".join(json.dumps(row) + "\n" for row in policy.prompts)
    return {"shapetune_trl.py": module, "prompts.jsonl": rows}
