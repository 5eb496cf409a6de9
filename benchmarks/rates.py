"""Does the winner's gain survive where both it and sparse PPO have a learning rate of their own?

    python -m benchmarks.rates
    python -m benchmarks.rates --tasks instruction

The papers' comparison gives every method the learning rate of the task's config. Here sparse PPO and the winner are
tuned over learning rates and lambda together, on the seeds that the comparison tuned on, and run on its fresh seeds at
what was best. Every run is saved in ``results/rates-TASK.csv`` as it ends and is not made again.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping

import torch
from rich.console import Console

from benchmarks.common.record import RESULTS, Claim, current_commit, markdown, plain, write
from benchmarks.papers.comparison import Comparison, compare
from benchmarks.papers.field import TUNED, WINNER, Candidate
from benchmarks.papers.measures import gain, gain_at_matched_kl, gain_by_training, median, steps_ratio
from benchmarks.papers.runs import Run
from benchmarks.papers.settings import SETTINGS
from benchmarks.papers.tables import interval_words, number, tuned_height
from benchmarks.papers.tuning import Tuned, Tuner
from pipeline.runtime.console import open_console
from pipeline.study.verdict import Difference

# Those in which no critic can start from the reward model, and the shapes win.
TASKS = ("sentiment-encoder", "instruction")
# Of the config's learning rate.
FACTORS = (0.125, 0.25, 0.5, 1.0, 2.0)
WHO = (TUNED, WINNER)
Find = Callable[[Comparison, int, str, Console], dict[str, Tuned]]
Claims = Callable[[Comparison, Mapping[str, Tuned]], list[Claim]]
Told = Callable[[Comparison, Mapping[str, Tuned]], str]
COLUMNS = (
    "",
    "learning rate",
    "lambda",
    "J",
    "KL, nats",
    "over no training",
    "J over sparse, own rate",
    "J over itself at the task's rate",
)


def main() -> None:
    """Make what is missing and write ``results/rates.json``."""
    measure("rates", __doc__, at_own_rates, claims_of, section, {"factors_of_the_configs_rate": FACTORS})


def measure(
    name: str, description: str | None, find: Find, claims: Claims, told: Told, details: dict[str, object]
) -> None:
    """Tune what the command line asks for and write ``results/NAME.json``.

    Args:
        name: The benchmark's.
        description: What its help says.
        find: Returns who is tuned on a task, from its comparison, the runs side by side, the code's commit and a
            console.
        claims: Returns a task's claims.
        told: Returns a task's tables as Markdown.
        details: Settings that explain the numbers.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=TASKS)
    parser.add_argument("--workers", type=int, default=2, help="Runs side by side.")
    options, commit = parser.parse_args(), current_commit()
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    console, every, sections = open_console(stderr=True), list[Claim](), list[str]()
    for label in options.tasks:
        comparison = compare(label, SETTINGS[label], 0, commit, console)
        found = find(comparison, options.workers, commit, console)
        every += claims(comparison, found)
        sections.append(told(comparison, found))
    write(name, every, "\n\n".join(sections), details, commit)


def at_own_rates(comparison: Comparison, workers: int, commit: str, console: Console) -> dict[str, Tuned]:
    """Return sparse PPO and the winner at their best learning rate and lambda; what is saved is not made again."""
    label = comparison.label
    tuner = Tuner(label, SETTINGS[label], RESULTS / f"rates-{label}.csv", workers, commit, console)
    return {name: tuner.tuned(comparison.chosen[name], FACTORS) for name in WHO}


def claims_of(comparison: Comparison, found: Mapping[str, Tuned]) -> list[Claim]:
    """Return what a task's claims are: all differences are paired by seed."""
    task = f"rates.{comparison.label.replace('-', '_')}"
    winner, sparse = found[WINNER].runs, found[TUNED].runs
    ratio = steps_ratio(winner, sparse)
    differences = {
        "gain_over_sparse": gain(winner, sparse),
        "gain_at_matched_kl": gain_at_matched_kl(winner, sparse),
        **{
            f"gain_over_the_tasks_rate.{plain(name)}": gain(each.runs, comparison.runs[name])
            for name, each in found.items()
        },
        **{f"gain_by_training.{plain(name)}": _learned(comparison, each.runs) for name, each in found.items()},
    }
    return [
        Claim(f"{task}.steps_ratio", ratio.value, ratio.low, ratio.high, ratio.seeds),
        *(Claim(f"{task}.{name}", each.mean, each.low, each.high, each.seeds) for name, each in differences.items()),
    ]


def section(comparison: Comparison, found: Mapping[str, Tuned]) -> str:
    """Return one task's tables as Markdown."""
    winner, sparse = found[WINNER].runs, found[TUNED].runs
    ratio, matched = steps_ratio(winner, sparse), gain_at_matched_kl(winner, sparse)
    return "\n\n".join(
        (
            f"### {comparison.label}",
            f"Each at its own learning rate, the winner's steps to sparse PPO's final J are {ratio.value:.2f} "
            f"[{ratio.low:.2f}, {ratio.high:.2f}] of sparse PPO's; at matched KL its reward differs by "
            f"{interval_words(matched)}.",
            markdown(COLUMNS, [row for name in WHO for row in _rows(comparison, found, name)]),
            *(tried_table(name, found[name]) for name in WHO),
        )
    )


def _rows(comparison: Comparison, found: Mapping[str, Tuned], name: str) -> list[tuple[str, ...]]:
    """Return who it is at the task's learning rate, and at its own."""
    before, own, rival = comparison.runs[name], found[name], found[TUNED].runs
    theirs, chosen = comparison.config.ppo.learning_rate, comparison.chosen[name]
    over_rival = None if name == TUNED else gain(own.runs, rival)
    return [
        _row(comparison, theirs, chosen, before, gain(before, rival), None),
        _row(comparison, own.learning_rate, own.candidate, own.runs, over_rival, gain(own.runs, before)),
    ]


def _row(
    comparison: Comparison, rate: float, candidate: Candidate, runs: list[Run], *gains: Difference | None
) -> tuple[str, ...]:
    return (
        candidate.entrant,
        f"{rate:.2g}",
        f"{candidate.arm.shape.gae_lambda:.2f}",
        number(median(runs, "objective")),
        number(median(runs, "kl_nats"), 1),
        interval_words(_learned(comparison, runs)),
        *("" if each is None else interval_words(each) for each in gains),
    )


def _learned(comparison: Comparison, runs: list[Run]) -> Difference:
    return gain_by_training(runs, comparison.config.ppo.kl_coef)


def tried_table(name: str, found: Tuned) -> str:
    """Return the mean J of every learning rate and lambda that somebody was tuned over, as Markdown."""
    rates, lambdas = (sorted({point[place] for point in found.tried}) for place in (0, 1))
    rows = [(f"{rate:.2g}", *(tuned_height(found.tried[rate, value]) for value in lambdas)) for rate in rates]
    heading = (f"{name}: mean J on the tuning seeds, rate by lambda", *(f"{value:.2f}" for value in lambdas))
    return markdown(heading, rows)


if __name__ == "__main__":
    main()
