"""Reward models behind an address: every interface, servers that misbehave, and runs that go on after them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import _run
from pipeline.config.load import parse_config
from pipeline.tasks.custom.reward_models import FunctionRewardModel
from pipeline.tasks.custom.service import RewardService
from pipeline.tasks.custom.task import load
from pipeline.tasks.model_settings import ServiceSettings
from pipeline.tasks.registry import load_task
from pipeline.trials.failures import failure_of
from shaping.errors import ConfigError, ServiceFailed
from tests.support.models.own_models import own_values, text_rows, write_config, write_lines, write_models
from tests.support.servers.reward_server import RewardServer, reward_server, score_of

QUICK = {"longest_wait_seconds": 0.01}
PROMPTS = [f"prompt {number % 7} " for number in range(50)]
RESPONSES = [f"response {number}" for number in range(50)]
EXPECTED = [score_of(prompt + response) for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
INTERFACES = {
    "json": ("/score", {}),
    "vllm_classify": ("/classify", {"served_model": "judge"}),
    "vllm_pooling": ("/pooling", {"served_model": "judge"}),
    "sglang_classify": ("/classify", {}),
    "tei_predict": ("/predict", {"label": "good"}),
}


@pytest.fixture
def server() -> Iterator[RewardServer]:
    with reward_server() as running:
        yield running


def service(server: RewardServer, path: str = "/score", **settings: Any) -> RewardService:
    return RewardService(server.url + path, ServiceSettings(**{**QUICK, **settings}), "task.reward_model")


@pytest.mark.parametrize("interface", INTERFACES)
def test_every_interface_gives_each_text_its_own_score(interface: str, server: RewardServer) -> None:
    path, options = INTERFACES[interface]
    asked = service(server, path, interface=interface, batch_size=7, concurrency=3, **options)
    assert asked(PROMPTS, RESPONSES) == EXPECTED
    assert len(server.bodies) == 8 and server.texts == 50
    if "served_model" in options:
        assert {body["model"] for body in server.bodies} == {"judge"}
    if interface == "vllm_classify":
        assert server.bodies[0]["use_activation"] is False
    if interface == "tei_predict":
        assert server.bodies[0]["raw_scores"] is True


def test_a_text_is_asked_for_once(server: RewardServer) -> None:
    asked = service(server)
    assert asked(PROMPTS * 2, RESPONSES * 2) == EXPECTED * 2 and server.texts == 50
    assert asked(PROMPTS[:20], RESPONSES[:20]) == EXPECTED[:20] and server.texts == 50
    forgetful = service(server, kept_texts=10)
    for _ in range(2):
        assert forgetful(PROMPTS, RESPONSES) == EXPECTED
    assert server.texts == 50 + 50 + 40


def test_a_server_that_fails_hangs_and_answers_nonsense_changes_no_score(server: RewardServer) -> None:
    chance = random.Random(0)
    mishaps = ["status 500", "status 429", "garbage", "short", "nan"]
    server.mishap = lambda number: (
        "hang" if number in (3, 11) else chance.choice(mishaps) if chance.random() < 0.2 else ""
    )
    asked = service(server, batch_size=2, concurrency=4, timeout_seconds=0.5)
    for place in range(0, 50, 10):
        part = slice(place, place + 10)
        assert asked(PROMPTS[part], RESPONSES[part]) == EXPECTED[part]
    assert len(server.bodies) > 25


@pytest.mark.parametrize(
    ("mishap", "said"),
    [
        ("status 503", "status 503: busy"),
        ("garbage", "its answer is no JSON: <html>"),
        ("short", "its answer holds 31 scores for 32 texts"),
        ("nan", "its answer holds 'None' where a finite number is expected"),
    ],
)
def test_no_usable_answer_ends_under_a_name_that_says_why(mishap: str, said: str, server: RewardServer) -> None:
    server.mishap = lambda number: mishap
    with pytest.raises(
        ServiceFailed, match=rf"reward_service: task.reward_model.url = .* in 3 attempts: {said}"
    ) as error:
        service(server, retries=2, concurrency=1)(PROMPTS, RESPONSES)
    # The other request waited in line, and is not made.
    assert len(server.bodies) == 3
    failure = failure_of(error.value)
    assert failure.reason == "reward_service" and failure.halts


def test_nobody_there_and_no_answer_in_time_are_told_apart(server: RewardServer) -> None:
    nowhere = RewardService("http://127.0.0.1:9/score", ServiceSettings(retries=1, **QUICK), "task.reward_model")
    with pytest.raises(ServiceFailed, match="in 2 attempts: no connection"):
        nowhere(["a"], ["b"])
    server.mishap = lambda number: "hang"
    with pytest.raises(ServiceFailed, match="in 1 attempts: no answer in time"):
        service(server, retries=0, timeout_seconds=0.2)(["a"], ["b"])


def test_a_request_that_is_refused_is_not_made_again(server: RewardServer) -> None:
    server.mishap = lambda number: "status 404"
    with pytest.raises(ConfigError, match=r"refuses the request: status 404: busy\n.*service.interface = json"):
        service(server)(["a"], ["b"])
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("interface", "path", "label", "said"),
    [
        ("tei_predict", "/predict", None, "has the labels bad, good; say with service.label"),
        ("tei_predict", "/predict", "fair", "has the labels bad, good"),
        ("sglang_classify", "/classify", 3, r"has labels 0 to 0, and none is service.label = 3"),
    ],
)
def test_labels_that_are_not_there_are_named(interface, path, label, said, server: RewardServer) -> None:
    with pytest.raises(ServiceFailed, match=said):
        service(server, path, interface=interface, label=label, retries=0)(["a"], ["b"])


def test_the_form_of_the_text_more_fields_and_the_key(server: RewardServer, monkeypatch) -> None:
    form = {"text": "Q: {prompt} A: {response} {prompt}", "request": {"user": "me"}, "interface": "sglang_classify"}
    with pytest.raises(ConfigError, match=r"api_key_variable = JUDGE_KEY, but no such .*\nexport JUDGE_KEY"):
        service(server, "/classify", api_key_variable="JUDGE_KEY", **form)
    monkeypatch.setenv("JUDGE_KEY", "secret")
    asked = service(server, "/classify", api_key_variable="JUDGE_KEY", **form)
    # What a prompt says is no place of the form.
    asked(["{response}?"], ["{prompt}!"])
    assert server.bodies[0] == {"text": ["Q: {response}? A: {prompt}! {response}?"], "user": "me"}
    assert server.headers["Authorization"] == "Bearer secret"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_models(tmp_path)
    write_lines(tmp_path / "prompts.jsonl", text_rows(8))
    return tmp_path


def config_values(models: Path, server: RewardServer, **reward: Any) -> dict[str, Any]:
    given = {"url": f"{server.url}/score", "service": {**QUICK, "retries": 2}, "mean": 5.0, "deviation": 2.0, **reward}
    return own_values(models, reward_model=given)


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        ({"model": "a"}, "give model, function or url"),
        ({"kind": "encoder"}, "kind means nothing beside url"),
        ({"dtype": "bfloat16"}, "dtype means nothing beside url"),
        ({"url": "ftp://a/b"}, "task.reward_model.url"),
        ({"url": "http://user:word@a/b"}, "task.reward_model.url"),
        ({"service": {"text": "{prompt}"}}, r"service.text has no \{response\}"),
        ({"service": {"text": "{prompt}{response}{end}"}}, r"holds \{end\}"),
        ({"service": {"interface": "mine"}}, "service.interface"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(reward, said, models: Path, server: RewardServer) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_config(config_values(models, server, **reward), "test")
    values = own_values(models)
    values["task"]["reward_model"] = {"model": "a", "service": {"batch_size": 4}}
    with pytest.raises(ConfigError, match="service means nothing beside kind causal"):
        parse_config(values, "test")


def test_a_task_is_scored_by_the_server_on_the_scale_that_was_asked_for(models: Path, server: RewardServer) -> None:
    task = load(parse_config(config_values(models, server, mask_text=" _"), "test").task, None)
    assert server.bodies[0] == {"prompts": ["A prompt."], "responses": [""]}
    found = task.reward_model
    assert found.abilities == {"absent_mask"} and found.name == f"{server.url}/score"
    moved = RewardService("http://elsewhere:1/score", ServiceSettings(), "field")
    same = FunctionRewardModel(moved.url, moved, task.tokenizer, str, 5.0, 2.0)
    # The server may move; another scale is another reward.
    assert found.identity() == same.identity()
    assert found.identity() != FunctionRewardModel(moved.url, moved, task.tokenizer, str, 5.0, 1.0).identity()


@pytest.mark.slow
def test_a_study_whose_server_goes_away_stops_by_name_and_ends_as_if_nothing_had_happened(
    models: Path, server: RewardServer, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(models)
    values = config_values(models, server)
    values["ppo"] |= {"steps": 4, "save_steps": 1}
    config = write_config(models, values)
    assert _run(["launch", str(config), "--studies", "quiet"]) == 0
    requests = len(server.bodies)
    server.bodies.clear()
    # Another process knows no scores yet.
    load_task.cache_clear()
    server.mishap = lambda number: "status 500" if number > requests // 2 else ""
    capsys.readouterr()
    assert _run(["launch", str(config), "--studies", "disturbed"]) == 2
    said = capsys.readouterr().err
    assert "gave no usable answer in 3 attempts: status 500" in said and "the same command resumes" in said
    server.mishap = lambda number: ""
    load_task.cache_clear()
    assert _run(["launch", str(config), "--studies", "disturbed"]) == 0
    runs = [
        {str(path.relative_to(models / study)): _told(path) for path in (models / study).rglob("seed-*.json")}
        for study in ("quiet", "disturbed")
    ]
    assert runs[0] == runs[1] and len(runs[0]) > 2


def _told(path: Path) -> dict[str, Any]:
    """Return a run without what no two runs have in common: times, and the process that made it."""
    run = json.loads(path.read_text())
    return {name: run[name] for name in ("curve", "evaluation", "certificate")}
