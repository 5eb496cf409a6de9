"""Writes the tokenizer beside a trained policy as it came."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline.trainers.base import Task

# What a tokenizer may lie in, whatever its class; its vocabulary's files come on top.
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
TEMPLATES = "additional_chat_templates"


def save_tokenizer(task: Task, folder: Path) -> None:
    """Write the policy's tokenizer as it was before the task said which token ends a response.

    The files are copied where the tokenizer came from a folder. Otherwise the library writes them.

    Args:
        task: Whose policy was trained.
        folder: Where the trained policy lies.
    """
    tokenizer, source = task.original_tokenizer or task.tokenizer, task.tokenizer_folder
    written = [Path(path).name for path in tokenizer.save_pretrained(folder)]
    if source is None or source.resolve() == folder.resolve():
        return
    # The library writes what it read in its own words, and under other names.
    shutil.rmtree(folder / TEMPLATES, ignore_errors=True)
    for name in sorted({*written, *FILES, *getattr(tokenizer, "vocab_files_names", {}).values()} - {TEMPLATES}):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
        elif (folder / name).is_file():
            (folder / name).unlink()
    if (source / TEMPLATES).is_dir():
        shutil.copytree(source / TEMPLATES, folder / TEMPLATES)
