"""Models and tokenizers from a folder, a GGUF file or the Hugging Face hub, refused by name where they cannot serve."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils.peft_utils import find_adapter_config_file

from pipeline.tasks.model_settings import RewardSettings
from pipeline.tasks.models.trainable import check_no_adapter, check_trainable, check_whole
from pipeline.tasks.settings import PolicySettings
from shaping.errors import ConfigError
from shaping.reward_models.loading import TRAIN_A_HEAD, check_complete, check_none_missing, missing_beside

# Of models that a task has built: neither pickled weights nor a model's own code is run.
SAFE: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False}
# Heads of classifiers, by their names in the library: a few rows, on which the whole score stands.
HEADS = ["score", "classifier", "classification_head", "qa_outputs"]
# What transformers raises where a folder or a repository does not hold what it is asked for.
REFUSALS = (OSError, ValueError, KeyError, RuntimeError, AttributeError, SafetensorError)


def check_folder(field: str, model: str) -> None:
    """Refuse a path that leads nowhere; a name may be on the hub.

    Raises:
        ConfigError: There is no such folder.
    """
    if Path(model).is_absolute() and not Path(model).is_dir():
        raise ConfigError(
            f"{field}: there is no folder {model}",
            "give a folder that holds a config.json, or a model's name on the Hugging Face hub",
        )


def load_policy(settings: PolicySettings) -> PreTrainedModel:
    """Return the policy, ready to be copied and trained.

    Raises:
        ConfigError: It cannot be loaded, is no causal language model, lacks weights, or cannot be trained as it lies
            there: an adapter, quantized weights.
    """
    field, options = "task.policy.model", _options(settings)
    if settings.gguf_file is not None:
        options["gguf_file"] = settings.gguf_file
    policy_outline_config(settings)
    with loading_model(field, settings.model):
        model, found = AutoModelForCausalLM.from_pretrained(settings.model, **options)
    check_none_missing(
        f"{field}: {settings.model}", found, "give a causal language model, not its backbone or a classifier"
    )
    check_whole(field, settings.model, model)
    model = model if settings.gguf_file is None else _plain(model, settings)
    if model.get_output_embeddings() is None or not _is_causal(model):
        raise ConfigError(
            f"{field}: {settings.model} is no causal language model", "give one with a language-model head"
        )
    if settings.dtype != "float32":
        model.get_input_embeddings().register_forward_hook(_sums_in_float32)
    return model.eval()


def _sums_in_float32(module: Any, given: Any, output: torch.Tensor) -> torch.Tensor:
    """Let layers add to float32 where products are in half precision.

    So do the float32 copies of these weights that are trained: reference and policy round alike, and their KL begins
    at zero.
    """
    return output.float() if torch.is_autocast_enabled(output.device.type) else output


def outline_policy(settings: PolicySettings) -> PreTrainedModel:
    """Return the policy without its weights: sizes, and what its configs say of it.

    Raises:
        ConfigError: Its config cannot be read, is no causal language model's, or is of weights that cannot be trained.
    """
    config = policy_outline_config(settings)
    with loading_model("task.policy.model", settings.model):
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                config, trust_remote_code=settings.trust_remote_code
            )
    with suppress(OSError), _silent():
        # A model that has no such file keeps what its config says.
        model.generation_config = GenerationConfig.from_pretrained(settings.model, revision=settings.revision)
    return model


def policy_outline_config(settings: PolicySettings) -> PreTrainedConfig:
    """Return a policy's config, read before its weights: most that cannot be trained shows there.

    Raises:
        ConfigError: It cannot be read, or is of weights that cannot be trained.
    """
    field, options = "task.policy.model", {"revision": settings.revision}
    if settings.gguf_file is None:
        with loading_model(field, settings.model):
            adapter = find_adapter_config_file(settings.model, revision=settings.revision)
        check_no_adapter(field, settings.model, adapter)
    else:
        options["gguf_file"] = settings.gguf_file
    with loading_model(field, settings.model):
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            settings.model, trust_remote_code=settings.trust_remote_code, **options
        )
    if settings.gguf_file is None:
        check_trainable(field, settings.model, config)
    return config


def load_classifier(settings: RewardSettings, field: str) -> PreTrainedModel:
    """Return a sequence classifier.

    Raises:
        ConfigError: It cannot be loaded, its head was never trained, or the package that quantizes it is missing.
    """
    assert settings.model is not None
    options = _options(settings)
    if settings.quantization is not None:
        _check_quantizes(settings.quantization, f"{field}.quantization")
        options["quantization_config"] = BitsAndBytesConfig(**quantization_options(settings.quantization))
    with loading_model(f"{field}.model", settings.model):
        adapter = find_adapter_config_file(settings.model, revision=settings.revision)
        model, found = AutoModelForSequenceClassification.from_pretrained(settings.model, **options)
        if adapter is not None:
            # Of an adapter the library says what its base lacks to nobody.
            found = {"missing_keys": missing_beside(Path(adapter), **{**options, "revision": None})}
    check_complete(f"{field}.model: {settings.model}", model, found, TRAIN_A_HEAD)
    loaded: PreTrainedModel = model.eval()
    return loaded


def load_tokenizer(settings: PolicySettings | RewardSettings, field: str) -> Any:
    """Return the tokenizer that lies beside a model.

    Raises:
        ConfigError: There is none.
    """
    assert settings.model is not None
    options: dict[str, Any] = {"revision": settings.revision, "trust_remote_code": settings.trust_remote_code}
    if isinstance(settings, PolicySettings) and settings.gguf_file is not None:
        options["gguf_file"] = settings.gguf_file
    remedy = "save the model's tokenizer there: tokenizer.save_pretrained(...)"
    try:
        with _silent():
            tokenizer = AutoTokenizer.from_pretrained(settings.model, **options)
    except (*REFUSALS, ImportError) as error:
        raise ConfigError(
            f"{field}.model: {settings.model} gives no tokenizer: {_line(error)}", _hub_remedy(settings.model) or remedy
        ) from error
    # Where the files are missing, transformers makes a tokenizer out of the special tokens alone.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ConfigError(f"{field}.model: {settings.model} holds no tokenizer", remedy)
    return tokenizer


def _options(settings: PolicySettings | RewardSettings) -> dict[str, Any]:
    chosen = settings.attn_implementation
    return {
        "revision": settings.revision,
        "trust_remote_code": settings.trust_remote_code,
        "dtype": getattr(torch, settings.dtype),
        "use_safetensors": True,
        "output_loading_info": True,
        **({} if chosen is None else {"attn_implementation": chosen}),
    }


def quantization_options(kind: str) -> dict[str, Any]:
    """Return what the library's ``BitsAndBytesConfig`` is told: the head stays as it is, products are in bfloat16."""
    if kind == "int8":
        return {"load_in_8bit": True, "llm_int8_skip_modules": HEADS}
    four_bits = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16"}
    return {**four_bits, "llm_int8_skip_modules": HEADS}


def _check_quantizes(kind: str, field: str) -> None:
    """Refuse to quantize without the package that does it.

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise ConfigError(f"{field} = {kind} needs the package bitsandbytes", "pip install 'shapetune[quantization]'")
    # It says at every product which type it rounds to.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


@contextmanager
def loading_model(field: str, model: str) -> Iterator[None]:
    """Refuse what the library cannot load, in words of the config.

    Raises:
        ConfigError: It ends in one of the errors that the library has for that.
    """
    try:
        with _silent():
            yield
    except ImportError as error:
        raise ConfigError(f"{field}: {model} needs a package: {_line(error)}", "install it with pip") from error
    except REFUSALS as error:
        remedy = _hub_remedy(model) or "give a model with safetensors weights, or a GGUF file"
        raise ConfigError(f"{field}: {model} cannot be loaded: {_line(error)}", remedy) from error


def _hub_remedy(model: str) -> str:
    if Path(model).is_dir():
        return ""
    return "it is no folder here, so it was looked for on the Hugging Face hub: check spelling and connection"


@contextmanager
def _silent() -> Iterator[None]:
    """Drop the bars that libraries draw while they load; they would tear ours."""
    with redirect_stderr(io.StringIO()):
        yield


def _line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _plain(model: PreTrainedModel, settings: PolicySettings) -> PreTrainedModel:
    """Return a model loaded from GGUF as an ordinary one: the loaded one counts as quantized and cannot be cast."""
    values = {name: value for name, value in model.config.to_dict().items() if name != "quantization_config"}
    plain = type(model)(type(model.config)(**values)).to(model.dtype)
    plain.load_state_dict(model.state_dict())
    if settings.attn_implementation is not None:
        plain.set_attn_implementation(settings.attn_implementation)
    plain.generation_config = model.generation_config
    return plain


@torch.inference_mode()
def _is_causal(model: PreTrainedModel) -> bool:
    """Return whether what a model says of the first token does not depend on the second."""
    ids = torch.tensor([[1, 2], [1, 3]], device=model.device)
    first: torch.Tensor = model(input_ids=ids).logits[:, 0].float()
    return bool(torch.allclose(first[0], first[1], rtol=1e-3, atol=1e-4))


# A content that no template changes or repeats.
ANSWER = "forty-two"


def end_of_response(tokenizer: Any, declared: Any = None, chat: bool = False) -> int | None:
    """Return the id of the token that ends a response; ``None`` where nothing tells.

    Chat templates close the assistant's turn with a token of their own (``<end_of_turn>``, ``<|eot_id|>``) that need
    not be the tokenizer's end-of-sequence: in a chat the first special token after an answer is it.

    Args:
        tokenizer: Of the model.
        declared: ``eos_token_id`` of the model's generation config: an id, a list of ids, or ``None``.
        chat: Whether prompts go through the chat template.
    """
    listed = declared if isinstance(declared, list | tuple) else [declared]
    known = [int(token) for token in (tokenizer.eos_token_id, *listed) if token is not None]
    if chat and tokenizer.chat_template:
        special = {*known, *tokenizer.all_special_ids}
        special |= {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
        closing = next((token for token in _after_answer(tokenizer) if token in special), None)
        if closing is not None:
            return closing
    return known[0] if known else None


def _after_answer(tokenizer: Any) -> list[int]:
    """Return the tokens that the chat template puts after an assistant's answer."""
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": ANSWER}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except (TemplateError, ValueError, TypeError, KeyError):
        return []
    _, found, after = text.rpartition(ANSWER)
    return list(tokenizer(after, add_special_tokens=False)["input_ids"]) if found else []
