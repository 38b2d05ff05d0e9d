"""An exception at any call, as a signal handler raises it: out of the blue, and once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

PACKAGE = str(Path(__file__).parents[2] / "airflow_provider_safecopy")


class Interruption(BaseException):
    """What Airflow raises from its handlers derives from BaseException, too."""


class Interrupter:
    """Raises `error` at the `at`-th call of a function whose file's path holds one of `places`."""

    def __init__(self, at: int, error: BaseException, places: tuple[str, ...]) -> None:
        self.struck = ""
        self._left = at
        self._error = error
        self._places = places

    def run(self, action: Callable[[], Any]) -> bool:
        """Run `action`. Return whether it raised what it was interrupted by, or an error because of that."""
        before = sys.getprofile()
        sys.setprofile(self._see)
        try:
            action()
        except BaseException as error:
            if self._error in (error, error.__cause__, error.__context__):
                return True
            raise
        finally:
            sys.setprofile(before)
        return False

    def _see(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or self.struck or not any(place in code.co_filename for place in self._places):
            return
        self._left -= 1
        if not self._left:
            self.struck = code.co_name
            raise self._error


def interrupt_at_each_call(
    error: Callable[[], BaseException], places: tuple[str, ...] = (PACKAGE,), *, step: int = 1
) -> Iterator[Interrupter]:
    """An interrupter for each call, until one had nothing to interrupt any more."""
    at = 1
    while True:
        interrupter = Interrupter(at, error(), places)
        yield interrupter
        if not interrupter.struck:
            return
        at += step
