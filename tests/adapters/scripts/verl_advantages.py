"""Pushes batches through verl's own trainers, TransferQueue and advantages; prints what came out, as JSON."""

import json
import logging
import os
import subprocess
import sys
import tempfile
from copy import deepcopy
from functools import cache
from pathlib import Path

# verl's wheel brings a package of the name ``tests``.
sys.path.insert(0, str(Path(__file__).parents[3]))

import ray
import torch
import transfer_queue as tq
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from verl.experimental.agent_loop import AgentLoopOutput
from verl.trainer.main_ppo import TaskRunnerV1
from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
from verl.trainer.ppo.v1.trainer_base import get_trainer_cls
from verl.utils.tensordict_utils import get_tensordict, list_of_dict_to_tensordict

from pipeline.export.reward_model_code import causal_code
from pipeline.export.template import Exported
from pipeline.export.verl import snippet
from shaping import CausalRewardModel, ConfigError, Shape
from shaping.adapters.verl import register
from shaping.shape_file import ShapeFile
from tests.adapters.scripts.verl_cases import CASES, KL_COEF, Case, Row, tiny_shaper
from tests.support.models.tiny_models import EOS, tiny_classifier, tiny_policy, tiny_tokenizer

READ = ["rm_scores", "advantages", "returns"]
# What separate_async wants to be told before it starts.
ASYNCHRONOUS = {
    "data.train_batch_size": 8,
    "actor_rollout_ref.actor.ppo_mini_batch_size": 2,
    "actor_rollout_ref.rollout.nnodes": 1,
    "actor_rollout_ref.rollout.n_gpus_per_node": 1,
    "actor_rollout_ref.rollout.checkpoint_engine.backend": "nccl",
}


@cache
def base_config(policy: str):
    own = {"actor_rollout_ref.model.path": policy, "algorithm.kl_ctrl.kl_coef": KL_COEF, **ASYNCHRONOUS}
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=[f"{name}={value}" for name, value in own.items()])


def config_of(policy: str, **settings):
    config = deepcopy(base_config(policy))
    for name, value in settings.items():
        OmegaConf.update(config, name.replace("__", "."), value)
    return config


def trainer_of(policy: str, shape: Shape | None, mode: str = "sync", **settings):
    name = mode
    if shape is not None:
        name = f"dense_{len(made)}"
        made.append(register(name, lambda tokenizer: tiny_shaper(shape), mode, KL_COEF))
    return get_trainer_cls(name)(config_of(policy, trainer__v1__trainer_mode=name, **settings))


made = []


def start_ray():
    """Start it: it gives a node 30 seconds to be known, which no setting changes."""
    for attempts_left in (3, 2, 1, 0):
        try:
            return ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
        except Exception as error:
            ray.shutdown()
            if not attempts_left:
                raise SystemExit(f"the Ray cluster could not start: {error}") from None


def fields_of(row: Row) -> dict:
    """Return what an agent loop's output becomes, and what the workers write beside it."""
    output = AgentLoopOutput(
        prompt_ids=row.prompt,
        response_ids=row.response,
        response_mask=row.mask,
        reward_score=row.score,
        num_turns=2,
        metrics={},
    )
    noise = {name: torch.tensor(row.noise(name)) for name in ("old_log_probs", "ref_log_prob", "values")}
    return {**output.as_dict(), "uid": row.key.split("_")[0], **noise}


def put(partition: str, rows: list[Row]):
    """Return a batch as verl's trainer gets it: in the queue, filled up to six rows and put in another order."""
    lengths = [(len(row.prompt), len(row.response)) for row in rows]
    steps = {"min_global_steps": 0, "max_global_steps": 0}
    tags = [{"prompt_len": first, "response_len": then, "seq_len": first + then, **steps} for first, then in lengths]
    fields = list_of_dict_to_tensordict([fields_of(row) for row in rows])
    batch = tq.kv_batch_put(keys=[row.key for row in rows], partition_id=partition, fields=fields, tags=tags)
    full = upsample_batch_to_divisible_size(batch, 6, EOS)
    added = full.keys[len(rows) :]
    zeros = torch.nested.as_nested_tensor([torch.zeros(1) for _ in added], layout=torch.jagged)
    # The workers answer for the added rows, too.
    answers = get_tensordict({name: zeros for name in ("old_log_probs", "ref_log_prob", "values")})
    tq.kv_batch_put(keys=added, partition_id=partition, fields=answers)
    # As where verl balances a batch: the rows stand in another order than in the queue.
    full.reorder([*range(1, len(full)), 0])
    return full


def run(policy: str, name: str, case: Case) -> dict:
    settings = {
        "algorithm__gamma": case.gamma,
        "algorithm__lam": case.gae_lambda,
        "algorithm__use_kl_in_reward": case.kl,
    }
    trainer = trainer_of(policy, case.shape, case.mode, **settings)
    batch, metrics = put(name, case.rows), {}
    trainer._compute_advantage(batch, metrics)
    # Of the pool of GPUs nothing but their number is asked.
    trainer._get_n_gpus_for_throughput = lambda: 1
    trainer._compute_metrics(batch, metrics, {"step": 1.0, "gen": 1.0}, 1, 0)
    data = tq.kv_batch_get(keys=batch.keys, partition_id=name, select_fields=READ)
    answer = {field: [row.tolist() for row in data[field].unbind()] for field in READ}
    logged = {key: float(value) for key, value in metrics.items() if key.startswith(("critic/", "actor/reward"))}
    kept = {"mode": trainer.trainer_mode, "buffer": type(trainer.replay_buffer).__name__}
    return {**answer, "keys": list(batch.keys), "logged": logged, **kept}


def refusal(policy: str, **settings) -> str:
    """Return in what words a trainer with these settings is refused, or all warnings where it is not."""
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("shaping.adapters.verl").addHandler(handler)
    fitting = {"algorithm__lam": 0.6}
    try:
        trainer_of(policy, Shape(weights={"prefix": 1.0}, gae_lambda=0.6), **{**fitting, **settings})
    except ConfigError as error:
        return f"refused: {error}"
    finally:
        logging.getLogger("shaping.adapters.verl").removeHandler(handler)
    return "\n".join(said)


def export(folder: Path) -> Path:
    """Write what a user gets: the shape, bound to a saved reward model, the module and the command."""
    tiny_classifier().save_pretrained(folder / "reward model")
    tiny_tokenizer().save_pretrained(folder / "reward model")
    reward_model = CausalRewardModel.from_pretrained(folder / "reward model")
    content = ShapeFile(CASES["dense"].shape, KL_COEF, reward_model="tiny", reward_model_sha256=reward_model.identity())
    target = folder / "the export"
    content.write(target / "shape.json")
    for name, text in snippet(Exported(content, causal_code(str(folder / "reward model")))).items():
        (target / name).write_text(text)
    return target


def end_of_run(target: Path, *own: str) -> str:
    """Return how verl's task runner, in a worker of Ray, ends with what the exported command gives it.

    The cluster runs already, so the worker inherits nothing. There are no data, which ends every run at the latest.
    """
    shown = target / "shown"
    shown.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    shown.chmod(0o755)
    command = ["sh", str(target / "verl_run.sh"), *own]
    said = subprocess.run(command, env={**os.environ, "PYTHON": str(shown)}, capture_output=True, text=True, check=True)
    module, entry, *overrides = said.stdout.splitlines()
    assert (module, entry) == ("-m", "verl.trainer.main_ppo")
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=overrides)
    environment = OmegaConf.to_container(config.ray_kwargs.ray_init.runtime_env.env_vars)
    runner = TaskRunnerV1.options(runtime_env={"env_vars": environment}).remote()
    try:
        ray.get(runner.run.remote(config))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "ended well"


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    policy = str(folder / "policy")
    tiny_policy().save_pretrained(policy)
    tiny_tokenizer().save_pretrained(policy)
    kl = {"algorithm__use_kl_in_reward": True}
    rejected = "algorithm__rollout_correction__rollout_rs"
    refusals = {
        "nothing": refusal(policy, **kl),
        "no KL": refusal(policy),
        "another KL": refusal(policy, **kl, algorithm__kl_ctrl__kl_coef=0.001),
        "grpo": refusal(policy, algorithm__adv_estimator="grpo"),
        "rloo": refusal(policy, algorithm__adv_estimator="rloo"),
        "gamma": refusal(policy, algorithm__gamma=0.99),
        "lam": refusal(policy, algorithm__lam=1.0),
        "tokens rejected": refusal(policy, **kl, **{rejected: "token_k1"}),
        "sequences rejected": refusal(policy, **kl, **{rejected: "seq_sum_k1"}),
    }
    start_ray()
    # Of eight units, verl's default, each is a process that imports torch and takes a whole CPU of Ray's.
    tq.init(OmegaConf.create({"backend": {"SimpleStorage": {"num_data_storage_units": 1}}}))
    answers = {name: run(policy, name, case) for name, case in CASES.items()}
    own = f"actor_rollout_ref.model.path={policy}", "data.train_files=/nowhere/reviews.parquet"
    end = end_of_run(export(folder), *own)
    ray.shutdown()
    print(json.dumps({"cases": answers, "refusals": refusals, "end": end}))


main()
