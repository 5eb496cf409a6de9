"""A tiny random reward model of every family that the library can build."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from benchmarks.families.sizes import OVERRIDES, PAD, SMALL

# Families that take more than tokens, or that cannot be made small: sizes of theirs stand in the code.
LEFT_OUT = {
    "layoutlmv2": "takes pictures of pages, and needs detectron2",
    "layoutlmv3": "takes places on a page",
    "markuplm": "takes paths in a document",
    "perceiver": "takes its inputs through a preprocessor of its own",
    "luke": "takes entities",
    "tapas": "takes the cells of a table",
}
WEIGHTS = 3_000_000


def kinds() -> list[str]:
    """Return the families that have a sequence classifier, and those that have a language model."""
    found = [*MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES, *MODEL_FOR_CAUSAL_LM_MAPPING_NAMES]
    return [kind for kind in dict.fromkeys(found) if kind not in LEFT_OUT]


def tiny_config(kind: str, **changes: Any) -> PreTrainedConfig:
    """Return a family's config with all sizes small, one label, and ids of its special tokens."""
    cls = CONFIG_MAPPING[kind]
    names = set(inspect.signature(cls.__init__).parameters) | set(getattr(cls, "attribute_map", {}))
    names |= set(getattr(cls, "__dataclass_fields__", {}))
    options = {name: size for name, size in SMALL.items() if name in names}
    config = cls(**{**options, **OVERRIDES.get(kind, {}), **changes}, num_labels=1)
    if not hasattr(config.get_text_config(), "pad_token_id"):
        config.get_text_config().pad_token_id = PAD
    return config


def tiny_classifier(kind: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """Return a random sequence classifier of a family: the library's own, or its backbone below a linear head.

    Raises:
        ValueError: It would not be tiny.
    """
    config = tiny_config(kind, **changes)
    cls = classifier_class(kind)
    with torch.device("meta"):
        weights = sum(weight.numel() for weight in cls(config).parameters())
    if weights > WEIGHTS:
        raise ValueError(f"{kind} has {weights} weights where all sizes are small")
    torch.manual_seed(seed)
    model: PreTrainedModel = cls(config).float().eval()
    return model


def classifier_class(kind: str) -> Any:
    """Return the library's sequence classifier of a family, or one made of its backbone."""
    name = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.get(kind)
    if name is not None:
        return getattr(transformers, name)
    language_model = getattr(transformers, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind])
    bases = [each for each in language_model.__mro__ if each.__name__.endswith("PreTrainedModel")]
    return type(f"{language_model.__name__}Score", (LinearHead, bases[0]), {})


class LinearHead(GenericForSequenceClassification):
    """The library's own generic head, for backbones of recurrent states as well, which return no keys and values."""

    def forward(self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None, **given: Any) -> Any:
        """Return the logits read at the last token that is not padding, as the library's generic head does."""
        backbone = getattr(self, self.base_model_prefix)
        output = backbone(input_ids=input_ids, inputs_embeds=inputs_embeds, **given)
        logits = self.score(output.last_hidden_state)
        places = torch.zeros(len(logits), dtype=torch.long) - 1
        if input_ids is not None:
            column = torch.arange(input_ids.shape[1])
            places = torch.where(input_ids != PAD, column, 0).amax(dim=1)
        attentions = getattr(output, "attentions", None)
        return SequenceClassifierOutput(logits=logits[torch.arange(len(logits)), places], attentions=attentions)
