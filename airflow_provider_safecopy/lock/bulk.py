"""Many locks at once: granted, kept and released in one message each, by the very statements that do it singly.

A batch holds the locks of the tables it is at work on, beside the run's own. One message for each of hundreds of locks
would take longer than the copies; one for all is one transaction, in which the server plans the statement once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, LiteralString, Self
from uuid import uuid4

import psycopg
from psycopg import sql as compose
from psycopg.rows import DictRow

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import LockBusyError, LockLostError, LockStoreError
from airflow_provider_safecopy.lock import living_lock, schema
from airflow_provider_safecopy.lock.living_lock import LivenessCheck, LivingLock
from airflow_provider_safecopy.lock.model import Contender, Lease, Promise
from airflow_provider_safecopy.lock.postgres import (
    PostgresStore,
    build_acquire_parameters,
    build_lease_parameters,
    fenced_out_error,
    format_interval,
    parse_lease,
    parse_remaining,
)
from airflow_provider_safecopy.lock.refusal import busy_error, lost_error, read_holders
from airflow_provider_safecopy.lock.row_wait import LOCK_NOT_AVAILABLE, add_blockers_at_once

log = logging.getLogger(__name__)

_LOCK = sql.load("lock")
_STEP_SECONDS = 0.2
_ANSWER_SECONDS = 30.0

Ask = Callable[[LiteralString, Mapping[str, Any]], Sequence[Any]]
"""Asks a question in a session of its own, and returns the rows."""

BulkAnswer = Lease | LockBusyError | LockStoreError
"""The outcome for one lock: its lease, the error of its holder, or that of a session that keeps its row locked."""


class BulkStore(PostgresStore):
    """A store in a database that is asked about many locks at once."""

    def acquire_all(self, names: Sequence[str], contender: Contender, terms: Promise) -> list[Lease]:
        """Return the leases of the locks that are granted at once. Ask for each other one by `acquire`."""
        common = build_acquire_parameters(contender, terms)
        # In one order, or two batches would wait for each other.
        asked = [common | {"name": name, "lease_id": uuid4()} for name in sorted(names)]
        found = self._ask_each(
            "acquire", asked, first_statement=_LOCK["ensure_all"], first_parameters={"names": sorted(names)}
        )
        return [parse_lease(one["name"], contender, rows[0]) for one, rows in zip(asked, found, strict=True) if rows]

    def heartbeat_all(self, leases: Sequence[Lease], *, phase: int, count: int) -> list[float]:
        """Send a heartbeat for each lease; return the seconds until each is due.

        Raises `LockLostError` for the first lock that another run has by now.
        """
        found = self._ask_each(
            "heartbeat", [build_lease_parameters(lease) | {"phase": phase, "count": count} for lease in leases]
        )
        for lease, rows in zip(leases, found, strict=True):
            if not rows:
                raise lost_error(lease)
        return [parse_remaining(lease.name, rows[0]) for lease, rows in zip(leases, found, strict=True)]

    def release_all(self, leases: Sequence[Lease]) -> None:
        """Release each lease, as `release` does."""
        self._ask_each(
            "release", [build_lease_parameters(lease) | {"at_least": format_interval(0)} for lease in leases]
        )

    def _ask_each(
        self,
        statement: str,
        parameters: Sequence[Mapping[str, Any]],
        *,
        first_statement: LiteralString | None = None,
        first_parameters: Mapping[str, Any] | None = None,
    ) -> list[list[DictRow]]:
        """Return the answers to the statement for each of `parameters`, asked in one message.

        The settings and `first_statement` come first in that message.
        """
        if not parameters:
            return []
        settings = {"lock_timeout": f"{_STEP_SECONDS * 1000:.0f}ms", "statement_timeout": f"{_ANSWER_SECONDS:.0f}s"}
        try:
            with self._open_cursor(_ANSWER_SECONDS + 1, self.watcher if statement == "acquire" else None) as cursor:
                backend = {"backend": cursor.connection.info.backend_pid}
                before = _LOCK["settings"] + self._choose_trust_check() + (first_statement or "")
                opening = cursor.mogrify(before, {**settings, **(first_parameters or {})})
                cursor.execute(
                    _build_message(opening, self._statements[statement], [{**one, **backend} for one in parameters])
                )
                self._trusted = self._connection
                return _read_answers(cursor)[-len(parameters) - 1 : -1]
        except psycopg.Error as error:
            # The plan would be left behind in the session.
            self.close()
            failure = schema.store_error(f"{self.endpoint}: the locks cannot be asked ({statement})", error)
            # The others are asked again, one by one.
            if statement == "heartbeat":
                failure = add_blockers_at_once(failure, statement, self._ask, [one["name"] for one in parameters])
            raise failure from error


class TableLocks(LivingLock):
    """The locks of the tables that a run is at work on, and the run's own lock, if it has one.

    `acquire_tables` and `release_tables` change what is held, while a heartbeat may be on its way for all of it.
    """

    def __init__(
        self,
        run_lock: str | None,
        store: BulkStore,
        *,
        contender: Contender,
        terms: Promise,
        liveness_check: LivenessCheck | None,
    ) -> None:
        super().__init__(
            () if run_lock is None else run_lock, store, contender=contender, promise=terms, judge=liveness_check
        )
        self._several = store
        # A run without a lock of its own has none to lose until it acquires that of a table.
        self._until = float("inf")
        # The heartbeat's thread must not find leases whose time is not yet counted.
        self._changing = threading.Lock()

    def acquire(self) -> Self:
        """Acquire the run's own lock, if it has one. Raises `LockBusyError`, `LockStoreError`."""
        return super().acquire() if self.names else self

    def require_free(self, names: Iterable[str]) -> None:
        """Raise `LockBusyError` if another living run holds one of these locks. Acquires none."""
        wanted = set(names)
        for holder in self.store.read_holders():
            if holder.name in wanted and self._is_alive(holder):
                self.store.record_refusal(holder.name, self.contender)
                raise busy_error(holder)

    def read_held_names(self) -> frozenset[str]:
        """Return the names of all locks held at this moment; none while the store cannot be asked yet."""
        try:
            return frozenset(holder.name for holder in self.store.read_holders())
        except LockStoreError as error:
            log.debug("not known yet: %s", error)
            return frozenset()

    def acquire_tables(
        self, names: Iterable[str], relatives: Mapping[str, Collection[str]] | None = None
    ) -> dict[str, BulkAnswer]:
        """Return for each lock its lease, or why it could not be had. Raises `LockStoreError`, and then holds none.

        `relatives`: for each lock, the locks that no other attempt may hold beside it; see `LivingLock`.
        """
        wanted, started = list(names), time.monotonic()
        found: dict[str, BulkAnswer] = {}
        try:
            try:
                taken = self._several.acquire_all(wanted, self.contender, self.terms)
                found |= {lease.name: lease for lease in taken}
            # Another session may hold the row of one lock: each asked by itself, the others are granted.
            except LockStoreError as error:
                living_lock.release_unconfirmed(self.store, self.contender, wanted, error)
            for name in wanted:
                if name not in found:
                    found[name] = self._try_acquire(name)
            self._exclude(found, relatives or {})
            self._add_leases([answer for answer in found.values() if isinstance(answer, Lease)], started)
        except BaseException as error:
            self.release_tables(answer for answer in found.values() if isinstance(answer, Lease))
            living_lock.release_unconfirmed(
                self.store, self.contender, [name for name in wanted if name not in found], error
            )
            raise
        return found

    def _add_leases(self, leases: list[Lease], started: float) -> None:
        with self._changing:
            self.leases += tuple(leases)
            due = [self._compute_stop(started, [lease.remaining]) for lease in leases]
            self._until = min([self._until, *due])
        self._show_presence()
        for lease in leases:
            self._end_displaced(lease)

    def release_tables(self, leases: Iterable[Lease]) -> None:
        """Release these leases."""
        going = list(leases)
        with self._changing:
            self.leases = tuple(lease for lease in self.leases if lease not in going)
            if not self.leases:
                self._until = float("inf")
        self._show_presence()
        self._release_leases(going)

    def build_fence(self, lease: Lease, ask: Ask) -> Callable[[object], None]:
        """Return a check that raises `FencedOutError` unless the locks of run and table are still held.

        It belongs into the transaction of `ask`.
        """
        own = [each for each in self.leases if each.name in self.names and each.name != lease.name]

        def check(_: object) -> None:
            for each in (*own, lease):
                if not ask(_LOCK["fence"], build_lease_parameters(each)):
                    raise fenced_out_error(each)

        return check

    def send_heartbeat(self, *, phase: int, count: int) -> None:
        """Send a heartbeat for all locks held now, as any living lock does."""
        with self._changing:
            leases, started = self.leases, time.monotonic()
            if not leases:
                return
            try:
                remaining = self._several.heartbeat_all(leases, phase=phase, count=count)
            except LockLostError as error:
                self.lost_error = error
                raise
            except LockStoreError as error:
                self.store_answers = False
                log.warning("no heartbeat: %s", error)
                return
            self.store_answers = True
            self._beaten, self._until = started, self._compute_stop(started, remaining)
        self._show_presence()

    def _exclude(self, answers: dict[str, BulkAnswer], relatives: Mapping[str, Collection[str]]) -> None:
        """Release each lease whose relative another attempt holds, and put that holder's error in its place."""
        holders = read_holders(self.store, {each for name in answers for each in relatives.get(name, ())})
        for name, lease in list(answers.items()):
            try:
                for holder in holders if isinstance(lease, Lease) else ():
                    if holder.name in relatives.get(name, ()):
                        self._displace(holder)
            except LockBusyError as error:
                answers[name] = error
                self._release_leases([lease] if isinstance(lease, Lease) else [])

    def _try_acquire(self, name: str) -> BulkAnswer:
        """Return the lease, or the error if another attempt has the lock or another session its row."""
        try:
            return self._acquire_lock(name)
        except LockBusyError as error:
            return error
        except LockStoreError as error:
            if not error.blockers or error.sqlstate != LOCK_NOT_AVAILABLE:
                raise
            return error

    def _release_leases(self, leases: Iterable[Lease]) -> None:
        going = list(leases)
        try:
            self._several.release_all(going)
        except LockStoreError as error:
            log.info("locks are released one by one: %s", error)
            super()._release_leases(going)
        # Raised by a signal: the release may be incomplete.
        except BaseException:
            super()._release_leases(going)
            raise


def _build_message(opening: str, query: LiteralString, parameters: Sequence[Mapping[str, Any]]) -> compose.Composed:
    """Compose one message of all: the opening, and the query for each of `parameters`."""
    # Prepared, so that the server plans once; deallocated, so that nothing is left in the session of a pooler.
    text, names = sql.number_parameters(query)
    values = [compose.SQL(", ").join(compose.Literal(one[name]) for name in names) for one in parameters]
    return compose.SQL(";\n").join(
        [
            compose.SQL(opening),
            compose.SQL("SET LOCAL plan_cache_mode = force_generic_plan"),
            compose.SQL("PREPARE safecopy_each AS {}").format(compose.SQL(text)),
            *(compose.SQL("EXECUTE safecopy_each ({})").format(each) for each in values),
            compose.SQL("DEALLOCATE safecopy_each"),
        ]
    )


def _read_answers(cursor: psycopg.ClientCursor[DictRow]) -> list[list[DictRow]]:
    """Return the rows of each statement of the message."""
    found = [cursor.fetchall() if cursor.description else []]
    while cursor.nextset():
        found.append(cursor.fetchall() if cursor.description else [])
    return found
