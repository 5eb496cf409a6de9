"""One method against the sparse reward: R3HF's, SCAR's and ABC's own space."""

from __future__ import annotations

from search_spaces.credit_mix import CreditMix
from shaping.errors import ConfigError
from shaping.shape import Shape


def balance(
    base: Shape, methods: tuple[str, ...], gae_lambda: tuple[float, float], balance: tuple[float, float]
) -> CreditMix:
    """Return the space of one method's ``balance`` and ``gae_lambda``: a mix with a single component.

    Raises:
        ConfigError: More or fewer than one method is named.
    """
    if len(methods) != 1:
        raise ConfigError(
            f"space.methods = {list(methods)}: the balance space weighs one method against sparse",
            "name one method, or use space credit_mix",
        )
    return CreditMix(base=base, methods=methods, gae_lambda=gae_lambda, balance=balance)
