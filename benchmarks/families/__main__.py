"""Scores and credit of every family that can be built tiny, held against the raw library on each text alone.

    python -m benchmarks.families                # all families, in float32
    python -m benchmarks.families llama bloom    # some; writes nothing

A family is right to its own rounding, or refused by name; else it is silently wrong. Weights are random and wide.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import transformers

from benchmarks.common.record import Claim, current_commit, markdown, show, write
from benchmarks.families.build import kinds
from benchmarks.families.verdict import Unbuilt, Verdict, judged

PAGE = Path(__file__).parents[2] / "docs" / "reward-models.md"
SERVED = ("prefix", "attention", "gradient", "absent_attention")


def main(chosen: Sequence[str]) -> None:
    """Judge the families, and write ``results/families.json`` and the page's table."""
    commit = current_commit()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    found, unbuilt = judge_all(chosen or kinds())
    if chosen:
        return
    causal = [verdict for verdict in found if verdict.side == "causal"]
    wrong = [verdict for verdict in found if verdict.wrong]
    shared = sum(verdict.path == "shared prefixes" for verdict in causal)
    claims = [
        _counted("families.tried", len(found)),
        _counted("families.silently_wrong", len(wrong)),
        _counted("families.causal", len(causal)),
        _counted("families.encoders", len(found) - len(causal)),
        _share("families.fast_path_share", shared, len(causal)),
    ]
    details = {"transformers": transformers.__version__, "unbuilt": unbuilt, "verdicts": [asdict(v) for v in found]}
    tables = "\n\n".join(f"{title}\n\n{_table(rows)}" for title, rows in _sides(found))
    write("families", claims, tables, details, commit)
    show("families", tables, PAGE)


def judge_all(chosen: Sequence[str]) -> tuple[list[Verdict], dict[str, str]]:
    """Return the verdicts of the families that can be built, and why the others cannot."""
    found, unbuilt = [], {}
    for kind in chosen:
        try:
            verdict = judged(kind)
        except Unbuilt as error:
            unbuilt[kind] = str(error)
            continue
        found.append(verdict)
        print(f"{kind}: {verdict.path}; {', '.join(verdict.methods)} {verdict.wrong or ''}", file=sys.stderr)
    return found, unbuilt


def _sides(found: Sequence[Verdict]) -> list[tuple[str, list[Verdict]]]:
    return [
        (title, [verdict for verdict in found if verdict.side == side])
        for title, side in (("Causal models:", "causal"), ("Encoders:", "encoder"))
    ]


def _table(found: Sequence[Verdict]) -> str:
    rows = []
    for verdict in sorted(found, key=lambda each: each.family):
        served = ["yes" if name in verdict.methods else "" for name in SERVED]
        rows.append([f"`{verdict.family}`", verdict.path, *served])
    return markdown(["Family", "Scores", "prefix", "attention", "gradient", "hidden units"], rows)


def _counted(name: str, count: int) -> Claim:
    return Claim(name, count, count, count, 1)


def _share(name: str, some: int, total: int) -> Claim:
    """Return a share with Wilson's interval."""
    share, z = some / total, 1.96
    middle = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * (share * (1 - share) / total + z**2 / (4 * total**2)) ** 0.5
    return Claim(name, share, middle - half, middle + half, total)


def _chosen() -> list[str]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", nargs="*", help="families to judge; all, if none is named")
    found: list[str] = parser.parse_args().family
    return found


if __name__ == "__main__":
    main(_chosen())
