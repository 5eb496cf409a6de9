"""Serves studies as web pages, on loopback unless another host is asked for."""

from __future__ import annotations

import ipaddress
import socket
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from rich.console import Console
from rich.markup import escape

from pipeline.runtime.logging import quiet_libraries
from shaping.errors import ConfigError
from shaping.printable import printable

if TYPE_CHECKING:
    from pipeline.serve.source import Source

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
WAITING = 128
# How long open requests may hold up the end.
GRACE_SECONDS = 2


def serve(target: str, host: str, port: int, console: Console) -> None:
    """Serve a study, a folder of studies, or a database's studies, until the process is asked to end.

    Args:
        target: A folder, or a database's address.
        host: The name or address to listen on.
        port: Its port; 0 takes a free one.
        console: Where to say where it listens.

    Raises:
        ConfigError: What is needed is not installed; or target, host or port cannot be used.
        ShapetuneError: The database cannot be reached.
    """
    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        raise ConfigError("shapetune serve needs starlette and uvicorn", "pip install 'shapetune[serve]'")
    check_target(target)
    import uvicorn

    from pipeline.serve.app import make_app

    with listening(host, port) as opened:
        source = find_source(target)
        address, number = opened.getsockname()[:2]
        app = make_app(source, allowed_hosts(host, address))
        shown = f"[{host}]" if ":" in host else host
        console.print(f"serving {escape(printable(source.place))} at http://{escape(printable(shown))}:{number}/")
        if not ipaddress.ip_address(address).is_loopback:
            console.print(f"[yellow]warning[/] whoever reaches {address} can read it: there is no password")
        console.print("Ctrl+C ends it")
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        # Here, and not in the threads that make pages: it is one switch for the whole process.
        with quiet_libraries():
            uvicorn.Server(config).run(sockets=[opened])


def check_target(target: str) -> None:
    """Refuse a target that is neither an address nor a folder, before anything heavy is imported.

    Raises:
        ConfigError: It is neither.
    """
    if "://" not in target and not Path(target).is_dir():
        raise ConfigError(f"no study and no folder of studies in {target}", "give a folder, or a database's address")


def find_source(target: str) -> Source:
    """Return what a target names.

    Raises:
        ConfigError: It is neither a folder nor an address that can be used.
        ShapetuneError: The database cannot be reached.
    """
    if "://" in target:
        from pipeline.serve.database import DatabaseSource

        return DatabaseSource(target)
    check_target(target)
    from pipeline.serve.folders import FolderSource

    with quiet_libraries():
        # Before any request: threads that import Ax at the same time keep each other from it.
        import_module("pipeline.search.ax_analyses")
    return FolderSource(Path(target))


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ConfigError: Host or port cannot be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"--host {host}: no such host: {error}", "give a name or an address of this machine"
        ) from error
    opened = socket.socket(family, kind, protocol)
    try:
        # A port whose last server just ended is free.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(WAITING)
    except OSError as error:
        opened.close()
        raise ConfigError(
            f"--port {port} of {host} cannot be used: {error.strerror}", "give another --port; 0 takes a free one"
        ) from error
    return opened


def allowed_hosts(host: str, address: str) -> list[str]:
    """Return what the server may be asked for by.

    Args:
        host: As it was asked for.
        address: What it listens on; where that is every address of the machine, all of them are allowed with its name.
    """
    hosts = [*LOOPBACK, _in_address(host), _in_address(address)]
    if ipaddress.ip_address(address).is_unspecified:
        own = [each.address for found in psutil.net_if_addrs().values() for each in found]
        internet = [each.partition("%")[0] for each in own if _is_address(each.partition("%")[0])]
        hosts += [socket.gethostname(), socket.getfqdn(), *map(_in_address, internet)]
    return list(dict.fromkeys(hosts))


def _in_address(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
