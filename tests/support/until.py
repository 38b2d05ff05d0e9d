"""Waiting for what others do."""

from __future__ import annotations

import time
from collections.abc import Callable

_PATIENCE = 120.0


def until(holds: Callable[[], object], seconds: float = _PATIENCE, *, told: str = "it never came to be") -> None:
    """Wait until something is so; fail with `told` when it is not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, told
        time.sleep(0.005)
