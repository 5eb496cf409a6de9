"""Pushes batches through verl's own trainers, TransferQueue and advantages; prints what came out, as JSON."""

import json
import logging
import sys
import tempfile
from pathlib import Path

# verl's wheel brings a package of the name ``tests``.
sys.path.insert(0, str(Path(__file__).parents[3]))

import ray
import torch
import transfer_queue as tq
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from verl.experimental.agent_loop import AgentLoopOutput
from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
from verl.trainer.ppo.v1.trainer_base import get_trainer_cls
from verl.utils.tensordict_utils import get_tensordict, list_of_dict_to_tensordict

from shaping import ConfigError, Shape
from shaping.adapters.verl import register
from tests.adapters.scripts.verl_cases import CASES, KL_COEF, Case, Row, tiny_shaper
from tests.tiny_models import EOS, tiny_policy, tiny_tokenizer

READ = ["rm_scores", "advantages", "returns"]
# What separate_async wants to be told before it starts.
ASYNCHRONOUS = {
    "data.train_batch_size": 8,
    "actor_rollout_ref.actor.ppo_mini_batch_size": 2,
    "actor_rollout_ref.rollout.nnodes": 1,
    "actor_rollout_ref.rollout.n_gpus_per_node": 1,
    "actor_rollout_ref.rollout.checkpoint_engine.backend": "nccl",
}


def config_of(policy: str, **settings):
    overrides = {"actor_rollout_ref.model.path": policy, "algorithm.kl_ctrl.kl_coef": KL_COEF, **ASYNCHRONOUS}
    overrides |= {name.replace("__", "."): value for name, value in settings.items()}
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=[f"{name}={value}" for name, value in overrides.items()])


def trainer_of(policy: str, shape: Shape | None, mode: str = "sync", **settings):
    name = mode
    if shape is not None:
        name = f"dense_{len(made)}"
        made.append(register(name, lambda tokenizer: tiny_shaper(shape), mode))
    return get_trainer_cls(name)(config_of(policy, trainer__v1__trainer_mode=name, **settings))


made = []


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
    try:
        trainer_of(policy, Shape(weights={"prefix": 1.0}, gae_lambda=0.6), **{"algorithm__lam": 0.6, **settings})
    except ConfigError as error:
        return f"refused: {error}"
    finally:
        logging.getLogger("shaping.adapters.verl").removeHandler(handler)
    return "\n".join(said)


def main() -> None:
    policy = tempfile.mkdtemp()
    tiny_policy().save_pretrained(policy)
    tiny_tokenizer().save_pretrained(policy)
    refusals = {
        "nothing": refusal(policy, algorithm__use_kl_in_reward=True),
        "grpo": refusal(policy, algorithm__adv_estimator="grpo"),
        "rloo": refusal(policy, algorithm__adv_estimator="rloo"),
        "gamma": refusal(policy, algorithm__gamma=0.99),
        "lam": refusal(policy, algorithm__lam=1.0),
        "tokens rejected": refusal(policy, algorithm__rollout_correction__rollout_rs="token_k1"),
        "sequences rejected": refusal(policy, algorithm__rollout_correction__rollout_rs="seq_sum_k1"),
    }
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    # Of eight units, verl's default, each is a process that imports torch and takes a whole CPU of Ray's.
    tq.init(OmegaConf.create({"backend": {"SimpleStorage": {"num_data_storage_units": 1}}}))
    answers = {name: run(policy, name, case) for name, case in CASES.items()}
    tq.close()
    ray.shutdown()
    print(json.dumps({"cases": answers, "refusals": refusals}))


main()
