"""Policies that cannot be trained as they lie there: adapters, quantized weights, weights that reading changes."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from shaping.errors import ConfigError

MERGE = "merge it into its base, AutoPeftModelForCausalLM.from_pretrained(...).merge_and_unload(), and save that"


def check_no_adapter(field: str, model: str, adapter: str | None) -> None:
    """Refuse an adapter: what is trained and saved is a whole model.

    Args:
        field: The config's field.
        model: What it names.
        adapter: The path of the adapter's config there, if there is one.

    Raises:
        ConfigError: The folder or repository holds an adapter.
    """
    if adapter is not None:
        raise ConfigError(
            f"{field}: {model} holds an adapter (adapter_config.json), no whole model", f"{MERGE} with its tokenizer"
        )


def check_trainable(field: str, model: str, config: PreTrainedConfig) -> None:
    """Refuse weights that no optimizer can change, or that a model changes itself.

    Args:
        field: The config's field.
        model: What it names.
        config: Of the model.

    Raises:
        ConfigError: The weights are quantized, or the model rescales them while it reads.
    """
    quantized: Any = getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(), "quantization_config", None
    )
    if quantized is not None:
        values = quantized if isinstance(quantized, dict) else quantized.to_dict()
        raise ConfigError(
            f"{field}: {model} is quantized ({values.get('quant_method', 'unknown method')}); such weights cannot be "
            "trained, nor saved with an adapter merged in",
            "give the model in float32, bfloat16 or float16, or a GGUF file, which is unpacked",
        )
    every = getattr(config, "rescale_every", 0) or 0
    if 0 < every < int(getattr(config, "num_hidden_layers", 0)):
        raise ConfigError(
            f"{field}: {model} rescales its own weights while it reads (rescale_every: {every})",
            "set rescale_every to 0 in its config.json",
        )


def check_whole(field: str, model: str, loaded: PreTrainedModel) -> None:
    """Refuse a loaded model into which the library has put an adapter.

    Raises:
        ConfigError: It has one.
    """
    if getattr(loaded, "peft_config", None):
        raise ConfigError(f"{field}: {model} was loaded with an adapter in it", f"{MERGE} with its tokenizer")
