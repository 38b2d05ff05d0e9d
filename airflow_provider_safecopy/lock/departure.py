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


def give_back(store: Store, leases: Iterable[Lease]) -> None:
    """Release each lease, even if an earlier one fails; a takeover clears up after a silent store."""
    with ExitStack() as stack:
        for lease in leases:
            stack.callback(_leave, store, lease)


def withdraw(store: Store, contender: Contender, names: Iterable[str], error: BaseException) -> None:
    """Release what `contender` may have been granted although `error` came instead of the answer."""
    if isinstance(error, LockBusyError) or isinstance(error.__cause__, wire.LateError):
        return  # the lock was not granted, or the store is silent and would stay so
    for name in names:
        try:
            holder = store.holder(name)
        except LockStoreError as unknown:
            log.debug("lock %s: cannot tell whether it was granted: %s", name, unknown)
            return
        for seen in holder.members if holder is not None else ():
            if holder is not None and seen.attempt == str(contender.attempt):
                _leave(store, holder.lease_of(seen))


def _leave(store: Store, lease: Lease) -> None:
    try:
        store.release(lease)
    except LockStoreError as error:
        over.leave(lease.attempt)
        log.warning("lock %s could not be released; the next run takes it over: %s", lease.name, error)
    except BaseException:  # raised by a signal: the release may be incomplete
        over.leave(lease.attempt)
        with suppress(LockStoreError):
            store.release(lease)
        raise
