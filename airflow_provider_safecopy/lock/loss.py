"""The errors of a holder that has lost its lock."""

from __future__ import annotations

from airflow_provider_safecopy.errors import LockLostError
from airflow_provider_safecopy.lock.model import Lease, Promise


def lost_error(lease: Lease) -> LockLostError:
    """Return the error of a heartbeat whose lock was taken."""
    return LockLostError(
        f"lock {lease.name}: token {lease.token} was taken from this run; it stopped and published nothing",
        lock=lease.name,
        token=lease.token,
        hint="see safecopy locks history for who took it, and why",
    )


def self_stop_error(lease: Lease, terms: Promise) -> LockLostError:
    """Return the error of a holder that stops itself before another run takes its lock."""
    return LockLostError(
        f"lock {lease.name}: no progress was confirmed for nearly {terms.stale_after:g} s by the "
        "lock's own clock; this run stopped itself before another takes over, and published nothing",
        lock=lease.name,
        token=lease.token,
        hint="see what it waited for, or raise stale_after",
    )
