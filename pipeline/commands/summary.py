"""The end of a launch: the table of confirmed arms, the verdict in words, and where everything is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from pipeline.config.schema import StudyConfig
from pipeline.study.confirm_stage import confirmation_runs
from pipeline.study.folder import StudyFolder
from pipeline.study.status import read_status
from pipeline.study.verdict import UNTRAINED, Runs, Verdict, untrained_runs
from pipeline.trials.arm import WINNER
from pipeline.trials.records import TrialState
from pipeline.trials.results import RunResult, certificate_of
from pipeline.trials.statistics import mean_and_error
from shaping.printable import printable

# More columns than any table takes.
UNLIMITED = 1_000


def show_summary(
    config: StudyConfig, folder: StudyFolder, verdict: Verdict | None, console: Console, wall_seconds: float
) -> None:
    """Print what the study found."""
    winner = folder.winner()
    if winner is None:
        console.print("No trial of the search succeeded; shapetune status shows each one's reason.")
    else:
        stopped = _stopped_early(folder)
        if stopped:
            console.print(f"\n{stopped}")
        console.print(f"\nwinner of the search: {_plain(winner.name)}: {winner.shape.describe()}\n")
    if verdict is not None:
        runs = confirmation_runs(folder)
        table = _table(runs, verdict)
        fits = Measurement.get(console, console.options.update(max_width=UNLIMITED), table).maximum <= console.width
        console.print(table if fits else _table(runs, verdict, "±"))
        console.print()
        for line in _notes(runs, verdict):
            console.print(_plain(line))
        console.print()
        for line in verdict.text:
            console.print(_plain(line))
    elif winner is not None:
        if config.confirm.seeds:
            console.print(f"No run of the winner on fresh seeds succeeded; why stands in {_plain(folder.confirm)}.")
        console.print("Nothing was confirmed on fresh seeds, so nothing is claimed.")
    console.print(f"\nstudy   {_plain(shown_path(folder.root))}, {wall_seconds:.0f} s")
    console.print(f"report  {_plain(shown_path(folder.report_file))}")
    if winner is not None:
        console.print(f"shape   {_plain(shown_path(folder.export / 'shape.json'))}")


def came_to_nothing(folder: StudyFolder) -> bool:
    """Return whether a study that has ended found nothing: no trial succeeded, or no run that was to confirm one."""
    if folder.winner() is None:
        return True
    return bool(folder.config().confirm.seeds) and not confirmation_runs(folder).get(WINNER)


def _plain(text: object) -> str:
    """Return names and paths so that the console shows them and neither obeys nor formats them."""
    return escape(printable(str(text)))


def _stopped_early(folder: StudyFolder) -> str:
    """Return in words how many trials were stopped; empty where none was."""
    rows = read_status(folder)
    stopped = sum(row["state"] == TrialState.STOPPED for row in rows)
    return f"{stopped} of {len(rows)} trials {'was' if stopped == 1 else 'were'} stopped early." if stopped else ""


def shown_path(path: Path) -> Path:
    """Return the path as one would type it here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _table(runs: Runs, verdict: Verdict, sign: str = " ± ") -> Table:
    """Return the arms, with columns that stay whole at 80 columns; a long name is folded."""
    table = Table(box=None, pad_edge=False)
    table.add_column("arm, on fresh seeds", overflow="fold")
    has_gold = all(run.measured("gold_reward") is not None for results in runs.values() for run in results)
    metrics = {"J": "objective", "reward": "reward", "KL, nats": "kl_nats"} | (
        {"gold": "gold_reward"} if has_gold else {}
    )
    for name in (*metrics, "steps"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in _order(runs):
        steps = verdict.steps_to_level.get(name)
        cells = [_shown(runs[name], metric, sign) for metric in metrics.values()]
        table.add_row(_plain(name), *cells, "-" if steps is None else str(steps))
    if untrained := untrained_runs(runs):
        table.add_row(UNTRAINED, *(_shown(untrained, metric, sign) for metric in metrics.values()), "")
    return table


def _order(runs: Runs) -> list[str]:
    """Return the arms, the winner first, then by J."""
    return sorted(runs, key=lambda name: (name != WINNER, -_means(runs[name], "objective")[0]))


def _notes(runs: Runs, verdict: Verdict) -> Iterator[str]:
    """Yield what the columns leave out: which level the steps lead to, and the certificates."""
    if verdict.tuned_rival:
        level = f"of {verdict.total_steps}, to the final level of '{verdict.tuned_rival}'; - where it is not reached"
        yield f"steps   {level}"
    certificates = {name: certificate_of(runs[name]) for name in _order(runs)}
    checked = {name: each for name, each in certificates.items() if each.responses}
    broken = [name for name, each in checked.items() if not each.return_preserving]
    kept = "kept in every run" if checked else "nothing checked"
    yield f"sums    {'SUMS BROKEN: ' + '; '.join(broken) if broken else kept}"
    causal = [name for name, each in certificates.items() if each.is_causal]
    yield f"causal  {'; '.join(causal) or 'none'}"


def _means(results: Sequence[RunResult], metric: str) -> tuple[float, float | None]:
    return mean_and_error([float(result.evaluation[metric]) for result in results])


def _shown(results: Sequence[RunResult], metric: str, sign: str) -> str:
    mean, error = _means(results, metric)
    digits = 1 if metric == "kl_nats" else 3
    spread = "" if error is None else f"{sign}{error:.{digits}f}"
    return f"{mean:z.{digits}f}{spread}"
