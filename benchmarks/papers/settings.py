"""Each task as it is compared: its config, what is tuned, how many seeds."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.common.configs import measured_config
from benchmarks.papers.field import BUDGET, DOUBLED, LAMBDAS, SCAR, SCAR_TOKEN, SPARSE, TUNED, UNIFORM, WINNER
from pipeline.config.schema import StudyConfig

# What is held out is looked at along the way, always on the same prompts.
ALONG = ("evaluation.every_steps=4", "evaluation.curve_prompts=128")
END_ALONE = "evaluation.every_steps=0"
# Of the larger policy: in few runs, so each is looked at more closely at its end.
LARGER_HELD_OUT = ("evaluation.prompts=128", "evaluation.curve_prompts=64")
# The study may mix whatever takes part: credit of spans and of tokens, at the budget that the others have.
MIXED = ("space.methods=[prefix, attention, shapley, owen]", f"shape.budget={BUDGET}")
# The study builds on the better critic, which every other method is tuned over.
KNOWING = "ppo.critic=reward_model"
SHORT = 0.3
# A program has no attention, and a critic cannot start from it.
MIXED_BLACK_BOX = ("space.methods=[prefix, shapley, owen, uniform]", MIXED[1])


@dataclass(frozen=True)
class Setting:
    """A task as it is compared.

    Attributes:
        config: A built-in config's name.
        changes: ``key=value`` overrides of it: what is measured along the way.
        seeds: Fresh ones.
        trials: Of the study whose winner takes part.
        study: Further overrides of that study alone.
        tuning: Further overrides of the tuning runs alone: of which only the end counts.
        lambdas: That every method but sparse PPO at its defaults is tuned over.
        like: A task whose choices are taken over, the winner's too, in place of tuning and of a study: for models too
            large for either.
        names: Who takes part then.
    """

    config: str
    changes: tuple[str, ...]
    seeds: int
    trials: int = 0
    study: tuple[str, ...] = ()
    tuning: tuple[str, ...] = ()
    lambdas: tuple[float, ...] = LAMBDAS
    like: str = ""
    names: tuple[str, ...] = ()

    def loaded(self, *more: str) -> StudyConfig:
        """Return the config, with further overrides, which take the place of the setting's own."""
        changes = {change.partition("=")[0]: change for change in (*self.changes, *more)}
        return measured_config(self.config, tuple(changes.values()))


def larger(config: str, like: str, *along: str) -> Setting:
    """Return a task with the larger policy: twenty steps of who matters most, as they were chosen on another task."""
    names = (SPARSE, TUNED, DOUBLED, UNIFORM, "R3HF", SCAR, SCAR_TOKEN, WINNER)
    changes = ("ppo.steps=20", "evaluation.every_steps=5", *along)
    return Setting(config, changes, seeds=3, like=like, names=names)


SETTINGS = {
    # A critic that knows the reward model wants short lambdas: here 0.6 would be the end of what is tried.
    "sentiment": Setting(
        "quickstart",
        (*ALONG, *MIXED),
        seeds=8,
        trials=24,
        study=(KNOWING, f"space.gae_lambda=[{SHORT}, 1.0]"),
        lambdas=(SHORT, *LAMBDAS),
    ),
    # Reads both ways, so that no critic can start from it; attention and prefixes it has.
    "sentiment-encoder": Setting("sentiment_encoder", (*ALONG, *MIXED), seeds=8, trials=24, tuning=(END_ALONE,)),
    "instruction": Setting("instruction", (*ALONG, *MIXED_BLACK_BOX), seeds=8, trials=24),
    "summarization": Setting(
        "summarization",
        ("evaluation.every_steps=8", "evaluation.curve_prompts=132", *MIXED),
        seeds=8,
        trials=24,
        study=(KNOWING,),
        tuning=(END_ALONE,),
    ),
    # No critic starts from a reward model of other tokens: what was chosen without one is taken over.
    "sentiment-smollm2": larger("sentiment_smollm2", "instruction", *LARGER_HELD_OUT),
    # At the end all held-out papers and aspects.
    "summarization-smollm2": larger(
        "summarization_smollm2", "summarization", "evaluation.prompts=132", "evaluation.curve_prompts=32"
    ),
    # Half the config's steps: a run takes a quarter of an hour on one core.
    "instruction-smollm2": larger("instruction_smollm2", "instruction", *LARGER_HELD_OUT),
}
