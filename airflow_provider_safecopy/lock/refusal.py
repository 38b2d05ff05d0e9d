"""The errors of a contender whose lock is held, and of a holder that lost its own."""

from __future__ import annotations

from collections.abc import Collection

from airflow_provider_safecopy.errors import LockBusyError, LockLostError
from airflow_provider_safecopy.lock.model import Holder, Lease, Promise
from airflow_provider_safecopy.lock.store import Store


def read_holders(store: Store, names: Collection[str]) -> list[Holder]:
    """Return the holders of these locks, with one question for all."""
    return [each for each in store.read_holders() if each.name in names and each.owner_key] if names else []


def busy_error(holder: Holder) -> LockBusyError:
    """Return the error that names the holder, its last progress, and when its lock may be taken."""
    if holder.owner_key is None:
        # The connection gate rests after each turn: then there is no holder to name.
        text = f"was released a moment ago and can be taken in {holder.seconds_to_takeover:.1f} s"
    else:
        quiet = (holder.asked_at - holder.progressed_at).total_seconds()
        text = (
            f"is held by {holder} ({_describe_members(holder)}) since {holder.granted_at:%Y-%m-%d %H:%M:%S%z}; last progress "
            f"{quiet:.0f} s ago; it will be taken in {holder.seconds_to_takeover:.0f} s if nothing moves until then"
        )
    return LockBusyError(
        f"lock {holder.name} {text}",
        lock=holder.name,
        holder=holder.as_dict(),
        hint="wait for it, or see safecopy locks" if holder.owner_key is not None else "",
    )


def _describe_members(holder: Holder) -> str:
    members = [
        f"{seen.member}, try {seen.try_number}"
        + (f", pid {seen.process.pid} on {seen.process.host}" if seen.process else "")
        for seen in holder.members
    ]
    return "; ".join(members) or "no member"


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
