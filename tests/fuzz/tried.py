"""A call that may fail as it should: its value, or the error. Any other error fails the test."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")
_E = TypeVar("_E", bound=Exception)


def tried(expected: type[_E], call: Callable[[], _T]) -> _T | _E:
    try:
        return call()
    except expected as error:
        return error
