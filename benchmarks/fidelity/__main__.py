"""Credit fidelity: which method finds what a reward really pays for, and does that make a policy learn faster?

    python -m pip install 'shapetune[bench,instruction]'
    python -m benchmarks.fidelity            # about 25 minutes on two cores; the runs are saved, and not made again
    python -m benchmarks.fidelity --quick    # in minutes, at sizes that prove nothing; printed, not saved

On the quickstart's sentiment reward model: deletion and insertion curves of every method's order of the tokens, and
agreement with exact Shapley values of responses of 12 tokens. On rewards that are sums of known token effects:
agreement with those, and the quickstart's PPO trained from every method's credit. Where the papers' comparison has run
on sentiment, its results are held against the fidelity measured here.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.common.configs import measured_config
from benchmarks.common.record import RESULTS, Claim, current_commit, write
from benchmarks.fidelity import tables
from benchmarks.fidelity.credits import sample
from benchmarks.fidelity.field import Contender, contenders, served
from benchmarks.fidelity.learning import (
    LEARNING,
    UNINFORMED,
    compared,
    relate,
    relations_of,
    truths,
    uninformed,
    values,
)
from benchmarks.fidelity.measure import Curves, Judged, against_exact, against_truth, exact_shapley, measure_curves
from benchmarks.fidelity.training import FIRST_SEED, learn, lessons, lessons_file
from benchmarks.fidelity.worlds import WORLDS, load_world
from benchmarks.papers.field import BUDGET
from benchmarks.papers.runs import runs_file, saved_runs
from pipeline.config.schema import StudyConfig
from pipeline.runtime.console import open_console
from pipeline.tasks.sentiment.task import load_sentiment
from pipeline.trainers.base import Task
from pipeline.trials.task_models import build_assets
from shaping.shape import MOST_EXACT_UNITS

# The budget of the papers' comparison.
CHANGES = (f"shape.budget={BUDGET}", "ppo.device=cpu", "ppo.save_steps=0")
QUICK = ("ppo.steps=3", "evaluation.prompts=32")
CURVE_SAMPLES, EXACT_SAMPLES, WORLD_SAMPLES = 11, 12, 13
HEADLINE = "known_effects"
# What a claim's name leaves open.
MEANING = {
    "area_between": "insertion less deletion area, score units; a random order has 0; higher is better",
    "insertion_area": "less that of random orders of the same responses, score units; higher is better",
    "deletion_area": "less that of random orders of the same responses, score units; lower is better",
    "correlation": "Pearson's over the tokens of a response, mean over responses; constant credit counts 0",
    "error": "|credit - truth| / |truth| of a response, mean over responses",
    "predicts_learning_spearman": "over methods: correlation with known effects, and the mean J along the curve at "
    "both lambdas",
}


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        responses: Of the curves and of the known truths.
        exact_responses: With exact Shapley values.
        seeds: Runs of each method and lambda.
        changes: Of the quickstart's config.
        folder: Where runs are saved.
    """

    responses: int
    exact_responses: int
    seeds: int
    changes: tuple[str, ...] = CHANGES
    folder: Path = RESULTS


@dataclass(frozen=True)
class Bench:
    """What everything is measured on.

    Attributes:
        sizes: How much.
        config: The quickstart's.
        assets: The folder of its models.
        task: They, loaded.
        field: Whose credit.
        workers: Training runs side by side.
        commit: Of the code.
    """

    sizes: Sizes
    config: StudyConfig
    assets: str
    task: Task
    field: Sequence[Contender]
    workers: int
    commit: str

    @property
    def tokens(self) -> int:
        """Of a response."""
        return self.config.sampling.response_tokens


Part = tuple[list[Claim], list[str]]


def main() -> None:
    """Measure everything and write ``results/fidelity.json``."""
    options, commit = _options(), current_commit()
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if options.quick:
        with tempfile.TemporaryDirectory() as folder:
            sizes = Sizes(16, 8, 1, (*CHANGES, *QUICK), Path(folder))
            print("\n\n".join(measure(sizes, options.workers, commit)[1]))
        return
    sizes = Sizes(options.responses, options.exact_responses, options.seeds)
    claims, parts, details = measure(sizes, options.workers, commit)
    write("fidelity", claims, "\n\n".join(parts), details, commit)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--responses", type=int, default=128, help="Of the curves and of the known truths.")
    parser.add_argument("--exact-responses", type=int, default=96, help="With exact Shapley values.")
    parser.add_argument("--seeds", type=int, default=4, help="Training runs of each method and lambda.")
    parser.add_argument("--workers", type=int, default=2, help="Training runs side by side.")
    parser.add_argument("--quick", action="store_true", help="Everything in minutes, and nothing of it saved.")
    return parser.parse_args()


def measure(sizes: Sizes, workers: int, commit: str) -> tuple[list[Claim], list[str], dict[str, Any]]:
    """Return claims, sections and details of all measurements."""
    config = measured_config("quickstart", sizes.changes)
    assets = str(build_assets(config, open_console(stderr=True)) or "")
    field = contenders(config.base_shape())
    bench = Bench(sizes, config, assets, load_sentiment(Path(assets)), field, workers, commit)
    curves, judged, found = _on_sentiment(bench)
    claims, parts = found
    for more, texts in (*(_in_world(bench, world) for world in WORLDS), _beside_comparison(field, curves, judged)):
        claims += more
        parts += texts
    details = {
        "config": config.model_dump(mode="json"),
        "shapes": {each.method: each.shape.to_dict() for each in field},
        "meaning": MEANING,
        "worlds": {name: world.about for name, world in WORLDS.items()},
    }
    return claims, parts, details


def _on_sentiment(bench: Bench) -> tuple[Curves, dict[str, Judged], Part]:
    """Return what is measured on the sentiment reward model, and its claims and sections."""
    _say("deletion and insertion curves")
    curves = measure_curves(
        bench.task, bench.field, sample(bench.task, bench.sizes.responses, bench.tokens, CURVE_SAMPLES)
    )
    _say("exact Shapley values")
    short = sample(bench.task, bench.sizes.exact_responses, MOST_EXACT_UNITS, EXACT_SAMPLES)
    exact = exact_shapley(bench.task, bench.config.base_shape(), short)
    judged = against_exact(bench.task, bench.field, short, exact)
    claims = [*tables.curve_claims(curves), *tables.truth_claims("exact_shapley", judged)]
    return curves, judged, (claims, [tables.curves_text(curves, bench.tokens), tables.exact_text(judged, exact)])


def _in_world(bench: Bench, world: str) -> Part:
    """Return a known truth's claims and sections: who finds it, and what is learned from whom."""
    about, sizes = WORLDS[world].about, bench.sizes
    _say(f"{world}: credit")
    known = load_world(world, bench.assets, bench.tokens)
    field = served(bench.field, known.reward_model)
    judged = against_truth(known, field, sample(known, sizes.responses, bench.tokens, WORLD_SAMPLES))
    seeds = range(FIRST_SEED, FIRST_SEED + sizes.seeds)
    planned = lessons(world, field, seeds, bench.config, bench.assets, bench.commit)
    learned = learn(planned, lessons_file(world, sizes.folder), bench.workers)
    relations = relations_of(truths(judged), learned)
    claims = tables.truth_claims(world, judged)
    claims += tables.relation_claims(f"{world}.predicts_learning_spearman", relations)
    if world == HEADLINE:
        claims += tables.headline(relations[0])
    learning = tables.learned_text(about, judged, learned, relations)
    explained = known.quality.get("explained") if WORLDS[world].taught else None
    return claims, [tables.world_text(about, judged, bench.tokens, explained), learning]


def _say(text: str) -> None:
    print(f"{text} …", file=sys.stderr, flush=True)


def _beside_comparison(field: Sequence[Contender], curves: Curves, judged: dict[str, Judged]) -> Part:
    """Return fidelity on sentiment against what the papers' comparison learned; nothing where that has no results."""
    saved = list(saved_runs(runs_file("sentiment")).values())
    runs = compared(field, saved)
    learning = {measured: values(runs, measured) for measured in LEARNING} | {UNINFORMED: uninformed(field, saved)}
    told = [name for name in runs if all(found.get(name) for found in learning.values())]
    if not told:
        return [], []
    said, paid = truths(judged).values()
    fidelity = {
        "area between the curves": {name: float(each.areas.between.mean()) for name, each in curves.ranked.items()},
        "correlation with exact Shapley": said,
        "correlation with exact Shapley as paid": paid,
    }
    learning = {measured: {name: found[name] for name in told} for measured, found in learning.items()}
    relations = [relate(known, found) for known in fidelity.items() for found in learning.items()]
    claims = tables.relation_claims("sentiment.predicts_learning_spearman", relations)
    return claims, [tables.sentiment_text(field, fidelity, learning, relations)]


if __name__ == "__main__":
    main()
