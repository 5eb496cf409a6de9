"""The advantage function for slime, called as slime v0.3.1 calls it (``slime/backends/megatron_utils/loss.py``)."""

from __future__ import annotations

import ast
import copy
import importlib
import logging
import subprocess
from argparse import Namespace
from typing import Any

import pytest
import torch

from pipeline.export import slime
from shaping import Shape
from shaping.adapters.slime import check_arguments, dense_advantages, for_critic
from shaping.errors import ConfigError, ShapeError
from tests.adapters.conversations import DISCOUNTED, MASKED, SHAPE, SPARSE, TOOL_LAST, conversations, make_shaper
from tests.adapters.exports import KL_COEF, export_into
from tests.adapters.hand_gae import hand_gae
from tests.support.models.tiny_models import tiny_tokenizer

GIVEN = conversations()
ROWS = range(len(GIVEN.responses))
LENGTHS = [len(row) for row in GIVEN.responses]


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("policy")
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def arguments(policy: str, **changes: Any) -> Namespace:
    """Return what a PPO run's argument parser leaves behind, as far as it matters here."""
    values = {
        "hf_checkpoint": policy,
        "advantage_estimator": "ppo",
        "gamma": 1.0,
        "lambd": SHAPE.gae_lambda,
        "kl_coef": 0.0,
        "use_kl_loss": False,
        "context_parallel_size": 1,
        "megatron_config_path": None,
        "custom_advantage_function_path": "dense.advantages",
        "custom_reward_post_process_path": None,
    }
    return Namespace(**{**values, **changes})


def batch(seed: int = 0) -> dict[str, Any]:
    """Return one rank's responses: whole sequences without padding, and lists of tensors as long as the responses."""
    draws = torch.Generator().manual_seed(seed)
    rows = list(zip(GIVEN.prompts, GIVEN.responses, strict=True))
    return {
        "tokens": [torch.tensor(prompt + response) for prompt, response in rows],
        "response_lengths": list(LENGTHS),
        "total_lengths": [len(prompt) + len(response) for prompt, response in rows],
        "loss_masks": [torch.tensor(mask, dtype=torch.int) for mask in GIVEN.written],
        "rewards": list(GIVEN.scores),
        "raw_reward": list(GIVEN.scores),
        "values": [torch.randn(length, generator=draws) for length in LENGTHS],
        "kl": [torch.randn(length, generator=draws) for length in LENGTHS],
    }


def rewards_by_hand(shape: Shape) -> list[list[float]]:
    found = make_shaper(shape)(GIVEN.rollouts(), torch.tensor(GIVEN.scores)).tolist()
    return [row[:length] for row, length in zip(found, LENGTHS, strict=True)]


def called(shape: Shape, args: Namespace, data: dict[str, Any] | None = None) -> dict[str, Any]:
    data = batch() if data is None else data
    assert dense_advantages(lambda tokenizer: make_shaper(shape))(args, data) is None
    return data


def load_function(path: str) -> Any:
    """Return what slime finds at a path: everything before the last dot is the module."""
    module, _, attribute = path.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize(
    ("shape", "kl_coef"),
    [(SHAPE, 0.0), (SHAPE, 0.3), (DISCOUNTED, 0.3), (SHAPE.with_changes(gae_lambda=1.0), 0.0), (SPARSE, 0.3)],
)
def test_advantages_and_returns_are_the_hand_worked_ones_of_the_shapes_token_rewards(policy, shape, kl_coef):
    args = arguments(policy, gamma=shape.gamma, lambd=shape.gae_lambda, kl_coef=kl_coef)
    data = called(shape, args)
    for place, rewards in enumerate(rewards_by_hand(shape)):
        charged = [reward - kl_coef * kl for reward, kl in zip(rewards, data["kl"][place].tolist(), strict=True)]
        advantages, returns = hand_gae(charged, data["values"][place].tolist(), shape.gamma, shape.gae_lambda)
        assert data["advantages"][place].tolist() == pytest.approx(advantages, abs=2e-5)
        assert data["returns"][place].tolist() == pytest.approx(returns, abs=2e-5)


def test_sparse_shape_gives_what_slimes_own_ppo_gives(policy):
    data = called(SPARSE, arguments(policy, kl_coef=0.3))
    for place in ROWS:
        if place in (TOOL_LAST, MASKED):
            continue
        # As slime's branch for ``ppo``: KL everywhere, and the reward on top of the last token's.
        rewards = (-0.3 * data["kl"][place]).tolist()
        rewards[-1] += GIVEN.scores[place]
        wanted = hand_gae(rewards, data["values"][place].tolist(), 1.0, SPARSE.gae_lambda)
        assert data["advantages"][place].tolist() == pytest.approx(wanted[0], abs=1e-5)
        assert data["returns"][place].tolist() == pytest.approx(wanted[1], abs=1e-5)


def test_without_discount_the_first_return_is_the_same_and_later_ones_are_not(policy):
    whole = {name: shape.with_changes(gae_lambda=1.0) for name, shape in (("dense", SHAPE), ("sparse", SPARSE))}
    found = {name: called(shape, arguments(policy, lambd=1.0))["returns"] for name, shape in whole.items()}
    for place in ROWS:
        assert float(found["dense"][place][0]) == pytest.approx(float(found["sparse"][place][0]), abs=1e-4)
    for place in (0, 1, 3):
        assert found["dense"][place][1:-1].tolist() != pytest.approx(found["sparse"][place][1:-1].tolist(), abs=1e-2)


def test_results_are_lists_of_tensors_as_long_as_the_responses_and_nothing_else_changes(policy):
    before = batch()
    data = called(SHAPE, arguments(policy, kl_coef=0.3))
    assert set(data) == {*before, "advantages", "returns"}
    for name in ("advantages", "returns"):
        # slime assigns to the list's places and joins them beside the loss masks.
        assert isinstance(data[name], list)
        assert [tuple(row.shape) for row in data[name]] == [(length,) for length in LENGTHS]
        assert torch.cat(data[name]).shape == torch.cat(data["loss_masks"]).shape
    for name, value in before.items():
        pairs = zip(value, data[name], strict=True)
        assert all(torch.equal(torch.as_tensor(one), torch.as_tensor(other)) for one, other in pairs)


def test_values_in_half_precision_are_taken(policy):
    data = batch()
    data["values"] = [value.bfloat16() for value in data["values"]]
    called(SHAPE, arguments(policy), data)
    wanted = hand_gae(rewards_by_hand(SHAPE)[0], data["values"][0].float().tolist(), 1.0, SHAPE.gae_lambda)
    assert data["advantages"][0].tolist() == pytest.approx(wanted[0], abs=2e-5)


def test_function_is_found_by_a_dotted_path_and_not_by_the_one_that_the_help_shows(tmp_path, monkeypatch):
    (tmp_path / "dense_in_a_test.py").write_text("def advantages(args, rollout_data):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert callable(load_function("dense_in_a_test.advantages"))
    with pytest.raises((ModuleNotFoundError, AttributeError)):
        load_function("dense_in_a_test.py:advantages")


def test_shaper_is_made_once_and_warnings_said_once(policy, caplog):
    made = []

    def make(tokenizer: Any) -> Any:
        made.append(tokenizer)
        return make_shaper(SHAPE)

    advantages, args = dense_advantages(make), arguments(policy, use_kl_loss=True)
    assert made == []
    with caplog.at_level(logging.WARNING):
        advantages(args, batch(0))
        advantages(args, batch(1))
    assert len(made) == 1 and made[0].get_vocab() == tiny_tokenizer().get_vocab()
    assert sum("--use-kl-loss" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("name", ["grpo", "gspo", "cispo", "reinforce_plus_plus", "reinforce_plus_plus_baseline"])
def test_estimators_without_a_critic_are_refused(policy, name):
    with pytest.raises(ConfigError, match=f"--advantage-estimator {name}: .*no critic.*\\n.*ppo"):
        called(SHAPE, arguments(policy, advantage_estimator=name))


@pytest.mark.parametrize(("field", "value", "words"), [("gamma", 0.99, "--gamma"), ("lambd", 0.95, "--lambd")])
def test_other_gamma_and_lambda_are_refused(policy, field, value, words):
    with pytest.raises(ConfigError, match=f"{words} = {value}"):
        called(SHAPE, arguments(policy, **{field: value}))


def test_context_parallel_ranks_are_refused(policy):
    with pytest.raises(ConfigError, match="--context-parallel-size 2"):
        called(SHAPE, arguments(policy, context_parallel_size=2))


def test_critic_that_would_learn_sparse_returns_is_refused_unless_it_keeps_the_function(policy):
    args = arguments(policy, megatron_config_path="roles.yaml")
    with pytest.raises(ConfigError, match="--custom-megatron-init-path"):
        called(SHAPE, args)
    # As slime makes the critic's arguments, and then initializes both processes.
    critic = copy.deepcopy(args)
    critic.custom_advantage_function_path, critic.kl_coef = None, 0
    for of_role in (args, critic):
        for_critic("dense.advantages")(of_role)
    assert critic.custom_advantage_function_path == "dense.advantages"
    assert args.custom_advantage_function_path == "dense.advantages"
    called(SHAPE, args)
    called(SHAPE, critic)


def test_actor_and_critic_find_the_same_token_rewards_for_the_same_batches(policy):
    sampling = SHAPE.with_changes(weights={"shapley": 1.0}, estimator="permutation", budget=8)
    roles = [dense_advantages(lambda tokenizer: make_shaper(sampling)) for _ in range(2)]
    for seed in range(2):
        found = []
        for advantages in roles:
            data = batch(seed)
            advantages(arguments(policy), data)
            found.append(torch.cat(data["returns"]))
        assert torch.equal(*found)


def test_rewards_that_somebody_changes_before_and_kl_in_the_loss_are_warned_about(policy):
    assert check_arguments(SHAPE, arguments(policy)) == []
    said = check_arguments(
        SHAPE, arguments(policy, custom_reward_post_process_path="mine.normalised", use_kl_loss=True)
    )
    assert len(said) == 2 and "mine.normalised" in said[0] and "--kl-coef" in said[1]


def test_reward_on_a_tools_answer_and_another_total_are_refused(policy):
    class Altering:
        def __init__(self, change: Any) -> None:
            self.shape, self._change, self._shaper = SHAPE, change, make_shaper(SHAPE)

        def __call__(self, rollouts: Any, scores: Any = None) -> torch.Tensor:
            return self._change(self._shaper(rollouts, scores).clone(), rollouts)

    def moved(rewards: torch.Tensor, rollouts: Any) -> torch.Tensor:
        tools = rollouts.response_mask & ~rollouts.policy_mask
        place = int(tools[1].nonzero()[0, 0])
        rewards[1, place], rewards[1, 0] = 1.0, rewards[1, 0] - 1.0
        return rewards

    for change in (moved, lambda rewards, rollouts: rewards + 0.1 * rollouts.policy_mask):
        advantages = dense_advantages(lambda tokenizer, change=change: Altering(change))
        with pytest.raises(ShapeError):
            advantages(arguments(policy), batch())


def test_exported_module_is_found_by_its_arguments_and_shapes(policy, tmp_path, monkeypatch):
    export_into(tmp_path, slime.snippet)
    monkeypatch.syspath_prepend(str(tmp_path))
    script = f"set -eu; . '{tmp_path}/shapetune_slime.sh'; printf '%s\\n' \"${{SHAPE_ARGS[@]}}\""
    words = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.split()
    given = dict(zip(words[::2], words[1::2], strict=True))
    assert given == {
        "--advantage-estimator": "ppo",
        "--custom-advantage-function-path": "shapetune_slime.advantages",
        "--custom-megatron-init-path": "shapetune_slime.initialize",
        "--gamma": str(SHAPE.gamma),
        "--lambd": str(SHAPE.gae_lambda),
        "--kl-coef": str(KL_COEF),
        "--kl-loss-type": "k3",
    }
    args = arguments(policy, megatron_config_path="roles.yaml", kl_coef=KL_COEF)
    load_function(given["--custom-megatron-init-path"])(args)
    assert args.custom_advantage_function_path == given["--custom-advantage-function-path"]
    data = batch()
    load_function(args.custom_advantage_function_path)(args, data)
    wanted = called(SHAPE, args)
    assert torch.allclose(torch.cat(data["returns"]), torch.cat(wanted["returns"]), atol=1e-5)


@pytest.mark.parametrize("study", ['"""\nimport os', "films\x1b[2J\u2028x = 1", "{gamma!r}", "films'"])
def test_study_of_any_name_leaves_a_module_that_does_the_same(tmp_path, study):
    plain, named = tmp_path / "plain", tmp_path / "named"
    for folder, name in ((plain, "films"), (named, study)):
        export_into(folder, slime.snippet, study=name)
    texts = [(folder / "shapetune_slime.py").read_text().replace(folder.name, "") for folder in (plain, named)]
    one, other = (ast.dump(ast.parse(text)) for text in texts)
    assert one == other
