"""Looking at a Ray cluster's address before Ray does, which tries again and again and says little."""

from __future__ import annotations

import os
import socket

from shaping.errors import ConfigError

CONNECT_SECONDS = 5.0
TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
TOKEN_REMEDY = (
    "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token, "
    "where it is not in ~/.ray/auth_token"
)


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
        _check_token(address, field)


def _check_token(address: str, field: str) -> None:
    # Ray itself retries a token that was refused for 20 seconds, a line each. What it offers for asking once is
    # private; where it is gone, Ray's own way remains.
    try:
        import grpc  # type: ignore[import-untyped]
        from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled
        from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc
        from ray.exceptions import AuthenticationError
    except ImportError:
        return
    try:
        headers = get_auth_headers_if_auth_enabled({})
    except (AuthenticationError, RuntimeError) as error:
        raise ConfigError(f"{field} {address}: RAY_AUTH_MODE=token, but there is no token", TOKEN_REMEDY) from error
    with grpc.insecure_channel(address) as channel:
        asked = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
        try:
            asked.CheckAlive(
                gcs_service_pb2.CheckAliveRequest(),
                timeout=CONNECT_SECONDS,
                metadata=[(name.lower(), value) for name, value in headers.items()],
            )
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                given = "the given token is wrong" if headers else "it wants a token"
                raise ConfigError(f"{field} {address}: the cluster refuses: {given}", TOKEN_REMEDY) from error
