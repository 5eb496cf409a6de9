"""Reward models from a folder, whole: a head of random numbers, or half a head, would score without a word."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from shaping.errors import ConfigError

ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
TRAIN_A_HEAD = "give a sequence classifier, trained as a reward model and saved with its head"


def check_is_model(model: object, name: str) -> None:
    """Refuse a model inside a wrapper: what it computes is not told by the library's own names.

    Raises:
        ConfigError: It is no model of the library, or has no backbone apart from its head.
    """
    if not isinstance(model, PreTrainedModel):
        kind = type(model).__name__
        remedy = (
            "merge its adapter first: model.merge_and_unload()"
            if hasattr(model, "merge_and_unload")
            else "give the model inside it, such as model.module or model._orig_mod"
        )
        raise ConfigError(f"reward model {name} is a {kind}, not a model of transformers", remedy)


def scalar_head(model: PreTrainedModel, name: str) -> nn.Module:
    """Return the module named ``score`` that gives one value a token.

    Raises:
        ConfigError: There is none, or it gives several values.
    """
    head = getattr(model, "score", None)
    if not isinstance(head, nn.Module) or model.config.num_labels != 1:
        raise ConfigError(
            f"reward model {name} has no scalar head named score",
            "use a causal sequence classification model with num_labels = 1",
        )
    if model.base_model is model:
        raise ConfigError(
            f"reward model {name} has no backbone named {model.base_model_prefix or 'by base_model_prefix'}",
            "use a sequence classification model of transformers",
        )
    return head


def load_reward_model(folder: str | Path, **options: Any) -> PreTrainedModel:
    """Return the sequence classifier saved in ``folder``.

    Raises:
        ConfigError: Weights of it are not there, or are there and would be left out.
    """
    settings = {"use_safetensors": True, "trust_remote_code": False, "output_loading_info": True, **options}
    model, found = AutoModelForSequenceClassification.from_pretrained(folder, **settings)
    adapter = Path(folder) / ADAPTER_CONFIG
    if adapter.is_file():
        found = {"missing_keys": missing_beside(adapter, **settings)}
    check_complete(f"reward model {Path(folder).name}", model, found, TRAIN_A_HEAD)
    loaded: PreTrainedModel = model.eval()
    return loaded


def check_complete(what: str, model: PreTrainedModel, found: Mapping[str, Any], remedy: str) -> None:
    """Refuse a model some of whose weights were not there, or were there and found no place in its head.

    Args:
        what: What the weights are of, in the message.
        model: The loaded model.
        found: The library's report of the loading.
        remedy: What to do where weights are missing.

    Raises:
        ConfigError: Weights are missing: they would be random numbers. Or weights of the head are left over.
    """
    check_none_missing(what, found, remedy)
    odd = sorted(str(each[0] if isinstance(each, tuple) else each) for each in found.get("mismatched_keys") or ())
    if odd:
        raise ConfigError(f"{what} has weights of another size for {odd[0]}", remedy)
    backbone = {name.split(".")[0] for name, _ in model.named_children()} & {model.base_model_prefix}
    heads = {name for name, _ in model.named_children()} - backbone
    left = sorted(key for key in found.get("unexpected_keys") or () if key.split(".")[0] in heads)
    if left:
        raise ConfigError(
            f"{what} has weights named {left[0]}, which {type(model).__name__} has no place for: its scores would "
            "not be those it was trained with",
            "save it as the class that it was trained as, or fold that weight into score_mean",
        )


def check_none_missing(what: str, found: Mapping[str, Any], remedy: str) -> None:
    """Refuse a model some of whose weights were not there.

    Raises:
        ConfigError: They would be random numbers.
    """
    missing = sorted(found["missing_keys"])
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ConfigError(f"{what} has no weights for {missing[0]}{more}", remedy)


def missing_beside(adapter: Path, **options: Any) -> set[str]:
    """Return the names of weights that neither an adapter nor its base holds: of these the library tells nobody.

    Args:
        adapter: The adapter's config; its weights lie beside it.
        **options: Of the library's ``from_pretrained``, for the base.
    """
    base = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
    _, found = AutoModelForSequenceClassification.from_pretrained(base, **options)
    held = {name.removeprefix("base_model.model.") for name in saved_names(adapter.with_name(ADAPTER))}
    return set(found["missing_keys"]) - held


def saved_names(file: Path) -> list[str]:
    """Return the names of the weights in a safetensors file: its first eight bytes count those of a JSON header."""
    with file.open("rb") as saved:
        header = json.loads(saved.read(int.from_bytes(saved.read(8), "little")))
    return [name for name in header if name != "__metadata__"]
