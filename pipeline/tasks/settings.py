"""What a config may say of a task: one class for each kind, told apart by ``name``, and the recipes of tiny models."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from pipeline.runtime.section import LARGEST_SEED, Section
from pipeline.tasks.model_settings import LoadedModel, RewardSettings


class ModelRecipe(Section):
    """Sizes and training settings of a tokenizer and a small policy, whatever the task.

    The defaults give about one million parameters.
    """

    vocabulary: int = Field(3000, ge=300, le=50_000, description="Tokens of the tokenizer.")
    hidden_size: int = Field(128, ge=8, le=65_536, multiple_of=8, description="Width of the policy.")
    intermediate_size: int = Field(352, ge=8, le=1_000_000, description="Width of its feed-forward layers.")
    layers: int = Field(3, ge=1, le=1_000, description="Layers of the policy.")
    heads: int = Field(4, ge=1, description="Attention heads of a layer.")
    max_tokens: int = Field(48, ge=8, le=256, description="Longest row of the training, in tokens.")
    batch_size: int = Field(32, ge=2, description="Rows of a batch.")
    policy_epochs: int = Field(5, ge=1, description="Passes of the policy's training.")
    policy_learning_rate: float = Field(2e-3, gt=0, le=1, description="Of the policy's training.")
    reward_epochs: int = Field(3, ge=1, description="Passes of the reward models' training.")
    reward_learning_rate: float = Field(1e-3, gt=0, le=1, description="Of the reward models' training.")
    seed: int = Field(0, ge=-LARGEST_SEED, le=LARGEST_SEED, description="Of everything random while models are built.")

    @model_validator(mode="after")
    def _heads_fit(self) -> ModelRecipe:
        # A head turns pairs of its numbers by their place.
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                f"hidden_size = {self.hidden_size} cannot be shared by heads = {self.heads}: each needs an even part; "
                "change one of them"
            )
        return self


class Recipe(ModelRecipe):
    """The film reviews' tokenizer, policy, reward model and gold model.

    The defaults are those of the models that come with the project.
    """

    teacher_share: float = Field(0.8, ge=0, le=1, description="Weight of the linear teacher in the targets.")
    max_reviews: int | None = Field(None, ge=200, description="Reviews that are used; unset uses all.")
    weights: Literal["built", "shipped"] = Field(
        "built",
        # Models, studies and runs from before it existed are found by a hash of their recipe.
        exclude_if=lambda weights: weights == "built",
        description="built trains the models here, once; shipped takes those that came with the project, of the "
        "default recipe.",
    )

    @model_validator(mode="after")
    def _shipped_as_they_are(self) -> Recipe:
        fields = type(self).model_fields
        own = [name for name in fields if name != "weights" and getattr(self, name) != fields[name].default]
        if self.weights == "shipped" and own:
            raise ValueError(
                f"weights = shipped comes with the default recipe; leave {', '.join(own)} out, or set weights to built"
            )
        return self


class SummaryRecipe(ModelRecipe):
    """The papers' policy and reward model.

    Sizes, vocabulary and the settings of its training are the tiny policy's; SmolLM2 comes with its own and is taken
    as it is. The reward model has the policy's first layers, in both.
    """

    policy: Literal["tiny", "smollm2"] = Field("tiny", description="A small one that is trained here, or SmolLM2.")
    max_tokens: int = Field(128, ge=64, le=256, description="Longest row of the training, in tokens.")
    source_words: int = Field(40, ge=20, le=400, description="Longest source, in words: whole sentences of it.")
    repeating_rows: int = Field(16_000, ge=0, description="Rows of random words said twice, which teach to copy.")
    policy_epochs: int = Field(1, ge=1, description="Passes over the papers' text and copied sentences.")
    summary_epochs: int = Field(4, ge=1, description="Passes over human summaries.")
    summary_learning_rate: float = Field(1e-3, gt=0, le=1, description="Of the training on human summaries.")
    reward_epochs: int = Field(4, ge=1, description="Passes over human summaries, each with new worse ones.")
    reward_layers: int | None = Field(None, ge=1, description="Of the reward model; by default all of the policy's.")
    frozen_layers: int = Field(0, ge=0, description="Lowest layers of the reward model that are not trained.")
    max_papers: int | None = Field(None, ge=20, description="Papers that are used; unset uses all.")


HELD_OUT_SHARE = 0.1


class SentimentSettings(Section):
    """Film reviews, with reward models that are built on this machine."""

    name: Literal["sentiment"] = Field("sentiment", description="The kind of task.")
    policy: Literal["tiny", "smollm2"] = Field(
        "tiny", description="tiny is trained on the reviews; smollm2, SmolLM2-135M-Instruct, continues them as it is."
    )
    reward_model: Literal["causal", "encoder"] = Field(
        "causal",
        description="causal starts as the tiny policy and scores every prefix at once; encoder reads both ways.",
    )
    recipe: Recipe = Field(default_factory=Recipe, description="Of the tiny policy and of all reward models.")

    @property
    def is_quickstart(self) -> bool:
        """Whether the models are the quickstart's."""
        return self.policy == "tiny" and self.reward_model == "causal"

    @property
    def is_small(self) -> bool:
        """Whether all its models have about a million parameters."""
        return self.policy == "tiny"

    @model_serializer(mode="wrap")
    def _as_before_there_were_others(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # What is kept of a study, a run or a measurement names its config: the quickstart's stays what it was.
        values: dict[str, Any] = plain(self)
        if self.is_quickstart:
            for name in ("policy", "reward_model"):
                values.pop(name, None)
        return values


class SummarizationSettings(Section):
    """Scientific papers, to be summarized in a sentence, with models that are built on this machine."""

    name: Literal["summarization"] = Field(description="The kind of task.")
    recipe: SummaryRecipe = Field(default_factory=SummaryRecipe, description="Of the policy and the reward model.")
    gold: Literal["rouge_l", "rouge_1"] = Field("rouge_l", description="F-measure against the human summary.")

    @property
    def is_small(self) -> bool:
        """Whether all its models have about a million parameters."""
        return self.recipe.policy == "tiny"


class PolicySettings(LoadedModel):
    """The causal language model that is trained.

    In bfloat16 the reference stays so, and what is trained are float32 copies of the weights, or a float32 adapter.
    """

    model: str = Field(min_length=1, description="A folder, a GGUF file, or a name on the Hugging Face hub.")
    gguf_file: str | None = Field(None, min_length=1, description="A GGUF file inside the folder or hub repository.")

    @model_validator(mode="before")
    @classmethod
    def _file_of_its_own(cls, values: Any) -> Any:
        model = values.get("model") if isinstance(values, dict) else None
        if isinstance(model, str) and model.endswith(".gguf") and not values.get("gguf_file"):
            return {**values, "model": str(Path(model).parent), "gguf_file": Path(model).name}
        return values


class PromptsSettings(Section):
    """A policy, a reward model and prompts of the user's."""

    name: Literal["prompts"] = Field(description="The kind of task.")
    policy: PolicySettings = Field(description="The model that is trained.")
    reward_model: RewardSettings = Field(description="The model or function that scores.")
    gold_model: RewardSettings | None = Field(None, description="A second one, which no run is trained on.")
    prompts: str = Field(
        min_length=1,
        description='JSON lines or Parquet, {"prompt": ...} or {"messages": [...]}: a file, an address such as '
        "hf://datasets/org/name/train.parquet, or a folder of the library datasets.",
    )
    max_prompts: int | None = Field(
        None,
        ge=2,
        exclude_if=lambda count: count is None,
        description="Prompts that are read, from the first on; unset reads all.",
    )
    held_out_prompts: str | None = Field(None, min_length=1, description="The same, for the evaluation.")
    held_out_share: float | None = Field(
        None, gt=0, lt=1, description="In place of that file: this share of the prompts is held out; 0.1 by default."
    )
    template_date: date | None = Field(
        None,
        # Studies and runs from before it existed are found by a hash of their settings.
        exclude_if=lambda day: day is None,
        description="What a chat template that asks for the date is told; unset, the day on which a study begins.",
    )
    max_prompt_tokens: int = Field(256, ge=1, description="Longer prompts are left out, and counted.")

    @field_validator("template_date", mode="before")
    @classmethod
    def _day(cls, value: Any) -> Any:
        if value is not None and not isinstance(value, str | date):
            raise ValueError("write a day: 2026-01-31")
        return value

    @model_validator(mode="after")
    def _held_out_once(self) -> PromptsSettings:
        if self.held_out_prompts is not None and self.held_out_share is not None:
            raise ValueError("held_out_prompts and held_out_share were both given; give one of them")
        return self

    @property
    def is_small(self) -> bool:
        """Whether all its models have about a million parameters; before they are loaded nobody knows."""
        return False

    @property
    def share(self) -> float:
        """Share of the prompts that is held out, where no file of held-out prompts is given."""
        return HELD_OUT_SHARE if self.held_out_share is None else self.held_out_share


class InstructionSettings(Section):
    """Constraints that a program checks: questions to SmolLM2-135M-Instruct, or rules for film reviews."""

    name: Literal["instruction"] = Field(description="The kind of task.")
    policy: Literal["smollm2", "reviews"] = Field(
        "smollm2", description="smollm2 reads its constraints in the prompt; reviews has about a million parameters."
    )
    questions: int = Field(2_000, ge=64, le=20_000, description="smollm2: prompts of the training.")
    held_out_questions: int = Field(256, ge=16, le=4_000, description="smollm2: of subjects of their own.")
    measured_temperature: float = Field(
        1.0, ge=1e-3, le=10, description="What the untrained policy is sampled at for the score's scale."
    )
    seed: int = Field(0, ge=-LARGEST_SEED, le=LARGEST_SEED, description="Of the questions and the measured samples.")
    recipe: Recipe = Field(default_factory=Recipe, description="reviews: of the policy.")

    @property
    def is_small(self) -> bool:
        """Whether all its models have about a million parameters."""
        return self.policy == "reviews"


TaskSettings = Annotated[
    SentimentSettings | SummarizationSettings | InstructionSettings | PromptsSettings, Field(discriminator="name")
]
TASK_NAMES = ("sentiment", "summarization", "instruction", "prompts")
