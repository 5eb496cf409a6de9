"""What a benchmark leaves behind: ``results/NAME.json`` with its claims, and its tables as Markdown."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, stdev

import psutil
import torch
from scipy.stats import t as student

RESULTS = Path(__file__).parents[1] / "results"
# The page that shows the tables.
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
MARKED_END = "<!-- end -->"


@dataclass(frozen=True)
class Claim:
    """A measured number: its value, its 95 % interval and what it was measured on.

    Attributes:
        name: As the project refers to it.
        value: Mean over the ``n`` measurements.
        low: Lower end of the interval.
        high: Upper end.
        n: Independent measurements; one gives no interval, and both ends are the value.
    """

    name: str
    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, name: str, measured: Sequence[float]) -> Claim:
        """Return the claim of repeated measurements, with Student's interval of their mean."""
        mean, count = fmean(measured), len(measured)
        half = float(student.ppf(0.975, count - 1)) * stdev(measured) / count**0.5 if count > 1 else 0.0
        return cls(name, mean, mean - half, mean + half, count)


def write(
    name: str, claims: Sequence[Claim], tables: str, details: dict[str, object], commit: str, module: str = ""
) -> None:
    """Write ``results/NAME.json`` and ``results/NAME.md`` and print the tables.

    Args:
        name: Of the files.
        claims: What was measured.
        tables: Markdown.
        details: Settings and whatever else explains the numbers.
        commit: What ``current_commit`` returned before the measurement began.
        module: Of the benchmark, where it is not called as its files are.
    """
    RESULTS.mkdir(exist_ok=True)
    record = {
        **provenance(module or name, commit),
        "claims": [asdict(claim) for claim in claims],
        "details": details,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    heading = f"`{record['command']}`, {record['date']}, {record['machine']}\n\n"
    (RESULTS / f"{name}.md").write_text(heading + tables + "\n")
    print(tables)


def show(name: str, text: str, page: Path = PAGE) -> None:
    """Put ``text`` between the page's marks ``measured: NAME`` and ``end``, below the command and the date.

    Raises:
        ValueError: The page has no such marks.
    """
    record = json.loads((RESULTS / f"{name}.json").read_text())
    told, mark = page.read_text(), f"<!-- measured: {name} -->\n"
    before, found, rest = told.partition(mark)
    _, end, after = rest.partition(MARKED_END)
    if not found or not end:
        raise ValueError(f"{page} has no {mark.strip()} with {MARKED_END} behind it: put both where the table belongs")
    page.write_text(f"{before}{mark}`{record['command']}`, {record['date']}.\n\n{text}\n\n{end}{after}")


def markdown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def provenance(module: str, commit: str) -> dict[str, str]:
    """Return what a benchmark's numbers come from: its command, the code's commit, the date and the machine."""
    command = f"python -m benchmarks.{module} {' '.join(sys.argv[1:])}".strip()
    return {"command": command, "commit": commit, "date": today(), "machine": machine()}


def interval(found: Claim, form: str = "+.3f") -> str:
    """Return a claim's value and its interval in words, each number in the given format."""
    return f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]"


def plain(name: str) -> str:
    """Return a name as it stands in a claim's: lower case, with one underscore for all that is no letter or digit."""
    return "_".join("".join(sign if sign.isalnum() else " " for sign in name.lower()).split())


def machine() -> str:
    """Return the machine in words: processor, cores, memory, torch, and the GPU where there is one."""
    cpus = [line.split(":")[1].strip() for line in _cpu_info() if line.startswith("model name")]
    parts = [
        f"{cpus[0] if cpus else platform.machine()}, {psutil.cpu_count()} cores",
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "one thread" if torch.get_num_threads() == 1 else f"{torch.get_num_threads()} threads",
        f"torch {torch.__version__}",
    ]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join(parts)


def today() -> str:
    """Return the date, in ISO 8601."""
    return datetime.now(UTC).date().isoformat()


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def current_commit() -> str:
    """Return the commit of the code, with ``-dirty`` where files differ from it."""
    command = ["git", "-C", str(RESULTS.parent), "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
