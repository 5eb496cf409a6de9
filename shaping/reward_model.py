"""Reward models: what scores a response, every prefix of it, or any row of tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from shaping.errors import ConfigError
from shaping.rollouts import Rollouts, model_inputs


class RewardModel(Protocol):
    """What the shaper and the credit methods ask of a reward model.

    ``abilities`` names what it can do beyond scoring rows: ``prefix`` and ``attention``.
    """

    abilities: frozenset[str]

    def score_rows(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return the scores (``R``) of right-padded rows (``R x L``) of the given lengths (``R``)."""
        ...

    def prefix_scores(self, rollouts: Rollouts) -> Tensor:
        """Return ``B x (T + 1)`` scores after the prompt and after each token; padding repeats the last one."""
        ...

    def response_attention(self, rollouts: Rollouts) -> Tensor:
        """Return ``B x T`` attention of the last response token to the response, each row summing to 1."""
        ...


class CausalRewardModel:
    """A causal language model with a scalar head, read at the last token.

    Args:
        model: A Hugging Face sequence classifier with one label and a causal backbone.
        mean: The raw score that becomes 0.
        deviation: The raw difference that becomes 1.
        name: What the reward model is called in files and messages.

    Raises:
        ConfigError: The model has more than one label, or its head cannot be found.
    """

    abilities = frozenset({"prefix", "attention"})

    def __init__(self, model: PreTrainedModel, mean: float = 0.0, deviation: float = 1.0, name: str = "") -> None:
        head = getattr(model, "score", None)
        if head is None or head.weight.shape[0] != 1:
            raise ConfigError(
                f"reward model {name or type(model).__name__} has no scalar head named score",
                "use a causal sequence classification model with num_labels = 1",
            )
        self.model = model.eval().requires_grad_(False)
        self.mean, self.deviation, self.name = mean, deviation, name
        self._head = head

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> CausalRewardModel:
        """Return the reward model saved in ``folder``; its config may hold ``score_mean`` and ``score_deviation``."""
        model = AutoModelForSequenceClassification.from_pretrained(folder, use_safetensors=True)
        mean, deviation = getattr(model.config, "score_mean", 0.0), getattr(model.config, "score_deviation", 1.0)
        return cls(model, float(mean), float(deviation), Path(folder).name)

    @staticmethod
    def tokenizer(folder: str | Path) -> Any:
        """Return the tokenizer saved beside the reward model."""
        return AutoTokenizer.from_pretrained(folder)

    def identity(self) -> str:
        """Return a hash of the weights and of the scale: what an exported shape is bound to."""
        digest = hashlib.sha256(f"{self.mean!r} {self.deviation!r}".encode())
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()

    @torch.inference_mode()
    def score_rows(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return the scores (``R``) of right-padded rows; a causal model needs no mask for right padding."""
        hidden = self.model.base_model(input_ids=ids).last_hidden_state
        last = hidden[torch.arange(len(ids), device=ids.device), lengths - 1]
        return self._scale(self._head(last).squeeze(-1))

    @torch.inference_mode()
    def prefix_scores(self, rollouts: Rollouts) -> Tensor:
        """Return ``B x (T + 1)`` scores from one forward pass (R3HF, arXiv 2411.08302)."""
        hidden = self.model.base_model(**model_inputs(rollouts)).last_hidden_state
        return self._prefixes(hidden, rollouts)

    @torch.inference_mode()
    def response_attention(self, rollouts: Rollouts) -> Tensor:
        """Return ``B x T`` attention as ABC uses it (arXiv 2402.00782): last layer, mean over heads."""
        with _eager_attention(self.model):
            output = self.model.base_model(**model_inputs(rollouts), output_attentions=True)
        prompt_width = rollouts.prompt_ids.shape[1]
        attention: Tensor = output.attentions[-1].float().mean(dim=1)
        rows = torch.arange(len(rollouts), device=attention.device)
        row = attention[rows, prompt_width + rollouts.last_token, prompt_width:]
        row = row * rollouts.response_mask
        return row / row.sum(dim=1, keepdim=True).clamp(min=torch.finfo(row.dtype).tiny)

    def _prefixes(self, hidden: Tensor, rollouts: Rollouts) -> Tensor:
        scores = self._scale(self._head(hidden[:, rollouts.prompt_ids.shape[1] - 1 :]).squeeze(-1))
        positions = torch.arange(scores.shape[1], device=scores.device)
        return scores.gather(1, torch.minimum(positions[None], rollouts.response_tokens[:, None]))

    def _scale(self, raw: Tensor) -> Tensor:
        return (raw.float() - self.mean) / self.deviation


@contextmanager
def _eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Run with the one attention implementation that returns its weights."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
