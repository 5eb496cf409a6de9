"""The recipe of the tiny models: every number that decides what the built assets are."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ModelRecipe(BaseModel):
    """Sizes and training settings of a tokenizer and a small policy, whatever the task.

    The defaults give about one million parameters.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocabulary: int = Field(3000, ge=300, le=50_000)
    hidden_size: int = Field(128, ge=8, multiple_of=8)
    intermediate_size: int = Field(352, ge=8)
    layers: int = Field(3, ge=1)
    heads: int = Field(4, ge=1)
    max_tokens: int = Field(48, ge=8, le=256)
    batch_size: int = Field(32, ge=2)
    policy_epochs: int = Field(5, ge=1)
    policy_learning_rate: float = Field(2e-3, gt=0)
    reward_epochs: int = Field(3, ge=1)
    reward_learning_rate: float = Field(1e-3, gt=0)
    seed: int = 0


class Recipe(ModelRecipe):
    """The film reviews' tokenizer, policy, reward model and gold model.

    The defaults train in under three minutes on two cores.
    """

    teacher_share: float = Field(0.8, ge=0, le=1, description="Weight of the linear teacher in the targets.")
    max_reviews: int | None = Field(None, ge=200)


class SummaryRecipe(ModelRecipe):
    """The papers' policy and reward model.

    Sizes, vocabulary and the settings of its training are the tiny policy's; SmolLM2 comes with its own and is taken
    as it is. The reward model has the policy's first layers, in both.
    """

    policy: Literal["tiny", "smollm2"] = "tiny"
    max_tokens: int = Field(128, ge=64, le=256)
    source_words: int = Field(40, ge=20, le=400, description="Longest source, in words: whole sentences of it.")
    repeating_rows: int = Field(16_000, ge=0, description="Rows of random words said twice, which teach to copy.")
    policy_epochs: int = Field(1, ge=1, description="Passes over the papers' text and copied sentences.")
    summary_epochs: int = Field(4, ge=1, description="Passes over human summaries.")
    summary_learning_rate: float = Field(1e-3, gt=0)
    reward_epochs: int = Field(4, ge=1, description="Passes over human summaries, each with new worse ones.")
    reward_layers: int | None = Field(None, ge=1, description="Of the reward model; by default all of the policy's.")
    frozen_layers: int = Field(0, ge=0, description="Lowest layers of the reward model that are not trained.")
    max_papers: int | None = Field(None, ge=20)
