"""Sampled tokens a second of each engine on a CPU: SmolLM2-135M, responses that end by themselves.

    python -m benchmarks.ppo.engines --vllm-python /opt/vllm/bin/python

All engines get the same prompts, in float32, and stop at end-of-sequence. Seconds are wall seconds of one batch, by
turns, after one batch each that is not counted. Each has one thread; vLLM's are those of a process of its own.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from statistics import fmean

import torch

from benchmarks.common.record import Claim, current_commit, markdown, write
from benchmarks.ppo.models import smollm2
from benchmarks.ppo.ours import trainer_of
from benchmarks.ppo.run import Run
from pipeline.trainers.ppo.engines.base import SamplingEngine
from pipeline.trainers.ppo.engines.choose import engine_for
from pipeline.trainers.ppo.settings import SamplingSettings, VllmSettings
from pipeline.trainers.ppo.trainer import PPOTrainer

BATCH, RESPONSE_TOKENS, REPEATS = 16, 32, 3
COLUMNS = ("engine", "tokens a second", "95 % interval", "seconds a batch", "mean tokens a response")


def main() -> None:
    """Measure the engines and write ``results/ppo_engines.json``."""
    options, commit = _options(), current_commit()
    torch.set_num_threads(1)
    run = Run("smollm2", str(smollm2()), BATCH, RESPONSE_TOKENS, epochs=1, warm_up=1, steps=1)
    trainer = trainer_of(run, "value_head")
    prompts = trainer.task.train_prompts
    engines = _engines(trainer, options.vllm_python)
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    tokens: dict[str, list[int]] = {name: [] for name in engines}
    try:
        for repeat in range(REPEATS + 1):
            generator = torch.Generator().manual_seed(repeat)
            chosen = prompts.select(torch.arange(repeat * BATCH, (repeat + 1) * BATCH))
            uniforms = torch.rand(RESPONSE_TOKENS, BATCH, generator=generator)
            for name in (*engines,) if repeat % 2 else (*engines,)[::-1]:
                started = time.perf_counter()
                found = engines[name].sample(chosen, uniforms, None)
                if repeat:
                    seconds[name].append(time.perf_counter() - started)
                    tokens[name].append(int(found.rollouts.response_mask.sum()))
    finally:
        for engine in engines.values():
            engine.close()
    claims = [Claim.of(f"ppo.engine_tokens_per_second_{name}", _rates(tokens[name], seconds[name])) for name in engines]
    rows = [_row(claim, seconds[name], tokens[name]) for claim, name in zip(claims, engines, strict=True)]
    write("ppo_engines", claims, markdown(COLUMNS, rows), {"batch": BATCH, "seconds": seconds}, commit, "ppo.engines")


def _engines(trainer: PPOTrainer, vllm_python: str | None) -> dict[str, SamplingEngine]:
    plain = SamplingSettings(response_tokens=RESPONSE_TOKENS, stop_at_eos=True)
    chosen = {
        "transformers": plain,
        "continuous": plain.model_copy(update={"engine": "continuous"}),
        "vllm": plain.model_copy(update={"engine": "vllm", "vllm": VllmSettings(python=vllm_python)}),
    }
    policy, task, processes = trainer.policy.model, trainer.task, trainer.processes
    return {
        name: engine_for(policy, task, settings, trainer._agreement, processes, None, seed=0)
        for name, settings in chosen.items()
        if vllm_python is not None or name != "vllm"
    }


def _rates(tokens: Sequence[int], seconds: Sequence[float]) -> list[float]:
    return [count / took for count, took in zip(tokens, seconds, strict=True)]


def _row(claim: Claim, seconds: Sequence[float], tokens: Sequence[int]) -> list[str]:
    name = claim.name.removeprefix("ppo.engine_tokens_per_second_")
    interval = f"{claim.low:,.0f} to {claim.high:,.0f}"
    return [name, f"{claim.value:,.0f}", interval, f"{fmean(seconds):.1f}", f"{fmean(tokens) / BATCH:.1f}"]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm-python", help="the interpreter that has vLLM; without one it is left out")
    return parser.parse_args()


if __name__ == "__main__":
    main()
