"""Eviction: remove some members of a run from its lock; the other members keep it."""

from __future__ import annotations

import time
from collections.abc import Collection

from airflow_provider_safecopy.errors import LockStoreError
from airflow_provider_safecopy.lock.model import DisplacedHolder, Holder, Lease, Member
from airflow_provider_safecopy.lock.presence import Displacement, end_displaced
from airflow_provider_safecopy.lock.store import Store

_PATIENCE_SECONDS = 5.0
# The member is publishing: its transaction holds the row until COMMIT.
_LOCKED = "55P03"


def evict(store: Store, holder: Holder, members: Collection[Member]) -> bool:
    """Release the lock of `holder` for `members`, and end what they still run.

    They are fenced out: none of them can publish any more. The other members keep the lock. Return
    whether it is free now. Raises `LockStoreError`.
    """
    freed = False
    for seen in members:
        evicted = _make_displaced(holder, seen)
        freed = _release(store, holder.build_lease(seen), evicted)
        end_displaced(store, evicted, Displacement("released", store.label, holder.name, evicted.owner_key))
    return freed


def _release(store: Store, lease: Lease, evicted: DisplacedHolder) -> bool:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return store.release(lease)
        except LockStoreError as error:
            if error.sqlstate != _LOCKED or time.monotonic() > deadline:
                raise
            store.end_sessions(evicted)


def _make_displaced(holder: Holder, seen: Member) -> DisplacedHolder:
    places = () if seen.process is None else (seen.process,)
    return DisplacedHolder(holder.owner_key or "", holder.owner, holder.token, (seen.attempt,), places)
