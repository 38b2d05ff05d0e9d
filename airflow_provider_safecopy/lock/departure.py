"""Releasing locks on every way out, also when something interrupts."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import ExitStack, suppress

from airflow_provider_safecopy import wire
from airflow_provider_safecopy.errors import LockBusyError, LockStoreError
from airflow_provider_safecopy.lock import over
from airflow_provider_safecopy.lock.model import Contender, Lease
from airflow_provider_safecopy.lock.store import Store

log = logging.getLogger(__name__)


def release_leases(store: Store, leases: Iterable[Lease]) -> None:
    """Release each lease, even if an earlier one fails; a takeover clears up after a silent store."""
    with ExitStack() as stack:
        for lease in leases:
            stack.callback(_release_lease, store, lease)


def release_unconfirmed(store: Store, contender: Contender, names: Iterable[str], error: BaseException) -> None:
    """Release what `contender` may have been granted although `error` came instead of the answer."""
    if isinstance(error, LockBusyError) or isinstance(error.__cause__, wire.LateError):
        return  # the lock was not granted, or the store is silent and would stay so
    for name in names:
        try:
            holder = store.read_holder(name)
        except LockStoreError as unknown:
            log.debug("lock %s: cannot tell whether it was granted: %s", name, unknown)
            return
        for seen in holder.members if holder is not None else ():
            if holder is not None and seen.attempt == str(contender.attempt):
                _release_lease(store, holder.build_lease(seen))


def _release_lease(store: Store, lease: Lease) -> None:
    try:
        store.release(lease)
    except LockStoreError as error:
        over.mark_finished(lease.attempt)
        log.warning("lock %s could not be released; the next run takes it over: %s", lease.name, error)
    except BaseException:  # raised by a signal: the release may be incomplete
        over.mark_finished(lease.attempt)
        with suppress(LockStoreError):
            store.release(lease)
        raise
