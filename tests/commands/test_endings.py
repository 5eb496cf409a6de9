"""How commands end: a study that found nothing says so, and output is shown in any encoding."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import yaml

from pipeline.cli import _run, main
from pipeline.runtime.console import open_console, replace_unshowable

TRAINER = """
from shaping.errors import TrialFailed

def train(job):
    for step in range(job.steps):
        if job.seed in job.config["trainer"]["options"]["fails"]:
            raise TrialFailed("collapse", "one token was all of it")
        yield step, {"objective": 1.0, "reward": 1.0, "kl_nats": 0.0}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fails", "words"),
    [
        ([0], "No trial of the search succeeded"),
        ([100], "No run of the winner on fresh seeds succeeded"),
    ],
    ids=["search", "confirmation"],
)
def test_a_study_of_which_nothing_succeeded_ends_with_code_1(
    fails: list[int], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(TRAINER)
    values = {
        "name": "s",
        "trainer": {"function": f"{tmp_path / 'mine.py'}:train", "options": {"fails": fails}},
        "space": {"name": "balance", "methods": ["prefix"]},
        "ppo": {"steps": 2},
        "search": {"trials": 2, "sobol_trials": 0, "seeds": [0]},
        "confirm": {"seeds": [100]},
        "executor": {"name": "local"},
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(values))
    launch = ["launch", str(tmp_path / "own.yaml"), "--studies", str(tmp_path / "studies")]
    assert _run(launch) == 1
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("encoding", "errors", "shown"),
    [
        ("ascii", "strict", b"J ? 0.3 na?ve ??"),
        ("ascii", "surrogateescape", b"J ? 0.3 na?ve ??"),
        ("cp1252", "strict", b"J \xb1 0.3 na\xefve ??"),
        ("latin-1", "strict", b"J \xb1 0.3 na\xefve ??"),
        ("ascii", "backslashreplace", b"J \\xb1 0.3 na\\xefve \\u65e5\\U0001f600"),
        ("utf-8", "strict", "J ± 0.3 naïve 日😀".encode()),
    ],
)
def test_what_an_encoding_cannot_show_is_replaced(encoding: str, errors: str, shown: bytes) -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding=encoding, errors=errors)
    replace_unshowable(stream, io.StringIO(), None)
    open_console(file=stream).print("J ± 0.3 naïve 日😀")
    stream.flush()
    assert written.getvalue().rstrip() == shown


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_the_command_line_speaks_in_any_encoding(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    for arguments, code in ((["launch", str(tmp_path / "日±.yaml")], 2), (["--help"], 0)):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == code
    for stream in (out, err):
        stream.flush()
        assert stream.buffer.getvalue()  # type: ignore[attr-defined]
