"""A shape file comes back exactly, and nothing else is taken for one."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import shaping.shape_file as shape_file
from shaping import METHODS, ConfigError, RetokenizedRewardModel, Shape, ShapeFile, TextRewardModel
from shaping.shape import ABSENT, CLOSURES, ESTIMATORS, HEADS, UNITS
from shaping.shape_file import CRITICS, KL_ESTIMATORS, SCHEMA, SCHEMA_WITH_TRAINER, checksum
from tests.support.models.tiny_models import tiny_reward_model, tiny_tokenizer

SHAPE = Shape(weights={"prefix": 0.25, "shapley": 0.75}, balance=0.875, gae_lambda=0.7123456789012345, unit="turn")
WHOLE = ShapeFile(
    SHAPE,
    kl_coef=0.1 + 0.2,
    kl_estimator="k3",
    critic="network",
    missing_eos_penalty=1.5,
    reward_model="judge",
    reward_model_sha256="a" * 64,
    trainer={"ppo.learning_rate": 0.0005, "ppo.epochs": 2, "ppo.critic": "network"},
    study={"name": "s", "task": "prompts", "arm": "7_0", "trial": 7, "trials": 12, "seeds": [0, 1]},
    confirmed={"differences": [{"rival": "sparse", "mean": 0.5, "low": 0.25, "high": 0.75, "seeds": 6}], "text": ["é"]},
    versions={"torch": "2"},
)
# Without settings of the trainer a file is of the version that earlier readers know.
PLAIN = replace(WHOLE, trainer={})
SCHEMA_FILE = Path(shape_file.__file__).with_name("shape_file.schema.json")


def validator() -> Draft202012Validator:
    schema = json.loads(SCHEMA_FILE.read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def shapes() -> st.SearchStrategy[Shape]:
    names = st.lists(st.sampled_from(sorted(METHODS)), min_size=1, max_size=4, unique=True)

    def mixed(chosen: list[str], parts: list[float]) -> dict[str, float]:
        used = [part + 1e-3 for part in parts[: len(chosen)]]
        return {name: part / sum(used) for name, part in zip(chosen, used, strict=True)}

    unit_interval = st.floats(0, 1)
    weights = st.builds(mixed, names, st.lists(unit_interval, min_size=4, max_size=4))
    return st.builds(
        Shape,
        weights=weights,
        balance=unit_interval,
        gae_lambda=unit_interval,
        unit=st.sampled_from(UNITS),
        absent=st.sampled_from(ABSENT),
        closure=st.sampled_from(CLOSURES),
        estimator=st.sampled_from(ESTIMATORS),
        attention_heads=st.sampled_from(HEADS),
        attention_layer=st.integers(-3, 3),
        max_units=st.integers(1, 12),
        budget=st.integers(1, 10**6),
        budget_tokens=st.none() | st.integers(1, 10**6),
    )


@settings(deadline=None)
@given(shapes(), st.floats(0, 1e6), st.sampled_from(KL_ESTIMATORS), st.sampled_from(CRITICS), st.text(max_size=5))
def test_every_file_comes_back_exactly_and_holds_to_the_published_schema(
    tmp_path_factory: pytest.TempPathFactory, shape: Shape, kl_coef: float, estimator: str, critic: str, name: str
) -> None:
    file = ShapeFile(shape, kl_coef, estimator, critic, reward_model=name, reward_model_sha256="abc")
    path = tmp_path_factory.mktemp("shape") / "shape.json"
    file.write(path)
    assert ShapeFile.read(path) == file
    assert Shape.load(path) == shape
    validator().validate(json.loads(path.read_text()))


def test_everything_that_gives_a_shape_its_meaning_comes_back(tmp_path: Path) -> None:
    WHOLE.write(tmp_path / "new" / "shape.json")
    found = ShapeFile.read(tmp_path / "new" / "shape.json")
    assert found == WHOLE
    assert all(getattr(found, entry.name) not in (None, {}) for entry in fields(ShapeFile))
    validator().validate(json.loads((tmp_path / "new" / "shape.json").read_text()))


def test_a_file_says_by_its_version_whether_the_trainer_was_searched_with_the_shape(tmp_path: Path) -> None:
    for file, version in ((WHOLE, SCHEMA_WITH_TRAINER), (PLAIN, SCHEMA)):
        file.write(tmp_path / "shape.json")
        content = json.loads((tmp_path / "shape.json").read_text())
        assert content["schema"] == version
        assert ("trainer" in content) == (file is WHOLE)
        assert ShapeFile.read(tmp_path / "shape.json") == file
        validator().validate(content)
        # A reader that goes by the version must not meet settings that it would leave out.
        assert not validator().is_valid({**content, "schema": SCHEMA if file is WHOLE else SCHEMA_WITH_TRAINER})


def test_the_published_schema_knows_what_the_code_knows() -> None:
    schema = json.loads(SCHEMA_FILE.read_text())
    assert schema["properties"]["schema"]["enum"] == [SCHEMA, SCHEMA_WITH_TRAINER]
    assert set(schema["properties"]) == set(WHOLE.to_dict())
    assert set(schema["required"]) == set(PLAIN.to_dict())
    shape, values = schema["properties"]["shape"], Shape().to_dict()
    assert set(shape["required"]) == set(shape["properties"]) == set(values)
    assert set(shape["properties"]["weights"]["properties"]) == set(METHODS)
    choices = {"unit": UNITS, "absent": ABSENT, "closure": CLOSURES, "estimator": ESTIMATORS, "attention_heads": HEADS}
    assert {name: tuple(part["enum"]) for name, part in shape["properties"].items() if "enum" in part} == choices
    ppo = schema["properties"]["ppo"]
    assert set(ppo["required"]) == set(ppo["properties"]) == set(WHOLE.to_dict()["ppo"])


# What is wrong in a value, by its place in the file.
WRONG: list[tuple[tuple[str, ...], Any]] = [
    (("shape", "balance"), 1.5),
    (("shape", "balance"), "0.5"),
    (("shape", "unit"), "word"),
    (("shape", "max_span"), 0),
    (("shape", "weights"), {}),
    (("shape", "weights"), {"lucky": 1.0}),
    (("shape", "weights"), {"prefix": -0.1}),
    (("shape", "gae_lambda"), None),
    (("shape", "policy_preserving"), "yes"),
    (("shape", "other"), 1),
    (("shape",), []),
    (("ppo", "kl_coef"), -1),
    (("ppo", "kl_coef"), True),
    (("ppo", "kl_estimator"), "k2"),
    (("ppo", "critic"), "none"),
    (("ppo", "missing_eos_penalty"), None),
    (("ppo",), None),
    (("trainer", "ppo.epochs"), True),
    (("trainer", "ppo.critic"), None),
    (("trainer",), [1]),
    (("trainer",), {}),
    (("reward_model", "name"), 3),
    (("reward_model",), "judge"),
    (("study",), None),
    (("confirmed",), 3),
    (("versions",), []),
]


@pytest.mark.parametrize(("place", "value"), WRONG)
def test_a_value_that_means_nothing_is_refused_by_name_and_by_the_schema(
    place: tuple[str, ...], value: Any, tmp_path: Path
) -> None:
    content = WHOLE.to_dict()
    part = content
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = value
    # Whoever alters a file can sign it anew: the checksum guards against accidents.
    content["checksum_sha256"] = checksum(content)
    (tmp_path / "shape.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=place[-1]) as caught:
        ShapeFile.read(tmp_path / "shape.json")
    assert caught.value.hint
    assert not validator().is_valid(content)


@pytest.mark.parametrize("change", [key for key in WHOLE.to_dict() if key not in ("schema", "checksum_sha256")])
def test_altered_content_is_refused(change: str, tmp_path: Path) -> None:
    content = {**WHOLE.to_dict(), change: {"changed": 1}}
    (tmp_path / "shape.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="altered"):
        Shape.load(tmp_path / "shape.json")


@pytest.mark.parametrize("missing", [key for key in WHOLE.to_dict() if key != "schema"])
def test_a_file_that_lacks_something_is_refused(missing: str, tmp_path: Path) -> None:
    content = WHOLE.to_dict()
    del content[missing]
    if missing != "checksum_sha256":
        content["checksum_sha256"] = checksum(content)
    (tmp_path / "shape.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="altered" if missing == "checksum_sha256" else f"{missing} is missing"):
        Shape.load(tmp_path / "shape.json")


@pytest.mark.parametrize("schema", ["shapetune/shape/1", "shapetune/shape/99", None, 2])
def test_another_version_is_refused(schema: Any, tmp_path: Path) -> None:
    content = {**WHOLE.to_dict(), "schema": schema}
    (tmp_path / "shape.json").write_text(json.dumps({**content, "checksum_sha256": checksum(content)}))
    with pytest.raises(ConfigError, match=f"has schema {schema!r}, not 'shapetune/shape/2'"):
        Shape.load(tmp_path / "shape.json")


@pytest.mark.parametrize("content", ["", "[]", "{", "null", "3", '{"schema": NaN}', "[" * 100_000, "\ufffe"])
def test_what_is_no_shape_file_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "shape.json").write_text(content, encoding="utf-16" if content == "\ufffe" else "utf-8")
    with pytest.raises(ConfigError, match=r"shape\.json"):
        Shape.load(tmp_path / "shape.json")
    with pytest.raises(ConfigError, match=r"absent\.json cannot be read"):
        Shape.load(tmp_path / "absent.json")


def bound(tmp_path: Path) -> Path:
    path, judge = tmp_path / "shape.json", tiny_reward_model()
    replace(WHOLE, reward_model=judge.name, reward_model_sha256=judge.identity()).write(path)
    return path


def test_a_shape_is_used_with_the_reward_model_that_it_was_tuned_for(tmp_path: Path) -> None:
    path, judge = bound(tmp_path), tiny_reward_model()
    assert Shape.load(path, judge) == Shape.load(path, judge.identity()) == Shape.load(path) == SHAPE
    through = RetokenizedRewardModel(judge, tiny_tokenizer(), tiny_tokenizer())
    assert Shape.load(path, through) == SHAPE


def test_another_reward_model_is_refused_unless_it_is_accepted_by_its_name(tmp_path: Path) -> None:
    path, other = bound(tmp_path), tiny_reward_model(seed=2)
    other.name = "other"
    with pytest.raises(ConfigError, match="other is another reward model: the shape was tuned for tiny") as caught:
        Shape.load(path, other)
    assert "accept_reward_model 'other'" in caught.value.hint
    with pytest.raises(ConfigError, match="another reward model"):
        Shape.load(path, other, accept_reward_model="tiny")
    assert Shape.load(path, other, accept_reward_model="other") == SHAPE


def test_a_reward_model_without_an_identity_is_accepted_by_its_name_alone(tmp_path: Path) -> None:
    path, judge = bound(tmp_path), TextRewardModel(lambda texts: [0.0] * len(texts), tiny_tokenizer(), name="length")
    with pytest.raises(ConfigError, match="the reward model length has no identity"):
        Shape.load(path, judge)
    assert Shape.load(path, judge, accept_reward_model="length") == SHAPE


def test_a_shape_of_no_known_reward_model_goes_with_any(tmp_path: Path) -> None:
    replace(WHOLE, reward_model=None, reward_model_sha256=None).write(tmp_path / "shape.json")
    assert Shape.load(tmp_path / "shape.json", tiny_reward_model()) == SHAPE
    assert json.loads((tmp_path / "shape.json").read_text())["reward_model"] is None
