"""A study's status in a terminal, redrawn until the study ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext

from rich.console import Console, RenderableType
from rich.live import Live

REDRAWN_SECONDS = 2.0
# Draws in so many lines, or ``None`` for as many as it takes; tells whether somebody still runs what it shows.
Look = Callable[[int | None], tuple[RenderableType, bool]]


def watch(look: Look, console: Console, sleep: Callable[[float], None] = time.sleep) -> None:
    """Draw what ``look`` returns, again and again, until nobody runs it; the last picture is whole and stays.

    Where the output is no terminal there is nothing to redraw: the picture is printed once, at the end.

    Args:
        look: Returns the picture, and whether there will be another.
        console: Where to draw.
        sleep: Waits so many seconds between two pictures.
    """
    with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
        while True:
            picture, running = look(console.height - 1)
            if not running:
                break
            if live is not None:
                live.update(picture, refresh=True)
            sleep(REDRAWN_SECONDS)
        whole, _ = look(None)
        if live is not None:
            live.update(whole, refresh=True)
    if live is None:
        console.print(whole)
