"""The forms that a study is exported in, and why there is no way into some trainers. Imports nothing heavy."""

from __future__ import annotations

from shaping.errors import ConfigError

SHAPE = "shape"
TRAINERS = ("verl", "skyrl", "trl", "slime")
# The search in place of the shape: pipeline.export.ax.
AX = "ax"
FORMATS = (SHAPE, *TRAINERS, AX)
# Why there is no way into a trainer, and what to do instead.
REFUSED = {
    "openrlhf": (
        "OpenRLHF takes one reward for each response: where a reward function returns token rewards, it joins all of "
        "them into one list and takes the first values as the rewards of the responses, without an error; the second "
        "response would be paid for the second token of the first",
        "export for a trainer that passes token rewards on to its advantages: --format verl or --format skyrl",
    )
}


def check_format(form: str) -> None:
    """Refuse a form that there is no export in.

    Raises:
        ConfigError: Nobody knows it, or the trainer cannot take token rewards; says why.
    """
    if form in REFUSED:
        raise ConfigError(*REFUSED[form])
    if form not in FORMATS:
        raise ConfigError(f"--format {form} is not known", f"choose one of {', '.join(FORMATS)}")
