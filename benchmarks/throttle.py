"""A slow way to a server: a TCP proxy that passes only so many bytes a second towards it."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from typing import Self

_READ = 64 * 1024


class Throttle:
    """Connect to `port` on 127.0.0.1 instead of the server's. What the server says is passed on as it comes."""

    def __init__(self, port: int, rate: float) -> None:
        self.rate = rate
        self._upstream = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        _in_background(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._upstream)
                self._sockets += [client, server]
                _in_background(self._pass, client, server, self.rate)
                _in_background(self._pass, server, client, float("inf"))

    def _pass(self, source: socket.socket, target: socket.socket, rate: float) -> None:
        due = time.monotonic()
        with suppress(OSError):
            while data := source.recv(_READ):
                target.sendall(data)
                due = max(due, time.monotonic() - 0.1) + len(data) / rate
                if (early := due - time.monotonic()) > 0:
                    time.sleep(early)
            target.shutdown(socket.SHUT_WR)


def _in_background(what: object, *given: object) -> None:
    threading.Thread(target=what, args=given, name="throttle", daemon=True).start()  # type: ignore[arg-type]
