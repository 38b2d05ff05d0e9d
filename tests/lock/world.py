"""Locks on a real server whose clock the test moves: the real SQL, with nothing else changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from itertools import count
from typing import Any, Literal, LiteralString, TypeVar
from uuid import UUID

import psycopg

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import LockStoreError
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.lock.model import Lease, format_application_name
from airflow_provider_safecopy.lock.postgres import PostgresStore, build_lease_parameters
from tests.support.database import Database

Statements = Mapping[str, LiteralString]
_LOCKED = "55P03"
_SPARED = "22012"
_NAMES = count()
_T = TypeVar("_T")


class MovableClock(Statements):
    """The statements of `sql/lock.sql` by a clock that is `seconds` ahead, and with hardly any wait for row locks."""

    def __init__(self, statements: Statements, *, lock_timeout: str = "20ms") -> None:
        self.seconds = 0
        self._lock_timeout = lock_timeout
        self.moved = {name: self._by_our_clock(text) for name, text in statements.items()}

    def __getitem__(self, name: str) -> LiteralString:
        if name != "settings":
            return self.moved[name]
        ahead = f"SELECT set_config('safecopy.ahead', '{self.seconds} s', true);"
        return self.moved[name] + ahead

    def __iter__(self) -> Iterator[str]:
        return iter(self.moved)

    def __len__(self) -> int:
        return len(self.moved)

    def _by_our_clock(self, text: str) -> LiteralString:
        now = "(clock_timestamp() + current_setting('safecopy.ahead')::interval)"
        return text.replace("clock_timestamp()", now).replace("%(lock_timeout)s", f"'{self._lock_timeout}'")


class World:
    """One database with its locks, and sessions that are called as attempts call theirs."""

    def __init__(self, database: Database, statements: Statements | None = None) -> None:
        self.clock = MovableClock(statements or sql.load("lock"))
        self.store = PostgresStore(database.endpoint, patience=20, statements=self.clock)
        self.observer = database.connect()
        self.began: datetime = self.value("SELECT clock_timestamp()")
        self._database = database
        self._made: list[psycopg.Connection[Any]] = []
        self._idle: list[psycopg.Connection[Any]] = []

    @classmethod
    def made(cls, database: Database, changed: Mapping[str, Statements] | None = None) -> World:
        """A world in a database without the schema; `changed` has the statements of a file that are not the real ones."""
        changed = changed or {}
        with database.connect() as session:
            for name in ("schema", "lock", "member"):
                session.execute(changed.get("schema", sql.load("schema"))[name])
            schema.init(session)
        return cls(database, changed.get("lock"))

    def close(self) -> None:
        self.store.close()
        self.observer.close()
        for session in self._made:
            session.close()

    @staticmethod
    def new_name() -> str:
        """A lock nobody has used yet. By a counter, so that a failing example fails again."""
        return f"잠금 {next(_NAMES)}"

    def value(self, query: LiteralString, *params: Any) -> Any:
        row = self.observer.execute(query, params).fetchone()
        assert row is not None
        return row[0]

    def row(self, name: str) -> dict[str, Any]:
        """The lock's row, and who its members are by their own rows."""
        query: LiteralString = (
            "SELECT to_jsonb(l) || jsonb_build_object('rows', (SELECT COALESCE(jsonb_object_agg(m.member_key,"
            " jsonb_build_array(m.member_id, m.phase, m.count)), '{}') FROM safecopy.member m"
            " WHERE (m.name, m.token) = (l.name, l.token))) FROM safecopy.lock l WHERE name = %s"
        )
        found: dict[str, Any] = self.value(query, name)
        return found

    def seconds(self, told: str | None) -> float | None:
        """A time of the lock's as seconds of the movable clock since this world began."""
        return None if told is None else (datetime.fromisoformat(told) - self.began).total_seconds()

    def tokens_told(self, name: str) -> list[int]:
        """The tokens of the lock's history, the oldest first."""
        query: LiteralString = "SELECT array_agg(token ORDER BY id) FROM safecopy.lock_event WHERE name = %s"
        told: list[int] | None = self.value(query, name)
        return told or []

    def session(self, attempt: UUID) -> psycopg.Connection[Any]:
        """A session of that attempt's, seen by everybody; give it back by `hide`."""
        if not self._idle:
            self._idle.append(self._database.connect())
            self._made.append(self._idle[-1])
        session = self._idle.pop()
        session.execute("SELECT set_config('application_name', %s, false)", [format_application_name(attempt)])
        return session

    def hide(self, session: psycopg.Connection[Any]) -> None:
        """The attempt's session is no more."""
        session.rollback()
        session.execute("SET application_name = 'idle'")
        self._idle.append(session)

    def publishing(self, lease: Lease) -> psycopg.Connection[Any]:
        """A session of the lease's attempt in an open publish."""
        session = self.session(lease.attempt)
        assert self.fenced(session, lease)
        return session

    def fenced(self, session: psycopg.Connection[Any], lease: Lease) -> bool:
        """Begin to publish: whether the fence lets it. It holds until the transaction ends."""
        session.execute("BEGIN")
        if session.execute(self.clock["fence"], build_lease_parameters(lease)).fetchone() is not None:
            return True
        session.execute("ROLLBACK")
        return False

    @contextmanager
    def sparing(self) -> Iterator[None]:
        """Inside, the store cannot end a publish that is in its way: it fails at once. See `blocked`."""
        real, self.clock.moved["terminate"] = self.clock.moved["terminate"], "SELECT 1 / 0"
        try:
            yield
        finally:
            self.clock.moved["terminate"] = real


def blocked(call: Callable[[], _T]) -> _T | Literal["blocked"]:
    """What the call answers, or "blocked" if an open publish holds a row that it must change."""
    try:
        return call()
    except LockStoreError as error:
        if error.sqlstate not in (_LOCKED, _SPARED):
            raise
        return "blocked"


def changed(text: str, old: str, new: str) -> str:
    """The statement with `old` replaced, wherever it stands. Raises `LookupError` where it stands nowhere."""
    text, old, new = (re.sub(r"\s+", " ", each) for each in (text, old, new))
    if old not in text:
        raise LookupError(f"not in the statement any more: {old}")
    return text.replace(old, new)
