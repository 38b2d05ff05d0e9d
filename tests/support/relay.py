"""One connection through the proxy: its two sides, what either has not taken yet, and how long it rests."""

from __future__ import annotations

import selectors
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from tests.support.frames import Frames

_RESET = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class Relay:
    """The client's side and the server's."""

    client: socket.socket
    server: socket.socket
    rests: float = 0.0
    """Until when (of time.monotonic) neither side is read."""
    said: bytes = b""
    """The last of what the client said."""
    frames: Frames = field(default_factory=Frames)
    deaf: Callable[[], object] | None = None
    """Called when the server answers: the answer is lost, and the connection reset."""
    alone: socket.socket | None = None
    """The side that has not been told that the other is gone: what it says is lost."""
    peer: dict[socket.socket, socket.socket] = field(init=False)
    pending: dict[socket.socket, bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.peer = {self.client: self.server, self.server: self.client}
        self.pending = {self.client: b"", self.server: b""}
        for side in self.peer:
            side.setblocking(False)

    def interest(self, side: socket.socket, now: float) -> int:
        """What to wait for on a side: read it once its peer has taken all, write to it what it has not."""
        if self.alone is not None:
            return selectors.EVENT_READ if side is self.alone else 0
        reads = 0 if self.pending[self.peer[side]] or self.rests > now else selectors.EVENT_READ
        return reads | (selectors.EVENT_WRITE if self.pending[side] else 0)

    def give(self, side: socket.socket) -> None:
        """Pass on to a side what it takes now of what it has not. Raises OSError where it is gone."""
        if self.pending[side]:
            with suppress(BlockingIOError):
                self.pending[side] = self.pending[side][side.send(self.pending[side]) :]

    def forsake(self, side: socket.socket) -> None:
        """Reset the other side, and tell this one nothing."""
        self.alone = side
        self.pending = {self.client: b"", self.server: b""}
        reset(self.peer[side])


def reset(side: socket.socket) -> None:
    """Close at once, with a reset: nothing waits for what can no longer be told."""
    if side.fileno() >= 0:
        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        side.close()
