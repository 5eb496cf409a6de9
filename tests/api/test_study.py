"""``import shapetune``: studies from Python, and their search as a client of Ax."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

import shapetune
from pipeline.cli import _run
from shapetune import ConfigError, Shape, ShapetuneError, Study
from tests.support import slow_trainer
from tests.support.servers.postgres import PASSWORD, PostgresServer
from tests.support.studies import tiny_values

# Whole studies, launched.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_ax_analyses")]

FIXTURE = Path(__file__).parents[1] / "fixtures" / "study_8987f0a"
POINT = {"weight_prefix": 0.5, "weight_attention": 0.2, "gae_lambda": 0.7}
# A machine that has Ax and not this project.
ELSEWHERE = """
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pipeline", "search_spaces", "shaping", "shapetune"):
            raise ImportError(f"{name} is not on this machine")

sys.meta_path.insert(0, Absent())
import json
from ax.api.client import Client
client = Client.load_from_json_file(sys.argv[1])
client.get_next_trials(1)
(found,) = client.predict([json.loads(sys.argv[2])])
print(json.dumps([float(value) for value in found["J"]]))
"""


def values(folder: Path, **changes: Any) -> dict[str, Any]:
    options = {"seconds": 0.0, "log": str(folder / "steps.log")}
    return tiny_values(
        name="s",
        trainer={"function": f"{slow_trainer.__file__}:train", "options": options},
        space={"methods": ["prefix", "attention"]},
        ppo={"steps": 4},
        search={"trials": 5, "sobol_trials": 1, "seeds": [0, 1]},
        confirm={"seeds": [100, 101]},
        **changes,
    )


@pytest.fixture(scope="module")
def ended(without_ax_analyses: None, tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("api")
    return shapetune.launch(values(folder), folder / "studies", quiet=True)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study that was killed in its sixth trial."""
    folder = tmp_path_factory.mktemp("begun")
    with tarfile.open(FIXTURE / "begun.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return Study.open(folder / "begun")


def test_the_package_imports_nothing_heavy_and_names_what_it_has() -> None:
    code = "import sys, shapetune; print(shapetune.__version__, {'torch', 'ax', 'pandas', 'ray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{shapetune.__version__} set()\n"
    assert all(hasattr(shapetune, name) for name in shapetune.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        shapetune.nothing  # noqa: B018
    assert (Path(shapetune.__file__).parent / "py.typed").is_file()


def test_a_launch_returns_its_study_with_everything_it_found(ended: Study) -> None:
    trials = ended.trials()
    assert list(trials["index"]) == [0, 1, 2, 3, 4] and set(trials["state"]) == {"completed"}
    assert list(trials["arm"][:3]) == ["sparse", "prefix", "attention"]
    best = trials.loc[trials["J"].idxmax()]
    assert ended.best_shape.weights["attention"] == pytest.approx(best["shape.weights.attention"])
    verdict = ended.verdict
    assert verdict is not None and {each.rival for each in verdict.differences} >= {"sparse", "uniform"}
    assert not ended.is_running and ended.tokens == () and ended.config.name == ended.name == "s"
    assert isinstance(ended.best_shape, Shape)
    point = ended.point(ended.best_shape)
    assert set(point) == set(POINT) and point["gae_lambda"] == ended.best_shape.gae_lambda
    assert ended.ax_client().predict([point])[0]["J"][0] == pytest.approx(best["J"], abs=0.5)
    assert ended.folder is not None
    again = Study.open(ended.folder)
    assert again.trials().equals(trials) and again.verdict == verdict


def test_launching_again_resumes_and_a_config_may_be_given_in_every_form(
    ended: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended.folder is not None
    studies = ended.folder.parent
    config = ended.config
    capsys.readouterr()
    assert shapetune.launch(config, studies).trials().equals(ended.trials())
    assert "winner of the search" in capsys.readouterr().out
    assert shapetune.launch(config, studies, quiet=True).folder == ended.folder
    assert capsys.readouterr().out == ""
    file = tmp_path / "s.yaml"
    file.write_text(config.to_yaml())
    assert shapetune.load_config(file, "ppo.steps=9").ppo.steps == 9
    with pytest.raises(ConfigError, match=r"ppo\.steps"):
        shapetune.load_config("quickstart", "ppo.steps=-1")
    with pytest.raises(ConfigError, match="nonsense"):
        shapetune.launch({"name": "x", "nonsense": 1}, tmp_path)
    assert not (tmp_path / "x").exists()


def test_a_study_that_was_cut_off_tells_what_it_has(begun: Study) -> None:
    trials = begun.trials()
    assert list(trials["state"]) == ["completed"] * 5 + ["running"]
    assert begun.verdict is None and begun.tokens == ()
    best = trials.loc[trials["J"].idxmax()]
    assert begun.best_shape.gae_lambda == best["shape.gae_lambda"]


def every_file(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_client_of_ax_answers_and_the_study_stays_as_it_is(begun: Study) -> None:
    assert begun.folder is not None
    before = every_file(begun.folder)
    client = begun.ax_client()
    ((mean, error),) = (each["J"] for each in client.predict([POINT]))
    assert 0.3 < mean < 2 and error > 0
    # A better point is believed to be better: attention helped most, at a small lambda.
    ((better, _),) = (each["J"] for each in client.predict([{**POINT, "weight_prefix": 0.0, "weight_attention": 1.0}]))
    assert better > mean
    (index,) = client.get_next_trials(1)
    client.complete_trial(index, {"J": (9.0, 0.1), "kl_nats": 1.0, "reward": 9.0, "certificate_error": 0.0})
    assert len(client.compute_analyses(display=False)) > 0
    assert every_file(begun.folder) == before
    assert len(begun.trials()) == 6 and begun.ax_client().predict([POINT])[0]["J"][0] == pytest.approx(mean)


def test_a_search_without_two_trials_has_no_model(tmp_path: Path) -> None:
    from pipeline.study.folder import StudyFolder

    config = shapetune.load_config("quickstart")
    StudyFolder(tmp_path / "new").create(config)
    study = Study.open(tmp_path / "new")
    with pytest.raises(ShapetuneError, match="0 of the search's trials completed"):
        study.ax_client()
    with pytest.raises(ConfigError, match="no trial has completed yet"):
        _ = study.best_shape
    with pytest.raises(ConfigError, match="no study in"):
        Study.open(tmp_path / "other")


def test_an_exported_search_is_read_by_ax_alone(
    begun: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(["export", str(begun.folder), "--format", "ax", "-o", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "ax_client.json" in said and "load_from_json_file" in said and "shape.json" not in said
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path / "ax_client.json"), json.dumps(POINT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    mean, error = json.loads(done.stdout.splitlines()[-1])
    ((expected, expected_error),) = (each["J"] for each in begun.ax_client().predict([POINT]))
    assert (mean, error) == (pytest.approx(expected, abs=1e-3), pytest.approx(expected_error, abs=1e-3))


def test_a_study_is_opened_from_its_database_alone(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    url = postgres.url(postgres.new_database())
    study = shapetune.launch(values(tmp_path, storage={"url": url}), tmp_path / "studies", quiet=True)
    (tmp_path / "studies").rename(tmp_path / "away")
    alone = Study.open("s", storage=url)
    kept = Study.open(tmp_path / "away" / "s")
    assert list(alone.trials()["J"]) == pytest.approx(list(kept.trials()["J"]))
    assert alone.best_shape.weights["attention"] == pytest.approx(1.0, abs=0.5) and not alone.is_running
    client = alone.ax_client()
    ((mean, _),) = (each["J"] for each in client.predict([POINT]))
    ((expected, _),) = (each["J"] for each in kept.ax_client().predict([POINT]))
    assert mean == pytest.approx(expected, abs=1e-3)
    before = list(alone.trials()["state"])
    client.get_next_trials(1)
    assert list(alone.trials()["state"]) == before
    with pytest.raises(ConfigError, match="only its database is known"):
        _ = alone.verdict
    with pytest.raises(ConfigError, match="holds no study 'other'"):
        Study.open("other", storage=url)
    assert study.name == "s"


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["--version"]) == 0
    assert capsys.readouterr().out == f"shapetune {shapetune.__version__}\n"
