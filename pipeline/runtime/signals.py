"""A study that somebody stops: by Ctrl+C, by a scheduler's SIGTERM, or by a terminal that closes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# The one that this process was asked to end by.
_received: list[int] = []


class Interrupted(BaseException):
    """The process was asked to end. No ``KeyboardInterrupt``, which the command line library would turn into another.

    Args:
        number: The signal's.
        message: What stands at that moment; may be filled in by whom it passes.
        hint: How to resume.
    """

    def __init__(self, number: int, message: str = "", hint: str = "") -> None:
        super().__init__(number)
        self.number, self.hint = number, hint
        self.message = message or f"stopped by {self.name}"

    @property
    def name(self) -> str:
        """The signal's name."""
        return signal.Signals(self.number).name

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal ended."""
        return 128 + self.number


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise ``Interrupted`` at the first signal within the block; a second one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    _received.clear()

    def first(number: int, frame: FrameType | None) -> None:
        _received.append(number)
        for each in heard:
            signal.signal(each, second)
        raise Interrupted(number)

    def second(number: int, frame: FrameType | None) -> None:
        os._exit(128 + number)

    # What is ignored stays ignored: that is how nohup works.
    heard = [each for each in SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]
    with handlers_restored():
        for each in heard:
            signal.signal(each, first)
        try:
            yield
        except Exception as error:
            if _received:
                raise Interrupted(_received[0]) from error
            raise
        finally:
            _received.clear()


def raise_again() -> None:
    """Raise ``Interrupted`` again where it was swallowed, as by a finalizer or a library's own ``except``."""
    if _received and threading.current_thread() is threading.main_thread():
        raise Interrupted(_received[0])


@contextmanager
def interruption(message: Callable[[str], str], hint: str) -> Iterator[None]:
    """Say at a signal within the block what stands then, and how to resume.

    Compiled code of libraries that a signal arrives in turns ``Interrupted`` into errors of its own.

    Args:
        message: From the signal's name.
        hint: How to resume.
    """
    try:
        yield
    except (Interrupted, Exception):
        if not _received:
            raise
        number = _received[0]
        raise Interrupted(number, message(signal.Signals(number).name), hint) from None


@contextmanager
def handlers_restored() -> Iterator[None]:
    """Put the signals' handlers back after a library's start, which may have set its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.getsignal(each) for each in SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
