"""Looks at a config's models in a process of its own: ``python -m pipeline.trials.model_check ANSWER < QUESTION``.

To look at models is to load them. A driver that did so itself would keep what they took, beside workers that load
models of their own; and where they do not fit into its memory, the study would end without a word.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config.load import parse_config
from pipeline.config.schema import StudyConfig
from pipeline.runtime.files import read_json, write_json
from shaping.errors import ConfigError, ShapeError, ShapetuneError, TrialFailed


def ask_apart(config: StudyConfig, assets: Path | None) -> dict[str, Any]:
    """Return what ``answer`` returns in a process of its own.

    Raises:
        ShapetuneError: What it raises there, or it was ended from outside: there was not memory enough, most often.
    """
    question = json.dumps({"config": config.model_dump(mode="json"), "assets": None if assets is None else str(assets)})
    with tempfile.TemporaryDirectory(prefix="shapetune-models-") as folder:
        file = Path(folder) / "answer.json"
        # What this process imports from, the other one has to find as well.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        command = [sys.executable, "-m", "pipeline.trials.model_check", str(file)]
        # A session of its own: Ctrl+C is ours to answer.
        with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, start_new_session=True) as asked:
            try:
                asked.communicate(question.encode())
            except BaseException:
                asked.kill()
                raise
        found: dict[str, Any] | None = read_json(file)
    if found is None:
        raise _ended(asked.returncode)
    if "error" in found:
        raise _error(found["error"])
    return found


def _ended(code: int) -> Exception:
    if code != -signal.SIGKILL:
        return RuntimeError(f"the process that looked at the models ended with {code}; it has said why above")
    return ShapetuneError(
        "task: the process that loaded the models to look at them was killed: they do not fit into this machine's "
        "memory beside what runs there",
        "load them in half precision (dtype: bfloat16), or launch from a machine with more memory",
    )


def _plain(error: ShapetuneError) -> dict[str, str]:
    kind = next(each for each in (TrialFailed, ConfigError, ShapeError, ShapetuneError) if isinstance(error, each))
    said = error.detail if isinstance(error, TrialFailed) else error.message
    return {"kind": kind.__name__, "reason": getattr(error, "reason", ""), "message": said, "hint": error.hint}


def _error(plain: Mapping[str, str]) -> ShapetuneError:
    if plain["kind"] == TrialFailed.__name__:
        return TrialFailed(plain["reason"], plain["message"], plain["hint"])
    kinds = {each.__name__: each for each in (ConfigError, ShapeError, ShapetuneError)}
    return kinds[plain["kind"]](plain["message"], plain["hint"])


def main() -> None:
    """Answer the question on standard input in the file that is named."""
    from pipeline.trials.task_models import known_of_models

    question = json.loads(sys.stdin.read())
    config, assets = parse_config(question["config"], "study"), question["assets"]
    try:
        found = known_of_models(config, None if assets is None else Path(assets))
    except ShapetuneError as error:
        found = {"error": _plain(error)}
    write_json(Path(sys.argv[1]), found)


if __name__ == "__main__":
    main()
