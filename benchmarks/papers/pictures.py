"""The comparison as a picture: how fast J rises, and what reward each nat of KL buys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.papers.comparison import Comparison
from benchmarks.papers.field import DOUBLED, SPARSE, TUNED, UNIFORM, WINNER
from benchmarks.papers.measures import Runs, completed
from pipeline.trials.statistics import SMOOTHING_STEPS, smoothed

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

# Those of Okabe and Ito (2008) and of Tol (2021), told apart without colour vision too; whoever is not named here is
# drawn in grey.
COLOURS = {
    WINNER: "#D55E00",
    TUNED: "#000000",
    SPARSE: "#777777",
    UNIFORM: "#009E73",
    DOUBLED: "#CC79A7",
    "ABC": "#E69F00",
    "R3HF": "#0072B2",
    "SCAR, span": "#56B4E9",
    "SCAR, token": "#332288",
    "SHAP": "#999933",
    "LIME": "#882255",
}
GREY = "#BBBBBB"
DASHED = {SPARSE, DOUBLED, UNIFORM}
STYLE: dict[RcKeyType, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
}


def draw(comparison: Comparison, path: Path) -> None:
    """Write a task's picture as PNG."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 4.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        count = len(comparison.runs[TUNED])
        figure.suptitle(f"{comparison.label}: means over {count} seeds, bands are one standard error", fontsize=10)
        for name in sorted(comparison.runs, key=lambda name: name in COLOURS):
            if completed(comparison.runs[name]):
                _draw_curve(left, name, comparison.runs[name])
                _draw_frontier(right, name, comparison.runs[name])
        rival = np.mean([smoothed(run.curve)[-1] for run in completed(comparison.runs[TUNED]).values()])
        left.axhline(float(rival), color="black", linewidth=0.8, linestyle=":")
        left.set(xlabel=f"training steps (means of the last {SMOOTHING_STEPS})", ylabel="J")
        right.set(xlabel="KL to the reference, nats", ylabel="reward on held-out prompts")
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
        left.plot([], [], color=GREY, linewidth=0.9, label="the others")
        figure.legend(*left.get_legend_handles_labels(), loc="outside right center", frameon=False)
        figure.savefig(path, dpi=130, metadata={"Software": None})


def _draw_curve(axes: Axes, name: str, runs: Runs) -> None:
    curves = np.array([smoothed(run.curve) for run in completed(runs).values()])
    mean, steps = curves.mean(axis=0), np.arange(1, curves.shape[1] + 1)
    _line(axes, name, steps, mean)
    if name in (WINNER, TUNED) and len(curves) > 1:
        error = curves.std(axis=0, ddof=1) / len(curves) ** 0.5
        axes.fill_between(steps, mean - error, mean + error, color=COLOURS[name], alpha=0.18, linewidth=0)


def _draw_frontier(axes: Axes, name: str, runs: Runs) -> None:
    points = np.array([run.held_out for run in completed(runs).values()]).mean(axis=0)
    _line(axes, name, points[:, 0], points[:, 1], marker="o", markersize=3)


def _line(axes: Axes, name: str, x: np.ndarray, y: np.ndarray, **options: Any) -> None:
    known = name in COLOURS
    axes.plot(
        x,
        y,
        color=COLOURS.get(name, GREY),
        linewidth=2.2 if name in (WINNER, TUNED) else 1.3 if known else 0.9,
        linestyle="--" if name in DASHED else "-",
        label=name if known else None,
        zorder=3 if known else 1,
        **options,
    )
