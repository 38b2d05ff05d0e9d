"""What Ctrl-C, a closing terminal and `kill` do to a command."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from airflow_provider_safecopy.abort import AbortSwitch

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STOPPING = b"\nsafecopy: stopping, please wait: children and server sessions are being ended\n"


@contextmanager
def interrupting() -> Iterator[None]:
    """Inside, the first ending signal raises KeyboardInterrupt with its name; later ones change nothing.

    So what is being cleaned up on the way out is cleaned up, however often Ctrl-C is pressed.
    """
    heard = False

    def interrupt(number: int, _: FrameType | None) -> None:
        nonlocal heard
        if not heard:
            heard = True
            raise KeyboardInterrupt(signal.Signals(number).name)

    with _handled_by(interrupt):
        yield


@contextmanager
def throwing(switch: AbortSwitch) -> Iterator[None]:
    """Inside, each ending signal throws `switch`: the run ends in order. A second one changes nothing."""
    told = False

    def throw(number: int, _: FrameType | None) -> None:
        nonlocal told
        if not told:
            told = True
            with suppress(OSError):  # the terminal may be what has gone
                os.write(2, _STOPPING)  # no stream: the signal may have interrupted a write to it
        switch.throw(signal.Signals(number).name)

    with _handled_by(throw):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    # What was ignored when we were started (nohup, a shell's background job) stays ignored.
    before = {number: signal.getsignal(number) for number in _ENDING}
    heard = [number for number, handling in before.items() if handling is not signal.SIG_IGN]
    try:
        for number in heard:
            signal.signal(number, handler)
        yield
    finally:
        for number in heard:
            signal.signal(number, before[number])
