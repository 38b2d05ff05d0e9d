"""The fence: inside a publishing transaction, whether its lock is still its own."""

from __future__ import annotations

from typing import Any

import psycopg

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import FencedOutError
from airflow_provider_safecopy.lock.model import Lease
from airflow_provider_safecopy.lock.rows import held

_LOCK = sql.load("lock")


def fence(connection: psycopg.Connection[Any], lease: Lease) -> None:
    """Inside the publishing transaction: hold the lock until COMMIT. Raises `FencedOutError`."""
    if connection.execute(_LOCK["fence"], held(lease)).fetchone() is None:
        raise fenced_out(lease)


def fenced_out(lease: Lease) -> FencedOutError:
    """What a fence raises when the lock is another's."""
    return FencedOutError(
        f"lock {lease.name}: it is held by somebody else now; token {lease.token} may not publish any more",
        lock=lease.name,
        token=lease.token,
    )
