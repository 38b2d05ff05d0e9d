"""Stores that a forked child inherits, and must leave alone: their locks, sessions and files."""

from __future__ import annotations

import os

from airflow_provider_safecopy.errors import LockStoreError


def is_own_process(pid: int) -> bool:
    """Whether `pid` is this process, and not its parent."""
    return os.getpid() == pid


def require_own_process(pid: int, store: object) -> None:
    """Raise `LockStoreError` in a forked child of `pid`, before it touches the store at `store`."""
    if not is_own_process(pid):
        raise LockStoreError(
            f"{store}: this store and its locks belong to the parent process",
            hint="make a new store and a new contender in the forked child",
            retryable=False,
        )
