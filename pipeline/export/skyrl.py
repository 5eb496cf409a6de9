"""SkyRL 0.3: the script that starts a run with an exported shape."""

from __future__ import annotations

from pipeline.export.template import Exported, origin
from pipeline.export.trainer_settings import searched_overrides

MODULE = '''\
"""Trains in SkyRL 0.3 with dense rewards; what SETTINGS does not hold is given as to SkyRL itself:

python shapetune_skyrl.py trainer.policy.model.path=POLICY trainer.critic.model.path=CRITIC data.train_data="['FILE']"
"""

{origin}
import sys
from pathlib import Path

import ray
from skyrl.train.config import SkyRLTrainConfig
from skyrl.train.entrypoints.main_base import BasePPOExp
from skyrl.train.utils import initialize_ray, validate_cfg

{imports}
from shaping.adapters.skyrl import check_trainer, dense_trainer

SHAPE = Path(__file__).resolve().with_name("shape.json")
# What the study charged for a nat of KL, off the rewards: for scores in the units of its reward model.
KL_COEF = {kl_coef!r}
SETTINGS = [
    "trainer.algorithm.advantage_estimator=gae",
    "trainer.algorithm.gamma={gamma!r}",
    "trainer.algorithm.lambd={gae_lambda!r}",
    "trainer.algorithm.use_kl_in_reward=true",
    "trainer.algorithm.use_kl_loss=false",
    "trainer.algorithm.kl_ctrl.type=fixed",
    f"trainer.algorithm.kl_loss_coef={{KL_COEF}}",
    "trainer.algorithm.kl_estimator_type={kl_estimator}",
{searched}]


{make_shaper}


class DenseExp(BasePPOExp):
    def get_trainer(self, **given):
        return dense_trainer(make_shaper, kl_coef=KL_COEF)(**given)


@ray.remote(num_cpus=1)  # the reward model runs in this process, on a CPU
def train(cfg):
    DenseExp(cfg).run()


if __name__ == "__main__":
    cfg = SkyRLTrainConfig.from_cli_overrides([*SETTINGS, *sys.argv[1:]])
    check_trainer(Shape.load(SHAPE), cfg, KL_COEF)  # before anything starts
    validate_cfg(cfg)
    initialize_ray(cfg)
    ray.get(train.remote(cfg))
'''


def snippet(exported: Exported) -> dict[str, str]:
    """Return ``shapetune_skyrl.py``, which starts a run of SkyRL, as file name and text."""
    content, shape = exported.content, exported.content.shape
    module = MODULE.format(
        origin=origin(content),
        gamma=shape.gamma,
        gae_lambda=shape.gae_lambda,
        kl_coef=content.kl_coef,
        kl_estimator=content.kl_estimator,
        searched="".join(
            f"    {f'{name}={value}'!r},\n" for name, value in searched_overrides("skyrl", content).items()
        ),
        imports="\n".join(exported.reward_model.imports),
        make_shaper=exported.reward_model.make_shaper(),
    )
    return {"shapetune_skyrl.py": module}
