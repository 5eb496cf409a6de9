"""The examples show what they say: sums that equal scores, a best shape that is found, an inverse, steps."""

from __future__ import annotations

import ast
import importlib
import math
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from rich.console import Console

import shapetune
from pipeline.tasks.custom.reward_models import load_function
from shaping import Rollouts

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_ax_analyses")]

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(path for path in EXAMPLES.glob("*.py") if path.name != "tiny.py")
TABLE = re.findall(r"^\| \[`(\w+\.py)`\]\(\1\) \|.*\| (\d+) \|$", (EXAMPLES / "README.md").read_text(), re.MULTILINE)


@pytest.fixture(autouse=True)
def _as_scripts_find_their_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)


def example(name: str) -> ModuleType:
    return importlib.import_module(name)


def shown(script: Path) -> list[str]:
    """Return the lines that a script says it prints, without those that stand for others."""
    docstring = ast.get_docstring(ast.parse(script.read_text())) or ""
    output = docstring.split("prints\n\n")[1]
    return [line.strip() for line in output.splitlines() if line.strip() not in ("", "…")]


def form(line: str) -> str:
    """Return a line without its numbers, which differ from processor to processor in their last digits."""
    return " ".join(re.sub(r"[-+]?\d+(\.\d+)?", "#", line).split())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_it_is_short_and_says_how_to_run_it_and_for_how_long(script: Path) -> None:
    text = script.read_text()
    assert len(text.splitlines()) < 80
    docstring = ast.get_docstring(ast.parse(text)) or ""
    assert f"python examples/{script.name}" in docstring
    (seconds,) = re.findall(r"takes (\d+) s on two cores", docstring)
    assert (script.name, seconds) in TABLE and int(seconds) < 60
    assert len(shown(script)) >= 3


def test_the_table_has_every_example() -> None:
    assert sorted(name for name, _ in TABLE) == [script.name for script in SCRIPTS]


def test_token_rewards_sum_to_the_scores_and_teach_the_policy(capsys: pytest.CaptureFixture[str]) -> None:
    script = example("token_rewards")
    found = script.main()
    assert found["worst"] < 1e-5
    assert len(found["means"]) == script.STEPS
    assert abs(found["means"][0]) < 1.5 and found["means"][-1] > 5
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == shown(EXAMPLES / "token_rewards.py")[-1] and len(said) == 4
    # What a line shows of a response adds up, too.
    for line in said[:-1]:
        parts, score = line.split("   ", 2)[2].split(" = ")
        assert sum(map(int, re.findall(r" ([+-]\d)\b", parts))) == int(score)


def test_the_loss_pays_a_token_for_all_that_follows() -> None:
    to_go = example("token_rewards").reward_to_go(torch.tensor([[1.0, -2.0, 4.0], [0.0, 3.0, 0.0]]))
    assert to_go.tolist() == [[3.0, 2.0, 4.0], [3.0, 3.0, 0.0]]


def test_the_tokenizer_gives_back_what_it_was_given() -> None:
    tiny = example("tiny")
    tokenizer = tiny.tokenizer()
    text = " the film is good, but slow."
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) == 8 and tokenizer.decode(ids) == text
    assert all(tokenizer.eos_token_id not in tokenizer(prompt)["input_ids"] for prompt in tiny.PROMPTS)
    rollouts = Rollouts.of_texts(tokenizer, ["the film is"] * 2, [" good.", " very very bad"])
    found = tiny.log_probabilities(tiny.policy(), rollouts)
    assert found.shape == (2, 3)
    assert torch.allclose(found, torch.full((2, 3), -math.log(len(tokenizer))), atol=0.5)


def test_rules_are_scored_as_the_example_says(tmp_path: Path) -> None:
    rules = load_function(f"{EXAMPLES}/reward_function.py:rules", "x")
    assert rules([""] * 5, [" good, but slow.", " good.", " a a a a good", "", "."]) == [4, 3, 1, 0, 1]


def test_a_policy_learns_the_rules(capfd: pytest.CaptureFixture[str]) -> None:
    found = example("reward_function").main()
    assert found["after"] > found["before"] + 0.3
    said = {form(line) for line in capfd.readouterr().out.splitlines()}
    assert {form(line) for line in shown(EXAMPLES / "reward_function.py")} <= said


def test_a_server_of_the_rules_teaches_the_same(capfd: pytest.CaptureFixture[str]) -> None:
    found = example("reward_server").main()
    assert found["after"] > found["before"] + 0.3
    said = {form(line) for line in capfd.readouterr().out.splitlines()}
    assert {form(line) for line in shown(EXAMPLES / "reward_server.py")} <= said


@pytest.mark.slow
def test_a_study_searches_shapes_for_the_rules(tmp_path: Path) -> None:
    example("tiny").save_policy(tmp_path / "policy")
    config = shapetune.load_config(
        EXAMPLES / "reward_function.yaml",
        f"task.policy.model={tmp_path / 'policy'}",
        "ppo={steps: 2, batch_size: 8}",
        "search={trials: 3, sobol_trials: 1, seeds: [0]}",
    )
    study = shapetune.launch(config, tmp_path, Console(quiet=True))
    assert list(study.trials()["arm"]) == ["sparse", "prefix", "shapley"]
    assert set(study.trials()["state"]) == {"completed"} and study.verdict is not None
    assert {"prefix", "shapley"} >= set(study.best_shape.active_methods()) - {"sparse"}


def test_decode_and_encode_are_inverse(capsys: pytest.CaptureFixture[str]) -> None:
    script = example("search_space")
    assert script.main() is True
    assert set(shown(EXAMPLES / "search_space.py")) <= set(capsys.readouterr().out.splitlines())
    space = script.factory(shapetune.Shape(), ["shapley"], (0.6, 1.0), (0.0, 1.0))
    shape = space.decode({"share": 0.3, "closure": "spread"})
    assert shape == shapetune.Shape(weights={"shapley": 0.3, "sparse": 0.7}, closure="spread")
    assert space.decode(space.encode(shape)) == shape
    assert [space.decode(arm.point).active_methods() for arm in space.baselines()] == [
        {"sparse": 1.0},
        {"shapley": 1.0},
    ]


def test_a_study_searches_the_space(tmp_path: Path) -> None:
    """A study whose config names the space proposes its points, by the model as well."""
    values = {
        **example("study").CONFIG,
        "space": {"name": "search_space.py:factory", "methods": ["prefix"]},
        "trainer": {"function": "study.py:train"},
        "search": {"trials": 5, "sobol_trials": 2, "seeds": [0]},
        "confirm": {"seeds": [100, 101]},
    }
    for name in ("search_space.py", "study.py"):
        (tmp_path / name).write_text((EXAMPLES / name).read_text())
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    study = shapetune.launch(tmp_path / "study.yaml", tmp_path, Console(quiet=True))
    trials = study.trials()
    assert list(trials["arm"][:2]) == ["sparse", "prefix"] and set(trials["state"]) == {"completed"}
    assert len(trials) == 5 and set(trials["shape.closure"]) <= {"first", "last", "spread"}
    assert 0 < study.best_shape.weights["prefix"] <= 1


@pytest.mark.slow
def test_the_study_finds_the_formulas_best_shape(capsys: pytest.CaptureFixture[str]) -> None:
    script = example("study")
    found = script.main()
    trials, best, verdict = found["trials"], found["best"], found["verdict"]
    assert len(trials) == 8 and set(trials["state"]) == {"completed"}
    assert best.weights["prefix"] == pytest.approx(script.BEST_SHARE, abs=0.1)
    assert best.gae_lambda == pytest.approx(script.BEST_LAMBDA, abs=0.1)
    assert trials["J"].max() == pytest.approx(1.0, abs=0.05)
    assert {each.rival for each in verdict.differences} == {"sparse", "sparse, lambda 1", "uniform"}
    assert all(each.is_gain for each in verdict.differences)
    # The formula gives 1.0 there, and 0.83.
    (near, _), (far, _) = found["predicted"]
    assert near == pytest.approx(1.0, abs=0.05) and far == pytest.approx(0.83, abs=0.1)
    said = capsys.readouterr().out
    assert said.startswith(" " * 7 + "arm") and best.describe() in said and "beats every baseline" in said


def test_grpo_trains_with_token_rewards(capsys: pytest.CaptureFixture[str]) -> None:
    script = example("trl_grpo")
    logs = script.main()
    assert [entry["step"] for entry in logs] == list(range(1, script.STEPS + 1))
    assert all(math.isfinite(entry["loss"]) and math.isfinite(entry["grad_norm"]) for entry in logs)
    rewards = [entry["reward"] for entry in logs]
    assert sum(rewards[-6:]) > sum(rewards[:6]) + 1
    said = [form(line) for line in capsys.readouterr().out.splitlines()]
    assert said == [form(line) for line in shown(EXAMPLES / "trl_grpo.py")]
