"""How far the training of a task's models has come, for whoever waits: said from what this machine has measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from transformers import PrinterCallback, Trainer, TrainerCallback

# What is trained, in words; the share that is done, from 0 to 1; and the seconds that it took.
Listener = Callable[[str, float, float], None]
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def building_told_to(listener: Listener) -> Iterator[None]:
    """Tell ``listener`` of every training step of models that the block builds."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def train_quietly(trainer: Trainer, words: str) -> None:
    """Train, and print nothing: who listens is told.

    Args:
        trainer: Of Hugging Face, ready to train.
        words: What is trained.
    """
    # It prints its totals to the console that the study draws on.
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Telling(words))
    trainer.train()


class _Telling(TrainerCallback):
    """Passes on how many of a trainer's steps are done."""

    def __init__(self, words: str) -> None:
        self._words, self._started = words, time.monotonic()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        listener = _listener.get()
        if listener is not None and state.max_steps > 0:
            listener(self._words, state.global_step / state.max_steps, time.monotonic() - self._started)
