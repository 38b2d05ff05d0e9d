"""The store of locks in a database: with the data it guards, so that a publish can be fenced.

Each call is one message and one transaction, and leaves nothing behind in the session: it works behind a transaction
pooler as well. The protocol's reasons are told beside its SQL, in `sql/lock.sql`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, LiteralString, cast
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import DictRow, dict_row

from airflow_provider_safecopy import sql, wire
from airflow_provider_safecopy.endpoint import Endpoint
from airflow_provider_safecopy.errors import LockStoreError, StageError
from airflow_provider_safecopy.lock import fork, rows, schema, trust
from airflow_provider_safecopy.lock.loss import lost_error
from airflow_provider_safecopy.lock.model import (
    Contender,
    DisplacedHolder,
    Event,
    Holder,
    Lease,
    Promise,
    format_application_name,
)
from airflow_provider_safecopy.lock.row_wait import (
    LOCK_NOT_AVAILABLE,
    RowWait,
    add_blockers,
    add_blockers_at_once,
    find_row_holders,
)
from airflow_provider_safecopy.lock.rows import (
    build_contender_parameters,
    build_lease_parameters,
    format_interval,
    parse_displaced,
    parse_event,
    parse_holder,
    parse_lease,
)

log = logging.getLogger(__name__)

_LOCK = sql.load("lock")
_LOCK_STEP_SECONDS = 0.2  # a publisher that holds the row and may be displaced is terminated within one
# A release, or a heartbeat between two steps of work, waits less.
_ANSWER_SECONDS = {"heartbeat": 2.0, "release": 2.0, "others": 5.0}
_SCHEMA_SECONDS = 30.0
_RECONNECT_SECONDS = 3.0
_PATIENCE_SECONDS = 5.0
_NO_SCHEMA = frozenset({"3F000", "42P01", "42703"})  # no schema, no table, or one of an older layout
# The server has ended the session.
_SESSION_ENDED = frozenset({"57P01", "57P02", "57P03", "57P05"})
# Whose answer, lost with the connection, cannot be had by asking again.
_NOT_REPEATABLE = frozenset({"acquire", "force_release"})
_NO_CONTENDER = Contender("", member="", process=None)


class PostgresStore:
    """Locks in the schema `safecopy` of the database at `endpoint`.

    Connects when first asked, as ``safecopy:<attempt>``, and again when the connection was lost. `patience`: how many
    seconds to wait for a publish that may be displaced. Threads take turns. A forked child makes a store of its own.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        attempt: UUID | None = None,
        connect_timeout: float = 10,
        patience: float = _PATIENCE_SECONDS,
        statements: Mapping[str, LiteralString] = _LOCK,
    ) -> None:
        self.endpoint = endpoint
        self._name = format_application_name(attempt or uuid4())
        self._connect_timeout = connect_timeout
        self._patience = patience
        self._statements = statements
        self._connection: wire.PromptConnection | None = None
        self._trusted: wire.PromptConnection | None = None
        self.watcher: wire.Watcher | None = None  # of a grant: its COMMIT may wait for standbys
        self._turn = threading.Lock()
        self._process = os.getpid()

    @property
    def label(self) -> str:
        """See `Store`."""
        return str(self.endpoint)

    @property
    def backends(self) -> tuple[int, ...]:
        """See `Store`."""
        connected = self._connection is not None and not self._connection.closed
        return (self._connection.info.backend_pid,) if connected and self._connection else ()

    def acquire(self, name: str, contender: Contender, terms: Promise, *, dead: Collection[str] = ()) -> Lease | Holder:
        """See `Store`. Waits for an open publish only of somebody who may be displaced, and ends it.

        Makes the schema `safecopy` where there is none yet.
        """
        asked = rows.build_acquire_parameters(contender, terms, dead) | {"name": name, "lease_id": uuid4()}
        wait, made = RowWait(name, self._patience, self._ask), False
        while True:
            try:
                if row := self._ask_one("acquire", asked):
                    return parse_lease(name, contender, row)
            except LockStoreError as error:
                if error.sqlstate in _NO_SCHEMA and not made:
                    made = self._make_schema()
                    continue
                if error.sqlstate != LOCK_NOT_AVAILABLE:
                    raise
                # It may be ours, but another session holds the row: end it if it is a publisher that may be displaced.
                ended = self._ask("terminate", asked | {"whoever": False})
                log.info("lock %s: ended %d sessions of a holder that may be displaced", name, len(ended))
                if wait.has_time():
                    continue
                wait.require_own_sessions(self.read_holder(name), error)
            holder = self._ensure_row(name)
            # Let go of in between: it may be ours after all.
            if holder and (holder.owner_key is not None or holder.seconds_to_takeover or wait.is_finished):
                return holder

    def heartbeat(self, lease: Lease, *, phase: int, count: int) -> float:
        """See `Store`."""
        row = self._ask_one("heartbeat", build_lease_parameters(lease) | {"phase": phase, "count": count})
        if row is None:
            raise lost_error(lease)
        return rows.parse_remaining(lease.name, row)

    def release(self, lease: Lease, *, at_least: float = 0) -> bool:
        """See `Store`. Does nothing in a forked child, which may leave a block that its parent entered."""
        if not fork.is_own_process(self._process):
            return False
        row = self._ask_one("release", build_lease_parameters(lease) | {"at_least": format_interval(at_least)})
        return bool(row and row["freed"])

    def revoke(self, lease: Lease) -> bool:
        """See `Store`."""
        return self._ask_one("revoke", build_lease_parameters(lease)) is not None

    def force_release(self, name: str, *, reason: str) -> DisplacedHolder | None:
        """See `Store`."""
        return self._force(name, kind="force-release", overdue=0, dead=(), reason=reason)

    def reap(
        self, name: str, *, overdue: float = 0, dead: Collection[str] = (), reason: str = "overdue"
    ) -> DisplacedHolder | None:
        """See `Store`."""
        return self._force(name, kind="reap", overdue=overdue, dead=dead, reason=reason)

    def end_sessions(self, displaced: DisplacedHolder) -> int:
        """See `Store`. Only those this role may end; waits a few seconds until they are gone."""
        names = {"names": [f"safecopy:{attempt}" for attempt in displaced.attempts]}
        seen: set[int] = set()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (ended := self._ask("end_sessions", names)) and time.monotonic() < deadline:
            seen |= {row["pid"] for row in ended}
            time.sleep(0.01)
        return len(seen)

    def has_session(self, holder: Holder) -> bool:
        """Whether any member of `read_holder` has a session on this server. Behind a pooler a living one may have none."""
        names = [f"safecopy:{seen.attempt}" for seen in holder.members]
        return bool(self._ask("connected", {"names": names})[0]["connected"])

    def read_holder(self, name: str) -> Holder | None:
        """See `Store`."""
        row = self._ask_one("holders", {"name": name})
        holder = parse_holder(row) if row else None
        return holder if holder and holder.owner_key is not None else None

    def read_holders(self) -> tuple[Holder, ...]:
        """See `Store`."""
        return tuple(map(parse_holder, self._ask("holders", {"name": None})))

    def record_refusal(self, name: str, contender: Contender) -> None:
        """See `Store`."""
        self._ask_one("refused", build_contender_parameters(contender) | {"name": name})

    def read_history(self, name: str | None = None, *, limit: int = 100) -> tuple[Event, ...]:
        """See `Store`."""
        return tuple(filter(None, map(parse_event, self._ask("history", {"name": name, "limit": limit}))))

    def forget(self, *, keep: float) -> int:
        """See `Store`."""
        row = self._ask_one("forget", {"keep": format_interval(keep)})
        return int(row["members"] + row["events"]) if row else 0

    def close(self) -> None:
        """See `Store`. Does nothing in a forked child: it would end the session of its parent."""
        if self._connection is not None and fork.is_own_process(self._process):
            self._connection.close()
            self._connection = None

    def _force(
        self, name: str, *, kind: str, overdue: float, dead: Collection[str], reason: str
    ) -> DisplacedHolder | None:
        asked = {"name": name, "kind": kind, "overdue": format_interval(overdue), "dead": list(dead), "reason": reason}
        wait = RowWait(name, self._patience, self._ask)
        while True:
            try:
                row = self._ask_one("force_release", asked)
            except LockStoreError as error:
                if error.sqlstate != LOCK_NOT_AVAILABLE:
                    raise
                if not wait.has_time():
                    raise add_blockers(error, find_row_holders(self._ask, [name])) from error
                # A person wants it free whoever holds it.
                self._ask(
                    "terminate",
                    build_contender_parameters(_NO_CONTENDER) | asked | {"whoever": kind == "force-release"},
                )
            else:
                return (
                    parse_displaced(row, row["prev_members"], row["prev_owner_key"], row["prev_owner"]) if row else None
                )

    def _make_schema(self) -> bool:
        fork.require_own_process(self._process, self.endpoint)
        with self._turn:
            schema.init(self._connect(_SCHEMA_SECONDS))
        return True

    def _ensure_row(self, name: str) -> Holder | None:
        """Who has the lock, or had it; None when it had to be made."""
        if row := self._ask_one("holders", {"name": name}):
            return parse_holder(row)
        self._ask_one("ensure", {"name": name})
        return None

    def _ask_one(self, statement: str, parameters: Mapping[str, Any]) -> DictRow | None:
        return next(iter(self._ask(statement, parameters)), None)

    def _ask(self, statement: str, parameters: Mapping[str, Any]) -> list[DictRow]:
        """The answer to the statement. A connection found lost is made anew, where asking twice does no harm."""
        was_open = self._connection is not None
        try:
            try:
                return self._send(statement, parameters)
            except psycopg.OperationalError as error:
                if self._connection is not None and error.sqlstate in _SESSION_ENDED:
                    self._connection.close()
                lost = self._connection is None or self._connection.closed
                # Who is silent would be silent again.
                once = statement in _NOT_REPEATABLE and error.sqlstate != "57P05"  # ended for being idle: never begun
                if once or isinstance(error, wire.LateError) or not (was_open and lost):
                    raise
                return self._send(statement, parameters)
        except (psycopg.Error, UnicodeEncodeError) as error:
            name = parameters.get("name")
            what = "the lock" if name is None else f"lock {name}"
            failure = schema.store_error(f"{self.endpoint}: {what} cannot be asked ({statement})", error, lock=name)
            raise add_blockers_at_once(failure, statement, self._ask, [str(name)]) from error

    def _send(self, statement: str, parameters: Mapping[str, Any]) -> list[DictRow]:
        """One message: the settings, then the statement; the answer to the statement."""
        seconds = _ANSWER_SECONDS.get(statement, _ANSWER_SECONDS["others"])
        settings = {
            "lock_timeout": f"{round(_LOCK_STEP_SECONDS * 1000)}ms",
            "statement_timeout": f"{round(seconds * 1000)}ms",
        }
        with self._open_cursor(seconds + 1, self.watcher if statement == "acquire" else None) as cursor:
            backend = cursor.connection.info.backend_pid
            message = self._statements["settings"] + self._choose_trust_check() + self._statements[statement]
            cursor.execute(message, {**parameters, **settings, "backend": backend})
            while cursor.nextset():
                pass
            self._trusted = self._connection
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def _open_cursor(
        self, patience: float, watcher: wire.Watcher | None = None
    ) -> Iterator[psycopg.ClientCursor[DictRow]]:
        """Yield a cursor for one message, alone with the connection; abandon that if a signal interrupts."""
        fork.require_own_process(self._process, self.endpoint)
        with self._turn:
            connection = self._connect(patience)
            connection.lookout = watcher
            try:
                yield psycopg.ClientCursor(connection, row_factory=dict_row)
            except psycopg.Error:
                raise
            except BaseException:
                connection.abandon()
                raise

    def _choose_trust_check(self) -> LiteralString:
        """Return the trust check for the first message. Once is enough: only trusted roles can change the schema."""
        return "" if self._connection is self._trusted else trust.CHECK

    def _connect(self, patience: float) -> wire.PromptConnection:
        """The connection, made when there is none; it closes itself when there is no answer within `patience`."""
        if self._connection is None or self._connection.closed:
            # Once it was reached, it is reached soon or not at all: nobody's end is to wait for that.
            again = (
                self._connect_timeout if self._connection is None else min(self._connect_timeout, _RECONNECT_SECONDS)
            )
            try:
                made = self.endpoint.connect(
                    application_name=self._name, connect_timeout=again, kind=wire.PromptConnection
                )
            except StageError as error:
                raise LockStoreError(error.message, sqlstate=error.sqlstate, hint=error.hint) from error
            self._connection = cast("wire.PromptConnection", made)
        self._connection.patience = patience
        return self._connection
