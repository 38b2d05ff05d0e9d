"""The errors of a holder whose lock is another's by now."""

from __future__ import annotations

from airflow_provider_safecopy.errors import LockLostError
from airflow_provider_safecopy.lock.model import Lease, Promise


def lost(lease: Lease) -> LockLostError:
    """What a heartbeat raises when the lease is another's."""
    return LockLostError(
        f"lock {lease.name}: token {lease.token} was taken from this run; it stopped and published nothing",
        lock=lease.name,
        token=lease.token,
        hint="see safecopy locks history for who took it, and why",
    )


def self_stop_error(lease: Lease, promise: Promise) -> LockLostError:
    """What a holder stops itself with, before another takes its lock."""
    return LockLostError(
        f"lock {lease.name}: no progress was confirmed for nearly {promise.stale_after:g} s by the "
        "lock's own clock; this run stopped itself before another takes over, and published nothing",
        lock=lease.name,
        token=lease.token,
        hint="see what it waited for, or raise stale_after",
    )
