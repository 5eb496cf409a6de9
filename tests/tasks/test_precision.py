"""How models are loaded: half precision, other attention, quantized weights; and what a run makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import DynamicCache

from pipeline.config.load import parse_config
from pipeline.tasks.custom.task import load
from pipeline.tasks.model_settings import RewardSettings
from pipeline.tasks.models import pretrained
from pipeline.tasks.models.pretrained import load_classifier, load_policy
from pipeline.tasks.settings import PolicySettings
from pipeline.trainers.ppo import rollout
from pipeline.trainers.ppo.policy import TrainedPolicy
from pipeline.trainers.ppo.rollout import sample_responses
from pipeline.trainers.ppo.settings import LoraSettings
from pipeline.trainers.ppo.trainer import PPOTrainer
from shaping import CausalRewardModel, ConfigError
from tests.support.models.own_models import own_values, text_rows, write_lines, write_models
from tests.support.models.tiny_models import mixed_rollouts

HALF = {"dtype": "bfloat16"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("precision")
    write_models(folder)
    write_lines(folder / "prompts.jsonl", text_rows(8))
    return folder


def trainer_of(models: Path, policy: dict | None = None, reward: dict | None = None, **ppo) -> PPOTrainer:
    task = {
        "policy": {"model": str(models / "policy"), **(policy or {})},
        "reward_model": {"model": str(models / "reward"), **(reward or {})},
    }
    values = own_values(models, **task)
    config = parse_config({**values, "ppo": {**values["ppo"], **ppo}}, "test")
    return PPOTrainer(load(config.task, None), config.base_shape(), config.ppo, config.sampling, 0)


def test_nothing_of_it_is_written_where_nothing_was_asked_for() -> None:
    written = {*PolicySettings(model="a").model_dump(), *RewardSettings(model="a").model_dump()}
    assert not written & {"dtype", "attn_implementation", "quantization", "url", "service"}


def test_a_policy_in_half_precision_is_trained_in_float32_beside_a_reference_in_half(models: Path) -> None:
    trainer = trainer_of(models, policy=HALF, reward=HALF)
    assert trainer.precision == "bfloat16"
    assert {each.dtype for each in trainer.task.policy.parameters()} == {torch.bfloat16}
    assert {each.dtype for each in trainer.actor.parameters()} == {torch.float32}
    points = list(trainer.steps())
    # Both round alike, to the last digit.
    assert len(points) == 2 and points[0].kl_nats == 0
    assert trainer.certificate.return_preserving


@pytest.mark.parametrize("critic", ["network", "reward_model"])
def test_critics_that_start_from_models_in_half_precision_are_float32(critic: str, models: Path) -> None:
    trainer = trainer_of(models, policy=HALF, reward=HALF, critic=critic)
    assert {each.dtype for each in trainer.actor.critic.parameters()} == {torch.float32}
    assert all(torch.isfinite(torch.tensor(point.value_loss)) for point in trainer.steps())


def test_an_adapter_is_float32_on_weights_that_stay_as_they_are(models: Path) -> None:
    pytest.importorskip("peft")
    source = load_policy(PolicySettings(model=str(models / "policy"), **HALF))
    policy = TrainedPolicy.of(source, LoraSettings(rank=2))
    trained = {each.dtype for each in policy.model.parameters() if each.requires_grad}
    assert trained == {torch.float32}
    shared = {each.data_ptr() for each in source.parameters()}
    assert sum(each.data_ptr() in shared for each in policy.model.parameters()) == len(shared)
    points = list(trainer_of(models, policy=HALF, lora={"rank": 2}).steps())
    assert len(points) == 2 and points[0].kl_nats == pytest.approx(0, abs=1e-6)


def test_float32_products_of_half_weights_are_refused_as_the_config_is_read(models: Path) -> None:
    values = own_values(models, policy={"model": "a", **HALF})
    with pytest.raises(ConfigError, match=r"precision = float32, but task.policy.dtype = bfloat16.*auto"):
        parse_config({**values, "ppo": {**values["ppo"], "precision": "float32"}}, "test")


def test_the_cache_is_of_the_type_that_attention_computes_in_and_changes_nothing(models: Path, monkeypatch) -> None:
    policy = load_policy(PolicySettings(model=str(models / "policy")))
    given = (torch.tensor([[3, 9, 11], [4, 7, 12]]), torch.ones(2, 3, dtype=torch.bool))
    uniforms = torch.rand(12, 2, generator=torch.Generator().manual_seed(0))
    kept: list[DynamicCache] = []

    def noted(config, half):
        kept.append(plain(config, half))
        return kept[-1]

    plain = rollout._HalfCache
    monkeypatch.setattr(rollout, "_HalfCache", noted)
    with torch.autocast("cpu", torch.bfloat16):
        found = sample_responses(policy, *given, uniforms, 2, stop_at_eos=False)
        assert {layer.keys.dtype for layer in kept[0].layers} == {torch.bfloat16}
        # What the library keeps by itself.
        monkeypatch.setattr(rollout, "_HalfCache", lambda config, half: DynamicCache(config=config))
        expected = sample_responses(policy, *given, uniforms, 2, stop_at_eos=False)
    assert torch.equal(found.rollouts.response_ids, expected.rollouts.response_ids)
    assert torch.equal(found.states, expected.states)
    assert type(rollout.new_cache(policy)) is DynamicCache


def test_a_reward_model_in_half_precision_gives_nearly_the_same_scores_under_its_own_identity(models: Path) -> None:
    rollouts = mixed_rollouts()
    settings = RewardSettings(model=str(models / "reward"))
    whole, half = (
        CausalRewardModel(load_classifier(each, "f")) for each in (settings, settings.model_copy(update=HALF))
    )
    expected, found = whole.prefix_scores(rollouts), half.prefix_scores(rollouts)
    assert found.dtype == torch.float32 and 0 < float((found - expected).abs().max()) < 0.2
    assert half.identity() != whole.identity()


@pytest.mark.parametrize("kind", ["policy", "reward_model"])
def test_the_attention_that_was_asked_for_is_used_and_an_unknown_one_refused_by_name(kind: str, models: Path) -> None:
    trainer = trainer_of(models, policy={"attn_implementation": "eager"}, reward={"attn_implementation": "eager"})
    loaded = trainer.task.policy if kind == "policy" else trainer.task.reward_model.model
    assert loaded.config._attn_implementation == "eager"
    plain = trainer_of(models)
    assert plain.task.policy.config._attn_implementation == "sdpa"
    wrong = {"attn_implementation": "faster"}
    with pytest.raises(ConfigError, match=rf"task\.{kind}.*faster"):
        trainer_of(models, **({"policy": wrong} if kind == "policy" else {"reward": wrong}))


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_quantized_reward_model_is_close_and_can_start_no_critic(kind: str, models: Path) -> None:
    pytest.importorskip("bitsandbytes")
    trainer = trainer_of(models, reward={"quantization": kind})
    judge = trainer.task.reward_model
    sizes = {each.weight.element_size() for each in judge.model.modules() if "Linear" in type(each).__name__}
    assert 1 in sizes and judge.model.score.weight.dtype == torch.float32
    whole = trainer_of(models).task.reward_model.prefix_scores(mixed_rollouts())
    together = torch.corrcoef(torch.stack([judge.prefix_scores(mixed_rollouts()).flatten(), whole.flatten()]))
    assert float(together[0, 1]) > {"int8": 0.95, "nf4": 0.3}[kind]
    assert trainer.task.critic_source is None and len(list(trainer.steps())) == 2
    with pytest.raises(ConfigError, match="critic = reward_model"):
        trainer_of(models, reward={"quantization": kind}, critic="reward_model")


def test_quantization_without_the_package_is_refused_with_the_command_that_installs_it(models, monkeypatch) -> None:
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"task.reward_model.quantization = nf4 needs .*\n.*shapetune\[quantization\]"
    ):
        trainer_of(models, reward={"quantization": "nf4"})


def test_single_precision_may_be_rounded_on_a_gpu_and_is_not_by_the_next_run(models: Path) -> None:
    trainer_of(models, tf32=True)
    assert torch.backends.cuda.matmul.allow_tf32
    trainer_of(models)
    assert not torch.backends.cuda.matmul.allow_tf32


def test_more_than_one_gpu_for_the_own_trainer_is_refused_and_a_custom_one_may_have_them(models: Path) -> None:
    values = own_values(models)
    with pytest.raises(ConfigError, match=r"executor.gpus = 8, but the built-in PPO .* executor.slots to 8"):
        parse_config({**values, "executor": {"name": "ray", "gpus": 8}}, "test")
    custom = {"trainer": {"function": "a.py:train"}, "executor": {"name": "ray", "gpus": 8}}
    assert parse_config({**values, **custom}, "test").executor.gpus == 8
