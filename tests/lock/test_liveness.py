"""A process knows which of its own attempts are over, though their store was not told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from airflow_provider_safecopy.errors import LockStoreError
from airflow_provider_safecopy.lock.living_lock import LivingLock
from tests.support.database import Database
from tests.support.proxy import Proxy

NAME = "야간_집계"


def test_what_could_not_be_released_is_free_for_the_same_process_at_once(
    target: Database, proxy: Callable[[Database], Proxy]
) -> None:
    """Its process lives on, but knows that this attempt is over."""
    wire = proxy(target)
    LivingLock(NAME, target.endpoint).acquire().release()
    lost = LivingLock(NAME, target.through(wire.port).endpoint).acquire()
    wire.cut()
    lost.release()
    with LivingLock(NAME, target.endpoint) as lock:
        assert lock.leases[0].kind == "takeover-dead"


def test_a_grant_that_nobody_heard_of_is_free_for_the_same_process_at_once(
    target: Database, proxy: Callable[[Database], Proxy]
) -> None:
    """Found by trying all steps: the lock was busy for as long as a crashed holder's, in the process that had asked."""
    wire = proxy(target)
    LivingLock(NAME, target.endpoint).acquire().release()
    wire.at_message(b"UPDATE safecopy.lock", lambda: wire.lose_answer_now(then=wire.cut_now))
    unheard = LivingLock(NAME, target.through(wire.port).endpoint)
    with pytest.raises(LockStoreError):
        unheard.acquire()
    wire.mend()
    assert target.value("SELECT lease_id IS NOT NULL FROM safecopy.lock") is True, "it was granted"
    with LivingLock(NAME, target.endpoint) as lock:
        assert lock.leases[0].kind == "takeover-dead"
    unheard.acquire().release()
