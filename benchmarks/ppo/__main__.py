"""The PPO inner loop beside TRL 1.12's PPOTrainer, the last release that has one: speed, memory, cost of credit.

    python -m pip install --no-deps --target trl112 trl==1.12.0
    python -m benchmarks.ppo --trl trl112

Both sides train the same models on the same sizes with the sparse reward, in float32, on one thread, each run in a
process of its own and sides by turns. Responses have full length: this project never samples end-of-sequence, TRL
has no stop token. TRL needs a value network, here a copy of the reward model; this project is measured with a value
head on the policy's trunk, its default, and with the same network as TRL. TRL calls ``gc.collect`` twice a step,
whose cost is that of all imports, not of the model: its speed leaves those calls out, and the next column has them.
Peak memory is the process's resident memory; imports take a fixed part of it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.common.record import Claim, current_commit, markdown, write
from benchmarks.ppo.models import smollm2, tiny
from benchmarks.ppo.overhead import SHAPES, shares
from benchmarks.ppo.run import Run, Spent

ROOT = Path(__file__).parents[2]
TOKENS, EPOCHS = 24, 2
# Repeats, and the run of each model: a step takes a third of a second on the tiny one, ten seconds on the other.
SIZES = {
    "tiny": (5, Run("tiny", "", 32, TOKENS, EPOCHS, warm_up=3, steps=12)),
    "smollm2": (3, Run("smollm2", "", 8, TOKENS, EPOCHS, warm_up=1, steps=2)),
}
FOLDERS = {"tiny": tiny, "smollm2": smollm2}
OVERHEAD_REPEATS = 40


@dataclass(frozen=True)
class Side:
    """One way to train: its name in the table, how its claims end, and its module with arguments."""

    name: str
    suffix: str
    module: str
    arguments: tuple[str, ...] = ()


PEER = Side("TRL 1.12.0, value network", "", "benchmarks.ppo.peer")
OURS = (
    Side("Shapetune, value head", "", "benchmarks.ppo.ours", ("value_head",)),
    Side("Shapetune, value network", "_separate_critic", "benchmarks.ppo.ours", ("reward_model",)),
)


def main() -> None:
    """Measure everything and write ``results/ppo.json``."""
    options, commit = _options(), current_commit()
    torch.set_num_threads(1)
    claims, rows, details = list[Claim](), list[list[str]](), dict[str, object]()
    found = _overhead()
    for model in options.models:
        repeats, sized = SIZES[model]
        run = replace(sized, folder=str(FOLDERS[model]()))
        spent = _measure(run, repeats, options.trl)
        claims += [claim for side in OURS for claim in compared(model, side, spent[side], spent[PEER])]
        rows += [_row(model, side, spent[side], spent[PEER]) for side in (PEER, *OURS)]
        described: dict[str, object] = {**asdict(run), "folder": Path(run.folder).name}
        details[model] = {"run": described, **{each.name: [asdict(s) for s in spent[each]] for each in spent}}
    claims += [Claim.of(f"ppo.overhead_{name}", shares(found, name)) for name in SHAPES if name != "sparse"]
    details["overhead"] = found
    tables = (markdown(COLUMNS, rows), _overhead_table(found), markdown(CLAIM_COLUMNS, [_claim_row(c) for c in claims]))
    write("ppo", claims, "\n\n".join(tables), details, commit)


def compared(model: str, side: Side, ours: Sequence[Spent], peer: Sequence[Spent]) -> list[Claim]:
    """Return the claims of one side over TRL: ratios of runs that stood beside each other."""
    pairs = list(zip(ours, peer, strict=True))
    speed = [mine.tokens_per_second / theirs.tokens_per_second for mine, theirs in pairs]
    memory = [mine.peak_mib / theirs.peak_mib for mine, theirs in pairs]
    return [
        Claim.of(f"ppo.throughput_ratio_vs_trl_{model}{side.suffix}", speed),
        Claim.of(f"ppo.peak_memory_ratio_vs_trl_{model}{side.suffix}", memory),
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", type=Path, required=True, help="the folder that TRL 1.12.0 was installed to")
    parser.add_argument("--models", nargs="+", default=list(SIZES), choices=list(SIZES))
    options = parser.parse_args()
    if not (options.trl / "trl").is_dir():
        parser.error(f"--trl {options.trl} holds no trl: run the first of the commands above")
    return options


def _measure(run: Run, repeats: int, trl: Path) -> dict[Side, list[Spent]]:
    """Return what every side took, run by run; every other repeat takes the sides in reverse."""
    sides = (*OURS, PEER)
    spent: dict[Side, list[Spent]] = {side: [] for side in sides}
    for repeat in range(repeats):
        seeded = replace(run, seed=repeat)
        for side in sides if repeat % 2 == 0 else sides[::-1]:
            _say(f"{run.model} {repeat + 1}/{repeats}: {side.name}")
            first = (trl.resolve(),) if side is PEER else ()
            spent[side].append(Spent(**_child(side.module, (seeded.argument(), *side.arguments), first)))
    return spent


def _overhead() -> dict[str, list[float]]:
    _say("credit")
    run = replace(SIZES["tiny"][1], folder=str(tiny()), steps=OVERHEAD_REPEATS)
    found: dict[str, list[float]] = _child("benchmarks.ppo.overhead", (run.argument(),))
    return found


def _child(module: str, arguments: Sequence[str], first: Sequence[Path] = ()) -> Any:
    """Return what a process of its own hands back; ``first`` are folders that it imports from before all others."""
    path = [str(folder) for folder in first] + [os.environ[name] for name in ("PYTHONPATH",) if os.environ.get(name)]
    found = {"PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    quiet = {"TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, **found, **quiet},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{module} failed:\n{done.stderr[-3_000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _say(text: str) -> None:
    print(f"{text} …", file=sys.stderr, flush=True)


COLUMNS = (
    "model",
    "trainer",
    "tokens a CPU second",
    "over TRL's",
    "with gc.collect",
    "over TRL's",
    "peak MiB",
    "over TRL's",
    "beyond imports, MiB",
    "over TRL's",
)
NUMBERS = (("tokens_per_second", 1), ("tokens_per_second_collecting", 1), ("peak_mib", 0), ("beyond_imports_mib", 0))
CLAIM_COLUMNS = ("claim", "value", "95 % interval", "n")


def _row(model: str, side: Side, ours: Sequence[Spent], peer: Sequence[Spent]) -> list[str]:
    cells = [model, side.name]
    for name, digits in NUMBERS:
        mine, theirs = ([getattr(each, name) for each in side_runs] for side_runs in (ours, peer))
        ratio = fmean(one / other for one, other in zip(mine, theirs, strict=True))
        cells += [f"{fmean(mine):,.{digits}f}", f"{ratio:.2f}"]
    return cells


def _overhead_table(found: dict[str, list[float]]) -> str:
    step = fmean(found["step"])
    rows = [["a sparse step", f"{1e3 * step:.0f}", "-", "-"]]
    for name in SHAPES:
        beyond = fmean(found[name]) - fmean(found["sparse"])
        cells = [f"{1e3 * fmean(found[name]):.0f}", f"{1e3 * beyond:.1f}", f"{fmean(shares(found, name)):.1%}"]
        rows.append([f"{name.replace('_', ' ')}: one batch", *cells])
    return markdown(("tiny model", "CPU ms", "beyond sparse, ms", "of a sparse step"), rows)


def _claim_row(claim: Claim) -> list[str]:
    return [f"`{claim.name}`", f"{claim.value:.3f}", f"{claim.low:.3f} to {claim.high:.3f}", str(claim.n)]


if __name__ == "__main__":
    main()
