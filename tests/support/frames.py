"""What a PostgreSQL client says, message by message: enough of the protocol to count its steps."""

from __future__ import annotations

import struct

_ASKS_TO_ENCRYPT = frozenset({80877103, 80877104})
STARTUP, QUERY, SYNC, COPY_DONE = b"0", b"Q", b"S", b"c"
STEPS = frozenset({STARTUP, QUERY, SYNC, COPY_DONE})
"""After each of these the client waits for the server: a step. A query of the extended protocol ends with Sync."""


class Frames:
    """The messages of one connection, from its first byte on. Types are one byte, as in the protocol; `STARTUP` is ours."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        self._started = False

    def feed(self, data: bytes) -> list[bytes]:
        """The types of the messages whose beginning has become known by these bytes."""
        found: list[bytes] = []
        while data:
            passed = min(self._left, len(data))
            self._left, data = self._left - passed, data[passed:]
            if not data:
                break
            need = (5 if self._started else 8) - len(self._head)
            self._head, data = self._head + data[:need], data[need:]
            if len(self._head) == (5 if self._started else 8):
                found += self._begin(self._head)
                self._head = b""
        return found

    def _begin(self, head: bytes) -> list[bytes]:
        if self._started:
            self._left = struct.unpack("!i", head[1:])[0] - 4
            return [head[:1]]
        length, code = struct.unpack("!ii", head)
        self._left = length - 8
        if code in _ASKS_TO_ENCRYPT:
            return []
        self._started = True
        return [STARTUP]
