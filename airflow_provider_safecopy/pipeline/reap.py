"""Reaping: locks are taken from runs that are dead for certain, and what they left in the target is cleared away.

Only what can be reached from here: sessions in the target, staging tables of this role's, and processes on this very
machine. Sessions a dead run still has in its source are not: the source is not known here. The next copy that takes
such a lock over does (it has the source's connection), and PostgreSQL ends them itself once it notices that the
client is gone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from uuid import uuid4

import psycopg

from airflow_provider_safecopy.errors import LockStoreError
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.lock.liveness import Displacement, end_displaced, find_gone
from airflow_provider_safecopy.lock.living_lock import LivenessCheck
from airflow_provider_safecopy.lock.model import DisplacedHolder, Holder, Lease, Member, format_application_name
from airflow_provider_safecopy.lock.postgres import PostgresStore
from airflow_provider_safecopy.lock.store import Store
from airflow_provider_safecopy.pipeline.run import name_holders
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.postgres.session import Session, open_session
from airflow_provider_safecopy.publish import staging

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


log = logging.getLogger(__name__)

KEEP_SECONDS = 90 * 86400.0
"""How long the history of the locks is kept by default."""

_SWEEP_SECONDS = 60.0

Why = Literal["stale", "gone", "finished"]
"""No progress within the promise; its processes on this machine have ended; or a judge knows the run to be over."""


@dataclass(frozen=True)
class Reaped:
    """A lock that was taken from its holder, or in a dry run would be, and why."""

    name: str
    why: Why
    holder: Holder

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"name": self.name, "why": self.why, "holder": self.holder.as_dict()}


@dataclass(frozen=True)
class ReapReport:
    """The result of a reaping, or its preview in a dry run: locks taken, staging tables dropped, rows of history forgotten.

    A dry run does not count what it would forget: `forgotten` is 0. `initialised` is False where the target has no
    schema `safecopy`, and so nothing to reap.
    """

    dry_run: bool
    reaped: tuple[Reaped, ...] = ()
    staging: tuple[str, ...] = ()
    forgotten: int = 0
    initialised: bool = True

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "dry_run": self.dry_run,
            "initialised": self.initialised,
            "reaped": [each.as_dict() for each in self.reaped],
            "staging": list(self.staging),
            "forgotten": self.forgotten,
        }


def reap(
    target: Endpoint,
    *,
    dry_run: bool = False,
    overdue: float = 0,
    keep: float = KEEP_SECONDS,
    judge: LivenessCheck | None = None,
    connect_timeout: float = 10,
) -> ReapReport:
    """Take the locks of dead runs in `target`, sweep their staging tables, forget history older than `keep` seconds.

    Dead is a holder that is stale since `overdue` seconds, one whose processes lived on this machine and have all
    ended, and one whose attempts `judge` knows to be over. A holder with a heartbeat within its promise is left alone:
    the store asks all of this again in the statement that takes the lock. `dry_run` changes nothing.

    Raises `StageError` when the target cannot be reached, `LockStoreError` when this role may not do it.
    """
    attempt = uuid4()
    with (
        open_session(
            target, application_name=format_application_name(attempt), connect_timeout=connect_timeout
        ) as session,
        _translate_errors(session),
        name_holders(session),
    ):
        if not schema.is_ready(session.connection):
            return ReapReport(dry_run, initialised=False)
        store = PostgresStore(session.endpoint, attempt=attempt, connect_timeout=connect_timeout)
        try:
            dead = tuple(_find_dead(store, overdue, judge))
            return _report_plan(session, dead) if dry_run else _reap_locks(session, store, dead, overdue, keep)
        finally:
            store.close()


def _find_dead(store: Store, overdue: float, judge: LivenessCheck | None) -> Iterator[tuple[Reaped, frozenset[str]]]:
    """Each holder that is dead, why, and which of its attempts that is known of."""
    for holder in store.read_holders():
        attempts = {seen.attempt for seen in holder.members}
        ended = find_gone(holder)
        finished = set(judge(holder)) if judge and not attempts <= ended else set()
        known = frozenset(attempts & (ended | finished))
        if holder.is_stale and (holder.asked_at - holder.due_at).total_seconds() >= overdue:
            yield Reaped(holder.name, "stale", holder), known
        elif attempts and attempts <= ended:
            yield Reaped(holder.name, "gone", holder), known
        elif attempts and attempts <= known:
            yield Reaped(holder.name, "finished", holder), known


def _report_plan(session: Session, dead: tuple[tuple[Reaped, frozenset[str]], ...]) -> ReapReport:
    attempts = [seen.attempt for reaped, _ in dead for seen in reaped.holder.members]
    left = staging.find_leftovers(session, gone_attempts=attempts)
    return ReapReport(True, tuple(reaped for reaped, _ in dead), tuple(map(str, left)))


def _reap_locks(
    session: Session, store: Store, dead: tuple[tuple[Reaped, frozenset[str]], ...], overdue: float, keep: float
) -> ReapReport:
    taken = tuple(reaped for reaped, known in dead if _reap_lock(store, reaped, known, overdue))
    with session.limit_answer(_SWEEP_SECONDS):
        swept = staging.drop_leftovers(
            session, gone_attempts=[seen.attempt for reaped in taken for seen in reaped.holder.members]
        )
    return ReapReport(False, taken, swept, store.forget(keep=keep))


def _reap_lock(store: Store, reaped: Reaped, known: frozenset[str], overdue: float) -> bool:
    """Return whether the lock was taken: a holder that has revived since it was looked at keeps it."""
    displaced = store.reap(reaped.name, overdue=overdue, dead=known, reason=reaped.why)
    if displaced is None:
        log.info("lock %s: left alone, its holder has revived or released it", reaped.name)
        return False
    log.warning("lock %s: reaped from %s, which is %s", reaped.name, displaced, reaped.why)
    end_displaced(store, displaced, Displacement(reaped.why, store.label, reaped.name, gone_owner=reaped.holder.owner))
    return True


@contextmanager
def _translate_errors(session: Session) -> Iterator[None]:
    """Translate errors of the control session into errors of the store."""
    try:
        yield
    except psycopg.Error as error:
        raise schema.store_error(f"{session.endpoint}: what dead runs left cannot be swept", error) from error
