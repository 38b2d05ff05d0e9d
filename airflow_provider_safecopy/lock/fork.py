"""What a forked child inherits of its parent's stores, and must leave alone: their locks, their sessions, their files."""

from __future__ import annotations

import os

from airflow_provider_safecopy.errors import LockStoreError


def is_own(process: int) -> bool:
    """Whether `process` is this very one, rather than its parent."""
    return os.getpid() == process


def require_own_process(process: int, where: object) -> None:
    """Raise `LockStoreError` in a forked child of `process`, before it touches the store at `where`."""
    if not is_own(process):
        raise LockStoreError(
            f"{where}: this store is the parent process's, and so are its locks",
            hint="make a store, and a contender, in the forked child",
            retryable=False,
        )
