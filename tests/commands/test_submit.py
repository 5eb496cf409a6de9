"""A study as a job of a cluster: what travels, how it ends, and what is refused before anything is sent."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from pipeline.commands.submit import submit_study
from pipeline.executors.ray_jobs import LEFT_OUT, RayJobs, Submission
from pipeline.submitted import SUBMITTED, settle
from shaping.errors import ConfigError, ShapetuneError
from tests.support import slow_trainer
from tests.support.servers.clusters import Cluster, free_port
from tests.support.waiting import LIMIT_SECONDS, wait_until

ROOT = Path(__file__).parents[2]
TRIALS, STEPS = 3, 6
# A name that a shell would obey, in the places where a user's words reach the cluster's shell.
HOSTILE = "a; touch broken $(touch broken) 'b' & c.yaml"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    variables = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_JOB_STOP_WAIT_TIME_S": f"{LIMIT_SECONDS:.0f}",
    }
    with Cluster(variables, dashboard=True, cpus=2) as cluster:
        yield cluster


def write_study(folder: Path, seconds: float, name: str = "config.yaml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(slow_trainer.__file__, folder / "own.py")
    values: dict[str, Any] = {
        "name": "s",
        "trainer": {"function": "own.py:train"},
        "space": {"methods": ["prefix", "attention"]},
        "ppo": {"steps": STEPS},
        "search": {"trials": TRIALS, "sobol_trials": TRIALS, "seeds": [0]},
        "confirm": {"seeds": [100]},
        "executor": {"slots": 2},
    }
    values["trainer"]["options"] = {"seconds": seconds, "log": str(folder.parent / "steps.log")}
    (folder / name).write_text(yaml.safe_dump(values))
    return folder / name


def submit(config: Path, url: str, studies: Path, *more: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli", "submit", str(config), "--address", url, "--studies", str(studies)]
    return subprocess.run(
        [*command, *more],
        cwd=ROOT,
        env={**without_token(), **variables},
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
    )


def without_token() -> dict[str, str]:
    """This process's environment, with a home in which Ray finds no token."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, "HOME": "/nonexistent", "COLUMNS": "300"}


def steps(folder: Path) -> list[str]:
    log = folder / "steps.log"
    return [line.rsplit(" ", 1)[0] for line in log.read_text().splitlines()] if log.exists() else []


@pytest.mark.slow
def test_a_job_that_is_stopped_ends_cleanly_and_a_second_one_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    config, studies = write_study(tmp_path / "sent", 0.3, HOSTILE), tmp_path / "all studies"
    token = {"RAY_AUTH_TOKEN": cluster.token}
    began = submit(config, cluster.url, studies, "--set", "search.warm_start=null", **token)
    assert began.returncode == 0, began.stderr
    job = began.stdout.split()[1].rstrip(",")
    wait_until(lambda: len(steps(tmp_path)) >= 4, "the job makes four steps")
    environment = {**without_token(), **token, "RAY_AUTH_MODE": "token"}
    stop = [str(Path(sys.executable).with_name("ray")), "job"]
    subprocess.run([*stop, "stop", job, "--address", cluster.url], env=environment, check=True, capture_output=True)
    logs = subprocess.run(
        [*stop, "logs", job, "--address", cluster.url], env=environment, capture_output=True, text=True
    )
    assert "stopped by SIGTERM with" in logs.stdout and "the same command resumes" in logs.stdout
    assert "Traceback" not in logs.stdout
    made = steps(tmp_path)
    assert 4 <= len(made) < (TRIALS + 2) * STEPS

    # Another file beside the config makes another package, and so another path on the cluster: the study is the same.
    (config.parent / "notes.txt").write_text("later")
    ended = submit(config, cluster.url, studies, "--follow", "--set", "trainer.options.seconds=0.3", **token)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "winner" in ended.stdout and "Traceback" not in ended.stdout
    everything = steps(tmp_path)
    assert everything[: len(made)] == made
    # A step is noted after it was made: the stop makes one step of each running trial again, and no other.
    assert len(everything) - len(set(everything)) <= 2
    found = sorted(studies.glob("s/trials/*/result.json"))
    assert len(found) == TRIALS
    assert len(set(everything)) % STEPS == 0
    # What the study names is on the shared storage, not in a folder of the cluster that ends with it.
    kept = yaml.safe_load((studies / "s" / "study.yaml").read_text())
    assert kept["trainer"]["function"] == f"{studies / SUBMITTED / 's' / 'own.py'}:train"
    assert not list(tmp_path.rglob("broken")) and not (ROOT / "broken").exists()


@pytest.mark.slow
def test_a_job_that_fails_gives_its_exit_code_and_says_why(cluster: Cluster, tmp_path: Path) -> None:
    config, studies = write_study(tmp_path / "sent", 0.0), tmp_path / "studies"
    (studies / "s").mkdir(parents=True)
    (studies / "s" / "strange").write_text("no study")
    found = submit(config, cluster.url, studies, "--follow", RAY_AUTH_TOKEN=cluster.token)
    assert found.returncode == 2
    assert "holds no study" in found.stdout and "ended with code 2" in found.stdout


@pytest.mark.slow
@pytest.mark.parametrize("token", [{}, {"RAY_AUTH_TOKEN": "0" * 64}, {"RAY_AUTH_MODE": "token"}])
def test_a_stranger_is_refused_at_once(cluster: Cluster, token: dict[str, str], tmp_path: Path) -> None:
    config = write_study(tmp_path / "sent", 0.0)
    found = submit(config, cluster.url, tmp_path / "studies", **token)
    assert found.returncode == 2 and "RAY_AUTH_TOKEN" in found.stderr and "Traceback" not in found.stderr
    assert not (tmp_path / "studies").exists()


@pytest.mark.slow
def test_studies_beside_the_config_do_not_travel(cluster: Cluster, tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import create_package

    config = write_study(tmp_path, 0.0)
    kept = {"config.yaml", "own.py", "data/prompts.jsonl", "lib/build/part.py"}
    left = {"studies/s/big.bin", "results/[old] study/study.yaml", "results/[old] study/trials/1/x", "m/w.safetensors"}
    for name in (*kept, *left, ".git/config", ".venv/x"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text("x")
    (tmp_path / ".gitignore").write_text("data\n")
    package = tmp_path.parent / f"{tmp_path.name}.zip"
    travels = Submission(config, "s", (), tmp_path).runtime_env({})
    create_package(travels["working_dir"], package, include_gitignore=False, excludes=travels["excludes"])
    assert {name for name in zipfile.ZipFile(package).namelist() if not name.endswith("/")} == {*kept, ".gitignore"}


def test_what_a_shell_would_obey_reaches_the_job_as_it_is(tmp_path: Path) -> None:
    # Harmless where the quoting fails: a test must not do what it warns of.
    change = "name=x; true $HOME `true` 'q' \"r\"\n&"
    command = Submission(tmp_path / HOSTILE, "s", (change,), tmp_path / "$(id)").entrypoint()
    # The shell itself is asked, which is what Ray runs the command in.
    spoken = subprocess.run(
        ["sh", "-c", command.replace("python -m", f"{shlex.quote(sys.executable)} -c '{ECHO}'", 1)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(spoken.stdout)[1:] == [
        "s",
        f"./{HOSTILE}",
        str(tmp_path / "$(id)"),
        change,
        "executor.name=ray",
        "executor.address=auto",
    ]


ECHO = "import json, sys; print(json.dumps(sys.argv[1:]))"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "nothing answers there"),
        ({"address": "ray://127.0.0.1:10001"}, "no dashboard"),
        ({"address": "os://127.0.0.1"}, "no dashboard"),
        ({"studies": Path("studies")}, "relative path"),
        ({"requirements": Path("missing.txt")}, "missing.txt does not exist"),
        ({"environment": ("SHAPETUNE_NOT_SET",)}, "SHAPETUNE_NOT_SET: this variable is not set"),
        ({"changes": ("ppo.steps=-1",)}, "ppo.steps"),
        ({"changes": ("trainer.function=own.py:nothing",)}, "has no function nothing"),
    ],
)
def test_what_can_be_seen_to_be_wrong_is_said_before_anything_is_sent(
    given: dict[str, Any], said: str, tmp_path: Path
) -> None:
    config = write_study(tmp_path, 0.0)
    usual: dict[str, Any] = {
        "changes": (),
        "address": f"http://127.0.0.1:{free_port()}",
        "studies": tmp_path / "studies",
        "requirements": None,
        "environment": (),
        "follow": False,
        "console": Console(),
    }
    with pytest.raises(ConfigError, match=said):
        submit_study(str(config), **{**usual, **given})


def test_a_refusal_ends_with_exit_code_2_and_no_traceback(tmp_path: Path) -> None:
    found = submit(write_study(tmp_path, 0.0), f"http://127.0.0.1:{free_port()}", tmp_path / "studies")
    assert found.returncode == 2 and "nothing answers there" in found.stderr and "Traceback" not in found.stderr


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = write_study(tmp_path, 0.0)
    monkeypatch.setitem(sys.modules, "ray.job_submission", None)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ConfigError, match=r"shapetune\[cluster\]"):
            submit_study(str(config), (), url, tmp_path, None, (), False, Console())


def test_a_server_that_is_no_ray_is_refused(tmp_path: Path) -> None:
    served = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert served.stdout is not None
        port = served.stdout.readline().split("port ")[1].split()[0]
        with pytest.raises(ConfigError, match="no Ray cluster takes jobs there"):
            RayJobs(f"http://127.0.0.1:{port}")
    finally:
        served.terminate()
        served.wait()


class Answers:
    """A cluster's job client that gives one answer after another."""

    def __init__(self, *answers: str) -> None:
        self._answers, self.names = list(answers), []

    def submit_job(self, submission_id: str, **_: Any) -> str:
        self.names.append(submission_id)
        answer = self._answers.pop(0)
        if answer:
            raise RuntimeError(f"Request failed with status code 500: {answer.replace('NAME', submission_id)}.")
        return submission_id


NOT_YET = "No available agent to submit job, please try again later."


@pytest.mark.parametrize("last", ["", "Job with submission_id NAME already exists"])
def test_a_cluster_that_just_began_is_asked_again_for_the_same_job(
    last: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    jobs, client = jobs_of(monkeypatch, NOT_YET, NOT_YET, last)
    job = jobs.submit(Submission(tmp_path / "c.yaml", "s", (), tmp_path), {})
    assert client.names == [job] * 3


@pytest.mark.parametrize(
    ("patience", "answer", "said", "asked"), [(0.0, NOT_YET, "no job agent", 1), (60.0, "too large", "rayignore", 1)]
)
def test_a_job_that_is_not_taken_is_no_traceback(
    patience: float, answer: str, said: str, asked: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    jobs, client = jobs_of(monkeypatch, answer, answer, "")
    monkeypatch.setattr("pipeline.executors.ray_jobs.PATIENCE_SECONDS", patience - 1e-9)
    with pytest.raises(ShapetuneError, match=said):
        jobs.submit(Submission(tmp_path / "c.yaml", "s", (), tmp_path), {})
    assert len(client.names) == asked


def jobs_of(monkeypatch: pytest.MonkeyPatch, *answers: str) -> tuple[RayJobs, Answers]:
    monkeypatch.setattr("pipeline.executors.ray_jobs.POLL_SECONDS", 0.0)
    jobs, client = object.__new__(RayJobs), Answers(*answers)
    monkeypatch.setattr(jobs, "_client", client, raising=False)
    return jobs, client


def test_only_the_named_variables_travel(tmp_path: Path) -> None:
    job = Submission(tmp_path / "c.yaml", "s", (), tmp_path, environment=("PGPASSWORD",))
    travels = job.runtime_env({"PGPASSWORD": "secret", "OTHER": "x"})
    assert travels == {
        "working_dir": str(tmp_path),
        "excludes": list(LEFT_OUT),
        "env_vars": {"PGPASSWORD": "secret"},
    }
    assert "secret" not in job.entrypoint()


def test_a_submitted_folder_is_settled_where_the_studies_are(tmp_path: Path) -> None:
    source, studies = tmp_path / "sent", tmp_path / "studies"
    (source / "lib").mkdir(parents=True)
    (source / "config.yaml").write_text("1")
    (source / "lib" / "own.py").write_text("a = 1")
    target = settle(source, "s", studies)
    assert target.is_relative_to(studies) and (target / "lib" / "own.py").read_text() == "a = 1"
    before = (target / "config.yaml").stat().st_ino
    (source / "lib" / "own.py").write_text("a = 2")
    assert settle(source, "s", studies) == target
    assert (target / "lib" / "own.py").read_text() == "a = 2"
    assert (target / "config.yaml").stat().st_ino == before
    assert sorted(path.name for path in target.rglob("*") if path.is_file()) == ["config.yaml", "own.py"]
