"""Models of random weights in the shapes of Qwen3, and prompts of random tokens; nothing is downloaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast, Qwen3Config

from pipeline.config.load import parse_config
from pipeline.config.schema import StudyConfig
from pipeline.estimate.outlines import ModelOutline, TaskOutline
from pipeline.trainers.base import Prompts, Task
from shaping import CausalRewardModel

# Qwen3's shapes as their configs on the model hub say them.
QWEN3 = {"vocab_size": 151_936, "head_dim": 128, "num_key_value_heads": 8}
POLICY = {"hidden_size": 2_048, "intermediate_size": 6_144, "num_hidden_layers": 28, "num_attention_heads": 16}
REWARD = {"hidden_size": 2_560, "intermediate_size": 9_728, "num_hidden_layers": 36, "num_attention_heads": 32}
SMALL = {
    "vocab_size": 512,
    "head_dim": 32,
    "num_key_value_heads": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
PAD, BOS, EOS = 0, 1, 2


@dataclass(frozen=True)
class Workload:
    """What is measured.

    Attributes:
        policy: Of the policy's config.
        reward: Of the reward model's.
        prompt_tokens: Of every prompt.
        response_tokens: Of every response: none ends early.
        batch: Responses of a step.
        micro_batch: Responses of one forward and backward pass.
        scored: Responses whose coalitions are scored.
        device: ``cuda`` or ``cpu``.
        dtype: Of the reference, the reward model and the products.
    """

    policy: dict[str, int] = field(default_factory=lambda: {**QWEN3, **POLICY})
    reward: dict[str, int] = field(default_factory=lambda: {**QWEN3, **REWARD})
    prompt_tokens: int = 256
    response_tokens: int = 256
    batch: int = 64
    micro_batch: int = 8
    scored: int = 8
    device: str = "cuda"
    dtype: str = "bfloat16"

    @classmethod
    def small(cls, device: str) -> Workload:
        """Return one that a CPU makes in seconds."""
        tokens = {"prompt_tokens": 12, "response_tokens": 16, "batch": 4, "micro_batch": 2, "scored": 2}
        return cls(dict(SMALL), dict(SMALL), **tokens, device=device, dtype="float32")

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type, as torch has it."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    def config(self, steps: int, **sampling: Any) -> StudyConfig:
        """Return the config of a run."""
        values = {
            "name": "gpu",
            "task": {"name": "sentiment"},
            "sampling": {"response_tokens": self.response_tokens, **sampling},
            "ppo": {
                "steps": steps,
                "batch_size": self.batch,
                "num_ppo_epochs": 1,
                "micro_batch_size": self.micro_batch,
                "gradient_checkpointing": True,
                "learning_rate": 1e-6,
                "device": self.device,
                "precision": self.dtype,
                "save_steps": 0,
            },
            "evaluation": {"prompts": self.batch},
            "space": {"methods": ["prefix", "shapley"], "trainer": {}},
        }
        return parse_config(values, "the benchmark")

    def outline(self) -> TaskOutline:
        """Return the task without its weights, for the doctor's table."""
        policy = ModelOutline(_config(self.policy), self.torch_dtype, classifies=False)
        reward = ModelOutline(_config(self.reward), self.torch_dtype)
        return TaskOutline(policy, reward, None, self.prompt_tokens)

    def task(self) -> Task:
        """Return the task, its models on the device."""
        torch.manual_seed(0)
        with torch.device(self.device):
            policy = AutoModelForCausalLM.from_config(_config(self.policy), dtype=self.torch_dtype).eval()
        prompts = self.prompts()
        return Task(
            name="random",
            policy=policy,
            tokenizer=words(self.policy["vocab_size"]),
            reward_model=self.reward_model(self.torch_dtype),
            gold_model=None,
            train_prompts=prompts,
            held_out_prompts=prompts,
        )

    def reward_model(self, dtype: torch.dtype, most_tokens: int | None = None) -> CausalRewardModel:
        """Return the reward model in a type, with a bound of its forward passes."""
        torch.manual_seed(1)
        with torch.device(self.device):
            model = AutoModelForSequenceClassification.from_config(_config(self.reward), dtype=dtype).eval()
        return CausalRewardModel(model, max_tokens_per_forward=most_tokens)

    def prompts(self) -> Prompts:
        """Return a batch of random prompts, on the device."""
        generator = torch.Generator().manual_seed(2)
        ids = torch.randint(3, self.policy["vocab_size"], (self.batch, self.prompt_tokens), generator=generator)
        return Prompts(ids.to(self.device), torch.ones_like(ids, dtype=torch.bool).to(self.device))


def _config(size: dict[str, int]) -> Qwen3Config:
    rows = {"max_position_embeddings": 4_096, "tie_word_embeddings": True, "num_labels": 1}
    return Qwen3Config(**size, **rows, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD)


def words(count: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer of as many words."""
    known = {"<pad>": PAD, "<s>": BOS, "</s>": EOS, **{f"w{index}": index for index in range(3, count)}}
    core = Tokenizer(models.WordLevel(known, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
