"""slime 0.3: the module with its advantage function for an exported shape, and the arguments that go with it."""

from __future__ import annotations

from pipeline.export.template import Exported, origin
from pipeline.export.trainer_settings import searched_overrides

MODULE = '''\
"""Dense rewards for slime 0.3: its advantage function; the arguments stand in shapetune_slime.sh."""

{origin}
from pathlib import Path

{imports}
from shaping.adapters.slime import dense_advantages, for_critic


SHAPE = Path(__file__).resolve().with_name("shape.json")


{make_shaper}


advantages = dense_advantages(make_shaper)
initialize = for_critic(f"{{__name__}}.advantages")
'''

ARGUMENTS = """\
# Source this and give "${{SHAPE_ARGS[@]}}" to train.py; its processes must find shapetune_slime.py on PYTHONPATH.
# KL is charged in the reward, at the study's price: for scores in the units of the study's reward model.
SHAPE_ARGS=(
   --advantage-estimator ppo
   --custom-advantage-function-path shapetune_slime.advantages
   --custom-megatron-init-path shapetune_slime.initialize
   --gamma {gamma!r}
   --lambd {gae_lambda!r}
   --kl-coef {kl_coef!r}
   --kl-loss-type {kl_estimator}
{searched})
"""


def snippet(exported: Exported) -> dict[str, str]:
    """Return ``shapetune_slime.py`` and ``shapetune_slime.sh``, as file names and texts."""
    content, shape = exported.content, exported.content.shape
    code = exported.reward_model
    module = MODULE.format(origin=origin(content), imports="\n".join(code.imports), make_shaper=code.make_shaper())
    arguments = ARGUMENTS.format(
        gamma=shape.gamma,
        gae_lambda=shape.gae_lambda,
        kl_coef=content.kl_coef,
        kl_estimator=content.kl_estimator,
        searched="".join(f"   {name} {value}\n" for name, value in searched_overrides("slime", content).items()),
    )
    return {"shapetune_slime.py": module, "shapetune_slime.sh": arguments}
