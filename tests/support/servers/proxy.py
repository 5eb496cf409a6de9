"""A connection to a server that breaks where a test wants it to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

COMMIT = b"COMMIT"


class Proxy:
    """Passes bytes on between clients and a server on loopback.

    Attributes:
        port: Where clients connect.
        before: Called with what a client says before the server hears it; ``True`` cuts the client off first.
        after: The same, but the server hears it, and only its answer is lost.
        leave_server_side: Whether the server is left to believe that a client that was cut off is still there.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.before: Callable[[bytes], bool] = lambda said: False
        self.after: Callable[[bytes], bool] = lambda said: False
        self.leave_server_side = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                self._pairs.append((client, server))
                threading.Thread(target=self._upwards, args=(client, server), daemon=True).start()
                threading.Thread(target=self._downwards, args=(client, server), daemon=True).start()

    def _upwards(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while said := client.recv(65536):
                if self.before(said):
                    break
                cut = self.after(said)
                if cut:
                    _shut(client)
                server.sendall(said)
                if cut:
                    break
        self._cut(client, server)

    def _downwards(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while said := server.recv(65536):
                with suppress(OSError):
                    client.sendall(said)
        _shut(client)

    def _cut(self, client: socket.socket, server: socket.socket) -> None:
        _shut(client)
        if not self.leave_server_side:
            with suppress(OSError):
                server.shutdown(socket.SHUT_WR)

    def cut_all(self) -> None:
        """Cut every client off."""
        for client, server in self._pairs:
            self._cut(client, server)

    def close(self) -> None:
        """Stop, as for the server everything."""
        self.leave_server_side = False
        self._listener.close()
        self.cut_all()


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


def cut_at(count: int) -> Callable[[bytes], bool]:
    """Return what cuts a connection once, at its first, second, … commit."""
    seen = 0

    def at(said: bytes) -> bool:
        nonlocal seen
        seen += COMMIT in said
        return COMMIT in said and seen == count

    return at
