"""How policies that learned our constraints fare on IFBench's, of kinds they never saw.

    python -m benchmarks.ifbench untrained runs/prefix/policy   # "untrained" is SmolLM2-135M-Instruct

Prints, for each, the pass rates of prompts: strict, loose, and strict with substance; all policies are sampled with the
same random numbers.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from pipeline.assets import cache_folder
from pipeline.tasks.base import quiet_transformers
from pipeline.tasks.ifbench import BenchPrompt, pass_rates, read_ifbench
from pipeline.tasks.prompt_file import PromptRow
from pipeline.tasks.score_scale import own_samples
from pipeline.tasks.smollm2 import load_smollm2

UNTRAINED = "untrained"
BATCH = 16


def main() -> None:
    """Print the pass rates of the policies named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policies", nargs="+", help=f"folders of policies, or {UNTRAINED}")
    parser.add_argument("--prompts", type=int, default=None, help="only the first so many")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    quiet_transformers()
    prompts, console = read_ifbench(cache_folder())[: given.prompts], Console()
    for name in given.policies:
        policy, tokenizer = _load(name)
        texts = answers(policy, tokenizer, prompts, given.tokens, given.temperature, given.seed)
        rates = pass_rates(prompts, texts)
        shown = "   ".join(f"{measure} {rate:.3f}" for measure, rate in rates.items())
        console.print(f"{name}: {shown}   ({len(prompts)} prompts, {given.tokens} tokens)", markup=False)


def answers(
    policy: PreTrainedModel, tokenizer: Any, prompts: list[BenchPrompt], tokens: int, temperature: float, seed: int
) -> list[str]:
    """Return the policy's sampled answer to each prompt."""
    chats = [PromptRow("IFBench", None, prompt.text).as_chat().ids(tokenizer) for prompt in prompts]
    found = own_samples(policy, chats, tokens, int(tokenizer.eos_token_id), True, seed, temperature, BATCH)
    rows = zip(found.response_ids, found.response_mask, strict=True)
    texts: list[str] = tokenizer.batch_decode([row[real].tolist() for row, real in rows], skip_special_tokens=True)
    return texts


def _load(name: str) -> tuple[PreTrainedModel, Any]:
    if name == UNTRAINED:
        return load_smollm2(cache_folder())
    policy = AutoModelForCausalLM.from_pretrained(Path(name), use_safetensors=True, trust_remote_code=False)
    return policy.eval(), AutoTokenizer.from_pretrained(Path(name), trust_remote_code=False)


if __name__ == "__main__":
    main()
