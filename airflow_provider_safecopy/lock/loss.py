"""The errors of a holder whose lock is another's by now."""

from __future__ import annotations

from airflow_provider_safecopy.errors import FencedOutError, LockLostError
from airflow_provider_safecopy.lock.model import Lease


def fenced_out(lease: Lease) -> FencedOutError:
    """What a fence raises when the lock is another's."""
    return FencedOutError(
        f"lock {lease.name}: it is held by somebody else now; token {lease.token} may not publish any more",
        lock=lease.name,
        token=lease.token,
    )


def lost(lease: Lease) -> LockLostError:
    """What a heartbeat raises when the lease is another's."""
    return LockLostError(
        f"lock {lease.name}: token {lease.token} was taken from this run; it stopped and published nothing",
        lock=lease.name,
        token=lease.token,
        hint="see safecopy locks history for who took it, and why",
    )
