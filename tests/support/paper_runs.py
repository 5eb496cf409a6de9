"""Runs of the papers' comparison, made by hand."""

from __future__ import annotations

from benchmarks.papers.runs import COMPLETED, Run


def run(entrant: str, seed: int, objective: float, state: str = COMPLETED, **more: object) -> Run:
    curve = (objective - 1, objective)
    return Run(entrant, more.pop("gae_lambda", 0.8), "", seed, f"{entrant}{seed}", "c", state, objective, curve=curve)
