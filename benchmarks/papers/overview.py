"""All tasks at a glance: who gains what over tuned sparse PPO, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.common.record import markdown
from benchmarks.papers.comparison import Comparison
from benchmarks.papers.field import ENTRANTS, SPARSE, TUNED, WINNER
from benchmarks.papers.measures import (
    before_training,
    completed,
    corrected_p_values,
    gain,
    gain_at_matched_kl,
    gain_by_training,
    median,
    steps_ratio,
)
from benchmarks.papers.pictures import STYLE
from benchmarks.papers.tables import interval_words, number
from pipeline.study.verdict import Difference

COLUMNS = (
    "task",
    "J before training",
    "sparse, defaults",
    "sparse, tuned",
    "winner, J over tuned sparse",
    "reward at matched KL",
    "steps ratio",
    "best single credit, J over tuned sparse",
)
# Who was chosen on the seeds that it is shown on.
FLATTERED = "*"
# A level that says little: the rival cannot be told to end above the policy before training.
UNLEARNED = "†"
LEAST_P = 0.05
COLUMNS_OF_PANELS = 4
# Wider differences are drawn at the edge.
EDGE = 1.25
GAIN, LOSS, UNDECIDED = "#009E73", "#D55E00", "#777777"


def overview_table(found: Sequence[Comparison]) -> str:
    """Return a row for each task: baselines, the winner and the best single credit over tuned sparse PPO."""
    rows = []
    for comparison in found:
        runs, best = comparison.runs, comparison.best_alone()
        ratio, price = steps_ratio(runs[WINNER], runs[TUNED]), comparison.config.ppo.kl_coef
        mark = "" if gain_by_training(runs[TUNED], price).is_gain else UNLEARNED
        rows.append(
            (
                f"{comparison.label}, {len(completed(runs[TUNED]))} seeds",
                f"{before_training(runs[TUNED], price):z.3f}",
                number(median(runs[SPARSE], "objective")),
                number(median(runs[TUNED], "objective")),
                interval_words(gain(runs[WINNER], runs[TUNED])),
                interval_words(gain_at_matched_kl(runs[WINNER], runs[TUNED])),
                f"{ratio.value:.2f}{mark} [{ratio.low:.2f}, {ratio.high:.2f}]",
                f"{best}{'' if comparison.tuning else FLATTERED}: {interval_words(gain(runs[best], runs[TUNED]))}",
            )
        )
    return markdown(COLUMNS, rows)


def draw_overview(found: Sequence[Comparison], path: Path) -> None:
    """Write a picture of every method's J over tuned sparse PPO's on every task, as PNG."""
    names = [WINNER, SPARSE, *(each.name for each in ENTRANTS if each.name != TUNED)]
    shown = [name for name in names if any(name in comparison.runs for comparison in found)]
    lines = ceil(len(found) / COLUMNS_OF_PANELS)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 0.6 + 3.4 * lines), layout="constrained")
        panels = figure.subplots(lines, min(COLUMNS_OF_PANELS, len(found)), sharex=True, sharey=True, squeeze=False)
        figure.suptitle(
            f"J over tuned sparse PPO: means and 95 % intervals over paired seeds, cut off beyond {EDGE:g}; "
            f"in colour where corrected p < {LEAST_P}",
            fontsize=10,
        )
        for axes, comparison in zip(panels.flat, found, strict=False):
            _draw_panel(axes, comparison, shown)
        for axes in panels.flat[len(found) :]:
            axes.set_axis_off()
        figure.savefig(path, dpi=130, metadata={"Software": None})


def _draw_panel(axes: Axes, comparison: Comparison, names: Sequence[str]) -> None:
    runs, p_values = comparison.runs, corrected_p_values(comparison.runs, TUNED)
    axes.axvline(0, color="black", linewidth=0.8)
    for place, name in enumerate(names):
        if len(completed(runs.get(name, []))) > 1:
            _draw_gain(axes, -place, gain(runs[name], runs[TUNED]), p_values[name] < LEAST_P)
    axes.set_title(f"{comparison.label}, {len(runs[TUNED])} seeds", fontsize=9)
    axes.set_yticks([-place for place in range(len(names))], names)
    axes.set_xlim(-EDGE, EDGE)
    axes.tick_params(labelbottom=True)


def _draw_gain(axes: Axes, height: float, found: Difference, is_told: bool) -> None:
    colour = UNDECIDED if not is_told else GAIN if found.mean > 0 else LOSS
    low, mean, high = (min(max(value, -EDGE), EDGE) for value in (found.low, found.mean, found.high))
    axes.plot([low, high], [height, height], color=colour, linewidth=1.6 if is_told else 1.0)
    beyond = "<" if found.mean < -EDGE else ">" if found.mean > EDGE else "o"
    axes.plot(mean, height, marker=beyond, markersize=5, color=colour, clip_on=False)
