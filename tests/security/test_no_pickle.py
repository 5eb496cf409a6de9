"""No pickle is read: not from a study's folder, not from its database, not from a model's folder."""

from __future__ import annotations

import json
import pickle
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from pipeline.config.load import load_config, parse_config
from pipeline.report.load import load_report_data
from pipeline.search.outer_loop import OuterLoop
from pipeline.study.folder import StudyFolder
from pipeline.study.status import read_status
from pipeline.tasks.model_settings import RewardSettings
from pipeline.tasks.models.pretrained import load_classifier, load_policy, load_tokenizer
from pipeline.tasks.prompt_file import read_prompts
from pipeline.tasks.settings import PolicySettings
from pipeline.trainers.ppo.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from shaping.errors import ShapetuneError
from shaping.reward_models import CausalRewardModel
from shaping.shape import Shape
from tests.support.hostile import hostile_study
from tests.support.models.own_models import write_models


class Planted:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.file), "w"))


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """The file that an unpickled ``Planted`` makes; at the end of a test it must not be there."""
    file = tmp_path / "planted"
    yield file
    assert not file.exists()


def as_pickle(mark: Path) -> bytes:
    return pickle.dumps(Planted(mark))


def as_torch_zip(mark: Path) -> bytes:
    file = mark.with_name("archive.pt")
    torch.save({"model.embed_tokens.weight": Planted(mark)}, file)
    return file.read_bytes()


def as_old_torch_file(mark: Path) -> bytes:
    file = mark.with_name("archive.pt")
    torch.save({"model.embed_tokens.weight": Planted(mark)}, file, _use_new_zipfile_serialization=False)
    return file.read_bytes()


FORMS = pytest.mark.parametrize("form", [as_pickle, as_torch_zip, as_old_torch_file])
Form = Callable[[Path], bytes]


@pytest.mark.parametrize("form", [as_pickle, as_torch_zip, as_old_torch_file])
def test_the_planted_file_works_where_pickles_are_read(form: Form, tmp_path: Path) -> None:
    mark = tmp_path / "planted"
    (tmp_path / "file").write_bytes(form(mark))
    if form is as_pickle:
        pickle.loads(form(mark))
    else:
        torch.load(tmp_path / "file", weights_only=False)
    assert mark.exists()


@FORMS
def test_no_file_of_a_study_is_unpickled(form: Form, mark: Path, tmp_path: Path) -> None:
    study = hostile_study(tmp_path / "study", "harmless")
    study.write(study.folder.trial_folder(11) / "stopped.json", {})
    files = [path for path in study.folder.root.rglob("*") if path.is_file()]
    assert len(files) > 30
    for file in files:
        before = file.read_bytes()
        file.write_bytes(form(mark))
        for read in (load_report_data, read_status, StudyFolder.config):
            with suppress(Exception):
                read(study.folder)
            assert not mark.exists(), file
        file.write_bytes(before)


@FORMS
def test_a_pickle_is_no_checkpoint(form: Form, mark: Path, tmp_path: Path) -> None:
    file = tmp_path / "seed-0.safetensors"
    write_checkpoint(file, Checkpoint({"a": torch.ones(2)}, {}))
    assert read_checkpoint(file) is not None
    file.write_bytes(form(mark))
    assert read_checkpoint(file) is None


@FORMS
def test_a_pickle_is_no_config_shape_or_prompt(form: Form, mark: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(form(mark))
    for read in (load_config, Shape.load, lambda path: read_prompts(path, "task.prompts")):
        with pytest.raises(ShapetuneError):
            read(file)


CONFIG = parse_config({"name": "stored", "search": {"trials": 6, "sobol_trials": 0}}, "test")


@pytest.mark.parametrize("form", [as_pickle, as_torch_zip])
def test_no_column_of_the_database_is_unpickled(form: Form, mark: Path, tmp_path: Path) -> None:
    database, changed = tmp_path / "study.db", tmp_path / "changed.db"
    space = CONFIG.make_space()
    loop = OuterLoop(CONFIG.name, space, database, CONFIG.search)
    first, second = loop.ask(), loop.ask()
    assert first is not None and second is not None
    loop.tell(first.index, {0: 1.0, 1: 2.0}, {"kl_nats": 1.0, "certificate_error": 0.0})
    columns = _text_columns(database)
    assert ("data_v2", "data_json") in columns and ("arm_v2", "parameters") in columns
    for column in columns:
        shutil.copy(database, changed)
        with sqlite3.connect(changed) as connection:
            connection.execute(f'update {column[0]} set "{column[1]}" = ?', (form(mark),))
        with suppress(Exception):
            OuterLoop(CONFIG.name, space, changed, CONFIG.search)
        assert not mark.exists(), column


def _text_columns(database: Path) -> list[tuple[str, str]]:
    """Return the tables' columns of texts that hold anything."""
    with sqlite3.connect(database) as connection:
        tables = [row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")]
        columns = [(table, row[1]) for table in tables for row in connection.execute(f"pragma table_info({table})")]
        held = """select count(*) from {} where typeof("{}") in ('text', 'blob')"""
        return [(t, c) for t, c in columns if connection.execute(held.format(t, c)).fetchone()[0]]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    return folder


@pytest.fixture
def models(saved: Path, tmp_path: Path) -> Path:
    """A policy and a reward model, safe as they are."""
    return Path(shutil.copytree(saved, tmp_path / "models"))


def load_all(models: Path) -> None:
    """Load a folder's models in all the ways in which a config's models are loaded."""
    policy, reward = PolicySettings(model=str(models / "policy")), RewardSettings(model=str(models / "reward"))
    for load in (
        lambda: load_policy(policy),
        lambda: load_tokenizer(policy, "task.policy"),
        lambda: load_classifier(reward, "task.reward_model"),
        lambda: CausalRewardModel.from_pretrained(models / "reward"),
        lambda: CausalRewardModel.tokenizer(models / "reward"),
    ):
        with suppress(Exception):
            load()


@FORMS
@pytest.mark.parametrize(
    "weights", ["pytorch_model.bin", "model.safetensors", "adapter_model.bin", "training_args.bin"]
)
def test_pickled_weights_of_a_model_are_not_read(
    weights: str, form: Form, mark: Path, models: Path, tmp_path: Path
) -> None:
    for name in ("policy", "reward"):
        (models / name / "model.safetensors").unlink()
        (models / name / weights).write_bytes(form(mark))
        if weights.startswith("adapter"):
            (models / name / "adapter_config.json").write_text(
                json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(models / "other"), "r": 2})
            )
    load_all(models)
    with pytest.raises(ShapetuneError, match=r"task\.policy\.model"):
        load_policy(PolicySettings(model=str(models / "policy")))


def test_weights_that_only_a_pickle_holds_are_refused_however_harmless(models: Path) -> None:
    for name, cls in (("policy", AutoModelForCausalLM), ("reward", AutoModelForSequenceClassification)):
        model = cls.from_pretrained(models / name)
        (models / name / "model.safetensors").unlink()
        torch.save(model.state_dict(), models / name / "pytorch_model.bin")
    with pytest.raises(ShapetuneError, match="safetensors"):
        load_policy(PolicySettings(model=str(models / "policy")))
    with pytest.raises(ShapetuneError, match="safetensors"):
        load_classifier(RewardSettings(model=str(models / "reward")), "task.reward_model")
    with pytest.raises(OSError, match="safetensors"):
        CausalRewardModel.from_pretrained(models / "reward")


def test_a_pickle_is_no_gguf_file(mark: Path, models: Path) -> None:
    (models / "policy" / "model.gguf").write_bytes(as_pickle(mark))
    with pytest.raises(ShapetuneError, match=r"task\.policy\.model"):
        load_policy(PolicySettings(model=str(models / "policy" / "model.gguf")))


def test_code_in_a_model_folder_is_not_run(mark: Path, models: Path) -> None:
    code = f"open({str(mark)!r}, 'w')\nfrom transformers import LlamaConfig as OwnConfig, LlamaForCausalLM as Own\n"
    for name in ("policy", "reward"):
        folder = models / name
        (folder / "own.py").write_text(code)
        (folder / "custom_generate").mkdir()
        (folder / "custom_generate" / "generate.py").write_text(code)
        classes = ("AutoModelForCausalLM", "AutoModelForSequenceClassification", "AutoModel")
        auto = {"AutoConfig": "own.OwnConfig", **{each: "own.Own" for each in classes}}
        for file, changes in (
            ("config.json", {"auto_map": auto}),
            ("config.json", {"auto_map": auto, "model_type": "own"}),
            (
                "tokenizer_config.json",
                {"auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}, "tokenizer_class": "Own"},
            ),
        ):
            before = (folder / file).read_text()
            (folder / file).write_text(json.dumps({**json.loads(before), **changes}))
            load_all(models)
            assert not mark.exists(), (name, file)
            (folder / file).write_text(before)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('touch planted') }}",
        "{% for a in messages.__class__.__base__.__subclasses__() %}{{ a }}{% endfor %}",
        "{{ messages.append({'role': 'system', 'content': 'x'}) }}",
    ],
)
def test_a_chat_template_reaches_nothing_but_the_messages(template: str, models: Path, tmp_path: Path) -> None:
    (models / "policy" / "chat_template.jinja").write_text(template)
    tokenizer = load_tokenizer(PolicySettings(model=str(models / "policy")), "task.policy")
    assert tokenizer.chat_template == template
    lines = tmp_path / "prompts.jsonl"
    lines.write_text(json.dumps({"messages": [{"role": "user", "content": "x"}]}))
    (row,) = read_prompts(lines, "task.prompts")
    with pytest.raises(ShapetuneError, match="the chat template refuses"):
        row.ids(tokenizer)
