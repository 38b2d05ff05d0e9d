"""A TCP proxy before a server: passes, stalls, cuts, drips, and does whatever is asked at a client's n-th step."""

from __future__ import annotations

import selectors
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Self

from tests.ground.frames import STEPS, Frames

_RESET = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class _Wire:
    """One connection: the client's side and the server's, and what either has not taken yet."""

    client: socket.socket
    server: socket.socket
    said: bytes = b""
    deaf: bool = False
    frames: Frames = field(default_factory=Frames)
    peer: dict[socket.socket, socket.socket] = field(init=False)
    pending: dict[socket.socket, bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.peer = {self.client: self.server, self.server: self.client}
        self.pending = {self.client: b"", self.server: b""}
        for side in self.peer:
            side.setblocking(False)

    def interest(self, side: socket.socket) -> int:
        """What to wait for on a side: read it once its peer has taken all, write to it what it has not."""
        reads = 0 if self.pending[self.peer[side]] else selectors.EVENT_READ
        return reads | (selectors.EVENT_WRITE if self.pending[side] else 0)


class Proxy:
    """Connect to `port` on 127.0.0.1 instead of the server's. Every method may be called at any time.

    `met` is set once a client has sent the pattern of `lose_answer_after` or `cut_before`, or has come to the step of
    `at_step`. `steps` counts what clients have asked so far, on all connections together: see `frames.STEPS`.
    """

    def __init__(self, listener: socket.socket, upstream: tuple[str, int]) -> None:
        self.port = int(listener.getsockname()[1])
        self.met = threading.Event()
        self._upstream = upstream
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._wires: list[_Wire] = []
        self._running = True
        self._stalled = False
        self._refusing = False
        self._lose: bytes | None = None
        self._cut: bytes | None = None
        self.steps = 0
        self._step: tuple[int, Callable[[], object]] | None = None
        self._asking: _Wire | None = None
        self._orders: list[Callable[[], object]] = []
        self._wake_read, self._wake_write = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    @classmethod
    def before(cls, host: str, port: int) -> Self:
        """A running proxy. `close` ends it."""
        proxy = cls(socket.create_server(("127.0.0.1", 0)), (host, port))
        proxy._thread.start()
        return proxy

    def cut(self) -> None:
        """Reset all connections and refuse new ones, as a crashed host that is up again would."""
        self._order(self._reset_all)

    def mend(self) -> None:
        """Take connections again, and let everything through."""
        self._order(self._let_through)

    def stall(self) -> None:
        """Pass nothing on, and close nothing: a network that swallows packets."""
        self._order(lambda: self._set_stalled(stalled=True))

    def lose_answer_after(self, pattern: bytes) -> None:
        """Once a client sends `pattern`, pass it on, lose the server's answer to it, and reset that connection."""
        self._order(lambda: self._listen_for("_lose", pattern))

    def cut_before(self, pattern: bytes) -> None:
        """Once a client sends `pattern`, reset that connection without passing it on."""
        self._order(lambda: self._listen_for("_cut", pattern))

    def at_step(self, step: int, do: Callable[[], object]) -> None:
        """Call `do` when clients come to their step of this number, counted from 1, before the server hears of it.

        In the proxy's own thread: meanwhile nothing passes. `do` may not call methods of this proxy but those named `*_now`.
        """
        self._order(lambda: setattr(self, "_step", (step, do)))

    def cut_now(self) -> None:
        """As `cut`, from within `do`."""
        self._reset_all()

    def stall_now(self) -> None:
        """As `stall`, from within `do`."""
        self._set_stalled(stalled=True)

    def lose_answer_now(self) -> None:
        """Pass on what the step asks, lose the server's answer, and reset that connection; from within `do`."""
        assert self._asking is not None
        self._asking.deaf = True

    def _listen_for(self, what: str, pattern: bytes) -> None:
        """From now on: what was said before does not count."""
        setattr(self, what, pattern)
        for wire in self._wires:
            wire.said = b""

    def close(self) -> None:
        """End the proxy and all connections through it."""
        if not self._running:
            return
        self._order(self._end)
        self._thread.join()
        for each in (self._selector, self._listener, self._wake_read, self._wake_write):
            each.close()

    def _order(self, order: Callable[[], object]) -> None:
        """Have the proxy's own thread do something, and wait until it has."""
        done = threading.Event()

        def obey() -> None:
            order()
            done.set()

        self._orders.append(obey)
        self._wake_write.send(b"!")
        if not done.wait(10):
            raise TimeoutError("the proxy does not listen")

    def _run(self) -> None:
        self._selector.register(self._wake_read, selectors.EVENT_READ, lambda _: self._obey())
        self._selector.register(self._listener, selectors.EVENT_READ, lambda _: self._accept())
        while self._running:
            for key, events in self._selector.select():
                # What an earlier event of this round has closed is no longer registered.
                if self._registered(key.fd):
                    key.data(events)

    def _registered(self, descriptor: int) -> bool:
        return descriptor in self._selector.get_map()

    def _obey(self) -> None:
        self._wake_read.recv(64)
        while self._orders:
            self._orders.pop(0)()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if self._refusing:
            _reset(client)
            return
        wire = _Wire(client, socket.create_connection(self._upstream))
        self._wires.append(wire)
        self._listen(wire)

    def _listen(self, wire: _Wire) -> None:
        """Wait for what there is to wait for, on both sides."""
        for side in wire.peer:
            if self._registered(side.fileno()):
                self._selector.unregister(side)
            if not self._stalled and (events := wire.interest(side)):
                self._selector.register(side, events, partial(self._pass, wire, side))

    def _pass(self, wire: _Wire, side: socket.socket, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                wire.pending[side] = wire.pending[side][side.send(wire.pending[side]) :]
            if events & selectors.EVENT_READ:
                wire.pending[wire.peer[side]] = self._taken(wire, side)
        except OSError:
            self._drop(wire)
        else:
            self._listen(wire)

    def _taken(self, wire: _Wire, side: socket.socket) -> bytes:
        """What a side says, to be passed on. Raises ConnectionError when the connection is to be dropped."""
        data = side.recv(65536)
        if not data or (side is wire.server and wire.deaf):
            raise ConnectionError
        if side is wire.client:
            self._look_for_patterns(wire, data)
            self._count_steps(wire, data)
        if wire not in self._wires:
            raise ConnectionError
        return data

    def _count_steps(self, wire: _Wire, data: bytes) -> None:
        before = self.steps
        self.steps += sum(kind in STEPS for kind in wire.frames.feed(data))
        if self._step is not None and before < self._step[0] <= self.steps:
            (_, do), self._step, self._asking = self._step, None, wire
            do()
            self.met.set()

    def _look_for_patterns(self, wire: _Wire, data: bytes) -> None:
        wire.said = wire.said[-64:] + data
        if self._cut is not None and self._cut in wire.said:
            self.met.set()
            raise ConnectionError
        if self._lose is not None and self._lose in wire.said:
            wire.deaf = True
            self.met.set()

    def _drop(self, wire: _Wire) -> None:
        if wire not in self._wires:
            return
        self._wires.remove(wire)
        for side in wire.peer:
            if self._registered(side.fileno()):
                self._selector.unregister(side)
            _reset(side)

    def _reset_all(self) -> None:
        self._refusing = True
        for wire in tuple(self._wires):
            self._drop(wire)

    def _end(self) -> None:
        self._running = False
        self._reset_all()

    def _let_through(self) -> None:
        self._refusing, self._lose, self._cut, self._step = False, None, None, None
        self._set_stalled(stalled=False)

    def _set_stalled(self, *, stalled: bool) -> None:
        self._stalled = stalled
        for wire in self._wires:
            self._listen(wire)


def _reset(side: socket.socket) -> None:
    """Close at once, with a reset: nothing waits for what can no longer be told."""
    side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    side.close()
