"""What does each shape do to the policy's gradient: what of it is signal, what bias, what noise?

    python -m pip install 'shapetune[bench,instruction]'
    python -m benchmarks.gradients
    python -m benchmarks.gradients --quick     # in minutes, at a size that proves nothing; printed, not saved

Credit that looks at whole responses to pay their tokens is no baseline: its gradient need not point where the reward's
does. Whether that costs anything depends on how much noise it takes away in return. Both are measured here, on the
same responses for every method of the papers' comparison, at a short lambda and at 1, before training and in its
middle, and held against what was learned at the same settings.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import torch

from benchmarks.common.record import Claim, current_commit, write
from benchmarks.gradients import tables
from benchmarks.gradients.learning import predicted
from benchmarks.gradients.measure import VARIANTS, Sizes, measure, task_config
from benchmarks.papers.runs import runs_file, saved_runs
from pipeline.runtime.console import open_console
from pipeline.trials.task_models import build_assets

TASKS = ("sentiment", "instruction", "summarization", *VARIANTS)
# What a claim's name leaves open.
MEANING = {
    "cosine": "of the estimator's expectation and the true gradient; 1 is without bias",
    "alignment": "mean cosine of the gradient of one training batch and the true gradient",
    "predicts_learning_spearman": "over methods and lambdas: alignment before training, and the mean J on the tuning "
    "seeds of the papers' comparison",
}


def main() -> None:
    """Measure every task and write ``results/gradients.json``."""
    options, commit = _options(), current_commit()
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sizes = Sizes(16, 32) if options.quick else Sizes(options.groups, options.group)
    claims, texts, details = list[Claim](), list[str](), dict[str, Any]()
    for label in options.tasks:
        config = task_config(label)
        # The models are built here, before the workers look for them.
        build_assets(config, open_console(stderr=True))
        batch, when = config.ppo.batch_size, [0] if options.quick else [0, config.ppo.steps // 2]
        stages = [measure(label, steps, sizes, options.workers, batch) for steps in when]
        relation = predicted(stages[0], list(saved_runs(runs_file(label)).values()))
        claims += [*tables.claims(label, sizes.groups, stages), *tables.relation_claims(label, relation)]
        texts.append(tables.text(label, batch, stages, relation))
        details[label] = config.model_dump(mode="json")
    if options.quick:
        print("\n\n".join(texts))
        return
    write("gradients", claims, "\n\n".join(texts), {"configs": details, "meaning": MEANING}, commit)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--groups", type=int, default=32, help="Of responses; the intervals are the jackknife's.")
    parser.add_argument("--group", type=int, default=128, help="Responses of one group.")
    parser.add_argument("--workers", type=int, default=2, help="Groups side by side.")
    parser.add_argument("--quick", action="store_true", help="Everything in minutes, and nothing of it saved.")
    return parser.parse_args()


if __name__ == "__main__":
    main()
