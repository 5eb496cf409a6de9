"""OpenRLHF: refused, as it would train on other rewards than it was given, without an error."""

from __future__ import annotations

from shaping.errors import ConfigError
from shaping.shape_file import ShapeFile


def snippet(content: ShapeFile, reward_model_source: str) -> dict[str, str]:
    """Return nothing: there is no way into OpenRLHF 0.11 for token rewards.

    Raises:
        ConfigError: Always.
    """
    raise ConfigError(
        "OpenRLHF takes one reward for each response: where a reward function returns token rewards, it joins all of "
        "them into one list and takes the first values as the rewards of the responses, without an error; the second "
        "response would be paid for the second token of the first",
        "export for a trainer that passes token rewards on to its advantages: --format verl or --format skyrl",
    )
