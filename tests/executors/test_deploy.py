"""The example cluster files, held against the schemas of who reads them."""

from __future__ import annotations

import copy
import gzip
import itertools
import json
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from pipeline.cli import app
from pipeline.config.load import load_config

ROOT = Path(__file__).parents[2]
KUBERAY, RAY_UP = ROOT / "deploy" / "kuberay.yaml", ROOT / "deploy" / "ray-cluster.yaml"
SCHEMA = ROOT / "tests" / "fixtures" / "rayjob_schema.json.gz"


@pytest.fixture
def job() -> dict[str, Any]:
    (found,) = [each for each in yaml.safe_load_all(KUBERAY.read_text()) if each["kind"] == "RayJob"]
    return dict(found)


@pytest.fixture
def ray_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The file as `ray up` completes it, with a token and a key where it looks for them."""
    from ray.autoscaler._private.util import prepare_config

    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (".ray/auth_token", ".ssh/id_ed25519"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    return dict(prepare_config(yaml.safe_load(RAY_UP.read_text())))


def kuberay_schema() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(gzip.decompress(SCHEMA.read_bytes())))


def containers(job: dict[str, Any]) -> list[dict[str, Any]]:
    spec = job["spec"]["rayClusterSpec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [container for group in groups for container in group["template"]["spec"]["containers"]]


def test_the_kuberay_job_is_what_its_definition_asks_for(job: dict[str, Any]) -> None:
    assert [error.message for error in kuberay_schema().iter_errors(job)] == []


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("spec", "rayClusterSpec", "authOptions", "mode"), "password"),
        (("spec", "rayClusterSpec", "authOption"), {"mode": "token"}),
        (("spec", "backoffLimit"), "3"),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "replica"), 1),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0, "volumeMount"), []),
    ],
)
def test_the_definition_notices_what_is_wrong(job: dict[str, Any], place: tuple[Any, ...], value: Any) -> None:
    broken = inner = copy.deepcopy(job)
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    assert not kuberay_schema().is_valid(broken)


def test_the_kuberay_job_demands_a_token_and_holds_no_password(job: dict[str, Any]) -> None:
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    secrets = [entry for each in containers(job) for entry in each.get("env", []) if "PASSWORD" in entry["name"]]
    assert secrets and all("secretKeyRef" in entry["valueFrom"] and "value" not in entry for entry in secrets)


def test_the_kuberay_job_asks_for_trials_that_its_workers_can_run(job: dict[str, Any], tmp_path: Path) -> None:
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:2] == ["shapetune", "launch"] and "launch" in {
        each.callback.__name__ for each in app.registered_commands
    }
    changes = tuple(after for word, after in itertools.pairwise(words) if word == "--set")
    (tmp_path / "config.yaml").write_text("name: s\n")
    executor = load_config(tmp_path / "config.yaml", changes).executor
    group = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    (worker,) = group["template"]["spec"]["containers"]
    limits = worker["resources"]["limits"]
    assert executor.gpus == float(limits["nvidia.com/gpu"]) and executor.cpus == int(limits["cpu"])
    assert executor.slots == group["replicas"] and executor.address == "auto"
    for container in containers(job):
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {words[words.index("--studies") + 1], str(Path(words[2]).parent)} <= mounts


def test_the_images_name_one_version_and_it_is_rays(job: dict[str, Any]) -> None:
    (image,) = {container["image"] for container in containers(job)}
    assert image.endswith(f"ray{ray.__version__}") and job["spec"]["rayClusterSpec"]["rayVersion"] == ray.__version__
    assert f'"ray[default,tune]=={ray.__version__}"' in RAY_UP.read_text()


def test_ray_up_takes_its_file(ray_up: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import validate_config

    validate_config(ray_up)
    with pytest.raises(jsonschema.ValidationError):
        validate_config({**ray_up, "workers": 2})


def test_every_start_of_ray_up_demands_the_token_that_was_sent(ray_up: dict[str, Any]) -> None:
    assert "~/.ray/auth_token" in ray_up["file_mounts"]
    starts = [*ray_up["head_start_ray_commands"], *ray_up["worker_start_ray_commands"]]
    starts = [command for command in starts if "ray start" in command]
    assert len(starts) == 2 and all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
