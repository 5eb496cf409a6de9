"""The responses that a study kept word for word: its winner's own, on held-out prompts."""

from __future__ import annotations

from typing import Any

from pipeline.runtime.files import read_kept, understood
from pipeline.study.folder import StudyFolder
from pipeline.study.study import confirmation_runs
from pipeline.trainers.ppo.evaluation import SampleText


def winner_texts(folder: StudyFolder) -> list[SampleText]:
    """Return what the winner answered in its first run on fresh seeds, or of the search where there is none.

    Raises:
        ShapetuneError: A file of the study is not what shapetune writes.
    """
    runs = confirmation_runs(folder).get("winner") or _search_runs(folder)
    with understood(folder.root):
        return [_text(kept) for kept in runs[0]["evaluation"]["texts"]] if runs else []


def _search_runs(folder: StudyFolder) -> list[dict[str, Any]]:
    name = read_kept(folder.winner_file, lambda kept: kept["name"])
    found = [read_kept(path, lambda kept: (kept["arm"]["name"], kept["runs"])) for path in folder.results()]
    return [run for each in found if each is not None and each[0] == name for run in each[1]]


def _text(kept: dict[str, Any]) -> SampleText:
    prompt, response = ([int(token) for token in kept[f"{part}_ids"]] for part in ("prompt", "response"))
    return SampleText(str(kept["prompt"]), str(kept["response"]), prompt, response, float(kept["score"]))
