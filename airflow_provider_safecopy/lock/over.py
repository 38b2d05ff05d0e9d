"""Attempts of this very process that are over, and could not tell their store so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from airflow_provider_safecopy.lock import presence
from airflow_provider_safecopy.lock.model import Holder

_FINISHED: set[str] = set()


def mark_finished(attempt: UUID) -> None:
    """Whatever the store has of this attempt's, now or in a moment, is nobody's."""
    _FINISHED.add(str(attempt))


@contextmanager
def track_request(attempt: UUID) -> Iterator[None]:
    """Around what asks a store for a lock. Where no answer came, the lock may have been granted, or may be yet: `mark_finished`."""
    try:
        yield
    except BaseException:
        mark_finished(attempt)
        raise
    _FINISHED.discard(str(attempt))


def find_gone(holder: Holder) -> set[str]:
    """The attempts of `holder` whose process lived on this machine and has ended for certain, or is done with them."""
    return {
        seen.attempt
        for seen in holder.members
        if seen.attempt in _FINISHED
        # A row may name a process that never existed: the presence note of the attempt comes first.
        or (seen.process is not None and seen.process.is_gone and not presence.is_alive(seen.attempt))
    }


def is_gone(holder: Holder) -> bool:
    """Whether all attempts of `holder` are gone, as far as this machine can tell; False for one without any."""
    attempts = {seen.attempt for seen in holder.members}
    return bool(attempts) and attempts <= find_gone(holder)
