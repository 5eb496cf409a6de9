"""Does credit still win where a critic that cannot start from the reward model is taught beforehand?

    python -m benchmarks.warmup
    python -m benchmarks.warmup --tasks instruction

Sparse PPO with a critic network of its own, which learns alone for so many batches before the policy does, at the
learning rates that were best without, every lambda that the comparison tunes over and a shorter one: what is best on
its tuning seeds is run on its fresh ones, beside sparse PPO and the winner with a value head and learning rates of
their own (``benchmarks.rates``, which runs first), and the winner with such a network. The policy's steps are
every method's; batches before them come on top. What they would be worth to a policy that trains on them is measured
beside it: sparse PPO with a value head for so many batches longer. Every run is saved in
``results/warmup-TASK.csv`` as it ends and is not made again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from rich.console import Console

from benchmarks.common.record import RESULTS, Claim, markdown, plain
from benchmarks.papers.comparison import Comparison
from benchmarks.papers.field import TUNED, WINNER
from benchmarks.papers.measures import (
    StepsRatio,
    gain,
    gain_at_matched_kl,
    gain_by_training,
    median,
    steps_ratio,
)
from benchmarks.papers.settings import SETTINGS, SHORT
from benchmarks.papers.tables import interval_words, number
from benchmarks.papers.tuning import Tuned, Tuner
from benchmarks.rates import at_own_rates, measure, tried_table
from pipeline.study.verdict import Difference
from pipeline.trials.arm import Arm

NETWORK = "critic network"
# With a value head, and with what its rivals have.
WINNERS = (WINNER, f"winner, {NETWORK}")
SHORT_NAMES = {TUNED: "sparse", WINNER: "winner"}
# Batches that the critic learns from alone; without any it is a network that starts with the policy.
WARMUPS = {TUNED: (0, 128, 512), WINNER: (0,)}
# Of the config's learning rate: those that were best for sparse PPO or the winner.
WARM_FACTORS = {"sentiment-encoder": (0.5, 1.0), "instruction": (1.0,)}
# Of a policy that trains for longer, and by how many batches: a long run wants a gentler rate.
LONGER_BATCHES, LONGER_FACTORS = 128, (0.25, 0.5)
# At a policy that trains for longer, the last at its end.
LOOKS = 4
COLUMNS = (
    "",
    "responses",
    "learning rate",
    "lambda",
    "J",
    "KL, nats",
    "training, CPU s",
    "over no training",
    "J over sparse, own rate",
    "the winner's J over it",
    "its reward at matched KL",
    "J over it of the winner with a network",
    "its reward at matched KL",
)


def main() -> None:
    """Make what is missing and write ``results/warmup.json``."""
    measure("warmup", __doc__, every_method, claims_of, section, {"factors_of_the_configs_rate": WARM_FACTORS})


def every_method(comparison: Comparison, workers: int, commit: str, console: Console) -> dict[str, Tuned]:
    """Return sparse PPO and the winner with each critic, and sparse PPO that trains for longer."""
    label = comparison.label
    setting, path = SETTINGS[label], RESULTS / f"warmup-{label}.csv"
    found = at_own_rates(comparison, workers, commit, console)
    # Where a critic knows what is to come, sparse PPO wants short lambdas.
    wider = Tuner(label, replace(setting, lambdas=(SHORT, *setting.lambdas)), path, workers, commit, console)
    for name, warmups in WARMUPS.items():
        found |= taught(wider, comparison, name, warmups)
    return found | longer(Tuner(label, setting, path, workers, commit, console), comparison)


def taught(tuner: Tuner, comparison: Comparison, who: str, warmups: Iterable[int]) -> dict[str, Tuned]:
    """Return somebody with a critic network, taught for so many batches; each number of them is tuned by itself."""
    chosen, steps, found = comparison.chosen[who], comparison.config.ppo.steps, dict[str, Tuned]()
    for batches in warmups:
        name = f"{SHORT_NAMES[who]}, {NETWORK}" + (f", {batches} batches before" if batches else "")
        candidate = replace(chosen, entrant=name, arm=Arm.with_critic(name, chosen.arm.shape, "network"))
        changes = [f"ppo.steps={steps + batches}", f"ppo.critic_warmup_steps={batches}"]
        if batches:
            # Before training and at its end: what is between is mostly the same policy. Who drifts less than a rival is
            # held against it at its own end.
            changes.append(f"evaluation.every_steps={steps + batches}")
        found[name] = tuner.tuned(candidate, WARM_FACTORS[comparison.label], *changes)
    return found


def longer(tuner: Tuner, comparison: Comparison) -> dict[str, Tuned]:
    """Return sparse PPO whose policy trains for longer, tuned anew."""
    steps, chosen = comparison.config.ppo.steps + LONGER_BATCHES, comparison.chosen[TUNED]
    name = f"sparse, {LONGER_BATCHES} batches longer"
    candidate = replace(chosen, entrant=name, arm=replace(chosen.arm, name=name))
    changes = (f"ppo.steps={steps}", f"evaluation.every_steps={steps // LOOKS}")
    return {name: tuner.tuned(candidate, LONGER_FACTORS, *changes)}


def claims_of(comparison: Comparison, found: Mapping[str, Tuned]) -> list[Claim]:
    """Return what a task's claims are: all differences are paired by seed."""
    task, runs = f"warmup.{comparison.label.replace('-', '_')}", {name: each.runs for name, each in found.items()}
    kl_coef = comparison.config.ppo.kl_coef
    differences, ratios = dict[str, Difference](), dict[str, StepsRatio]()
    for name in found:
        if name not in (TUNED, WINNER):
            differences[f"gain_over_sparse.{plain(name)}"] = gain(runs[name], runs[TUNED])
            differences[f"gain_by_training.{plain(name)}"] = gain_by_training(runs[name], kl_coef)
        for winner in WINNERS:
            if name not in WINNERS:
                between = f"{plain(winner)}_{{}}_over.{plain(name)}"
                differences[between.format("gain")] = gain(runs[winner], runs[name])
                differences[between.format("reward_at_matched_kl")] = gain_at_matched_kl(runs[winner], runs[name])
                # Of runs that are as long.
                if len(runs[name][0].curve) == len(runs[winner][0].curve):
                    ratios[between.format("steps_ratio")] = steps_ratio(runs[winner], runs[name])
    return [
        *(Claim(f"{task}.{name}", each.value, each.low, each.high, each.seeds) for name, each in ratios.items()),
        *(Claim(f"{task}.{name}", each.mean, each.low, each.high, each.seeds) for name, each in differences.items()),
    ]


def section(comparison: Comparison, found: Mapping[str, Tuned]) -> str:
    """Return one task's tables as Markdown."""
    rows = [_row(comparison, found, name) for name in found]
    tables = [tried_table(name, each) for name, each in found.items() if name not in (TUNED, WINNER)]
    return "\n\n".join((f"### {comparison.label}", markdown(COLUMNS, rows), *tables))


def _row(comparison: Comparison, found: Mapping[str, Tuned], name: str) -> tuple[str, ...]:
    own, ppo = found[name], comparison.config.ppo
    over = [each(found[winner].runs, own.runs) for winner in WINNERS for each in (gain, gain_at_matched_kl)]
    return (
        name,
        f"{len(own.runs[0].curve) * ppo.batch_size:,}",
        f"{own.learning_rate:.2g}",
        f"{own.candidate.arm.shape.gae_lambda:.2f}",
        number(median(own.runs, "objective")),
        number(median(own.runs, "kl_nats"), 1),
        number(median(own.runs, "training_cpu_seconds"), 0),
        interval_words(gain_by_training(own.runs, ppo.kl_coef)),
        "" if name == TUNED else interval_words(gain(own.runs, found[TUNED].runs)),
        *("" if name in WINNERS else interval_words(each) for each in over),
    )


if __name__ == "__main__":
    main()
