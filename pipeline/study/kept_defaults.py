"""Defaults that have changed since a study was begun: what its config leaves unsaid stays what it was then."""

from __future__ import annotations

from pipeline.config.schema import StudyConfig
from pipeline.study.folder import StudyFolder

# Bounds of lambda were 0.6 to 1 before they were 0 to 1.
CHANGED = "gae_lambda"


def with_kept_defaults(config: StudyConfig, folder: StudyFolder) -> StudyConfig:
    """Return the config with the bounds of lambda that its study was begun with, where it names none itself.

    Raises:
        ConfigError: The folder's config is damaged, or a newer version's.
    """
    if CHANGED in config.space.model_fields_set or not folder.config_file.exists():
        return config
    space = config.space.model_copy(update={CHANGED: getattr(folder.config().space, CHANGED)})
    return config.model_copy(update={"space": space})
