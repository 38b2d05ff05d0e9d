"""The fence: check inside a publishing transaction that its lease is still good."""

from __future__ import annotations

from typing import Any

import psycopg

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import FencedOutError
from airflow_provider_safecopy.lock.model import Lease
from airflow_provider_safecopy.lock.rows import build_lease_parameters

_LOCK = sql.load("lock")


def check_fence(connection: psycopg.Connection[Any], lease: Lease) -> None:
    """Keep the lock until COMMIT, inside the publishing transaction. Raises `FencedOutError`."""
    if connection.execute(_LOCK["fence"], build_lease_parameters(lease)).fetchone() is None:
        raise fenced_out_error(lease)


def fenced_out_error(lease: Lease) -> FencedOutError:
    """Return the error of a publish whose lock has another holder."""
    return FencedOutError(
        f"lock {lease.name}: another run holds it now; token {lease.token} may not publish any more",
        lock=lease.name,
        token=lease.token,
    )
