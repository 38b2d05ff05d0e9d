"""The wire to a server: cut when nothing comes over it any more."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg


@contextmanager
def within(connection: psycopg.Connection[Any], seconds: float) -> Iterator[None]:
    """Cut the connection when the block takes longer: psycopg.OperationalError.

    The server's own timeouts end what the server does; this one ends waiting for a server, a pooler or a network
    that no longer answers at all while its TCP connection lives.
    """
    timer = threading.Timer(seconds, _cut, [connection])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()  # no thread of ours is left when psql is forked


def _cut(connection: psycopg.Connection[Any]) -> None:
    # Closed meanwhile: nothing waits any more.
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as wire:
        wire.shutdown(socket.SHUT_RDWR)
