"""Does the quickstart keep its promises: a winner that beats the best rival, on no bound, within minutes?

    python -m benchmarks.quickstart

Ten quickstart studies under other seeds, ten more of which only the search runs, and three fresh clones with an empty
cache in which ``make quickstart`` is called. Studies stand in ``build/quickstart``: what has finished is not run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from scipy.stats import beta

from benchmarks.common.record import Claim, current_commit, interval, markdown, write
from benchmarks.quickstart.clones import Timing, timed_clones
from benchmarks.quickstart.studies import Found, found_by, run_study

NAME = "quickstart"


def count_claim(name: str, hits: int, among: int) -> Claim:
    """Return the claim of how many of ``among`` studies had something, with the interval of Clopper and Pearson."""
    low = 0.0 if hits == 0 else float(beta.ppf(0.025, hits, among - hits + 1))
    high = 1.0 if hits == among else float(beta.ppf(0.975, hits + 1, among - hits))
    return Claim(name, hits, low * among, high * among, among)


def claims_of(studies: Sequence[Found], timings: Sequence[Timing]) -> list[Claim]:
    """Return what was measured."""
    gains = [each.gain for each in studies if each.gain is not None]
    gain = Claim.of(f"{NAME}.gain_over_best_rival", gains)
    claims = [
        count_claim(f"{NAME}.not_below_best_rival", sum(each >= 0 for each in gains), len(gains)),
        gain,
        Claim(f"{NAME}.gain_over_best_rival_low", gain.low, gain.low, gain.high, gain.n),
        count_claim(f"{NAME}.winners_on_a_bound", sum(bool(each.bounds) for each in studies), len(studies)),
    ]
    for name in Timing.__dataclass_fields__ if timings else ():
        claims.append(Claim.of(f"{NAME}.{name}", [getattr(each, name) for each in timings]))
    return claims


def tables_of(studies: Sequence[Found], claims: Sequence[Claim]) -> str:
    """Return claims and studies as Markdown."""
    rows = [(f"`{each.name}`", interval(each, ".3f"), each.n) for each in claims]
    found = [
        (
            each.seed,
            each.winner,
            "-" if each.objective is None else f"{each.objective:.3f}",
            each.best_rival or "-",
            "-" if each.gain is None else f"{each.gain:+.3f}",
            ", ".join(each.bounds) or "none",
            each.commit,
        )
        for each in studies
    ]
    return "\n\n".join(
        (
            markdown(("claim", "value and 95 % interval", "n"), rows),
            markdown(("seed", "winner of the search", "J", "best rival", "gain over it", "on bounds", "commit"), found),
        )
    )


def main() -> None:
    """Run them and write ``results/quickstart.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=10, help="whole studies")
    parser.add_argument("--searches", type=int, default=10, help="studies more that confirm nothing")
    parser.add_argument("--clones", type=int, default=3, help="fresh clones that are timed")
    options, commit = parser.parse_args(), current_commit()
    timings = timed_clones(options.clones)
    whole = [found_by(run_study(seed, is_confirmed=True)) for seed in range(options.studies)]
    seeds = range(options.studies, options.studies + options.searches)
    studies = whole + [found_by(run_study(seed, is_confirmed=False)) for seed in seeds]
    claims = claims_of(studies, timings)
    details: dict[str, object] = {
        "studies": [vars(each) for each in studies],
        "timings": [vars(each) for each in timings],
    }
    write(NAME, claims, tables_of(studies, claims), details, commit)


if __name__ == "__main__":
    main()
