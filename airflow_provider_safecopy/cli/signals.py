"""Effects of Ctrl-C, a closing terminal and `kill` on a command."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from airflow_provider_safecopy.abort import AbortSwitch

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STOPPING = b"\nsafecopy: stopping, please wait: children and server sessions are being ended\n"


class _Interrupt:
    """Raises KeyboardInterrupt with the name of the first signal. Once `settled` a signal changes nothing."""

    def __init__(self) -> None:
        self.settled = False

    def __call__(self, number: int, _: FrameType | None) -> None:
        if not self.settled:
            self.settled = True
            raise KeyboardInterrupt(signal.Signals(number).name)


def reset_sigchld() -> None:
    """Have the system report how children end, which the parent process may have switched off."""
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


@contextmanager
def raise_on_signals(*, for_good: bool = False) -> Iterator[None]:
    """Inside, the first ending signal raises KeyboardInterrupt with its name; later ones change nothing.

    So what is being cleaned up on the way out is cleaned up, however often Ctrl-C is pressed. `for_good`: nor do those
    after the block, for a process that only has to end with the exit code it has come to.
    """
    with _install_handler(_Interrupt(), for_good=for_good):
        yield


@contextmanager
def throw_on_signals(switch: AbortSwitch) -> Iterator[None]:
    """Inside, each ending signal throws `switch`: the run ends in order. A second one changes nothing.

    Nor does one after the block, inside `raise_on_signals`: what came of the run is known, and is not to be called aborted.
    """
    told = False

    def throw(number: int, _: FrameType | None) -> None:
        nonlocal told
        if not told:
            told = True
            # The terminal may be what has gone.
            with suppress(OSError):
                # No stream: the signal may have interrupted a write to it.
                os.write(2, _STOPPING)
        switch.throw(signal.Signals(number).name)

    with _install_handler(throw) as before:
        try:
            yield
        finally:
            for outer in before:
                if isinstance(outer, _Interrupt):
                    outer.settled = True


@contextmanager
def _install_handler(
    handler: Callable[[int, FrameType | None], object], *, for_good: bool = False
) -> Iterator[Sequence[object]]:
    """Inside, `handler` hears of them; what heard of them before is the value."""
    # What was ignored when we were started (nohup, a shell's background job) stays ignored.
    before = {number: signal.getsignal(number) for number in _ENDING}
    heard = [number for number, handling in before.items() if handling is not signal.SIG_IGN]
    try:
        for number in heard:
            signal.signal(number, handler)
        yield tuple(before.values())
    finally:
        for number in heard:
            signal.signal(number, signal.SIG_IGN if for_good else before[number])
