"""The models of a config without their weights: what their configs say of their sizes."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from pipeline.config.schema import StudyConfig
from pipeline.estimate.live_bytes import size_of
from pipeline.tasks.model_settings import RewardSettings
from pipeline.tasks.models.encoder import encoder_config
from pipeline.tasks.models.language_model import policy_config
from pipeline.tasks.models.pretrained import HEADS, check_folder, loading_model, policy_outline_config
from pipeline.tasks.settings import (
    InstructionSettings,
    ModelRecipe,
    PromptsSettings,
    SentimentSettings,
    SummarizationSettings,
)

# Of SmolLM2-135M, as its model card says.
SMOLLM2 = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
# Longest prompts of the tasks that come with the project; what SmolLM2 is asked is a chat.
REVIEW_PROMPT, CHAT_PROMPT, PAPER_PROMPT = 8, 96, 128
# Bytes of a weight and of what restores it: one scale of four bytes for 64 weights of four bits.
QUANTIZED_BYTES = {"int8": 1.0, "nf4": 0.5 + 4 / 64}


@dataclass(frozen=True)
class ModelOutline:
    """A model without its weights.

    Attributes:
        config: Of the library.
        dtype: Of its weights.
        classifies: Whether it is a sequence classifier.
        quantization: How its weights are quantized, if they are.
    """

    config: PreTrainedConfig
    dtype: torch.dtype = torch.float32
    classifies: bool = True
    quantization: str | None = None

    def build(self, dtype: torch.dtype | None = None) -> PreTrainedModel:
        """Return the model, wherever tensors are made at the time: fake ones take nothing."""
        kind = AutoModelForSequenceClassification if self.classifies else AutoModelForCausalLM
        model: PreTrainedModel = kind.from_config(copy.deepcopy(self.config), dtype=dtype or self.dtype)
        return model.eval()

    def weight_bytes(self, model: PreTrainedModel) -> int:
        """Return what its weights take, given the model that was built."""
        plain = size_of((*model.parameters(), *model.buffers()))
        if self.quantization is None:
            return plain
        linear = [
            module.weight.numel()
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and name.split(".")[-1] not in HEADS
        ]
        saved = sum(linear) * (self.dtype.itemsize - QUANTIZED_BYTES[self.quantization])
        return int(plain - saved)


@dataclass(frozen=True)
class TaskOutline:
    """The models of a task, and its longest prompt.

    Attributes:
        policy: What is trained.
        reward: ``None`` where a program or a server scores.
        gold: A second one, if there is one.
        prompt_tokens: Of the longest prompt, or of the longest that may come.
    """

    policy: ModelOutline
    reward: ModelOutline | None
    gold: ModelOutline | None
    prompt_tokens: int


def outline_of(config: StudyConfig) -> TaskOutline:
    """Return the outline of a config's task; nothing of any weight is read.

    Raises:
        ConfigError: A model's config cannot be read.
    """
    task = config.task
    if isinstance(task, PromptsSettings):
        check_folder("task.policy.model", task.policy.model)
        policy = ModelOutline(policy_outline_config(task.policy), getattr(torch, task.policy.dtype), classifies=False)
        reward = _classifier(task.reward_model, "task.reward_model")
        gold = None if task.gold_model is None else _classifier(task.gold_model, "task.gold_model")
        return TaskOutline(policy, reward, gold, task.max_prompt_tokens)
    if isinstance(task, SentimentSettings):
        tiny = _tiny(task.recipe)
        reward = ModelOutline(encoder_config(task.recipe, task.recipe.vocabulary, pad_token_id=0))
        reward = reward if task.reward_model == "encoder" else _judging(tiny)
        policy = tiny if task.policy == "tiny" else LlamaConfig(**SMOLLM2)
        prompt = REVIEW_PROMPT if task.policy == "tiny" else CHAT_PROMPT
        return TaskOutline(ModelOutline(policy, classifies=False), reward, _judging(tiny), prompt)
    if isinstance(task, SummarizationSettings):
        return _of_summaries(task)
    assert isinstance(task, InstructionSettings)
    small = task.policy == "reviews"
    config_of = _tiny(task.recipe) if small else LlamaConfig(**SMOLLM2)
    return TaskOutline(ModelOutline(config_of, classifies=False), None, None, REVIEW_PROMPT if small else CHAT_PROMPT)


def _of_summaries(task: SummarizationSettings) -> TaskOutline:
    recipe = task.recipe
    policy = _tiny(recipe) if recipe.policy == "tiny" else LlamaConfig(**SMOLLM2)
    judging = _judging(policy).config
    judging.num_hidden_layers = min(recipe.reward_layers or policy.num_hidden_layers, policy.num_hidden_layers)
    # A word of a paper is some two tokens.
    prompt = max(PAPER_PROMPT, 2 * recipe.source_words)
    return TaskOutline(ModelOutline(policy, classifies=False), ModelOutline(judging), None, prompt)


def _tiny(recipe: ModelRecipe) -> LlamaConfig:
    return policy_config(recipe, recipe.vocabulary, pad_token_id=0)


def _judging(policy: LlamaConfig) -> ModelOutline:
    judging = copy.deepcopy(policy)
    judging.num_labels, judging.pad_token_id = 1, 0
    return ModelOutline(judging)


def _classifier(settings: RewardSettings, field: str) -> ModelOutline | None:
    if settings.model is None:
        return None
    check_folder(f"{field}.model", settings.model)
    with loading_model(f"{field}.model", settings.model):
        config = AutoConfig.from_pretrained(
            settings.model, revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
    return ModelOutline(config, getattr(torch, settings.dtype), quantization=settings.quantization)
