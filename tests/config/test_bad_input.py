"""Bad input ends with exit code 2, one or two lines that name field, value and remedy, and an untouched disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from pipeline.cli import _run
from pipeline.study.folder import StudyFolder
from tests.support.studies import tiny_config, tiny_values

# --set changes, and the words that the error must hold.
BAD_VALUES = [
    ("ppo.stepz=3", ["ppo.stepz", "not a known key", "spelling"]),
    ("colour=red", ["colour", "not a known key"]),
    ("ppo.steps=abc", ["ppo.steps", "abc", "integer"]),
    ("ppo.steps=0", ["ppo.steps", "0", "greater than or equal to 1"]),
    ("ppo.steps=2.5", ["ppo.steps", "2.5", "integer"]),
    ("ppo.learning_rate=-1", ["ppo.learning_rate", "-1", "greater than 0"]),
    ("ppo.learning_rate=.nan", ["ppo.learning_rate", "nan", "finite"]),
    ("ppo.kl_coef=.inf", ["ppo.kl_coef", "inf", "finite"]),
    ("ppo.cliprange=1.5", ["ppo.cliprange", "1.5", "less than 1"]),
    ("ppo.critic_warmup_steps=-1", ["ppo.critic_warmup_steps", "-1"]),
    ("ppo.critic_warmup_steps=5000", ["ppo.critic_warmup_steps = 5000", "set it lower"]),
    ("ppo.critic=oracle", ["ppo.critic", "oracle", "value_head"]),
    ("ppo.kl_estimator=k2", ["ppo.kl_estimator", "k2", "k1"]),
    ("ppo=3", ["ppo", "3", "braces"]),
    ("shape.gamma=0.9", ["gamma", "0.9", "policy_preserving"]),
    ("shape.gamma=0", ["shape.gamma", "0", "greater than 0"]),
    ("shape.unit=word", ["shape.unit", "word", "span"]),
    ("shape.closure=middle", ["shape.closure", "middle", "spread"]),
    ("shape.budget=1", ["shape.budget", "1"]),
    ("shape.gae_lambda=1.2", ["shape.gae_lambda", "1.2"]),
    ("space.name=everything", ["space", "everything", "credit_mix"]),
    ("space.methods=[oracle]", ["space.methods", "oracle", "shapley"]),
    ("space.methods=[prefix, prefix]", ["space.methods", "prefix", "once"]),
    ("space.methods=[sparse]", ["space.methods", "sparse"]),
    ("space.methods=[]", ["space.methods", "at least 1"]),
    ("space.balance=[0.5, 0.2]", ["space.balance", "0.5", "range"]),
    ("space.gae_lambda=[0.6, 1.4]", ["space.gae_lambda", "1.4"]),
    ("space.balance=[0, 0]", ["space.balance", "sparse"]),
    ("search.trials=1", ["search.trials", "1", "at least"]),
    ("search.seeds=[1, 1]", ["search.seeds", "distinct"]),
    ("search.seeds=[]", ["search.seeds", "at least 1"]),
    ("search.seeds=[-1]", ["search.seeds", "negative"]),
    ("search.objective=luck", ["search.objective", "luck", "final"]),
    ("confirm.seeds=[0, 7]", ["confirm.seeds", "[0]", "search.seeds"]),
    ("executor.slots=0", ["executor.slots", "0"]),
    ("executor.name=slurm", ["executor.name", "slurm", "ray"]),
    ("task.name=poetry", ["task.name", "poetry", "sentiment"]),
    ("task.recipe.layers=0", ["task.recipe.layers", "0"]),
    ("task.recipe.hidden_size=13", ["task.recipe.hidden_size", "13", "multiple"]),
    ("name=../escape", ["name", "../escape"]),
    ("name=", ["name"]),
    ("evaluation.prompts=1", ["evaluation.prompts", "1"]),
    ("sampling.temperature=0", ["sampling.temperature", "0"]),
    ("ppo.adam_betas=[0.9, 2]", ["ppo.adam_betas", "[0.9, 2]", "less than 1"]),
    ("ppo.adam_betas=[-0.1, 0.9]", ["ppo.adam_betas", "-0.1", "at least 0"]),
    ("ppo.adam_betas=[0.9, .nan]", ["ppo.adam_betas", "nan", "finite"]),
    ("ppo.adam_betas=[]", ["ppo.adam_betas"]),
    ("ppo.adam_epsilon=1e-300", ["ppo.adam_epsilon", "1e-30"]),
    ("ppo.value_head_speedup=1e300", ["ppo.value_head_speedup", "1e300"]),
    ("ppo.num_mini_batches=100", ["ppo.num_mini_batches = 100", "ppo.batch_size"]),
    ("ppo.steps=yes", ["ppo.steps", "True", "number"]),
    ("ppo.learning_rate=on", ["ppo.learning_rate", "True", "number"]),
    ("ppo.adam_betas=[no, 0.9]", ["ppo.adam_betas", "number"]),
    ("ppo.steps=1:30", ["ppo.steps", "1:30", "integer"]),
    ("ppo.steps=null", ["ppo.steps", "integer", "remove"]),
    ("ppo.save_steps=100000000000000000000000", ["ppo.save_steps", "beyond"]),
    ("ppo=null", ["ppo", "remove"]),
    ("search.seeds=[5000000000]", ["search.seeds", "5000000000", "at most"]),
    ("search.seeds=[yes]", ["search.seeds", "number"]),
    ("search.seed=5000000000", ["search.seed", "5000000000"]),
    ("sampling.temperature=1e-300", ["sampling.temperature", "0.001"]),
    ("sampling.stop_at_eos=perhaps", ["sampling.stop_at_eos", "perhaps", "true or false"]),
    ("sampling.importance_cap=2", ["sampling", "importance_cap", "transformers", "leave it out"]),
    ("sampling.vllm={}", ["sampling.vllm", "engine = transformers", "leave it out"]),
    ("sampling={engine: vllm, vllm: {url: node:8000}}", ["sampling.vllm.url", "http://"]),
    ("sampling.engine=sglang", ["sampling.engine", "sglang", "continuous"]),
    ("executor.gpus=1.5", ["executor.gpus", "1.5", "whole"]),
    ("executor.stall_minutes=1e300", ["executor.stall_minutes", "1e300"]),
    ("search.seeds=5", ["search.seeds", "5", "list"]),
    ("sampling={1: 2}", ["sampling.1", "quotes"]),
    ("name=2024-01-01", ["name", "date", "quotes"]),
    ("name=5", ["name", "5", "quotes"]),
    ('task.policy="a\\0b"', ["task.policy", "NUL"]),
    ('name="\\ud83d"', ["name", "Unicode"]),
    ("task.recipe.policy_learning_rate=.inf", ["task.recipe.policy_learning_rate", "finite"]),
    ("task.recipe.seed=100000000000", ["task.recipe.seed", "100000000000"]),
    ("task.recipe.heads=3", ["hidden_size", "heads = 3"]),
    ("task={name: sentiment, name: prompts}", ["--set task", "name", "twice"]),
    ("ppo.steps", ["--set", "ppo.steps", "key=value"]),
    ("name.first=x", ["name.first", "section"]),
    ("ppo.steps=[1", ["ppo.steps", "YAML"]),
]


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_values()))
    return path


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run the command line, expect a refusal, and return what it said."""
    assert _run(arguments) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert 1 <= len(said.strip().splitlines()) <= 3, said
    return said


@pytest.mark.parametrize(("change", "words"), BAD_VALUES, ids=[change for change, _ in BAD_VALUES])
def test_bad_value_is_refused_by_name(
    change: str, words: list[str], config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    studies = tmp_path / "studies"
    said = refused(["launch", str(config_file), "--set", change, "--studies", str(studies)], capsys)
    for word in words:
        assert word in said
    assert not studies.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["mapping"]),
        (b"- a\n- b\n", ["list", "mapping"]),
        (b"name: [unclosed\n", ["YAML", "line"]),
        (b"name: x\nppo: {steps: 1\n", ["YAML"]),
        (b"\xff\xfe\x00", ["cannot be read"]),
        (b"ppo: {steps: 2}\n", ["name", "missing"]),
        (b"name: !!python/object/apply:os.system ['true']\n", ["YAML"]),
    ],
    ids=["empty", "list", "unclosed", "unclosed map", "not text", "no name", "python object"],
)
def test_bad_file_is_refused(
    content: bytes, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    said = refused(["launch", str(path), "--studies", str(tmp_path / "studies")], capsys)
    for word in words:
        assert word in said
    assert not (tmp_path / "studies").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["launch", "no-such-config"], ["no-such-config", "quickstart"]),
        (["launch", "nowhere/at-all.yaml"], ["nowhere/at-all.yaml", "built-in"]),
        (["launch"], ["CONFIG"]),
        (["lunch"], ["lunch", "launch"]),
        (["status", "nowhere"], ["nowhere", "no study"]),
        (["report", "nowhere"], ["nowhere", "no study"]),
        (["export", "nowhere"], ["nowhere", "no study"]),
        (["export", "nowhere", "--format", "openrlhf"], ["OpenRLHF", "--format verl"]),
        (["export", "nowhere", "--format", "nemo"], ["nemo", "shape, verl, skyrl, trl, slime"]),
        (["export", "nowhere", "--format", "trl"], ["no study in nowhere"]),
        (["status", "nowhere", "--colour"], ["--colour"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_command_is_refused(arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(arguments, capsys)
    for word in words:
        assert word in said


def test_folder_of_another_config_is_refused(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = StudyFolder(tmp_path / "studies" / "tiny")
    folder.create(tiny_config())
    before = folder.config_file.read_text()
    arguments = ["launch", str(config_file), "--set", "ppo.steps=3", "--studies", str(tmp_path / "studies")]
    said = refused(arguments, capsys)
    for word in ("ppo.steps", "2", "3", "name"):
        assert word in said
    assert folder.config_file.read_text() == before
    assert sorted(path.name for path in folder.root.iterdir()) == ["study.yaml"]


def test_foreign_folder_is_refused(config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = tmp_path / "studies" / "tiny"
    foreign.mkdir(parents=True)
    (foreign / "thesis.tex").write_text("years of work")
    said = refused(["launch", str(config_file), "--studies", str(tmp_path / "studies")], capsys)
    assert "not empty" in said
    assert [path.name for path in foreign.iterdir()] == ["thesis.tex"]


def test_studies_that_is_a_file_is_refused(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "studies").write_text("a file")
    said = refused(["launch", str(config_file), "--studies", str(tmp_path / "studies")], capsys)
    assert "is a file" in said and "--studies" in said
    assert (tmp_path / "studies").read_text() == "a file"


def test_unwritable_folder_is_refused(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The superuser may write anywhere, so permissions alone would not test this everywhere.
    monkeypatch.setattr("pipeline.study.folder.os.access", lambda *_: False)
    said = refused(["launch", str(config_file), "--studies", str(tmp_path / "studies")], capsys)
    assert "cannot be written" in said and "--studies" in said
    assert not (tmp_path / "studies").exists()


def test_full_disk_is_refused(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage(tmp_path)._replace(free=10 * 2**20)
    monkeypatch.setattr("pipeline.study.folder.shutil.disk_usage", lambda *_: full)
    said = refused(["launch", str(config_file), "--studies", str(tmp_path / "studies")], capsys)
    assert "10 MiB free" in said
    assert not (tmp_path / "studies").exists()


def test_second_launch_of_a_running_study_is_refused(tmp_path: Path) -> None:
    from shaping.errors import ShapetuneError

    folder = StudyFolder(tmp_path / "tiny")
    folder.create(tiny_config())
    with folder.locked(), pytest.raises(ShapetuneError, match="process"), StudyFolder(folder.root).locked():
        pass
