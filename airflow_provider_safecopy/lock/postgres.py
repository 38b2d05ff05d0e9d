"""The store of locks in a database: with the data it guards, so that a publish can be fenced.

Each call is one message and one transaction, and leaves nothing behind in the session: it works behind a transaction
pooler as well. The reasons of the protocol stand beside its SQL, in `sql/lock.sql`.

A row may have been changed by hand, or restored from something else. A value that decides raises `LockStoreError` if it
cannot be read; one that only describes former holders is left out.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, LiteralString, cast
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import FencedOutError, LockStoreError, StageError
from airflow_provider_safecopy.lock import file_state as fact
from airflow_provider_safecopy.lock import process, schema
from airflow_provider_safecopy.lock.model import (
    Contender,
    DisplacedHolder,
    Event,
    Holder,
    Lease,
    Member,
    Promise,
    format_application_name,
)
from airflow_provider_safecopy.lock.process import ProcessIdentity
from airflow_provider_safecopy.lock.refusal import lost_error
from airflow_provider_safecopy.lock.row_wait import (
    LOCK_NOT_AVAILABLE,
    RowWait,
    add_blockers,
    add_blockers_at_once,
    find_row_holders,
)
from airflow_provider_safecopy.postgres import wire
from airflow_provider_safecopy.postgres.endpoint import Endpoint

log = logging.getLogger(__name__)

_HOLDER_FACTS: Mapping[str, fact.FactCheck] = {
    "token": fact.is_count,
    "owner": lambda value: value is None or fact.is_text_mapping(value),
    # NULL is no flag: the lock is held, but its row does not say until when.
    "stale": fact.is_flag,
}
_HELD_COLUMNS = ("owner_key", "granted_at", "alive_at", "due_at", "stale_after")
_MEMBER_FACTS: Mapping[str, fact.FactCheck] = {
    "attempt": fact.is_uuid,
    **dict.fromkeys(("try", "phase", "count"), fact.is_count),
}


def build_contender_parameters(contender: Contender) -> dict[str, Any]:
    return {
        "owner_key": contender.owner_key,
        "owner": Jsonb(dict(contender.owner)),
        "member_key": contender.member,
        "attempt": str(contender.attempt),
        "try": contender.try_number,
        "passing": contender.is_passing,
    }


def build_acquire_parameters(contender: Contender, terms: Promise, dead: Collection[str] = ()) -> dict[str, Any]:
    return build_contender_parameters(contender) | {
        "place": Jsonb(contender.process.as_dict()) if contender.process else None,
        "detached": contender.is_detached,
        "stale_after": format_interval(terms.stale_after),
        "crash_grace": format_interval(terms.crash_grace),
        "dead": list(dead),
    }


def build_lease_parameters(lease: Lease) -> dict[str, Any]:
    return build_contender_parameters(lease.contender) | {
        "name": lease.name,
        "token": lease.token,
        "lease_id": lease.lease_id,
    }


def format_interval(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.6f} s"


@contextmanager
def translate_row_errors(name: str) -> Iterator[None]:
    """Raise `LockStoreError` for values that cannot be read, with the lock's name and the next step."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        told = f"lock {name}: its row in safecopy.lock or safecopy.member cannot be read: {error}"
        raise LockStoreError(told, hint=schema.build_repair_hint(name), retryable=False) from error


def parse_remaining(name: str, row: DictRow) -> float:
    with translate_row_errors(name):
        return float(row["remaining"])


def parse_lease(name: str, contender: Contender, row: DictRow) -> Lease:
    kind: str = row["kind"]
    displaced = None
    if kind == "supersede":
        former = {contender.member: row["prev_members"][contender.member]}
        displaced = parse_displaced(row, former, contender.owner_key, contender.owner)
    elif kind.startswith("takeover"):
        displaced = parse_displaced(row, row["prev_members"], row["prev_owner_key"], row["prev_owner"])
    return Lease(name, row["token"], row["lease_id"], contender, kind, parse_remaining(name, row), displaced)


def parse_displaced(row: DictRow, members: object, owner_key: str | None, owner: object) -> DisplacedHolder:
    """Return the former holder in a row, without its garbled parts."""
    # It has lost the lock already: a garbled part means only that less of it can be reported and ended.
    known = members.values() if isinstance(members, Mapping) else ()
    attempts = tuple(member["id"] for member in known if isinstance(member, Mapping) and fact.is_uuid(member.get("id")))
    places = tuple(
        place for attempt in attempts if (place := ProcessIdentity.from_dict(row["places"].get(attempt))) is not None
    )
    told: Any = owner if fact.is_text_mapping(owner) else {}
    return DisplacedHolder(owner_key or "", told, row["prev_token"] or 0, attempts, places)


def parse_member(data: Mapping[str, Any]) -> Member:
    fact.require_facts(data, _MEMBER_FACTS)
    return Member(
        member=data["key"],
        attempt=data["attempt"],
        try_number=data["try"],
        process=ProcessIdentity.from_dict(data["place"]),
        phase=data["phase"],
        count=data["count"],
        progressed_at=datetime.fromisoformat(data["progressed_at"]),
    )


def parse_event(row: DictRow) -> Event | None:
    """Return the event in a row; None if it cannot be read, since it decides nothing."""
    owner, detail = row["owner"] or {}, row["detail"] or {}
    try:
        fact.require_facts(row | {"owner": owner, "detail": detail}, fact.EVENT_FACTS)
    except ValueError as error:
        log.warning("lock %s: an event of its history is left out: %s", row["name"], error)
        return None
    return Event(
        at=datetime.fromisoformat(row["at"]),
        name=row["name"],
        token=row["token"],
        kind=row["kind"],
        owner_key=row["owner_key"],
        owner=owner,
        member=row["member_key"],
        attempt=row["attempt"],
        prev_owner_key=row["prev_owner_key"],
        detail=detail,
    )


def parse_holder(row: DictRow) -> Holder:
    """Return the holder in a row; a free lock has one while it rests, without times. Raises `LockStoreError`."""
    with translate_row_errors(row["name"]):
        fact.require_facts(row, _HOLDER_FACTS)
        missing = [name for name in _HELD_COLUMNS if row["held"] and row[name] is None]
        if missing:
            raise ValueError(f"it is held, and {', '.join(missing)} is NULL")
        return _build_holder(row)


def _build_holder(row: DictRow) -> Holder:
    now = datetime.fromisoformat(row["asked_at"])
    return Holder(
        name=row["name"],
        token=row["token"],
        owner_key=row["owner_key"],
        owner=row["owner"] or {},
        members=tuple(parse_member(member) for member in row["members"]) if row["owner_key"] is not None else (),
        granted_at=_parse_time(row["granted_at"]) or now,
        alive_at=_parse_time(row["alive_at"]) or now,
        progressed_at=_parse_time(row["progressed_at"]) or now,
        due_at=_parse_time(row["due_at"]) or now,
        asked_at=now,
        not_before=_parse_time(row["not_before"]),
        stale_after=float(row["stale_after"] or 0),
        is_stale=row["stale"],
        refused_count=row["refused"],
        lease_id=row["lease_id"],
    )


def _parse_time(text: str | None) -> datetime | None:
    if text is not None and not fact.is_instant(text):
        raise ValueError(f"{text} is no time that can be told")
    return None if text is None else datetime.fromisoformat(text)


_LOCK = sql.load("lock")


def check_fence(connection: psycopg.Connection[Any], lease: Lease) -> None:
    """Keep the lock until COMMIT, inside the publishing transaction. Raises `FencedOutError`."""
    if connection.execute(_LOCK["fence"], build_lease_parameters(lease)).fetchone() is None:
        raise fenced_out_error(lease)


def fenced_out_error(lease: Lease) -> FencedOutError:
    """Return the error of a publish whose lock has another holder."""
    return FencedOutError(
        f"lock {lease.name}: another run holds it now; token {lease.token} may not publish any more",
        lock=lease.name,
        token=lease.token,
    )


# A publisher that holds the row and may be displaced is terminated after one step.
_LOCK_STEP_SECONDS = 0.2
# A release, or a heartbeat between two steps of work, waits less.
_ANSWER_SECONDS = {"heartbeat": 2.0, "release": 2.0, "others": 5.0}
_SCHEMA_SECONDS = 30.0
_RECONNECT_SECONDS = 3.0
_PATIENCE_SECONDS = 5.0
# No schema, no table, or one of an older layout.
_NO_SCHEMA = frozenset({"3F000", "42P01", "42703"})
# The server has ended the session.
_SESSION_ENDED = frozenset({"57P01", "57P02", "57P03", "57P05"})
# Asked again after a lost connection, these would give another answer than the first one.
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
        # It watches grants alone: their COMMIT may wait for standbys.
        self.watcher: wire.Watcher | None = None
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
        """See `Store`. Waits for an open publish only of a holder that may be displaced, and ends it.

        Makes the schema `safecopy` where there is none yet.
        """
        asked = build_acquire_parameters(contender, terms, dead) | {"name": name, "lease_id": uuid4()}
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
                # The lock may be free for us while a displaced publisher still holds its row: such a session is ended.
                ended = self._ask("terminate", asked | {"any_holder": False})
                log.info("lock %s: ended %d sessions of a holder that may be displaced", name, len(ended))
                if wait.has_time():
                    continue
                wait.require_own_sessions(self.read_holder(name), error)
            holder = self._ensure_row(name)
            # Otherwise it was released in between, and may be ours after all.
            if holder and (holder.owner_key is not None or holder.seconds_to_takeover or wait.is_finished):
                return holder

    def heartbeat(self, lease: Lease, *, phase: int, count: int) -> float:
        """See `Store`."""
        row = self._ask_one("heartbeat", build_lease_parameters(lease) | {"phase": phase, "count": count})
        if row is None:
            raise lost_error(lease)
        return parse_remaining(lease.name, row)

    def release(self, lease: Lease, *, at_least: float = 0) -> bool:
        """See `Store`. Does nothing in a forked child, which may leave a block that its parent entered."""
        if not process.is_own_process(self._process):
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
        """See `Store`. Ends the sessions that this role may end, and waits a few seconds until they are gone."""
        names = {"names": [f"safecopy:{attempt}" for attempt in displaced.attempts]}
        seen: set[int] = set()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (ended := self._ask("end_sessions", names)) and time.monotonic() < deadline:
            seen |= {row["pid"] for row in ended}
            time.sleep(0.01)
        return len(seen)

    def has_session(self, holder: Holder) -> bool:
        """Return whether a member of `holder` has a session here. Behind a pooler a living one may have none."""
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
        if self._connection is not None and process.is_own_process(self._process):
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
                # A person wants it free, whatever run holds it.
                self._ask(
                    "terminate",
                    build_contender_parameters(_NO_CONTENDER) | asked | {"any_holder": kind == "force-release"},
                )
            else:
                return (
                    parse_displaced(row, row["prev_members"], row["prev_owner_key"], row["prev_owner"]) if row else None
                )

    def _make_schema(self) -> bool:
        process.require_own_process(self._process, self.endpoint)
        with self._turn:
            schema.init(self._connect(_SCHEMA_SECONDS))
        return True

    def _ensure_row(self, name: str) -> Holder | None:
        """Return the current or last holder of the lock; None if its row had to be made."""
        if row := self._ask_one("holders", {"name": name}):
            return parse_holder(row)
        self._ask_one("ensure", {"name": name})
        return None

    def _ask_one(self, statement: str, parameters: Mapping[str, Any]) -> DictRow | None:
        return next(iter(self._ask(statement, parameters)), None)

    def _ask(self, statement: str, parameters: Mapping[str, Any]) -> list[DictRow]:
        """Return the answer to the statement. A lost connection is made anew if asking twice does no harm."""
        was_open = self._connection is not None
        try:
            try:
                return self._send(statement, parameters)
            except psycopg.OperationalError as error:
                if self._connection is not None and error.sqlstate in _SESSION_ENDED:
                    self._connection.close()
                lost = self._connection is None or self._connection.closed
                # A silent server would be silent again.
                # A session that was ended for being idle has not begun the statement.
                once = statement in _NOT_REPEATABLE and error.sqlstate != "57P05"
                if once or isinstance(error, wire.LateError) or not (was_open and lost):
                    raise
                return self._send(statement, parameters)
        except (psycopg.Error, UnicodeEncodeError) as error:
            name = parameters.get("name")
            what = "the lock" if name is None else f"lock {name}"
            failure = schema.store_error(f"{self.endpoint}: {what} cannot be asked ({statement})", error, lock=name)
            raise add_blockers_at_once(failure, statement, self._ask, [str(name)]) from error

    def _send(self, statement: str, parameters: Mapping[str, Any]) -> list[DictRow]:
        """Return the answer to the statement, sent in one message after the settings."""
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
        process.require_own_process(self._process, self.endpoint)
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
        return "" if self._connection is self._trusted else schema.CHECK

    def _connect(self, patience: float) -> wire.PromptConnection:
        """Return the connection, made if there is none. It closes itself without an answer within `patience`."""
        if self._connection is None or self._connection.closed:
            # A server that was reached before is reached soon or not at all, and the end of a run must not wait.
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
