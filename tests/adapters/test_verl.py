"""verl's own trainers, TransferQueue and advantages on CPU; nothing of verl is replaced."""

from __future__ import annotations

import ast

import pytest
import torch

from pipeline.export.reward_model_code import causal_code
from pipeline.export.template import Exported
from pipeline.export.verl import snippet
from shaping import Rollouts
from shaping.shape_file import ShapeFile
from tests.adapters.environments import answer_of
from tests.adapters.scripts.verl_cases import CASES, KL_COEF, ROWS, Row, tiny_shaper

# Starts Ray.
pytestmark = pytest.mark.slow

CLOSE = {"rel": 1e-4, "abs": 1e-5}
SHAPED = [name for name, case in CASES.items() if case.shape is not None]


@pytest.fixture(scope="module")
def answer():
    return answer_of("verl", "verl_advantages.py")


@pytest.fixture(scope="module")
def batches(answer):
    """Return, for each case and field, the values of each row of ours under its key."""
    fields = ("rm_scores", "returns", "advantages")
    return {
        name: {field: dict(zip(found["keys"], found[field], strict=True)) for field in fields}
        for name, found in answer["cases"].items()
    }


def rewards_by_key(name: str) -> dict[str, list[float]]:
    """Return the shape's token rewards, found in this process, without verl."""
    case = CASES[name]
    if case.shape is None:
        return {row.key: [0.0] * (len(row.response) - 1) + [row.score] for row in case.rows}
    rows = case.rows
    rollouts = Rollouts.of_ids(
        [row.prompt for row in rows], [row.response for row in rows], policy_masks=[row.mask for row in rows]
    )
    shaped = tiny_shaper(case.shape)(rollouts, scores=torch.tensor([row.score for row in rows]))
    return {row.key: shaped[place, : len(row.response)].tolist() for place, row in enumerate(rows)}


def gae(row: Row, rewards: list[float], gamma: float, gae_lambda: float, kl: bool) -> dict[int, tuple[float, float]]:
    """Return advantage and return at each token that the policy wrote: the others are no steps of its own."""
    values, old, reference = (row.noise(name) for name in ("values", "old_log_probs", "ref_log_prob"))
    found, advantage, next_value = {}, 0.0, 0.0
    for place in reversed([place for place, written in enumerate(row.mask) if written]):
        reward = rewards[place] - (KL_COEF * (old[place] - reference[place]) if kl else 0.0)
        advantage = reward + gamma * next_value - values[place] + gamma * gae_lambda * advantage
        next_value = values[place]
        found[place] = advantage, advantage + values[place]
    return found


def by_hand(name: str) -> dict[str, dict[int, tuple[float, float]]]:
    case, rewards = CASES[name], rewards_by_key(name)
    return {row.key: gae(row, rewards[row.key], case.gamma, case.gae_lambda, case.kl) for row in case.rows}


def first_and_later(found: dict[str, list[float]]) -> tuple[list[float], list[float]]:
    """Return what stands on the first token of each response, and on all that the policy wrote after it."""
    rows = [[found[row.key][place] for place, written in enumerate(row.mask) if written] for row in ROWS]
    return [row[0] for row in rows], [value for row in rows for value in row[1:]]


@pytest.mark.parametrize("name", CASES)
def test_returns_are_gae_by_hand_of_the_shapes_rewards(batches, name):
    expected = by_hand(name)
    assert expected
    for key, places in expected.items():
        for place, (_, target) in places.items():
            assert batches[name]["returns"][key][place] == pytest.approx(target, **CLOSE), (key, place)


@pytest.mark.parametrize("name", [name for name in CASES if "cut" not in name])
def test_advantages_are_those_by_hand_whitened_over_what_the_policy_wrote(batches, name):
    expected = by_hand(name)
    flat = torch.tensor([advantage for places in expected.values() for advantage, _ in places.values()])
    mean, deviation = float(flat.mean()), float(flat.std(unbiased=True))
    for key, places in expected.items():
        for place, (advantage, _) in places.items():
            whitened = (advantage - mean) / deviation
            assert batches[name]["advantages"][key][place] == pytest.approx(whitened, **CLOSE), (key, place)


@pytest.mark.parametrize("name", SHAPED)
def test_rewards_sum_to_the_score_and_are_zero_on_what_tools_said(batches, name):
    for row in CASES[name].rows:
        rewards = batches[name]["rm_scores"][row.key]
        assert len(rewards) == len(row.response)
        assert sum(rewards) == pytest.approx(row.score, **CLOSE)
        assert [reward for reward, written in zip(rewards, row.mask, strict=True) if not written and reward != 0] == []


@pytest.mark.parametrize("name", SHAPED)
def test_rows_that_verl_adds_stay_as_they_are(batches, name):
    added = [values for key, values in batches[name]["rm_scores"].items() if key.startswith("pad")]
    assert len(added) == 6 - len(CASES[name].rows) and set(map(tuple, added)) == {(0.0,)}


def test_sparse_shape_is_verl_without_the_adapter(batches, answer):
    fields = ("rm_scores", "returns", "advantages")
    ours = [[batches["sparse"][field][row.key] for row in ROWS] for field in fields]
    assert ours == [[batches["verl"][field][row.key] for row in ROWS] for field in fields]
    assert answer["cases"]["sparse"]["logged"] == answer["cases"]["verl"]["logged"]


@pytest.mark.parametrize("name", [name for name in SHAPED if name.startswith(("dense", "half"))])
def test_dense_rewards_stand_on_other_tokens_than_the_score(batches, name):
    moved = [
        sum(abs(value) for value in batches[name]["rm_scores"][row.key][:-1]) for row in ROWS if len(row.response) > 1
    ]
    assert min(moved) > 0.01


def test_undiscounted_returns_agree_on_the_first_token_and_differ_later(batches):
    dense = first_and_later(batches["dense, undiscounted"]["returns"])
    scalar = first_and_later(batches["verl, undiscounted"]["returns"])
    assert dense[0] == pytest.approx(scalar[0], **CLOSE)
    differ = [abs(ours - theirs) > 1e-3 for ours, theirs in zip(dense[1], scalar[1], strict=True)]
    assert sum(differ) > len(differ) / 2


def test_turn_shape_rewards_the_last_token_of_each_turn_alone(batches):
    row = next(row for row in ROWS if row.key == "b_0_0")
    ends = [place for place, pair in enumerate(zip(row.mask, [*row.mask[1:], 0], strict=True)) if pair == (1, 0)]
    rewards = batches["turns"]["rm_scores"][row.key]
    assert len(ends) == 3 and [place for place, reward in enumerate(rewards) if reward != 0] == ends


def test_score_on_a_tools_last_word_is_lost_in_verl_and_kept_by_the_adapter(batches):
    (row,) = CASES["sparse, cut"].rows
    last = max(place for place, written in enumerate(row.mask) if written)
    assert last < len(row.response) - 1
    lost, kept = (batches[name]["returns"][row.key][last] for name in ("verl, cut", "sparse, cut"))
    assert (lost, kept) == (pytest.approx(0.0, abs=1e-6), pytest.approx(row.score, **CLOSE))


@pytest.mark.parametrize(("ours", "theirs"), [("dense", "verl"), ("half", "verl"), ("dense, KL", "verl, KL")])
def test_logged_scores_stay_those_of_verl(answer, ours, theirs):
    dense, scalar = (answer["cases"][name]["logged"] for name in (ours, theirs))
    names = [f"critic/{what}/{how}" for what in ("score", "rewards") for how in ("mean", "max", "min")]
    assert [dense[name] for name in names] == pytest.approx([scalar[name] for name in names], **CLOSE)
    assert dense["critic/returns/mean"] != pytest.approx(scalar["critic/returns/mean"], **CLOSE)


def test_kl_penalty_enters_behind_the_shape(answer):
    logged = answer["cases"]["dense, KL"]["logged"]
    assert logged["actor/reward_kl_penalty_coeff"] == KL_COEF
    assert logged["actor/reward_kl_penalty"] == answer["cases"]["verl, KL"]["logged"]["actor/reward_kl_penalty"]


@pytest.mark.parametrize(
    ("name", "mode", "buffer"),
    [
        ("dense", "sync", "ReplayBuffer"),
        ("dense, colocate_async", "colocate_async", "ReplayBufferAsync"),
        ("dense, separate_async", "separate_async", "ReplayBufferAsync"),
    ],
)
def test_trainer_samples_as_the_mode_that_it_extends(answer, name, mode, buffer):
    assert (answer["cases"][name]["mode"], answer["cases"][name]["buffer"]) == (mode, buffer)


def test_settings_that_fit_are_taken_in_silence(answer):
    assert answer["refusals"]["nothing"] == answer["refusals"]["sequences rejected"] == ""


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("grpo", "algorithm.adv_estimator = grpo sums the token rewards"),
        ("rloo", "algorithm.adv_estimator = rloo sums the token rewards"),
        ("gamma", "algorithm.gamma = 0.99, but the shape was found with discount 1"),
        ("lam", "algorithm.lam = 1, but the shape was found with lambda 0.6"),
    ],
)
def test_settings_under_which_the_shape_means_something_else_are_refused(answer, settings, words):
    assert answer["refusals"][settings].startswith("refused: ") and words in answer["refusals"][settings]


@pytest.mark.parametrize(("settings", "words"), [("no KL", "takes no KL off"), ("another KL", "has 0.001")])
def test_another_price_of_kl_is_warned_about(answer, settings, words):
    said = answer["refusals"][settings]
    assert "algorithm.kl_ctrl.kl_coef" in said and words in said and "\n" not in said


def test_rejection_of_single_tokens_is_warned_about(answer):
    assert "sums are not kept" in answer["refusals"]["tokens rejected"]


def test_exported_command_makes_the_trainer_in_a_worker_of_a_cluster_that_runs_already(answer):
    end = answer["end"]
    assert "/nowhere/reviews.parquet" in end and "ConfigError" not in end and "Unknown trainer" not in end


def test_names_in_the_exported_module_are_words_and_no_code():
    name = 'a"""\nraise SystemExit  # \\'
    content = ShapeFile(CASES["dense"].shape, KL_COEF, study={"name": name, "arm": name})
    module = snippet(Exported(content, causal_code(name)))["shapetune_verl.py"]
    tree = ast.parse(module)
    assert [type(node).__name__ for node in tree.body[1:]] == ["ImportFrom"] * 3 + ["Assign", "FunctionDef", "Expr"]
    assert f"study {name!r}" in ast.get_docstring(tree)
    assert name in {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}


def test_exported_module_says_what_verl_does_not_do_of_itself():
    content = ShapeFile(CASES["dense"].shape, KL_COEF, critic="reward_model", missing_eos_penalty=2.5)
    said = snippet(Exported(content, causal_code("rm")))["shapetune_verl.py"]
    assert "took 2.5 off the score" in said and "critic.model.path" in said
    silent = snippet(Exported(ShapeFile(CASES["dense"].shape, KL_COEF), causal_code("rm")))["shapetune_verl.py"]
    assert "off the score of" not in silent and "critic.model.path" not in silent


@pytest.mark.parametrize(("estimator", "penalty"), [("k1", "kl"), ("k3", "low_var_kl")])
def test_exported_command_holds_the_shapes_constants(estimator, penalty):
    command = snippet(Exported(ShapeFile(CASES["dense"].shape, KL_COEF, kl_estimator=estimator), causal_code("rm")))[
        "verl_run.sh"
    ]
    words = ["adv_estimator=gae", "gamma=1.0", "lam=0.6", "use_kl_in_reward=True", "kl_ctrl.kl_coef=0.3"]
    assert [word for word in [*words, f"kl_penalty={penalty}"] if f" algorithm.{word} " not in command] == []
    assert (
        "use_kl_in_reward=False"
        in snippet(Exported(ShapeFile(CASES["dense"].shape, 0.0), causal_code("rm")))["verl_run.sh"]
    )
