"""Where an exported study's policy comes from, and the prompts that it was trained on."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.schema import StudyConfig
from pipeline.export.template import PolicySource
from pipeline.tasks.prompt_file import read_prompts
from pipeline.tasks.settings import PromptsSettings
from pipeline.trainers.base import Task


def policy_source(config: StudyConfig, task: Task, assets: Path | None) -> PolicySource:
    """Return where the policy comes from, and the prompts that it was trained on."""
    end = str(task.tokenizer.eos_token)
    if isinstance(config.task, PromptsSettings):
        settings = config.task.policy
        rows = read_prompts(config.task.prompts, "task.prompts", most=config.task.max_prompts)
        chosen = settings.model_dump(include={"gguf_file", "revision", "trust_remote_code"}, exclude_defaults=True)
        return PolicySource(settings.model, chosen, end, tuple({"prompt": row.messages or row.text} for row in rows))
    assert assets is not None
    prompts, kept = task.train_prompts, []
    for ids, mask in zip(prompts.ids, prompts.mask, strict=True):
        words = task.tokenizer.decode(ids[mask].tolist(), clean_up_tokenization_spaces=False)
        # A prompt that was cut inside a character is no text.
        if task.tokenizer(words)["input_ids"] == ids[mask].tolist():
            kept.append({"prompt": words})
    return PolicySource(str(assets / "policy"), {}, end, tuple(kept))
