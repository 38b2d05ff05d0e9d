"""Where the suite's servers keep their databases: in memory where there is room, for a disk is the slowest part of a test."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

_MEMORY = "/dev/shm"
_ROOM_BYTES = 3 << 30


@cache
def place() -> str | None:
    """Return a directory in memory with room for servers, or None: a container often has 64 MB of it.

    Often nothing in it may be executed: a test whose server loads a library of ours takes an ordinary directory.
    """
    if Path(_MEMORY).is_dir() and shutil.disk_usage(_MEMORY).free >= _ROOM_BYTES:
        return _MEMORY
    return None
