"""The store of locks in a database: with the data it guards, so that a publish can be fenced.

Each call is one message and one transaction, and leaves nothing behind in the session: it works behind a transaction
pooler as well. The protocol's reasons are told beside its SQL, in `sql/lock.sql`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, LiteralString, TypeVar
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb

from airflow_provider_safecopy import sql, wire
from airflow_provider_safecopy.endpoint import Endpoint
from airflow_provider_safecopy.errors import FencedOutError, LockLostError, LockStoreError, StageError
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.lock.model import (
    Contender,
    Displaced,
    Event,
    Holder,
    Lease,
    Promise,
    Seen,
    application_name,
)
from airflow_provider_safecopy.lock.process import Place

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_LOCK = sql.load("lock")
# A publisher that holds the row and may be displaced is terminated within one of these steps.
_LOCK_STEP_SECONDS = 0.2
_ANSWER_SECONDS = 5.0
_PATIENCE_SECONDS = 5.0
_LOCKED = "55P03"


class PostgresStore:
    """Locks in the schema `safecopy` of the database at `endpoint`.

    Connects when first asked, as ``safecopy:<attempt>``, and again when the connection was lost. `statements` are
    those of `sql/lock.sql`. Threads take turns.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        attempt: UUID | None = None,
        connect_timeout: float = 10,
        statements: Mapping[str, LiteralString] = _LOCK,
    ) -> None:
        self.endpoint = endpoint
        self._name = application_name(attempt or uuid4())
        self._connect_timeout = connect_timeout
        self._statements = statements
        self._connection: psycopg.Connection[Any] | None = None
        self._turn = threading.Lock()

    @property
    def backends(self) -> tuple[int, ...]:
        """See `Store`."""
        connected = self._connection is not None and not self._connection.closed
        return (self._connection.info.backend_pid,) if connected and self._connection else ()

    def acquire(
        self, name: str, contender: Contender, promise: Promise, *, dead: Collection[str] = ()
    ) -> Lease | Holder:
        """See `Store`. Waits for an open publish only of somebody who may be displaced, and ends it."""
        asked = _asked(contender) | {
            "name": name,
            "lease_id": uuid4(),
            "place": Jsonb(contender.place.as_dict()) if contender.place else None,
            "detached": contender.detached,
            "stale_after": _interval(promise.stale_after),
            "crash_grace": _interval(promise.crash_grace),
            "dead": list(dead),
        }
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                row = self._one("acquire", asked) or (self._ensured(name) and self._one("acquire", asked))
            except LockStoreError as error:
                if error.sqlstate != _LOCKED:
                    raise
                # It may be ours, but a publisher holds the row: end it, if it may be displaced indeed.
                ended = self._all("terminate", asked)
                log.info("lock %s: ended %d sessions of a holder that may be displaced", name, len(ended))
                if time.monotonic() < deadline:
                    continue
                row = None
            return _lease(name, contender, row) if row else self._seen(name)

    def heartbeat(self, lease: Lease, *, phase: int, count: int) -> float:
        """See `Store`."""
        row = self._one("heartbeat", _held(lease) | {"phase": phase, "count": count})
        if row is None:
            raise lost(lease)
        return float(row["remaining"])

    def release(self, lease: Lease, *, at_least: float = 0) -> bool:
        """See `Store`."""
        row = self._one("release", _held(lease) | {"at_least": _interval(at_least)})
        return bool(row and row["freed"])

    def revoke(self, lease: Lease) -> bool:
        """See `Store`."""
        return self._one("revoke", _held(lease)) is not None

    def force_release(self, name: str, *, reason: str) -> Displaced | None:
        """See `Store`."""
        return self._forced(name, kind="force-release", overdue=0, dead=(), reason=reason)

    def reap(
        self, name: str, *, overdue: float = 0, dead: Collection[str] = (), reason: str = "overdue"
    ) -> Displaced | None:
        """See `Store`."""
        return self._forced(name, kind="reap", overdue=overdue, dead=dead, reason=reason)

    def end_sessions(self, displaced: Displaced) -> int:
        """See `Store`. Only those this role may end; waits a few seconds until they are gone."""
        names = {"names": [f"safecopy:{attempt}" for attempt in displaced.attempts]}
        seen: set[int] = set()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (ended := self._all("end_sessions", names)) and time.monotonic() < deadline:
            seen |= {row["pid"] for row in ended}
            time.sleep(0.01)
        return len(seen)

    def holder(self, name: str) -> Holder | None:
        """See `Store`."""
        row = self._one("holders", {"name": name})
        return _holder(row) if row and row["owner_key"] is not None else None

    def holders(self) -> tuple[Holder, ...]:
        """See `Store`."""
        return tuple(map(_holder, self._all("holders", {"name": None})))

    def refused(self, name: str, contender: Contender) -> None:
        """See `Store`."""
        self._one("refused", _asked(contender) | {"name": name})

    def history(self, name: str | None = None, *, limit: int = 100) -> tuple[Event, ...]:
        """See `Store`."""
        return tuple(_event(row) for row in self._all("history", {"name": name, "limit": limit}))

    def forget(self, *, keep: float) -> int:
        """See `Store`."""
        row = self._one("forget", {"keep": _interval(keep)})
        return int(row["members"] + row["events"]) if row else 0

    def close(self) -> None:
        """See `Store`."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _forced(self, name: str, *, kind: str, overdue: float, dead: Collection[str], reason: str) -> Displaced | None:
        asked = {"name": name, "kind": kind, "overdue": _interval(overdue), "dead": list(dead), "reason": reason}
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                row = self._one("force_release", asked)
            except LockStoreError as error:
                if error.sqlstate != _LOCKED or time.monotonic() > deadline:
                    raise
                self._end_publishers(name, dead, whoever=kind == "force-release")
            else:
                return _displaced(row, row["prev_members"], row["prev_owner_key"], row["prev_owner"]) if row else None

    def _end_publishers(self, name: str, dead: Collection[str], *, whoever: bool) -> None:
        """End the sessions of a holder that may be displaced, or whose lock a person wants free in any case."""
        holder = self.holder(name) if whoever else None
        ended = [seen.attempt for seen in holder.members] if holder else list(dead)
        nobody = Contender("", member="", place=None)
        self._all("terminate", _asked(nobody) | {"name": name, "dead": ended})

    def _ensured(self, name: str) -> bool:
        """Make the lock's row. False when it was there already: then it is busy."""
        return self._run("ensure", {"name": name}, lambda cursor: cursor.rowcount == 1)

    def _seen(self, name: str) -> Holder:
        row = self._one("holders", {"name": name})
        if row is None:
            raise LockStoreError(f"the row of the lock {name} vanished while it was asked for")
        return _holder(row)

    def _one(self, statement: str, asked: Mapping[str, Any]) -> DictRow | None:
        rows = self._all(statement, asked)
        return rows[0] if rows else None

    def _all(self, statement: str, asked: Mapping[str, Any]) -> list[DictRow]:
        return self._run(statement, asked, lambda cursor: cursor.fetchall() if cursor.description else [])

    def _run(self, statement: str, asked: Mapping[str, Any], read: Callable[[psycopg.Cursor[DictRow]], _T]) -> _T:
        """One message: the settings, then the statement; the answer to the statement."""
        settings = {
            "lock_timeout": f"{round(_LOCK_STEP_SECONDS * 1000)}ms",
            "statement_timeout": f"{round(_ANSWER_SECONDS * 1000)}ms",
        }
        message = self._statements["settings"] + self._statements[statement]
        try:
            with (
                self._turn,
                self._connected() as connection,
                psycopg.ClientCursor(connection, row_factory=dict_row) as cursor,
            ):
                cursor.execute(message, {**asked, **settings})
                while cursor.nextset():
                    pass
                return read(cursor)
        except psycopg.Error as error:
            raise schema.failed(f"{self.endpoint}: the lock cannot be asked ({statement})", error) from error

    @contextmanager
    def _connected(self) -> Iterator[psycopg.Connection[Any]]:
        """The connection, made when there is none; cut when it does not answer in time."""
        if self._connection is None or self._connection.closed:
            try:
                self._connection = self.endpoint.connect(
                    application_name=self._name, connect_timeout=self._connect_timeout
                )
            except StageError as error:
                raise LockStoreError(error.message, sqlstate=error.sqlstate, hint=error.hint) from error
        with wire.within(self._connection, _ANSWER_SECONDS + 1):
            yield self._connection


def fence(connection: psycopg.Connection[Any], lease: Lease) -> None:
    """Inside the publishing transaction: hold the lock until COMMIT. Raises `FencedOutError`."""
    if connection.execute(_LOCK["fence"], _held(lease)).fetchone() is None:
        raise FencedOutError(
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


def _asked(contender: Contender) -> dict[str, Any]:
    return {
        "owner_key": contender.owner_key,
        "owner": Jsonb(dict(contender.owner)),
        "member_key": contender.member,
        "attempt": str(contender.attempt),
        "try": contender.try_number,
    }


def _held(lease: Lease) -> dict[str, Any]:
    return _asked(lease.contender) | {"name": lease.name, "token": lease.token, "lease_id": lease.lease_id}


def _interval(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.6f} s"


def _lease(name: str, contender: Contender, row: DictRow) -> Lease:
    kind: str = row["kind"]
    displaced = None
    if kind == "supersede":
        former = {contender.member: row["prev_members"][contender.member]}
        displaced = _displaced(row, former, contender.owner_key, contender.owner)
    elif kind.startswith("takeover"):
        displaced = _displaced(row, row["prev_members"], row["prev_owner_key"], row["prev_owner"])
    return Lease(name, row["token"], row["lease_id"], contender, kind, row["remaining"], displaced)


def _displaced(row: DictRow, members: Mapping[str, Any], owner_key: str, owner: Mapping[str, str] | None) -> Displaced:
    attempts = tuple(member["id"] for member in members.values())
    places = tuple(place for attempt in attempts if (place := Place.of(row["places"].get(attempt))) is not None)
    return Displaced(owner_key, owner or {}, row["prev_token"], attempts, places)


def _member(data: Mapping[str, Any]) -> Seen:
    return Seen(
        member=data["key"],
        attempt=data["attempt"],
        try_number=data["try"],
        place=Place.of(data["place"]),
        phase=data["phase"],
        count=data["count"],
        progressed_at=datetime.fromisoformat(data["progressed_at"]),
    )


def _event(row: DictRow) -> Event:
    return Event(
        at=row["at"],
        name=row["name"],
        token=row["token"],
        kind=row["kind"],
        owner_key=row["owner_key"],
        owner=row["owner"] or {},
        member=row["member_key"],
        attempt=row["attempt"],
        prev_owner_key=row["prev_owner_key"],
        detail=row["detail"] or {},
    )


def _holder(row: DictRow) -> Holder:
    """A free lock has no times; it is told of only while nobody may have it yet."""
    now = row["asked_at"]
    return Holder(
        name=row["name"],
        token=row["token"],
        owner_key=row["owner_key"],
        owner=row["owner"] or {},
        members=tuple(_member(member) for member in row["members"]) if row["owner_key"] is not None else (),
        since=row["granted_at"] or now,
        alive_at=row["alive_at"] or now,
        progressed_at=row["progressed_at"] or now,
        due_at=row["due_at"] or now,
        asked_at=now,
        not_before=row["not_before"],
        stale_after=row["stale_after"] or 0.0,
        stale=row["stale"],
        refused=row["refused"],
    )
