"""What tests of the server share: a folder of studies, a client, and the command itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from pipeline.serve.app import make_app
from pipeline.serve.server import LOOPBACK
from tests.support.reports.synthetic_study import SyntheticStudy
from tests.support.waiting import LIMIT_SECONDS

REPOSITORY = Path(__file__).parents[3]


def client_of(source: Any, **options: Any) -> TestClient:
    return TestClient(make_app(source, LOOPBACK), base_url="http://localhost:8410", **options)


def finish(study: SyntheticStudy) -> None:
    """Give results what a study's own have: status reads metrics, which reports work out themselves."""
    for path in study.folder.trials.glob("*/result.json"):
        kept = json.loads(path.read_text())
        mean = kept["runs"][0]["evaluation"]["objective"]
        path.write_text(json.dumps({**kept, "metrics": {"objective": [mean, 0.1], "kl_nats": [9.0, None]}}))


def write_studies(tmp_path: Path) -> Path:
    """Make a folder with a whole study, one that was only begun, and things that are no studies; return it."""
    root = tmp_path / "studies"
    whole = SyntheticStudy(root / "whole")
    whole.search()
    whole.confirm()
    whole.tokens()
    finish(whole)
    SyntheticStudy(root / "begun")
    (root / "empty").mkdir()
    (root / "file.txt").write_text("no study")
    (tmp_path / "secret").mkdir()
    SyntheticStudy(tmp_path / "secret" / "study")
    return root


@contextmanager
def served(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the command and yield it with the address that it printed."""
    command = [sys.executable, "-m", "pipeline.cli", "serve", *arguments]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        address = re.search(r"http://\S+", said)
        assert address is not None, said
        try:
            yield process, address[0]
        finally:
            process.kill()


def get(address: str) -> str:
    with urllib.request.urlopen(address, timeout=LIMIT_SECONDS) as answer:
        text: str = answer.read().decode()
        return text
