"""The errors a user can act on; everything else is a bug and keeps its traceback."""

from __future__ import annotations

import sys

from shaping.printable import printable


class ShapetuneError(Exception):
    """An error with a remedy; control characters in its words are escaped, as they go to a terminal.

    Args:
        message: One line that names the field and the value.
        hint: One line that names the remedy; may be empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(printable(message))
        self.message = printable(message)
        self.hint = printable(hint)

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class ConfigError(ShapetuneError, ValueError):
    """A value in a config, a shape file or a call that cannot be used."""


class ShapeError(ShapetuneError, ValueError):
    """Tensors whose sizes do not fit together."""


class TrialFailed(ShapetuneError):
    """A trial that ended without a usable outcome; the study goes on.

    Args:
        reason: A short name of the cause, such as ``nan`` or ``kl_limit``.
        message: What happened, in one line.
        hint: One line that names the remedy; may be empty.
    """

    def __init__(self, reason: str, message: str, hint: str = "") -> None:
        super().__init__(f"{reason}: {message}", hint)
        self.reason = reason
        self.detail = printable(message)

    def __reduce__(self) -> tuple[type[TrialFailed], tuple[str, str, str]]:
        """Rebuild from all arguments: a worker process sends this error to the driver."""
        return (type(self), (self.reason, self.detail, self.hint))


class ServiceFailed(TrialFailed):
    """A service that every trial needs gives no answer: no other trial can do better before somebody acts.

    Args:
        message: What happened, in one line.
        hint: One line that names the remedy; may be empty.
    """

    REASON = "reward_service"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(self.REASON, message, hint)

    def __reduce__(self) -> tuple[type[ServiceFailed], tuple[str, str]]:  # type: ignore[override]
        """Rebuild from its own arguments."""
        return (type(self), (self.detail, self.hint))


class SamplingServerFailed(ServiceFailed):
    """The server that samples every run's responses gives none."""

    REASON = "sampling_server"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory did not suffice; on a CPU torch says so in words only."""
    # Whoever has not imported torch cannot have met its error, and may lack the memory for it.
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "alloc" in str(error) and "memory" in str(error)
