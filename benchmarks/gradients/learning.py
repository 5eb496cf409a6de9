"""Does a batch's alignment with the true gradient predict what is learned at the same setting?"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.fidelity.learning import Relation, relate
from benchmarks.gradients.stage import Stage
from benchmarks.papers.comparison import FIRST_SEED
from benchmarks.papers.field import REWARD_MODEL
from benchmarks.papers.measures import completed
from benchmarks.papers.runs import Run


def predicted(stage: Stage, saved: Sequence[Run]) -> Relation:
    """Return the rank correlation over settings of alignment and the final J of the papers' comparison's tuning.

    A setting is an entrant at a lambda, with a critic that starts from nothing: here nothing has a critic.

    Args:
        stage: Alignments.
        saved: The comparison's runs, those on other seeds too.
    """
    alignment, learned = dict[str, float](), dict[str, list[float]]()
    for row, quality in stage.qualities.items():
        runs = [
            run
            for run in saved
            if (run.entrant, run.gae_lambda) == (row.name, row.gae_lambda)
            and run.seed < FIRST_SEED
            and run.critic != REWARD_MODEL
        ]
        # A setting that lost a seed learned something, and nobody knows what.
        if runs and len(completed(runs)) == len(runs):
            setting = f"{row.name}, lambda {row.gae_lambda:g}"
            alignment[setting], learned[setting] = quality.alignment.value, [run.objective for run in runs]
    return relate(("alignment", alignment), ("final J", learned))
