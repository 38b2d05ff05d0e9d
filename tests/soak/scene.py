"""One run under a fault: its process, the wires it speaks over, and when the fault struck."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import psutil

from tests.soak.ground import Host, Side
from tests.soak.run import Pair, Run
from tests.support.database import Database
from tests.support.proxy import Proxy

_T = TypeVar("_T")
_LOOK_SECONDS = 0.003
_BEGIN_SECONDS = 20.0


@dataclass(eq=False)
class Scene:
    """Made before the run; left when the run has ended: then whatever was broken is whole again.

    `side` is where the fault strikes, or by whose steps its moment is chosen. `pause` is how long a fault lasts that
    passes by itself.
    """

    pair: Pair
    hosts: Mapping[Side, Host]
    side: Side
    spool: Path
    files: Path
    """Where what the fault needs may lie."""
    dice: random.Random
    pause: float
    wires: Mapping[Side, Proxy] = field(init=False)
    struck_at: float | None = None
    trouble: list[str] = field(default_factory=list)
    """What went wrong with the fault itself: then nothing is proven."""

    def __post_init__(self) -> None:
        self.wires = {side: Proxy.before("127.0.0.1", each.server.port) for side, each in self.pair.items()}
        self._began, self._over = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []
        self._process: psutil.Process | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with ExitStack() as stack:
            for wire in self.wires.values():
                stack.callback(wire.close)
            self.heal()

    @property
    def database(self) -> Database:
        """The struck side's, reached directly."""
        return self.pair[self.side]

    @property
    def wire(self) -> Proxy:
        return self.wires[self.side]

    @property
    def host(self) -> Host:
        return self.hosts[self.side]

    @property
    def through(self) -> dict[Side, Database]:
        """Both databases as the run reaches them."""
        return {side: each.through(self.wires[side].port) for side, each in self.pair.items()}

    @property
    def us(self) -> psutil.Process:
        """The process of the run."""
        if not self._began.wait(_BEGIN_SECONDS):
            raise TimeoutError("the run was never started")
        assert self._process is not None
        return self._process

    def begin(self, run: Run) -> None:
        self._process = psutil.Process(run.process.pid)
        self._began.set()

    def struck(self) -> None:
        """The fault has struck, now."""
        self.struck_at = time.monotonic()

    def at_step(self, number: int, strike: Callable[[Scene], object]) -> None:
        """Strike at the struck side's step of this number."""
        self.wire.at_step(number, lambda: self._guarded(lambda: strike(self)))

    def hunt(self, look: Callable[[], _T | None], do: Callable[[_T], object]) -> None:
        """As soon as `look` finds something, strike it: now, or later in the run, or never."""

        def chase() -> bool:
            if (found := look()) is None:
                return False
            do(found)
            self.struck()
            return True

        def pursue() -> None:
            while not chase() and not self._over.wait(_LOOK_SECONDS):
                pass

        if not chase():
            self._thread(pursue)

    def later(self, do: Callable[[], object]) -> None:
        """After the pause, or when the run is over before."""

        def wait() -> None:
            self._over.wait(self.pause)
            do()

        self._thread(wait)

    def heal(self) -> None:
        """The run is over: the fault ends, and all is as it was but for what the run has left."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        for host in self.hosts.values():
            host.start()
        for wire in self.wires.values():
            wire.mend()
        self.spool.mkdir(exist_ok=True)

    def cut_off(self) -> None:
        """Let no session of the run live on."""
        for wire in self.wires.values():
            wire.cut()
            wire.mend()

    def remove_spool(self) -> None:
        shutil.rmtree(self.spool)

    def _thread(self, do: Callable[[], object]) -> None:
        self._threads.append(threading.Thread(target=lambda: self._guarded(do), daemon=True))
        self._threads[-1].start()

    def _guarded(self, do: Callable[[], object]) -> None:
        """In a thread that must not die of it, the proxy's or one of ours."""
        try:
            do()
        except psutil.NoSuchProcess:
            pass  # it has ended by itself, just before
        except Exception as error:  # noqa: BLE001 -- told as what it is, and makes the soak fail
            self.trouble.append(f"{type(error).__name__}: {error}")
