"""slime 0.3: the module with its advantage function for an exported shape, and the arguments that go with it."""

from __future__ import annotations

from pipeline.snippets.origin import origin
from shaping.shape_file import ShapeFile

MODULE = '''\
"""Dense rewards for slime 0.3: its advantage function; the arguments stand in shapetune_slime.sh."""

{origin}
from pathlib import Path

from shaping import CausalRewardModel, Shape, Shaper
from shaping.adapters.slime import dense_advantages, for_critic


def make_shaper(tokenizer):
    # The one that the shape was tuned for; another is refused.
    reward_model = CausalRewardModel.from_pretrained({source!r})
    return Shaper(Shape.load(Path(__file__).with_name("shape.json"), reward_model), reward_model, tokenizer)


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
)
"""


def snippet(content: ShapeFile, reward_model_source: str) -> dict[str, str]:
    """Return ``shapetune_slime.py`` and ``shapetune_slime.sh``, as file names and texts.

    Args:
        content: What the shape file holds.
        reward_model_source: Folder or name of the reward model that the shape was tuned for.
    """
    shape = content.shape
    module = MODULE.format(origin=origin(content), source=reward_model_source)
    arguments = ARGUMENTS.format(
        gamma=shape.gamma,
        gae_lambda=shape.gae_lambda,
        kl_coef=content.kl_coef,
        kl_estimator=content.kl_estimator,
    )
    return {"shapetune_slime.py": module, "shapetune_slime.sh": arguments}
