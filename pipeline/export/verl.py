"""What verl needs beside ``shape.json``: a module that registers the trainer, and a command that starts it."""

from __future__ import annotations

from typing import Any

from pipeline.export.template import Exported
from pipeline.export.trainer_settings import searched_overrides
from shaping.shape_file import ShapeFile

MODULE = "shapetune_verl"
# verl's names of KL estimators.
KL_PENALTIES = {"k1": "kl", "k3": "low_var_kl"}

PYTHON = '''"""{title}

    sh verl_run.sh actor_rollout_ref.model.path=... data.train_files=...   # your own overrides of verl

starts verl with this shape. To a command of your own add what verl_run.sh adds: the settings that the shape was tuned
with, and where this module is found. VERL_USE_EXTERNAL_MODULES alone reaches no Ray cluster that runs already: there
it goes through runtime_env, and this folder, shapetune and the reward model lie where the cluster's nodes read them.
A worker that did not find the module ends the run with "Unknown trainer 'dense_sync'". The KL penalty needs the
reference policy: set actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu. verl logs trainer_mode as sync.

The rewards of a response sum to the score that verl gave it, whoever gave it: a reward model, a rule, a penalty. Where
a reward falls is found in the units of the reward model below. Let verl's scores be that model's, mean and deviation
included; what lies between them and the credit goes to the last token, or where else the shape's closure says.
Tool output and other people's turns get nothing, even where verl had put the score there. If an agent loop returns
several outputs for a trajectory, each is shaped by itself and sums to the score that verl gave it.

The reward model runs in the process of verl's task runner, on the CPU unless make_shaper asks for device="cuda"; then
leave memory on that GPU, by actor_rollout_ref.rollout.gpu_memory_utilization. Where Ray hides all GPUs from that
process, start it with RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0. verl counts the time as timing_s/adv.

For verl's asynchronous trainers give register the argument mode="colocate_async" or mode="separate_async".{more}
"""

from pathlib import Path

{imports}
from shaping.adapters.verl import register

SHAPE = Path(__file__).resolve().with_name("shape.json")


{make_shaper}


register("dense_sync", make_shaper, kl_coef={kl_coef})
'''

PENALTY = """

The study took {penalty} off the score of a response without its end. verl does so only if your reward does."""

CRITIC = """

The study's critic started as the reward model. With critic.model.path set to that model verl's does, too, but for the
mean and the deviation of its scores."""

SHELL = """#!/bin/sh
# Starts verl's PPO with the exported shape; your own overrides stand behind it. The trainer refuses another estimator,
# gamma or lambda, under which the shape would do something else or nothing.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
export VERL_USE_EXTERNAL_MODULES="{module}${{VERL_USE_EXTERNAL_MODULES:+,$VERL_USE_EXTERNAL_MODULES}}"
export PYTHONPATH="$here${{PYTHONPATH:+:$PYTHONPATH}}"
# A Ray cluster that runs already does not inherit them: hence runtime_env.
exec "${{PYTHON:-python}}" -m verl.trainer.main_ppo \\
    trainer.use_v1=True \\
    trainer.v1.trainer_mode=dense_sync \\
{settings}
    "+ray_kwargs.ray_init.runtime_env.env_vars.VERL_USE_EXTERNAL_MODULES='$VERL_USE_EXTERNAL_MODULES'" \\
    "+ray_kwargs.ray_init.runtime_env.env_vars.PYTHONPATH='$PYTHONPATH'" \\
    "$@"
"""


def snippet(exported: Exported) -> dict[str, str]:
    """Return ``shapetune_verl.py`` and ``verl_run.sh``, as file names and texts."""
    content = exported.content
    title = f"Dense rewards of study {content.study.get('name')!r}, arm {content.study.get('arm')!r}, for verl 0.9."
    settings = "\n".join(f"    {name}={value} \\" for name, value in overrides(content).items())
    penalty = PENALTY.format(penalty=content.missing_eos_penalty) if content.missing_eos_penalty else ""
    module = PYTHON.format(
        title=_inside_docstring(title),
        more=penalty + (CRITIC if content.critic == "reward_model" else ""),
        imports="\n".join(exported.reward_model.imports),
        make_shaper=exported.reward_model.make_shaper(),
        kl_coef=content.kl_coef,
    )
    return {f"{MODULE}.py": module, "verl_run.sh": SHELL.format(module=MODULE, settings=settings)}


def overrides(content: ShapeFile) -> dict[str, Any]:
    """Return verl's settings of what the shape was found with: estimator, discounts, KL as a penalty of each token."""
    return {
        "algorithm.adv_estimator": "gae",
        "algorithm.gamma": content.shape.gamma,
        "algorithm.lam": content.shape.gae_lambda,
        "algorithm.use_kl_in_reward": content.kl_coef > 0,
        "algorithm.kl_penalty": KL_PENALTIES[content.kl_estimator],
        "algorithm.kl_ctrl.type": "fixed",
        "algorithm.kl_ctrl.kl_coef": content.kl_coef,
        **searched_overrides("verl", content),
    }


def _inside_docstring(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
