"""A study as it was asked for: all that can be refused without its models, before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config.schema import StudyConfig
from pipeline.runtime.trackers import check_trackers
from pipeline.study.folder import StudyFolder
from pipeline.study.prompt_day import with_first_day, with_kept_day
from pipeline.study.provenance import check_user_files, user_files
from pipeline.study.warm_start import check_warm_start
from shaping.errors import ConfigError


@dataclass(frozen=True)
class ExaminedStudy:
    """A study that may be launched, as far as its config and its folder tell.

    Attributes:
        config: Its config.
        folder: Where it is, or will be.
        files: Config field to a hash of the user's own file that it names.
        changed: Names of the user's files whose code has changed since the last launch.
    """

    config: StudyConfig
    folder: StudyFolder
    files: Mapping[str, str] = field(default_factory=dict)
    changed: tuple[str, ...] = ()


def examined(config: StudyConfig, studies: Path) -> ExaminedStudy:
    """Return a study that may be launched; nothing is written.

    Args:
        config: The study's.
        studies: The folder that studies are in.

    Raises:
        ShapetuneError: Its folder holds another study or cannot be used, a file that it names is not there, or a
            tracker or what reaches an address is not installed.
    """
    folder = StudyFolder(studies / config.name)
    # First, while the config still knows what it leaves unsaid.
    config = with_kept_day(with_kept_defaults(config, folder), folder)
    folder.check(config)
    check_trackers(config.tracking.to)
    _check_checkpoints(config.executor.checkpoints)
    config = with_first_day(config, folder)
    check_warm_start(config)
    files = user_files(config)
    return ExaminedStudy(config, folder, files, tuple(check_user_files(folder, files)))


def _check_checkpoints(address: str | None) -> None:
    if address is None:
        return
    import fsspec

    try:
        fsspec.url_to_fs(address)
    except (ImportError, ValueError, OSError) as error:
        raise ConfigError(
            f"executor.checkpoints = {address} cannot be used: {error}",
            "give an address that fsspec knows, such as s3://bucket/folder, and install its package",
        ) from error


def with_kept_defaults(config: StudyConfig, folder: StudyFolder) -> StudyConfig:
    """Return the config with the bounds of lambda that its study was begun with, where it names none itself.

    By default they were 0.6 to 1 before they were 0 to 1.

    Raises:
        ConfigError: The folder's config is damaged, or a newer version's.
    """
    if "gae_lambda" in config.space.model_fields_set or not folder.config_file.exists():
        return config
    space = config.space.model_copy(update={"gae_lambda": folder.config().space.gae_lambda})
    return config.model_copy(update={"space": space})
