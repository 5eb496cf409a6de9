"""The configs that benchmarks measure: kept as they were measured, whatever the built-in ones become."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.load import load_config
from pipeline.config.schema import StudyConfig

FOLDER = Path(__file__).parents[1] / "configs"


def measured_config(name: str, changes: tuple[str, ...] = ()) -> StudyConfig:
    """Return a config of ``benchmarks/configs`` with ``key=value`` overrides applied.

    Raises:
        ConfigError: A value cannot be used.
    """
    return load_config(FOLDER / f"{name}.yaml", changes)
