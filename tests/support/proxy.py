"""A TCP proxy before a server: passes, stalls, cuts, drips, and does whatever is asked at a client's n-th step."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Self

from tests.support.frames import STEPS
from tests.support.relay import Relay, reset

_DRIPS_A_SECOND = 20


# What it does at a step is done in its own thread: a server that crashes and comes back may take half a minute.
_OBEYS_WITHIN = 60.0


class Proxy:
    """Connect to `port` on 127.0.0.1 instead of the server's. Every method may be called at any time.

    `met` is set once a client has sent the pattern of `lose_answer_after`, `cut_before` or `at_message`, or has come to
    the step of `at_step`. `steps` counts what clients have asked so far, on all connections together: see `frames.STEPS`.
    A server that is not there is a connection reset, and looked for again when the next client comes.
    """

    def __init__(self, listener: socket.socket, upstream: tuple[str, int]) -> None:
        self.port = int(listener.getsockname()[1])
        self.met = threading.Event()
        self._upstream = upstream
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._wires: list[Relay] = []
        self._running = True
        self._stalled = False
        self._refusing = False
        self._late = 0.0
        self._rate = 0
        self._message: tuple[bytes, Callable[[], object]] | None = None
        self.steps = 0
        self._step: tuple[int, Callable[[], object]] | None = None
        self._asking: Relay | None = None
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
        self._order(self.cut_now)

    def mend(self) -> None:
        """Take connections again, and let everything through, at full speed."""
        self._order(self._let_through)

    def stall(self) -> None:
        """Pass nothing on, and close nothing: a network that swallows packets."""
        self._order(self.stall_now)

    def drip(self, rate: int) -> None:
        """Pass on at most `rate` bytes a second of each connection, both ways together; never nothing."""
        self._order(lambda: setattr(self, "_rate", rate))

    def late(self, seconds: float) -> None:
        """Take new connections at once, and pass nothing on of each for so many seconds."""
        self._order(lambda: setattr(self, "_late", seconds))

    def lose_answer_after(self, pattern: bytes) -> None:
        """Once a client sends `pattern`, pass it on, lose the server's answer to it, and reset that connection."""
        self._order(lambda: self.at_message_now(pattern, self.lose_answer_now))

    def cut_before(self, pattern: bytes) -> None:
        """Once a client sends `pattern`, reset that connection without passing it on."""
        self._order(lambda: self.at_message_now(pattern, self._drop_asking))

    def at_message(self, pattern: bytes, do: Callable[[], object]) -> None:
        """Call `do` whenever a client sends `pattern`, before the server hears of it; as `at_step` does."""
        self._order(lambda: self.at_message_now(pattern, do))

    def at_step(self, step: int, do: Callable[[], object]) -> None:
        """Call `do` when clients come to their step of this number, counted from 1, before the server hears of it.

        In the proxy's own thread: meanwhile nothing passes. `do` may not call methods of this proxy but those named `*_now`.
        """
        self._order(lambda: setattr(self, "_step", (step, do)))

    def cut_now(self) -> None:
        """As `cut`, from within `do`."""
        self._refusing = True
        self.reset_now()

    def reset_now(self) -> None:
        """Reset all connections; new ones are taken. From within `do`, as are the next."""
        for relay in tuple(self._wires):
            self._drop(relay)

    def stall_now(self) -> None:
        """As `stall`, from within `do`."""
        self._set_stalled(stalled=True)

    def half_open_now(self) -> None:
        """The server's side of all connections is gone, and no client is told. New ones are taken."""
        self._forsake(lambda relay: relay.client)

    def orphan_now(self) -> None:
        """All clients are reset, and the server is not told: its sessions stay. New connections are taken."""
        self._forsake(lambda relay: relay.server)

    def lose_answer_now(self, then: Callable[[], object] = lambda: None) -> None:
        """Pass on what the step asks; when the server answers call `then`, lose the answer, and reset that connection."""
        assert self._asking is not None
        self._asking.deaf = then

    def at_message_now(self, pattern: bytes, do: Callable[[], object]) -> None:
        """As `at_message`, from now on: what was said before does not count."""
        self._message = (pattern, do)
        for relay in self._wires:
            relay.said = b""

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
        if not done.wait(_OBEYS_WITHIN):
            raise TimeoutError("the proxy does not listen")

    def _run(self) -> None:
        self._selector.register(self._wake_read, selectors.EVENT_READ, lambda _: self._obey())
        self._selector.register(self._listener, selectors.EVENT_READ, lambda _: self._accept())
        while self._running:
            for key, events in self._selector.select(self._awake()):
                # What an earlier event of this round has closed is no longer registered.
                if self._registered(key.fd):
                    key.data(events)

    def _awake(self) -> float | None:
        """Listen to who has rested; how long until the next has, None where nobody rests."""
        now, resting = time.monotonic(), [relay for relay in self._wires if relay.rests]
        for relay in resting:
            if relay.rests <= now:
                relay.rests = 0.0
                self._listen(relay)
        return min((relay.rests - now for relay in resting if relay.rests), default=None)

    def _registered(self, descriptor: int) -> bool:
        return descriptor >= 0 and descriptor in self._selector.get_map()

    def _obey(self) -> None:
        self._wake_read.recv(64)
        while self._orders:
            self._orders.pop(0)()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            server = None if self._refusing else socket.create_connection(self._upstream)
        except ConnectionError:
            server = None
        if server is None:
            reset(client)
            return
        relay = Relay(client, server, time.monotonic() + self._late if self._late else 0.0)
        self._wires.append(relay)
        self._listen(relay)

    def _listen(self, relay: Relay) -> None:
        """Wait for what there is to wait for, on both sides."""
        self._forget(relay)
        for side in relay.peer:
            if not self._stalled and (events := relay.interest(side, time.monotonic())):
                self._selector.register(side, events, partial(self._pass, relay, side))

    def _forget(self, relay: Relay) -> None:
        for side in relay.peer:
            if self._registered(side.fileno()):
                self._selector.unregister(side)

    def _pass(self, relay: Relay, side: socket.socket, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                relay.give(side)
            if events & selectors.EVENT_READ:
                data = self._taken(relay, side)
                relay.pending[relay.peer[side]] = b"" if relay.alone else data
                # At once: who was killed at this step is cleared away as soon as that is seen, this proxy with it.
                if not self._stalled:
                    relay.give(relay.peer[side])
        except OSError:
            self._drop(relay)
        else:
            self._listen(relay)

    def _taken(self, relay: Relay, side: socket.socket) -> bytes:
        """What a side says, to be passed on. Raises ConnectionError when the connection is to be dropped."""
        data = side.recv(max(1, self._rate // _DRIPS_A_SECOND) if self._rate else 65536)
        if self._rate:
            relay.rests = time.monotonic() + len(data) / self._rate
        if side is relay.server and relay.deaf is not None:
            relay.deaf()
            raise ConnectionError
        if not data:
            raise ConnectionError
        if side is relay.client:
            self._look_for_message(relay, data)
            self._count_steps(relay, data)
        if relay not in self._wires:
            raise ConnectionError
        return data

    def _count_steps(self, relay: Relay, data: bytes) -> None:
        before = self.steps
        self.steps += sum(kind in STEPS for kind in relay.frames.feed(data))
        if self._step is not None and before < self._step[0] <= self.steps:
            (_, do), self._step, self._asking = self._step, None, relay
            do()
            self.met.set()

    def _look_for_message(self, relay: Relay, data: bytes) -> None:
        relay.said = relay.said[-64:] + data
        if self._message is not None and self._message[0] in relay.said:
            relay.said, self._asking = b"", relay
            self._message[1]()
            self.met.set()

    def _drop(self, relay: Relay) -> None:
        if relay not in self._wires:
            return
        self._wires.remove(relay)
        self._forget(relay)
        for side in relay.peer:
            reset(side)

    def _drop_asking(self) -> None:
        assert self._asking is not None
        self._drop(self._asking)

    def _forsake(self, stays: Callable[[Relay], socket.socket]) -> None:
        for relay in self._wires:
            self._forget(relay)
            relay.forsake(stays(relay))
            self._listen(relay)

    def _end(self) -> None:
        self._running = False
        self.reset_now()

    def _let_through(self) -> None:
        self._refusing, self._message, self._step, self._late, self._rate = False, None, None, 0.0, 0
        self._set_stalled(stalled=False)

    def _set_stalled(self, *, stalled: bool) -> None:
        self._stalled = stalled
        for relay in self._wires:
            self._listen(relay)
