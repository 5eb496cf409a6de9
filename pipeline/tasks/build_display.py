"""What the console says while a task's models are built: no promise, but what this machine has shown so far."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from pipeline.runtime.console import time_left
from pipeline.tasks.models.build_progress import building_told_to

# Of training, before its speed tells anything: the first steps are slower.
LEAST_SECONDS, LEAST_SHARE = 5.0, 0.02
# Between two lines where no line can be redrawn.
LINE_SECONDS = 30.0


@contextmanager
def building_shown(console: Console, unbuilt: str) -> Iterator[None]:
    """Say what is built while the block builds it, and from what was measured how long each model will still take.

    Args:
        console: Where to say it: one line that is redrawn on a terminal, lines from time to time elsewhere.
        unbuilt: What has to be built.
    """
    if not console.is_terminal:
        console.print(f"{unbuilt} ...")
    said = time.monotonic()
    with console.status(unbuilt) as status:

        def told(words: str, share: float, seconds: float) -> None:
            nonlocal said
            line = progress_words(words, share, seconds)
            if not line:
                return
            status.update(f"{unbuilt}: {line}")
            if not console.is_terminal and time.monotonic() - said >= LINE_SECONDS:
                console.print(line)
                said = time.monotonic()

        with building_told_to(told):
            yield


def progress_words(words: str, share: float, seconds: float) -> str:
    """Return how far the training of one model has come; empty before it can be told.

    Args:
        words: What is trained.
        share: Of its steps that are done, from 0 to 1.
        seconds: That they took.
    """
    if seconds < LEAST_SECONDS or share < LEAST_SHARE:
        return ""
    return f"training {words}, {share:.0%}, {time_left(seconds / share * (1 - share))}"
