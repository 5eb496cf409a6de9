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


def show_verdict(config: StudyConfig, folder: StudyFolder, verdict: Verdict | None, console: Console) -> None:
    """Print what the study found: the verdict's first sentence, the table, and the rest."""
    winner = folder.winner()
    if winner is None:
        console.print("No trial of the search succeeded; shapetune status shows each one's reason.")
    console.print()
    if verdict is not None:
        runs = confirmation_runs(folder)
        console.print(f"[bold]{_plain(verdict.text[0])}[/]\n")
        console.print(_fitting_table(runs, verdict, console))
        console.print()
        for line in (*_notes(runs, verdict), *verdict.text[1:]):
            console.print(_plain(line))
    elif winner is not None:
        if config.confirm.seeds:
            console.print(f"No run of the winner on fresh seeds succeeded; why stands in {_plain(folder.confirm)}.")
        console.print("Nothing was confirmed on fresh seeds, so nothing is claimed.")
    if winner is not None:
        console.print(f"\nwinner of the search: {_plain(winner.name)}: {_plain(winner.candidate.describe())}")
        stopped = _stopped_early(folder)
        console.print(stopped, end="\n" if stopped else "")


def show_places(config: StudyConfig, folder: StudyFolder, console: Console, wall_seconds: float) -> None:
    """Print where everything is, and the commands that one may want next."""
    shown = _plain(shown_path(folder.root))
    console.print(f"\nstudy   {shown}, {wall_seconds:.0f} s")
    console.print(f"report  {_plain(shown_path(folder.report_file))}, for a browser")
    if folder.winner() is None:
        return
    console.print(f"shape   {_plain(shown_path(folder.export / 'shape.json'))}")
    for reached in folder.bounds():
        console.print(f"widen   {_plain(reached.remedy)}, under another name")
    console.print(f"export  shapetune export {shown} --format verl, or skyrl, trl, slime")
    console.print(f"more    the same command with --set search.trials={2 * config.search.trials} goes on searching")


def _fitting_table(runs: Runs, verdict: Verdict, console: Console) -> Table:
    """Return the table with as much as fits the console's width without folding a name; at the least J and steps."""
    tables = [
        _table(runs, verdict, sign, columns)
        for columns in (None, ("objective", "reward", "kl_nats"), ("objective", "kl_nats"), ("objective",))
        for sign in (" ± ", "±")
    ]
    widths = [Measurement.get(console, console.options.update(max_width=UNLIMITED), each).maximum for each in tables]
    return next((each for each, width in zip(tables, widths, strict=True) if width <= console.width), tables[-1])


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


def _table(runs: Runs, verdict: Verdict, sign: str, columns: Sequence[str] | None) -> Table:
    """Return the arms with some of the measures; ``None`` shows all."""
    table = Table(box=None, pad_edge=False)
    table.add_column("arm, on fresh seeds", overflow="fold")
    has_gold = all(run.measured("gold_reward") is not None for results in runs.values() for run in results)
    metrics = {"J": "objective", "reward": "reward", "KL, nats": "kl_nats"} | (
        {"gold": "gold_reward"} if has_gold else {}
    )
    metrics = {name: metric for name, metric in metrics.items() if columns is None or metric in columns}
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
