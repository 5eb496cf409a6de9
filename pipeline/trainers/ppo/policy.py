"""The policy that is trained: a copy, or an adapter (LoRA, Hu et al., arXiv 2106.09685) on the task's own weights."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.trainers.ppo.settings import LoraSettings
from shaping.errors import ConfigError

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class TrainedPolicy:
    """A policy whose parameters may change, while the task's policy stays the reference.

    Attributes:
        model: What is trained and sampled from.
        adapter: The library's adapter around it, where one is used.
    """

    model: PreTrainedModel
    adapter: Any = None

    @classmethod
    def of(cls, source: PreTrainedModel, lora: LoraSettings | None) -> TrainedPolicy:
        """Return a policy to train that starts as ``source``.

        With LoRA it shares ``source``'s weights, which are frozen: the reference costs no memory. What is trained is
        in float32, whatever ``source`` is in: half precision would lose small steps.

        Raises:
            ConfigError: The adapter library is missing, or the model has no module that the settings name.
        """
        if lora is None:
            return cls(in_float32(copy.deepcopy(source)).requires_grad_(True))
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError as error:
            raise ConfigError("ppo.lora needs the package peft", "pip install 'shapetune[lora]'") from error
        options = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=0.0,
            target_modules=lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules),
            task_type="CAUSAL_LM",
        )
        # What the memo holds is not copied: modules are new, their weights are shared.
        shared = {id(tensor): tensor for tensor in (*source.parameters(), *source.buffers())}
        try:
            adapter = get_peft_model(copy.deepcopy(source, shared), options)
        except (ValueError, TypeError, re.error) as error:
            # A single name is read as a regular expression, and it may be none.
            raise ConfigError(
                f"ppo.lora.target_modules = {lora.target_modules}: {error}", "name other modules"
            ) from error
        # The library makes its own layers in training mode.
        adapter.train(source.training)
        return cls(adapter.get_base_model(), adapter)

    def save(self, folder: Path) -> None:
        """Write the policy as a whole model; its adapter alone goes into ``adapter`` below it."""
        if self.adapter is None:
            self.model.save_pretrained(folder)
            return
        self.adapter.save_pretrained(folder / "adapter", safe_serialization=True)
        # The library's merging writes into the weights, which the reference shares: it would want a copy of them all.
        self.model.save_pretrained(folder, state_dict=merged_weights(self.model))


@torch.no_grad()
def merged_weights(policy: PreTrainedModel) -> dict[str, Tensor]:
    """Return a policy's weights under the names that it has without adapters, which are added to what they adapt."""
    adapted = {f"{name}.": each for name, each in policy.named_modules() if hasattr(each, "get_delta_weight")}
    found = {
        name: weight
        for name, weight in policy.state_dict(keep_vars=True).items()
        if not any(name.startswith(prefix) for prefix in adapted)
    }
    for prefix, layer in adapted.items():
        own: Any = layer
        delta = sum(own.get_delta_weight(name) for name in own.active_adapters)
        for name, weight in own.base_layer.state_dict(keep_vars=True).items():
            found[prefix + name] = weight + delta.to(weight.dtype) if name == "weight" else weight
    return {name: weight.detach() for name, weight in found.items()}


def in_float32(model: Model) -> Model:
    """Return a model whose weights are float32; itself where they are."""
    return model if all(weight.dtype == torch.float32 for weight in model.parameters()) else model.float()
