"""Looking at a Ray cluster's address before Ray does, which tries again and again and says little."""

from __future__ import annotations

import os
import socket

from pipeline.executors.ray_private import CONNECT_SECONDS, check_token
from shaping.errors import ConfigError

TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def use_given_token() -> None:
    """Let Ray use a token that the environment holds: it would not, without its mode. Call it before Ray's import."""
    if any(os.environ.get(name) for name in TOKENS):
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def check_address(address: str, field: str) -> None:
    """Raise at once where nothing listens, or where this process has not the token that is wanted.

    Args:
        address: ``HOST:PORT`` of a head, or ``ray://HOST:PORT``.
        field: Where it was given, for the error.

    Raises:
        ConfigError: Nothing listens there, or it is a Ray that refuses this process.
    """
    scheme, _, place = address.rpartition("://")
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"{field} {address}: Ray could not be reached: {error}",
            "give the head's address, HOST:6379, or set executor.address to local",
        ) from error
    if not scheme:
        check_token(address, field)
