"""What early stopping saves of a search's training steps, and what it costs.

    python -m pip install 'shapetune[bench]'
    python -m benchmarks.early_stopping

Searches are run by the pipeline's own search stage with the quickstart's config, two runs side by side, step by step;
what a run measures comes from a landscape of curves that was built from 320 real quickstart runs, with their luck. A
search with early stopping and one without share proposals' seeds and luck, repeat by repeat. Regret is how far the
true value of what is recommended is below the true maximum, as a share of the span. Decisions are made without Ax, by
its rule, which is compared with Ax's in tests: Ax takes longer over a trial's decisions than over its proposal.

``regret_cost`` compares after the same number of trials, ``regret_at_equal_steps`` after the same number of training
steps, which with early stopping are more trials; a trial that is under way at that moment counts for nothing. Both are
differences paired by repeat, above 0 where early stopping is worse. ``wrongly_stopped`` is the share of stopped trials
that are truly better than what is recommended in the end. Intervals are bootstrapped over repeats.

Finished searches are saved in a file, and are not repeated while the code and the data that they used are the same.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import cache as work_cache
from benchmarks.common.cache import ROOT
from benchmarks.common.record import Claim, current_commit, markdown, write
from benchmarks.early_stopping.claims import Searches, projection_claims, reaching, search_claims
from benchmarks.early_stopping.problems import STEPS, curve_landscape
from benchmarks.early_stopping.searches import TRIAL_STEPS, Found, Setting, StoppingSearch
from benchmarks.outer.comparison import SHAPETUNE_FILES, claim_table
from benchmarks.outer.regret import median_claim
from pipeline.config.settings import EarlyStoppingSettings
from pipeline.search.early_stopping import EarlyStopping

STOPS = (12, 25, 50)
CLAIM = "early_stopping."
PLAIN, DEFAULT = "none", "40 % from 0.5"
# With one slot, as the local executor runs them: a trial's second seed begins once its first is whole.
ALONE, DEFAULT_ALONE = (f"{name}, one run at a time" for name in (PLAIN, DEFAULT))
SETTINGS = {
    PLAIN: Setting(None),
    DEFAULT: Setting(EarlyStoppingSettings()),
    "20 % from 0.5": Setting(EarlyStoppingSettings(worst_percent=20)),
    "40 % from 0.25": Setting(EarlyStoppingSettings(least_share=0.25)),
    "60 % from 0.25": Setting(EarlyStoppingSettings(worst_percent=60, least_share=0.25)),
    ALONE: Setting(None, slots=1),
    DEFAULT_ALONE: Setting(EarlyStoppingSettings(), slots=1),
}
USED = (
    *SHAPETUNE_FILES,
    *(f"pipeline/study/{name}.py" for name in ("search_stage", "running_trial", "verdict")),
    "pipeline/search/early_stopping.py",
    "pipeline/trials/statistics.py",
    "benchmarks/outer/problems.py",
    *(f"benchmarks/early_stopping/{name}.py" for name in ("problems", "quick", "searches")),
    "benchmarks/configs/quickstart.yaml",
)
# Of the span: a setting may be advised whose cost is no higher than this by the upper end of its interval.
TOLERATED = 0.05
# Decisions are timed in a search of so many trials.
COST_TRIALS, COST_DECISIONS = 50, 20


@dataclass(frozen=True)
class Job:
    """One search: how it stops trials, which repeat it is, and for how many trials it goes on at the least."""

    setting: str
    repeat: int
    trials: int


@dataclass(frozen=True)
class Done:
    """What a job found, and the fingerprint of what it used."""

    job: Job
    fingerprint: str
    found: Found

    def line(self) -> str:
        """Return it as a line of the file that it is saved in."""
        return json.dumps({"job": asdict(self.job), "fingerprint": self.fingerprint, "found": self.found.to_dict()})

    @classmethod
    def of(cls, line: str) -> Done:
        """Return what ``line`` says."""
        values = json.loads(line)
        return cls(Job(**values["job"]), values["fingerprint"], Found.from_dict(values["found"]))


def main() -> None:
    """Run what was not run yet and write ``results/early_stopping.json``."""
    options, commit = _options(), current_commit()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    planned, saved = jobs(options), read_saved(options.keep)
    missing = [job for job in planned if job not in saved]
    each_done = work_cache.each_done(_run, missing, lambda job: fingerprint(), options.keep, options.workers)
    for number, done in enumerate(each_done, 1):
        saved[done.job] = done
        print(f"{number} of {len(missing)}: {done.job}: {done.found.seconds:.0f} CPU s", file=sys.stderr, flush=True)
    found: dict[str, dict[int, Found]] = {name: {} for name in SETTINGS}
    for job in planned:
        found[job.setting][job.repeat] = saved[job].found
    seconds = decision_seconds(COST_TRIALS, COST_DECISIONS)
    claims = [*default_claims(found), median_claim(f"{CLAIM}decision_cpu_seconds_{COST_TRIALS}", seconds)]
    tables = [*(search_table(found, stop) for stop in STOPS), advice(found, STOPS[1]), projection_table(found)]
    details = _details(options, found, [saved[job] for job in planned])
    write("early_stopping", claims, "\n\n".join([*tables, claim_table(claims)]), details, commit)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20, help="of the default, and without early stopping")
    parser.add_argument("--long-repeats", type=int, default=10, help="of these, that go on for 50 trials")
    parser.add_argument("--other-repeats", type=int, default=10, help="of the other settings, for 25 trials")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=ROOT / "build" / "early_stopping_searches.jsonl")
    return parser.parse_args()


def jobs(options: argparse.Namespace) -> list[Job]:
    """Return the searches, first repeats first."""
    found = []
    for repeat in range(max(options.repeats, options.other_repeats)):
        for name in SETTINGS:
            often = name in (PLAIN, DEFAULT)
            if repeat < (options.repeats if often else options.other_repeats):
                is_long = often and repeat < options.long_repeats
                found.append(Job(name, repeat, STOPS[-1] if is_long else STOPS[-2]))
    return found


@cache
def fingerprint() -> str:
    """Return a hash of the code, data and libraries that a search uses."""
    return work_cache.fingerprint(USED)


def read_saved(path: Path) -> dict[Job, Done]:
    """Return what was found before by the same code."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {each.job: each for each in map(Done.of, lines) if each.fingerprint == fingerprint()}


def _run(job: Job, mark: str) -> Done:
    stops = tuple(stop for stop in STOPS if stop <= job.trials)
    return Done(job, mark, StoppingSearch(curve_landscape(), SETTINGS[job.setting], stops, job.repeat).found())


def decision_seconds(trials: int, measured: int) -> list[float]:
    """Return the processor seconds that Ax takes to decide on a curve's next step, after so many whole trials."""
    stopping, chooser = EarlyStopping(40.0, STEPS // 2, 5), np.random.default_rng(0)
    curves = chooser.normal(size=(trials + 1, TRIAL_STEPS)).cumsum(axis=1)
    for trial in range(trials):
        stopping.observe(trial, curves[trial].tolist())
        stopping.completed(trial, float(curves[trial, -1]))
    found = []
    for length in range(STEPS // 2, STEPS // 2 + measured):
        started = time.process_time()
        stopping.observe(trials, curves[trials, :length].tolist())
        stopping.should_stop(trials)
        found.append(time.process_time() - started)
    # The first one takes in a whole curve.
    return found[1:]


def without_stopping(name: str) -> str:
    """Return the setting that one with early stopping is compared with."""
    return PLAIN if SETTINGS[name].slots > 1 else ALONE


def default_claims(found: Mapping[str, Searches]) -> list[Claim]:
    """Return what the default setting saves and costs, with two runs side by side and with one at a time."""
    claims: list[Claim] = []
    for name, prefix in ((DEFAULT, CLAIM), (DEFAULT_ALONE, f"{CLAIM}alone_")):
        for stop in STOPS:
            if reaching(found[name], stop):
                claims += search_claims(prefix, found[name], found[without_stopping(name)], stop).values()
        claims += projection_claims(f"{prefix}projection_", found[name], curve_landscape().ends.span).values()
    return claims


def search_table(found: Mapping[str, Searches], stop: int) -> str:
    """Return what each setting saves and costs, in percent, with 95 % intervals."""
    columns = {
        "steps_saved": "steps saved",
        "stopped": "trials stopped",
        "wrongly_stopped": "of these better than the winner",
        "best_stopped": "searches whose best was stopped",
        "regret": "mean regret",
        "regret_without": "without early stopping",
        "regret_cost": "difference",
        "regret_at_equal_steps": "difference at equal steps",
    }
    rows = []
    for name, searches in found.items():
        if SETTINGS[name].stopping is not None and reaching(searches, stop):
            claims = search_claims("", searches, found[without_stopping(name)], stop)
            cells = [_percent(claims.get(column)) for column in columns]
            rows.append([name, *cells, f"{claims['trials_at_equal_steps'].value:.1f}", claims["steps_saved"].n])
    heading = (f"after {stop} trials, in % [95 %]", *columns.values(), "trials at equal steps", "repeats")
    return markdown(heading, rows)


def _percent(claim: Claim | None) -> str:
    if claim is None:
        return "none"
    return f"{100 * claim.value:.1f} [{100 * claim.low:.1f}, {100 * claim.high:.1f}]"


def advice(found: Mapping[str, Searches], stop: int) -> str:
    """Return in words which setting saves most of those whose cost is known to be small."""
    claims = {
        name: search_claims("", searches, found[PLAIN], stop)
        for name, searches in found.items()
        if SETTINGS[name].stopping is not None and SETTINGS[name].slots > 1 and reaching(searches, stop)
    }
    cheap = {name: each for name, each in claims.items() if each["regret_cost"].high <= TOLERATED}
    bound = f"{100 * TOLERATED:.0f} % of the span (by the upper end of the interval)"
    if not cheap:
        return f"After {stop} trials no setting's regret is known to be higher by at most {bound}."
    best = max(cheap, key=lambda name: cheap[name]["steps_saved"].value)
    saved, cost, equal = (
        _percent(cheap[best][each]) for each in ("steps_saved", "regret_cost", "regret_at_equal_steps")
    )
    return (
        f"Of the settings whose regret after {stop} trials is higher than without early stopping by at most {bound}, "
        f"`{best}` saves most: {saved} % of the steps. Its regret differs by {cost} % of the span after as many "
        f"trials, by {equal} % after as many steps."
    )


def projection_table(found: Mapping[str, Searches]) -> str:
    """Return what each setting's projections are worth, in percent, with 95 % intervals."""
    rows = []
    for name, searches in found.items():
        if SETTINGS[name].stopping is not None:
            claims = projection_claims("", searches, curve_landscape().ends.span)
            rows.append([name, *map(_percent, claims.values())])
    columns = ("bias", "spread", "stated deviation", "true ends within 2 of it", "measured ends within 2 of it")
    return markdown(("projected less true ends, in % [95 %]", *columns), rows)


def _details(options: argparse.Namespace, found: Mapping[str, Searches], done: list[Done]) -> dict[str, object]:
    ends = curve_landscape().ends
    return {
        "settings": {**vars(options), "keep": options.keep.name},
        "early_stopping": {
            name: {
                "slots": setting.slots,
                "stopping": setting.stopping.model_dump() if setting.stopping else None,
            }
            for name, setting in SETTINGS.items()
        },
        "landscape": {"best": ends.best, "span": ends.span},
        "search_cpu_seconds": {
            name: [round(each.found.seconds, 1) for each in done if each.job.setting == name] for name in SETTINGS
        },
        # Trials:regret after so many trials, and after as many steps.
        "regrets": {name: [_short(search) for search in searches.values()] for name, searches in found.items()},
    }


def _short(search: Found) -> str:
    marks = [
        " ".join(f"{count}:{mark.regret:.4f}" for count, mark in sorted(each.items()))
        for each in (search.by_trials, search.by_steps)
    ]
    return "; ".join(marks)
