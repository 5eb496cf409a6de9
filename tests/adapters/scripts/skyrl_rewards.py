"""Pushes batches through SkyRL's own reward and advantage code; prints what comes out as JSON."""

from __future__ import annotations

import json
import tempfile
import typing
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import typing_extensions

# Pydantic refuses the standard library's TypedDict below Python 3.12, and SkyRL asks for nothing newer.
with mock.patch.object(typing, "TypedDict", typing_extensions.TypedDict):
    import skyrl.tinker.types  # noqa: F401

from skyrl.backends.skyrl_train.utils.ppo_utils import get_kl_controller
from skyrl.train.config import SkyRLTrainConfig
from skyrl.train.trainer import RayPPOTrainer
from skyrl.train.utils import validate_cfg

from pipeline.export.skyrl import snippet
from shaping.adapters.skyrl import check_trainer, dense_trainer
from shaping.errors import ShapetuneError
from tests.adapters.conversations import DISCOUNTED, SHAPE, SPARSE, Conversations, conversations, make_shaper
from tests.adapters.exports import export_into, loaded
from tests.support.models.tiny_models import tiny_tokenizer

KL = ("trainer.algorithm.use_kl_in_reward=true", "trainer.algorithm.use_kl_loss=false")


class Altering:
    """A shaper that does what a shaper must not."""

    def __init__(self, change: Any) -> None:
        self.shape, self._shaper, self._change = SHAPE, make_shaper(SHAPE), change

    def __call__(self, rollouts: Any, scores: Any = None) -> torch.Tensor:
        return self._change(self._shaper(rollouts, scores).clone(), rollouts)


def astray(rewards: torch.Tensor, rollouts: Any) -> torch.Tensor:
    """Move some of the second response's reward to what a tool answered."""
    tools = rollouts.response_mask & ~rollouts.policy_mask
    place = int(tools[1].nonzero()[0, 0])
    rewards[1, place] += 1.0
    rewards[1, 0] -= 1.0
    return rewards


GAE = ("trainer.algorithm.advantage_estimator=gae", "trainer.algorithm.lambd=0.7")


def trainer(kind: Any, *overrides: str, rows: int = 6, shaping: tuple[str, ...] = GAE, valid: bool = False) -> Any:
    """Return a trainer as SkyRL makes it, without datasets, engines and models."""
    settings = [
        *shaping,
        "trainer.critic.model.path=critic",
        f"trainer.train_batch_size={rows // 2}",
        "trainer.policy_mini_batch_size=1",
        "trainer.critic_mini_batch_size=1",
        "generator.n_samples_per_prompt=2",
        "trainer.resume_mode=none",
        "trainer.enable_ray_gpu_monitor=false",
        "generator.inference_engine.enable_ray_prometheus_stats=false",
        *overrides,
    ]
    config = SkyRLTrainConfig.from_cli_overrides(settings)
    if valid:
        validate_cfg(config)
    made = kind(
        cfg=config,
        tracker=None,
        tokenizer=tiny_tokenizer(),
        train_dataset=None,
        inference_engine_client=None,
        generator=None,
    )
    made.dispatch = SimpleNamespace(get_lcm_dp_size=lambda: 4)
    return made


def batch_of(given: Conversations, rewards: list[Any] | None = None) -> dict[str, Any]:
    return {
        "prompt_token_ids": given.prompts,
        "response_ids": given.responses,
        "loss_masks": given.written,
        "rewards": given.scores if rewards is None else rewards,
        "stop_reasons": ["stop"] * len(given.prompts),
        "rollout_logprobs": None,
    }


def run(made: Any, given: Conversations, rewards: list[Any] | None = None, **options: Any) -> dict[str, Any]:
    """Return what SkyRL makes of a batch, from the generator's output to advantages."""
    output, uids = made.postprocess_generator_output(batch_of(given, rewards), list(given.uids), **options)
    data = made.convert_to_training_input(output, uids)
    shape = data["rewards"].shape
    draws = torch.Generator().manual_seed(0)
    data["values"] = torch.randn(shape, generator=draws)
    data["action_log_probs"] = torch.randn(shape, generator=draws)
    data["base_action_log_probs"] = torch.randn(shape, generator=draws)
    data["rollout_expert_indices"] = None
    if made.cfg.trainer.algorithm.use_kl_in_reward:
        made.reward_kl_controller = get_kl_controller(made.cfg.trainer.algorithm)
        data = made.apply_reward_kl_penalty(data)
    data = made.compute_advantages_and_returns(data)
    names = ("values", "response_mask", "loss_mask", "returns", "advantages", "action_log_probs")
    found = {name: data[name].tolist() for name in (*names, "base_action_log_probs")}
    return {**found, "rewards": output["rewards"], "metrics": made.all_metrics}


def refusal(shape: Any, *overrides: str) -> str | None:
    try:
        trainer(dense_trainer(lambda tokenizer: make_shaper(shape)), *overrides)
    except ShapetuneError as error:
        return str(error)
    return None


def said(of: Any) -> str | None:
    """Return the error that a batch ends with under a shaper."""
    try:
        run(trainer(dense_trainer(lambda tokenizer: of)), conversations())
    except ShapetuneError as error:
        return str(error)
    return None


def exported() -> dict[str, Any]:
    """Return what a run makes of a batch that the exported script starts, and the settings that it asks for."""
    with tempfile.TemporaryDirectory() as name:
        export_into(Path(name), snippet)
        module = loaded(Path(name) / "shapetune_skyrl.py")
        # An experiment makes datasets and placement groups as soon as it is made.
        experiment = object.__new__(module.DenseExp)
        found = trainer(experiment.get_trainer, "trainer.logger=console", shaping=tuple(module.SETTINGS), valid=True)
        algorithm = found.cfg.trainer.algorithm
        names = ("advantage_estimator", "gamma", "lambd", "use_kl_in_reward", "use_kl_loss", "kl_loss_coef")
        settings = {name: getattr(algorithm, name) for name in (*names, "kl_estimator_type")}
        overridden = SkyRLTrainConfig.from_cli_overrides([*module.SETTINGS, "trainer.algorithm.lambd=1.0"])
        settings["overridden"] = overridden.trainer.algorithm.lambd
        return {**run(found, conversations()), "settings": settings}


def main() -> None:
    given = conversations()
    kept = given.select([0, 1, 2, 3])
    dense = dense_trainer(lambda tokenizer: make_shaper(SHAPE))
    sparse = dense_trainer(lambda tokenizer: make_shaper(SPARSE))
    discounted = dense_trainer(lambda tokenizer: make_shaper(DISCOUNTED))
    discount, whole = "trainer.algorithm.gamma=0.8", "trainer.algorithm.lambd=1.0"
    all_lambda = dense_trainer(lambda tokenizer: make_shaper(SHAPE.with_changes(gae_lambda=1.0)))
    turns = [[0.0] * len(row) for row in given.responses]
    for row, score in zip(turns, given.scores, strict=True):
        row[0] += 0.5
        row[-1] += score
    equal = Conversations(given.prompts, given.responses, given.written, [1.0, 1.0, *given.scores[2:]], given.uids)
    filtering = "trainer.algorithm.zero_variance_filter=true"
    others = {"metrics_generator_output": batch_of(kept), "metrics_uids": list(kept.uids)}
    answer = {
        "plain": run(trainer(RayPPOTrainer), given),
        "dense": run(trainer(dense), given),
        "sparse": run(trainer(sparse), given),
        "plain kept": run(trainer(RayPPOTrainer, rows=4), kept),
        "sparse kept": run(trainer(sparse, rows=4), kept),
        "discounted": run(trainer(discounted, discount), given),
        "plain lambda 1": run(trainer(RayPPOTrainer, whole), given),
        "dense lambda 1": run(trainer(all_lambda, whole), given),
        "kl": run(trainer(dense, *KL, "trainer.algorithm.kl_loss_coef=0.1"), given),
        "turns": run(trainer(dense), given, turns),
        "plain turns": run(trainer(RayPPOTrainer), given, turns),
        "plain filtered": run(trainer(RayPPOTrainer, filtering), equal),
        "dense filtered": run(trainer(dense, filtering), equal),
        "asynchronous": run(trainer(dense), given, **others),
        "refused": {
            name: refusal(SHAPE, f"trainer.algorithm.advantage_estimator={name}")
            for name in ("gae", "grpo", "rloo", "maxrl", "reinforce++")
        },
        "other gamma": refusal(SHAPE, "trainer.algorithm.gamma=0.99"),
        "other lambda": refusal(SHAPE, "trainer.algorithm.lambd=0.95"),
        "step-wise": refusal(SHAPE, "generator.step_wise_trajectories=true"),
        "astray": said(Altering(astray)),
        "more": said(Altering(lambda rewards, rollouts: rewards + 0.1 * rollouts.policy_mask)),
    }
    for name in ("grpo", "rloo", "maxrl", "reinforce++"):
        # As if the settings had not been checked: what the shape would have been worth.
        for kind, made in (("plain", RayPPOTrainer), ("dense", dense)):
            found = trainer(made)
            found.cfg.trainer.algorithm.advantage_estimator = name
            answer[f"{kind} {name}"] = run(found, given)
    answer["warnings"] = warnings()
    answer["exported"] = exported()
    print(json.dumps(answer))


def warnings() -> dict[str, list[str]]:
    off = ("trainer.algorithm.use_kl_loss=false",)
    cases: dict[str, tuple[float | None, tuple[str, ...]]] = {
        "KL in reward": (0.001, KL),
        "KL in loss": (0.001, ()),
        "no KL": (None, off),
        "free KL": (0.0, off),
        "other price": (0.05, KL),
        "adaptive": (None, (*KL, "trainer.algorithm.kl_ctrl.type=adaptive")),
    }
    return {
        name: check_trainer(SHAPE, trainer(RayPPOTrainer, *overrides).cfg, kl_coef)
        for name, (kl_coef, overrides) in cases.items()
    }


if __name__ == "__main__":
    main()
