"""The models of a config's task: built when the cache has none, and the user told so."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from pipeline.config import StudyConfig


def build_assets(config: StudyConfig, console: Console) -> Path:
    """Return the folder of the task's models, saying so when they have to be built."""
    from pipeline.assets import asset_key, cache_folder, is_complete
    from pipeline.tasks.sentiment import build_sentiment, made_of

    recipe, cache = config.task.recipe, cache_folder()
    if is_complete(cache / "assets" / asset_key("sentiment", made_of(recipe))):
        return build_sentiment(recipe, cache)
    started = time.perf_counter()
    with console.status("building tokenizer, policy and two reward models, once: up to three minutes on two cores"):
        folder = build_sentiment(recipe, cache)
    console.print(f"models built in {time.perf_counter() - started:.0f} s, kept in {folder}")
    return folder
