"""Times that were estimated, in words."""

from __future__ import annotations


def time_left(seconds: float | None) -> str:
    """Return a time in words, as exact as an estimate may sound; empty where it is unknown."""
    if seconds is None:
        return ""
    minutes = round(seconds / 60)
    if seconds < 45:
        return "less than a minute left"
    if minutes < 90:
        return f"about {max(minutes, 1)} min left"
    hours = round(minutes / 60)
    return f"about {hours} h left" if hours < 48 else f"about {round(hours / 24)} days left"
