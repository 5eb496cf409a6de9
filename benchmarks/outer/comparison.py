"""The outer loop beside other ways to search: how good is what each recommends, after how many trials?

    python -m pip install 'shapetune[bench]'
    python -m benchmarks.outer

Landscapes: a replay of 160 real quickstart trials with the noise of real runs, and two closed forms, each at noise of
3 and 10 % of its span. A trial is the mean of two seeds, and every searcher has the same luck with them. Regret is
how far the true value of what is recommended is below the true maximum, as a share of the span. Random search, Sobol
and TPE recommend the best that they saw. Two rows show random trials read by Shapetune's model, which recommends the
best of its posterior means: what its proposals add is what it has beyond them. ``random`` in claims is, at each
landscape and number of trials, the better of two random searches: one uniform over the simplex of methods and sparse,
one over the simplex of methods and over their balance with sparse. Claims over all landscapes are geometric means.

Ray 2.60's ``AxSearch`` does not run with Ax 1.3.1 (``AttributeError: 'Objective' object has no attribute 'metric'``):
Ax's own default client stands in its place. A proposal of it takes seconds; it therefore has fewer repeats, and so
have the ablations. Random search, Sobol and TPE cost nothing and have more. Intervals are bootstrapped over repeats,
each searcher's apart.

Finished searches are saved in a file, and are not repeated while the code and the data that they used are the same.
Results are written once all landscapes are there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import cache as work_cache
from benchmarks.common.cache import ROOT
from benchmarks.common.record import Claim, current_commit, markdown, write
from benchmarks.outer.methods import (
    AX,
    FORMER,
    MEANS_ONLY,
    RANDOM,
    READ,
    READ_BASELINES,
    SEARCHERS,
    SHAPETUNE,
    TPE,
    search_landscape,
)
from benchmarks.outer.problems import NAMES, SPACE, fitted, landscape, many_rows, measured_runs, residuals, variances
from benchmarks.outer.regret import (
    FLOOR,
    RANDOM_TRIALS,
    STOPS,
    Regrets,
    after,
    bootstrapped,
    median_claim,
    regret_claims,
)

MEASURES = ("objective", "curve_objective", "reward", "gold_reward")
ALL_USE = ("benchmarks/outer/problems.py", "benchmarks/outer/methods.py", "search_spaces/credit_mix.py")
MODEL_MODULES = (
    *(f"search/{name}" for name in ("outer_loop", "generation_strategy", "observations", "posterior", "ax_patches")),
    "config/settings",
)
SHAPETUNE_FILES = (*(f"pipeline/{name}.py" for name in MODEL_MODULES), "search_spaces/*.py")
WITH_MODEL = (SHAPETUNE, READ, READ_BASELINES, MEANS_ONLY, FORMER)
# What costs next to nothing.
CHEAP = (*RANDOM, "Sobol", TPE)
Array = np.ndarray
Found = dict[str, dict[str, list[Regrets]]]


@dataclass(frozen=True)
class Job:
    """One search."""

    landscape: str
    searcher: str
    repeat: int

    @property
    def stops(self) -> tuple[int, ...]:
        """Trials after which it recommends; what recommends the best seen does so always."""
        return (*STOPS, RANDOM_TRIALS) if self.searcher in RANDOM else STOPS


@dataclass(frozen=True)
class Done:
    """What a job found.

    Attributes:
        job: Which it was.
        fingerprint: Of the code and data that it used.
        regrets: Trials done to the regret of what is recommended from then on.
        seconds: Processor time of the search.
    """

    job: Job
    fingerprint: str
    regrets: Regrets
    seconds: list[float]

    def line(self) -> str:
        """Return it as a line of the file that it is saved in."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, line: str) -> Done:
        """Return what ``line`` says."""
        values = json.loads(line)
        regrets = {int(trials): regret for trials, regret in values["regrets"].items()}
        return cls(Job(**values["job"]), values["fingerprint"], regrets, values["seconds"])


def main() -> None:
    """Run what was not run yet and write ``results/outer.json``."""
    options, commit = _options(), current_commit()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    planned = jobs(options)
    saved = read_saved(options.keep)
    _run_missing(planned, saved, options.keep, options.workers)
    found: Found = {}
    for job in planned:
        found.setdefault(job.landscape, {}).setdefault(job.searcher, []).append(saved[job].regrets)
    claims = [*regret_claims(found), *noise_claims()]
    tables = "\n\n".join([*(regret_table(found, stop) for stop in STOPS), claim_table(claims)])
    if set(found) == set(NAMES):
        write("outer", claims, tables, _details(options, found, [saved[job] for job in planned]), commit)
    else:
        print(tables, "\n\nNothing is written: landscapes are missing.")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--landscapes", nargs="+", default=list(NAMES), choices=NAMES)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--cheap-repeats", type=int, default=200, help="of random search, Sobol and TPE")
    parser.add_argument("--ablation-repeats", type=int, default=10)
    parser.add_argument("--ax-repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, default=ROOT / "build" / "outer_searches.jsonl")
    return parser.parse_args()


def jobs(options: argparse.Namespace) -> list[Job]:
    """Return the searches, first repeats first."""
    repeats = dict.fromkeys(SEARCHERS, options.repeats) | dict.fromkeys(CHEAP, options.cheap_repeats)
    repeats |= dict.fromkeys((MEANS_ONLY, FORMER), options.ablation_repeats) | {AX: options.ax_repeats}
    return [
        Job(name, searcher, repeat)
        for repeat in range(max(repeats.values()))
        for name in options.landscapes
        for searcher in SEARCHERS
        if repeat < repeats[searcher]
    ]


@cache
def fingerprint(with_model: bool) -> str:
    """Return a hash of the code, data and libraries that a search uses: with this project's model, or without."""
    return work_cache.fingerprint((*ALL_USE, *SHAPETUNE_FILES) if with_model else ALL_USE)


def read_saved(path: Path) -> dict[Job, Done]:
    """Return what was found before by the same code."""
    if not path.exists():
        return {}
    found = [Done.of(line) for line in path.read_text().splitlines()]
    return {each.job: each for each in found if each.fingerprint == fingerprint(each.job.searcher in WITH_MODEL)}


def _run_missing(planned: Sequence[Job], saved: dict[Job, Done], path: Path, workers: int) -> None:
    missing = [job for job in planned if job not in saved]
    each_done = work_cache.each_done(_run, missing, lambda job: fingerprint(job.searcher in WITH_MODEL), path, workers)
    for number, done in enumerate(each_done, 1):
        saved[done.job] = done
        if done.job.searcher not in CHEAP:
            said = f"{done.job.landscape}, {done.job.searcher}, {done.job.repeat}: {sum(done.seconds):.0f} CPU s"
            print(f"{number} of {len(missing)}: {said}", file=sys.stderr, flush=True)


def _run(job: Job, mark: str) -> Done:
    surface = landscape(job.landscape)
    search, seconds = search_landscape(job.searcher, surface, job.stops, job.repeat)
    return Done(job, mark, {trials: surface.regret(row) for trials, row in search.recommended.items()}, [seconds])


def noise_claims() -> list[Claim]:
    """Return the variance of a difference between two rows on a shared seed over that on seeds of their own.

    Of residuals from what a Gaussian process of all other rows predicts, less what it misses in both runs of a row;
    rows are resampled.
    """
    endings = {measure: "" if measure == MEASURES[0] else f"_{measure}" for measure in MEASURES}
    return [
        paired_variance_ratio(f"outer.paired_variance_ratio{ending}", *measure_residuals(measure))
        for measure, ending in endings.items()
    ]


@cache
def measure_residuals(measure: str) -> tuple[Array, Array]:
    """Return the residuals of a measure's real runs, on the shared seed and on the others."""
    runs = measured_runs(measure)
    return residuals(runs, fitted(runs))


def paired_variance_ratio(name: str, shared: Array, own: Array) -> Claim:
    """Return the claim of residuals of runs on a shared seed, and of runs on seeds of their own."""

    def statistic(taken: Array) -> float:
        paired, unpaired = variances(shared[taken], own[taken])
        return paired / unpaired

    return bootstrapped(name, statistic, len(shared))


def regret_table(found: Found, stop: int) -> str:
    """Return median regrets in percent of the span, with 90 % intervals."""
    rows = []
    for searcher in SEARCHERS:
        cells = [_cell(after(searches[searcher], stop)) for searches in found.values() if searches.get(searcher)]
        repeats = {len(searches.get(searcher, ())) for searches in found.values()}
        if cells:
            rows.append([searcher, *cells, max(repeats)])
    return markdown((f"after {stop} trials: median regret, % of the span [90 %]", *found, "repeats"), rows)


def _cell(regrets: Array) -> str:
    found = median_claim("", regrets.tolist(), level=0.9)
    return f"{100 * found.value:.2f} [{100 * found.low:.2f}, {100 * found.high:.2f}]"


def claim_table(claims: Sequence[Claim]) -> str:
    """Return the claims as a table."""
    rows = [[f"`{each.name}`", f"{each.value:.2f}", f"{each.low:.2f} to {each.high:.2f}", each.n] for each in claims]
    return markdown(("claim", "value", "95 % interval", "n"), rows)


def _details(options: argparse.Namespace, found: Found, done: list[Done]) -> dict[str, object]:
    surfaces = {name: landscape(name) for name in found}
    noise = {name: surface.deviation(many_rows()) / surface.span for name, surface in surfaces.items()}
    spent = {name: [round(sum(each.seconds), 2) for each in done if each.job.searcher == name] for name in SEARCHERS}
    return {
        "settings": {**vars(options), "keep": options.keep.name, "random_trials": RANDOM_TRIALS, "floor": FLOOR},
        "space": [asdict(parameter) for parameter in SPACE.parameters()],
        "landscapes": {
            name: {
                "best": surface.best,
                "span": surface.span,
                "noise_over_span": [float(noise[name].min()), float(noise[name].max())],
            }
            for name, surface in surfaces.items()
        },
        "one_seed_deviation": {
            measure: dict(zip(("paired", "unpaired"), np.sqrt(variances(*measure_residuals(measure))), strict=True))
            for measure in MEASURES
        },
        "search_cpu_seconds": {name: float(np.median(each)) for name, each in spent.items() if each},
        "regrets_from_trial": {
            name: {searcher: "; ".join(map(_steps, repeats)) for searcher, repeats in searches.items()}
            for name, searches in found.items()
        },
    }


def _steps(regrets: dict[int, float]) -> str:
    """Return one search's regrets in short: ``trials:regret`` wherever its recommendation changed."""
    return " ".join(f"{trials}:{regret:.5f}" for trials, regret in regrets.items())
