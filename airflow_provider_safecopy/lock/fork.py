"""Stores that a forked child inherits, and must leave alone: their locks, sessions and files."""

from __future__ import annotations

import os

from airflow_provider_safecopy.errors import LockStoreError


def is_own(process: int) -> bool:
    """Whether `process` is this process, and not its parent."""
    return os.getpid() == process


def require_own_process(process: int, where: object) -> None:
    """Raise `LockStoreError` in a forked child of `process`, before it touches the store at `where`."""
    if not is_own(process):
        raise LockStoreError(
            f"{where}: this store and its locks belong to the parent process",
            hint="make a new store and a new contender in the forked child",
            retryable=False,
        )
