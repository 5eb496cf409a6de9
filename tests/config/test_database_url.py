"""The address of a study's database in its config, and that no password in one is ever shown or kept."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.database_url import masked
from pipeline.config.load import load_config, parse_config
from shaping.errors import ConfigError
from tests.support.studies import tiny_config

SECRET = "s3cret-Zq"
GOOD = "postgresql+psycopg://alice@db.example:5433/studies"


def test_an_address_alone_is_the_sections_url_and_comes_back() -> None:
    config = tiny_config(storage=GOOD)
    assert config == tiny_config(storage={"url": GOOD}) and config.storage.patience_seconds == 300
    assert parse_config(config.model_dump(mode="json"), "again") == config
    assert tiny_config().storage.url is None and tiny_config(storage=None).storage.url is None


def test_the_drivers_name_may_be_left_out_and_parts_left_to_libpq() -> None:
    assert tiny_config(storage=GOOD.replace("+psycopg", "")).storage.url == GOOD
    for short in ("postgresql+psycopg://", "postgresql+psycopg:///studies", "postgresql+psycopg://h/d?sslmode=require"):
        assert tiny_config(storage=short).storage.url == short


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("mysql://alice@h/d", ["storage.url", "mysql", "postgresql+psycopg://"]),
        ("postgresql+asyncpg://alice@h/d", ["storage.url", "asyncpg", "postgresql+psycopg://"]),
        ("sqlite:///study.db", ["storage.url", "leave it out"]),
        ("db.example/studies", ["storage.url", "db.example", "postgresql+psycopg://"]),
        ("postgresql+psycopg://alice@h:port/d", ["storage.url", "no address"]),
        ("", ["storage.url", "no address"]),
        (["x"], ["storage", "dictionary"]),
        ({"url": GOOD, "patience_seconds": -1}, ["storage.patience_seconds", "-1"]),
        ({"address": GOOD}, ["storage.address", "not a known key"]),
    ],
)
def test_what_is_no_address_is_refused_with_field_and_remedy(storage: Any, words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        tiny_config(storage=storage)
    assert [word for word in words if word not in str(refused.value)] == []


@pytest.mark.parametrize(
    "storage",
    [
        f"postgresql+psycopg://alice:{SECRET}@h/d",
        f"postgresql+psycopg://alice:{SECRET}?x@h/d",
        f"postgresql+psycopg://alice:a@{SECRET}@h/d",
        f"postgresql+psycopg://alice@h/d?password={SECRET}",
        f"postgresql+psycopg://alice@h/d?sslmode=require&SSLPassword={SECRET}",
        f"mysql://alice:{SECRET}@h/d",
        f"nonsense:{SECRET}@h",
        f"host=h password={SECRET} user=alice",
        [f"postgresql+psycopg://alice:{SECRET}@h/d"],
        {"url": f"postgresql+psycopg://alice:{SECRET}@h/d", "colour": 1},
        {"url": GOOD, "patience_seconds": f"alice:{SECRET}@h"},
        {"url": {f"alice:{SECRET}@h": 1}},
    ],
)
def test_a_password_is_refused_and_never_shown(storage: Any, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"name": "x", "storage": storage}))
    with pytest.raises(ConfigError) as refused:
        load_config(path)
    assert SECRET not in "".join(traceback.format_exception(refused.value))
    if isinstance(storage, str) and "alice:" in storage and storage.startswith("postgresql"):
        assert "PGPASSWORD" in str(refused.value) and "alice:***@h/d" in str(refused.value)


def test_a_broken_override_of_an_address_shows_no_password() -> None:
    with pytest.raises(ConfigError, match="not YAML") as refused:
        load_config(Path("configs/quickstart.yaml"), (f"storage=[postgresql://alice:{SECRET}@h",))
    assert SECRET not in str(refused.value)


def test_psycopg_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.config.database_url.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"(?s)needs psycopg\npip install 'shapetune\[postgresql\]'"):
        tiny_config(storage=GOOD)


def test_an_address_without_a_password_is_shown_as_it_is() -> None:
    assert masked(GOOD) == GOOD and masked("anything else") == "anything else"
