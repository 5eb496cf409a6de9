"""The study's config: typed, frozen, checked in full before anything is touched."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from pipeline.config.settings import (
    ConfirmSettings,
    CustomTrainerSettings,
    ExecutorSettings,
    ObjectiveSettings,
    SearchSettings,
    ShapeSettings,
    SpaceSettings,
    StorageSettings,
    TrackingSettings,
)
from pipeline.config.trainer_space import default_value, searched_settings
from pipeline.config.yaml_text import dump_yaml
from pipeline.runtime.section import Section
from pipeline.tasks.settings import PromptsSettings, SentimentSettings, TaskSettings
from pipeline.trainers.ppo.settings import EvaluationSettings, PPOSettings, SamplingSettings
from search_spaces import SearchSpace, StudySpace, make_space
from shaping.shape import Shape, check_layer


class StudyConfig(Section):
    """A study: task, space, inner loop, outer loop, confirmation, executor, storage."""

    model_config = ConfigDict(hide_input_in_errors=True)

    name: str = Field(
        min_length=1, max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Of the study and its folder."
    )
    task: TaskSettings = Field(default_factory=SentimentSettings, description="Policy, reward model and prompts.")
    space: SpaceSettings = Field(default_factory=SpaceSettings, description="The shapes that are searched.")
    shape: ShapeSettings = Field(default_factory=ShapeSettings, description="The part of every shape that is fixed.")
    sampling: SamplingSettings = Field(default_factory=SamplingSettings, description="How responses are sampled.")
    ppo: PPOSettings = Field(default_factory=PPOSettings, description="The training of one policy.")
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings, description="How policies are judged.")
    objective: ObjectiveSettings = Field(
        default_factory=ObjectiveSettings,
        # Studies from before it existed are told by what their config says.
        exclude_if=lambda settings: settings == ObjectiveSettings(),
        description="What trials are judged by.",
    )
    search: SearchSettings = Field(default_factory=SearchSettings, description="The outer loop.")
    confirm: ConfirmSettings = Field(default_factory=ConfirmSettings, description="The best arms on fresh seeds.")
    executor: ExecutorSettings = Field(default_factory=ExecutorSettings, description="Where trials run.")
    tracking: TrackingSettings = Field(
        default_factory=TrackingSettings,
        exclude_if=lambda settings: settings == TrackingSettings(),
        description="Curves of runs for other tools.",
    )
    trainer: CustomTrainerSettings | None = Field(None, description="A custom trainer; task is then unused.")
    storage: StorageSettings = Field(
        default_factory=StorageSettings, description="A database; an address alone is its url."
    )

    @field_validator("storage", mode="before")
    @classmethod
    def _address(cls, value: Any) -> Any:
        return {} if value is None else {"url": value} if isinstance(value, str) else value

    @field_validator("task", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"name": "sentiment", **value} if isinstance(value, dict) else value

    @model_validator(mode="before")
    @classmethod
    def _no_price_for_ending(cls, values: Any) -> Any:
        # On the last token, what credit leaves of a score would reward or punish that a response ends there.
        sampling, shape = (values.get(name, {}) if isinstance(values, dict) else None for name in ("sampling", "shape"))
        if isinstance(shape, ShapeSettings):
            shape = shape.model_dump(exclude_unset=True)
        if isinstance(shape, dict) and _may_end(sampling):
            return {**values, "shape": {"closure": "first", **shape}}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> StudyConfig:
        space = self.make_space()
        shared = set(self.search.seeds) & set(self.confirm.seeds)
        if shared:
            raise ValueError(
                f"confirm.seeds: {sorted(shared)} are also in search.seeds; confirm on seeds the search never saw"
            )
        # The layers of other tasks' reward models are known when they are loaded.
        if self.trainer is None and "attention" in self.space.methods and isinstance(self.task, SentimentSettings):
            check_layer(self.shape.attention_layer, self.task.recipe.layers, self.task.name)
        if self.ppo.reward_scale != 1 and self.shape.policy_preserving:
            raise ValueError(
                f"ppo.reward_scale = {self.ppo.reward_scale} changes the total reward, and with it the optimal policy "
                "under the price of KL; set it to 1, or shape.policy_preserving to false if that is what you want"
            )
        self._check_devices()
        baselines = [arm.name for arm in space.baselines()]
        # An earlier study may hold them already.
        if self.search.trials < len(baselines) and self.search.warm_start is None:
            raise ValueError(
                f"search.trials = {self.search.trials} is fewer than the {len(baselines)} baseline arms of space "
                f"{self.space.name}; set at least {len(baselines)}"
            )
        if "sparse" not in baselines:
            for needed, set_to in (
                ("search.constraints.kl_over_sparse", self.search.constraints.kl_over_sparse is not None),
                ("search.objective = gain", self.search.objective == "gain"),
            ):
                if set_to:
                    raise ValueError(f"{needed} needs the sparse arm; let space.balance begin at 0")
        return self

    def _check_devices(self) -> None:
        gpus = self.executor.gpus or 0
        if self.trainer is None and gpus > 1:
            raise ValueError(
                f"executor.gpus = {gpus:g}, but the built-in PPO trains each run on one GPU; set executor.gpus to 1, "
                f"and executor.slots to {gpus:g} to run as many trials side by side"
            )
        if isinstance(self.task, PromptsSettings) and self.task.policy.dtype != "float32":
            if self.trainer is None and self.ppo.precision == "float32":
                raise ValueError(
                    f"ppo.precision = float32, but task.policy.dtype = {self.task.policy.dtype} has lost what float32 "
                    "would compute with; set ppo.precision to auto, or task.policy.dtype to float32"
                )

    @property
    def kl_price(self) -> float:
        """Price of a nat of KL(policy || reference) in J."""
        return self.ppo.kl_coef if self.objective.kl_price is None else self.objective.kl_price

    def make_space(self) -> StudySpace:
        """Return all that is searched: the shapes, completed with this study's fixed part, and trainer settings.

        Raises:
            ConfigError: A setting cannot be searched as the config says.
        """
        settings = searched_settings(self)
        return StudySpace(self._shapes(), settings, {each.name: default_value(self, each.name) for each in settings})

    def _shapes(self) -> SearchSpace:
        return make_space(
            self.space.name,
            base=self.base_shape(),
            methods=self.space.methods,
            gae_lambda=self.space.gae_lambda,
            balance=self.space.balance,
            units=self.space.units,
            budget=self.space.budget,
        )

    def base_shape(self) -> Shape:
        """Return the sparse shape at the study's settings: what every other shape changes."""
        return Shape(weights={"sparse": 1.0}, balance=1.0, **self.shape.model_dump())

    def to_yaml(self) -> str:
        """Return the resolved config as YAML."""
        return dump_yaml(self.model_dump(mode="json"))


def _may_end(sampling: Any) -> bool:
    """Return whether the section of sampling, checked or not, says that responses may end early."""
    if isinstance(sampling, SamplingSettings):
        return sampling.stop_at_eos
    try:
        # In whichever word it says so.
        return TypeAdapter(bool).validate_python(sampling.get("stop_at_eos", False))
    except (AttributeError, ValidationError):
        return False
