"""What a cluster runs of ``shapetune submit``: ``python -m pipeline.submitted NAME CONFIG STUDIES [KEY=VALUE ...]``."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

from pipeline.cli import main
from pipeline.runtime.files import replacing

# Beside the studies; no study can have such a name.
SUBMITTED = ".submitted"


def settle(source: Path, name: str, studies: Path) -> Path:
    """Copy a config's folder to the studies' storage, and return the copy.

    Ray's own copy has another path on every cluster and after every change, is on one node's disk, and is gone with
    the cluster; a study's config keeps the paths of its own files, of which launching again, workers and reports read.

    Args:
        source: The folder that travelled with the job.
        name: The study's.
        studies: The folder that studies are kept in.
    """
    target = studies / SUBMITTED / name
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        place = target / file.relative_to(source)
        if place.is_file() and place.read_bytes() == file.read_bytes():
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        # A worker of a study that runs may be reading it.
        with replacing(place) as partial:
            shutil.copyfile(file, partial)
    return target


def run(arguments: list[str]) -> NoReturn:
    """Launch the study from its settled folder; ends as ``shapetune launch`` does."""
    name, config, studies, *changes = arguments
    folder = settle(Path.cwd(), name, Path(studies))
    os.chdir(folder)
    command = ["launch", str(folder / Path(config).name), "--studies", studies]
    for change in changes:
        command += ["--set", change]
    main(command)


if __name__ == "__main__":
    run(sys.argv[1:])
