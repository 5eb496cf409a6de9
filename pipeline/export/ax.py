"""The exported search: a study's trials as a client of Ax, for any machine that has Ax."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from pipeline.export.export import Written
from pipeline.runtime.files import write_text
from pipeline.search.detached import snapshot
from pipeline.study.folder import StudyFolder
from pipeline.study.replay import replayed

FILE = "ax_client.json"


def export_search(folder: StudyFolder, target: Path) -> Written:
    """Write ``ax_client.json``, which ``ax.api.client.Client.load_from_json_file`` reads without this project.

    Args:
        folder: The study, running or ended.
        target: The folder to write into.

    Raises:
        ShapetuneError: Fewer than two trials have completed, or a file of the study is damaged.
    """
    text = snapshot(replayed(folder).outer.detached_client())
    target.mkdir(parents=True, exist_ok=True)
    write_text(target / FILE, text)
    note = f"ax-platform {version('ax-platform')} wrote it: Client.load_from_json_file({FILE!r}) reads it; "
    return Written((target / FILE,), (f"{note}get_next_trials or compute_analyses fit its model, predict needs it",))
