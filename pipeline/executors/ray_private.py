"""Everything of Ray that is private, in one file: an upgrade of Ray is checked against this one first."""

from __future__ import annotations

from pathlib import Path

from shaping.errors import ConfigError

# Each private name that is used below: why, and what would replace it.
PRIVATE_NAMES = {
    "ray._private.authentication.http_token_authentication": "Ray's headers for a token, to ask a cluster once "
    "whether it takes it; a public check of an address",
    "_node_ip_address": "an option of ray.init, which otherwise listens on the machine's address; a public option",
    "_temp_dir": "an option of ray.init, which otherwise follows TMPDIR, however long; a public option",
    "ray.core.generated": "the messages of that question; the same",
}
# A busy head answers late; one that is not there refuses at once.
CONNECT_SECONDS = 15.0
# For ray.init: a cluster of this process's own listens on loopback alone.
ON_LOOPBACK = {"_node_ip_address": "127.0.0.1"}
TOKEN_REMEDY = (
    "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token, "
    "where it is not in ~/.ray/auth_token"
)


def in_folder(folder: Path | None) -> dict[str, str]:
    """Return the options of ray.init that keep a session of this process's own in a folder; none for the usual one."""
    return {} if folder is None else {"_temp_dir": str(folder)}


def check_token(address: str, field: str) -> None:
    """Ask a cluster once whether it takes this process's token.

    Args:
        address: ``HOST:PORT`` of a head.
        field: Where it was given, for the error.

    Raises:
        ConfigError: It does not, or there is no token.
    """
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
