"""Credit by Shapley values: cost and error beside the libraries that people would otherwise use.

    python -m benchmarks.credit                                     # CPU: six layers of SmolLM2-135M
    python -m benchmarks.credit --device cuda --layers 30           # a GPU: the whole model

24-token film reviews in 12 spans after prompts of 5, 64 and 256 tokens; error is relative to the exact values over
all 2^12 coalitions; seconds are this process's processor seconds on one thread (on a GPU, wall seconds).
"""

from __future__ import annotations

import argparse
import sys
from math import isnan
from statistics import fmean

import numpy as np
import torch

from benchmarks.common.record import Claim, current_commit, markdown, write
from benchmarks.credit.accuracy import Curve, Tables, curve, exact_tables, ours
from benchmarks.credit.judge import Judge, load_judge
from benchmarks.credit.peers import PEERS, shapiq_paired
from benchmarks.credit.timing import Cost, engine_cost, peak_tokens_per_second, peer_cost
from shaping import CausalRewardModel

PROMPTS = (5, 64, 256)
LEVELS = (0.2, 0.15, 0.1)
# The error at which costs are compared: what credit in a training loop can live with, and all peers can reach.
LEVEL = 0.1
EXACT_RESPONSES = {5: 16, 64: 8, 256: 8}
TIMED_RESPONSES = 3
REPEATS = 3
BATCH = 8
BOOTSTRAP = 1_000
CAPTUM = ("captum KernelShap", "captum ShapleyValueSampling")
SHAPIQ_DEFAULT = "shapiq KernelSHAP, default"


def main() -> None:
    """Measure everything and write ``results/credit.json``."""
    options, commit = _options(), current_commit()
    torch.set_num_threads(options.threads)
    judge = load_judge(options.layers)
    dtype = getattr(torch, options.dtype)
    shared, flat = (
        _on_device(judge.reward_model(share_prefixes=share), options.device, dtype) for share in (True, False)
    )
    claims, parts, details = [], [], {"layers": options.layers, "dtype": options.dtype, "accuracy": judge.accuracy}
    _say("exact values")
    tables = {prompt: exact_tables(judge, shared, prompt, EXACT_RESPONSES[prompt]) for prompt in PROMPTS}
    _say("errors of all estimators")
    each = tables[5].scored.forwarded_tokens / len(tables[5].values)
    claims.append(Claim("credit.exact12_tokens", each, each, each, len(tables[5].values)))
    curves = {"Shapetune": curve(tables[5], ours), **{peer.name: curve(tables[5], peer.estimate) for peer in PEERS}}
    parts.append(_accuracy_table(curves))
    _say("costs")
    for claim, table in (
        _against_shapiq(judge, shared, tables),
        _tokens(judge, shared, curves),
        _engine(judge, shared, flat),
    ):
        claims += claim
        parts.append(table)
    parts.append(markdown(("claim", "value", "95 % interval", "n"), [_row(claim) for claim in claims]))
    write(options.name, claims, "\n\n".join(part for part in parts if part), details, commit)


def _say(text: str) -> None:
    print(f"{text} …", file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--name", default="credit", help="name of the results' files")
    return parser.parse_args()


def _on_device(reward_model: CausalRewardModel, device: str, dtype: torch.dtype) -> CausalRewardModel:
    model = reward_model.model.to(device=device, dtype=dtype)
    return CausalRewardModel(
        model,
        reward_model.mean,
        reward_model.deviation,
        reward_model.name,
        reward_model.eos_token_id,
        share_prefixes=reward_model.share_prefixes,
    )


def _accuracy_table(curves: dict[str, Curve]) -> str:
    rows = [
        [name, *(f"{each.error(budget):.3f}" for budget in (64, 128, 256, 512)), *_needed(each)]
        for name, each in curves.items()
    ]
    columns = ["estimator", *(f"error at {budget}" for budget in (64, 128, 256, 512))]
    return markdown([*columns, *(f"evaluations for {level}" for level in LEVELS)], rows)


def _needed(each: Curve) -> list[str]:
    needed = [each.at_error(level)[0] for level in LEVELS]
    return ["never" if value != value else f"{value:.0f}" for value in needed]


def _against_shapiq(
    judge: Judge, reward_model: CausalRewardModel, tables: dict[int, Tables]
) -> tuple[list[Claim], str]:
    """Return seconds a response at one error: this engine in a batch of 8, and shapiq over batched forward passes."""
    claims, rows = [], []
    for prompt in PROMPTS:
        budgets = [round(curve(tables[prompt], each).at_error(LEVEL)[0]) for each in (ours, shapiq_paired)]
        engine, peer = [], []
        for row in range(TIMED_RESPONSES):
            engine.append(engine_cost(judge, reward_model, prompt, BATCH, budgets[0], skip=row * BATCH))
            peer.append(peer_cost(judge, reward_model, prompt, row, budgets[1], shapiq_paired))
        mean = fmean(cost.seconds for cost in engine)
        claims.append(Claim.of(f"credit.cpu_ratio_vs_shapiq_p{prompt}", [cost.seconds / mean for cost in peer]))
        rows.append([prompt, *_cells(budgets[1], peer), *_cells(budgets[0], engine), f"{claims[-1].value:.1f}"])
    names = ("evaluations", "forwarded tokens", "seconds")
    columns = ["prompt tokens", *(f"shapiq: {name}" for name in names), *(f"Shapetune: {name}" for name in names)]
    return claims, markdown([*columns, "ratio of seconds"], rows)


def _cells(budget: int, costs: list[Cost]) -> list[str]:
    tokens, seconds = fmean(cost.tokens for cost in costs), fmean(cost.seconds for cost in costs)
    return [str(budget), f"{tokens:,.0f}", f"{seconds:.3f}"]


def _tokens(judge: Judge, reward_model: CausalRewardModel, curves: dict[str, Curve]) -> tuple[list[Claim], str]:
    """Return forwarded tokens of the peers, without padding, over this engine's at the same error."""
    needed = {level: round(curves["Shapetune"].at_error(level)[0]) for level in LEVELS}
    tokens = {level: engine_cost(judge, reward_model, 5, BATCH, needed[level]).tokens for level in LEVELS}
    ratios = {
        (peer.name, level): curves[peer.name].at_error(level)[1] / tokens[level] for peer in PEERS for level in LEVELS
    }
    rows = [
        [
            peer.name,
            *("-" if isnan(ratio) else f"{ratio:.1f}" for ratio in (ratios[peer.name, level] for level in LEVELS)),
        ]
        for peer in PEERS
    ]
    captum = {name: ratios[name, LEVEL] for name in CAPTUM if not isnan(ratios[name, LEVEL])}
    best = min(captum, key=captum.__getitem__)
    claims = [
        _bootstrapped("credit.tokens_ratio_vs_captum_p5", captum[best], curves["Shapetune"], curves[best]),
        _bootstrapped(
            "credit.tokens_ratio_vs_shapiq_default_p5",
            ratios[SHAPIQ_DEFAULT, LEVEL],
            curves["Shapetune"],
            curves[SHAPIQ_DEFAULT],
        ),
    ]
    return claims, markdown(["forwarded tokens over Shapetune's", *(f"at error {level}" for level in LEVELS)], rows)


def _bootstrapped(name: str, ratio: float, engine: Curve, peer: Curve) -> Claim:
    """Return a ratio of tokens with its 95 % bootstrap interval over responses.

    For the interval this engine's tokens are taken to grow as its coalitions do.
    """
    generator, count = np.random.default_rng(0), int(engine.errors.shape[1])
    whole = peer.at_error(LEVEL)[1] / engine.at_error(LEVEL)[0]
    draws = (generator.integers(0, count, count) for _ in range(BOOTSTRAP))
    found = [ratio * peer.at_error(LEVEL, rows)[1] / engine.at_error(LEVEL, rows)[0] / whole for rows in draws]
    low, high = np.nanpercentile(found, (2.5, 97.5))
    return Claim(name, ratio, float(low), float(high), count)


def _engine(judge: Judge, shared: CausalRewardModel, flat: CausalRewardModel) -> tuple[list[Claim], str]:
    """Return how near the engine comes to the model's own speed, and how its cost grows with the batch."""
    packed, tree, outside, growth = [], [], [], []
    for repeat in range(REPEATS):
        peak = peak_tokens_per_second(shared)
        without = engine_cost(judge, flat, 5, BATCH, 128, skip=repeat * BATCH)
        cost = engine_cost(judge, shared, 5, BATCH, 128, skip=repeat * BATCH)
        many = engine_cost(judge, shared, 5, 8 * BATCH, 128, skip=repeat * 8 * BATCH)
        packed.append(without.tokens / without.seconds / peak)
        tree.append(cost.tokens / cost.seconds / peak)
        outside.append(1 - cost.model_seconds / cost.seconds)
        growth.append(many.seconds / cost.seconds)
    claims = [
        Claim.of("credit.util_flat", packed),
        Claim.of("credit.util_tree", tree),
        Claim.of("credit.non_model_fraction", outside),
        Claim.of("credit.batch64_over_batch8", growth),
    ]
    return claims, ""


def _row(claim: Claim) -> list[str]:
    interval = f"{_short(claim.low)} to {_short(claim.high)}" if claim.n > 1 else "-"
    return [f"`{claim.name}`", _short(claim.value), interval, str(claim.n)]


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"


if __name__ == "__main__":
    main()
