"""One GPU: engines, a PPO step in its parts, coalitions and attention rows. It never ran on a GPU yet.

    python -m benchmarks.gpu                                       # some 8 minutes on a GPU of 80 GB
    python -m benchmarks.gpu --vllm-python /opt/vllm/bin/python    # vLLM, too
    python -m benchmarks.gpu --small --device cpu                  # seconds; says that it runs, and nothing of speed

Models of random weights in the shapes of Qwen3: a policy of 1.7B, a reward model of 4B. Nothing is downloaded, and Ray
is not needed. Each part is printed as JSON as soon as it is measured. Peaks stand beside what ``shapetune doctor``
counts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.common.record import Claim, current_commit, markdown, write
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.credit import credit_parts
from benchmarks.gpu.engines import engine_parts
from benchmarks.gpu.models import Workload
from benchmarks.gpu.step import step_parts

COLUMNS = ("part", "wall seconds", "a second", "peak GiB", "the doctor's GiB", "the doctor's seconds")
RATES = ("tokens_per_second", "coalitions_per_second")


def main() -> None:
    """Measure every part, and write ``results/gpu.json`` where the whole sizes were measured."""
    options, commit = _options(), current_commit()
    work = Workload.small(options.device) if options.small else Workload(device=options.device)
    parts = []
    for part in measured(work, options.steps, options.vllm_python):
        print(json.dumps(part), flush=True)
        parts.append(part)
    if not options.small:
        claims = [Claim(f"gpu.{part['part']}", value, value, value, 1) for part in parts for value in _value(part)]
        details: dict[str, object] = {"parts": parts, "gpu": torch.cuda.get_device_name()}
        write("gpu", claims, markdown(COLUMNS, [row_of(part) for part in parts]), details, commit)


def measured(work: Workload, steps: int, vllm_python: str | None) -> Iterator[dict[str, Any]]:
    """Yield every part as it is measured."""
    task = work.task()
    yield from step_parts(work, task, steps)
    Clock(work.device).release()
    yield from engine_parts(work, task, vllm_python)
    del task
    Clock(work.device).release()
    yield from credit_parts(work)


def row_of(part: dict[str, Any]) -> list[str]:
    """Return a part's row of the table."""
    rate = next((part[name] for name in RATES if name in part), None)
    cells = (part.get("wall_seconds"), rate, *(part.get(name) for name in ("peak_gib", "doctor_gib", "doctor_seconds")))
    return [part["part"], *("-" if value is None else f"{value:,.3g}" for value in cells)]


def _value(part: dict[str, Any]) -> list[float]:
    found = next((part[name] for name in (*RATES, "wall_seconds") if part.get(name) is not None), None)
    return [] if found is None else [float(found)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="tiny models: whether it runs; nothing is written")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--steps", type=int, default=2, help="PPO steps that are timed")
    parser.add_argument("--vllm-python", help="the interpreter that has vLLM")
    options = parser.parse_args()
    if options.device == "cpu" and not options.small:
        parser.error("--device cpu would take days: give --small, too")
    return options


if __name__ == "__main__":
    main()
