"""One control session per database: psycopg asks questions here while psql moves bytes elsewhere."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, LiteralString, cast
from weakref import WeakKeyDictionary

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from psycopg.sql import SQL, Composed

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.errors import StageError
from airflow_provider_safecopy.postgres import pooler, statements, wire
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.postgres.lookout import Blocker, Lookout, read_blocker
from airflow_provider_safecopy.postgres.statements import keep_timeout

# Each number is used once: a prepared statement stays although its message failed or was rolled back.
_NUMBERS = count(1)
# Kept by connection, and not by its user: several callers ask over one connection.
_KEPT: WeakKeyDictionary[psycopg.Connection[Any], dict[str, str]] = WeakKeyDictionary()


class Recall:
    """Static SQL over one connection: each text is planned once, for whatever parameters.

    The server is asked each time. It keeps the plans as long as its session lives, and so none for the next
    transaction behind a transaction pooler.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._names = _KEPT.setdefault(connection, {})

    def __call__(self, query: LiteralString, parameters: Mapping[str, Any] | None = None, /) -> list[dict[str, Any]]:
        """Return all rows as dicts."""
        try:
            return self._ask(query, parameters or {})
        except psycopg.errors.InvalidSqlStatementName:
            # A user's trigger has run DISCARD or DEALLOCATE.
            self._names.clear()
            if self._connection.info.transaction_status != TransactionStatus.IDLE:
                raise
            return self._ask(query, parameters or {})

    def _ask(self, query: LiteralString, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        text, wanted = sql.number_parameters(query)
        values = [parameters[each] for each in wanted]
        with psycopg.ClientCursor(self._connection, row_factory=dict_row) as cursor:
            if (name := self._names.get(query)) is not None:
                return cursor.execute(statements.execute(name, values)).fetchall()
            name = f"safecopy_{next(_NUMBERS)}"
            cursor.execute(statements.first(name, text, values))
            self._names[query] = name
            cursor.nextset()
            return cursor.fetchall()


log = logging.getLogger(__name__)

_CATALOG = sql.load("catalog")
LOCK_WAIT_SECONDS = 180.0
"""The longest wait for a lock of another session. `Timeouts` repeats it, because it imports no driver."""

SILENT_SECONDS = 3.0
"""Seconds that the server has to report a statement's own timeout, before the statement is cancelled."""

_LATE = "the server did not tell of its lock_timeout in time; the wait was cancelled"
PATIENCE_SECONDS = 300.0
"""The longest wait for one answer, in seconds, by default."""

_GONE_SECONDS = 10.0
_READING = "safecopy_reading"
_ANSWER_SECONDS = 5.0

# From this version on a publication may name schemas.
_SCHEMAS_PUBLISHED = 150000


class SettingsChangedError(StageError):
    """SQL that ran on a server changed settings that decide what rows mean: `names` lists them."""

    def __init__(self, endpoint: Endpoint, names: str) -> None:
        super().__init__(
            f"a function that was run on {endpoint} changed {names}: such settings decide what rows mean; nothing was published",
            stage="verify",
            retryable=False,
            hint="give that function a SET clause of its own: then the change ends with the function",
        )
        self.names = names


@dataclass(frozen=True)
class Server:
    """The server's facts about itself. `identity` is equal for two sessions in one database, and unequal otherwise.

    `grantees` are roles that default privileges give rights on the tables this role makes; an empty name is PUBLIC.
    `publications` are those that send the tables of the schema safecopy to subscribers; a source is not asked for them.
    """

    major: int
    version: str
    encoding: str
    lc_monetary: str
    database: str
    role: str
    backend: int
    in_recovery: bool
    read_only: bool
    may_create: bool
    identity: str
    grantees: tuple[str, ...]
    deadlock_seconds: float
    publications: tuple[str, ...] = ()


@dataclass(frozen=True)
class Session:
    """A connected control session, its settings pinned, and where psql can reach the same server.

    Composed SQL is asked in binary, because the protocol then allows one statement alone: a user's SQL that closes our
    parenthesis and goes on with COMMIT and a DELETE is a syntax error, not a list of statements. Static SQL holds no
    text of a user, so the server keeps its plans. `searched` are the schemas in which functions have found what they
    name: the server remembers what it found, so this session cannot find out again whether functions need them.
    """

    endpoint: Endpoint
    connection: wire.PromptConnection
    server: Server
    search_path: tuple[str, ...]
    recall: Recall = field(init=False, repr=False, compare=False)
    searched: set[str] = field(init=False, repr=False, compare=False, default_factory=set)

    def __post_init__(self) -> None:
        object.__setattr__(self, "recall", Recall(self.connection))

    @property
    def lookout(self) -> Lookout:
        """The lookout for blockers of this run's sessions on this server."""
        return cast("Lookout", self.connection.lookout)

    def fetch_one(
        self, query: LiteralString | Composed, parameters: Mapping[str, Any] | None = None
    ) -> dict[str, Any] | None:
        """Return the first row as a dict, or None."""
        if isinstance(query, str):
            return next(iter(self.recall(query, parameters)), None)
        with self.connection.cursor(row_factory=dict_row, binary=True) as cursor:
            return cursor.execute(query, parameters).fetchone()

    def fetch_all(
        self, query: LiteralString | Composed, parameters: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Return all rows as dicts."""
        if isinstance(query, str):
            return self.recall(query, parameters)
        with self.connection.cursor(row_factory=dict_row, binary=True) as cursor:
            return cursor.execute(query, parameters).fetchall()

    def fetch_value(self, query: LiteralString | Composed, parameters: Mapping[str, Any] | None = None) -> Any:
        """Return the first column of the first row, or None."""
        row = self.fetch_one(query, parameters)
        return None if row is None else next(iter(row.values()))

    @contextmanager
    def limit_answer(self, seconds: float) -> Iterator[None]:
        """Close the connection if the block waits for answers longer than `seconds`: psycopg.OperationalError."""
        with self.connection.limit_block(seconds):
            yield

    @contextmanager
    def limit_lock_wait(self, seconds: float) -> Iterator[None]:
        """Cancel a wait for a lock that outlives its lock_timeout of `seconds`: psycopg's `LockNotAvailable`.

        A server counts its timeouts by its clock: if that is set back by hours meanwhile, they come hours late, and
        later readers queue behind us so long. Use it only for a statement that does nothing but wait: one that works
        may take its time.
        """
        late = threading.Event()
        timer = threading.Timer(seconds + SILENT_SECONDS, self._cancel, [late])
        timer.start()
        try:
            yield
        except psycopg.errors.QueryCanceled as error:
            if not late.is_set():
                raise
            raise psycopg.errors.LockNotAvailable(_LATE) from error
        finally:
            timer.cancel()
            # No thread of ours is left when psql is forked, and no cancel of it is on its way any more.
            timer.join()
        # The cancel came at the same moment as the lock, and may yet hit the next statement.
        if late.is_set():
            raise psycopg.errors.LockNotAvailable(_LATE)

    @contextmanager
    def run_user_sql(self, schemas: Sequence[str] = (), *, keeps_locks: bool = True) -> Iterator[None]:
        """Run user SQL in this block: it cannot write, and its settings are reset afterwards.

        Names are searched in pg_catalog and then in `schemas`. The block is a transaction or, in an open one, a
        savepoint. With `keeps_locks` the savepoint's locks stay; without, neither they nor its settings do. Raises
        `SettingsChangedError` if a setting that decides what rows mean was changed.
        """
        idle = self.connection.info.transaction_status == TransactionStatus.IDLE
        savepoint = None if idle else _READING
        self.connection.execute(statements.begin_reading(savepoint, schemas))
        try:
            yield
        except BaseException:
            # A session that is lost has nothing to undo.
            with suppress(psycopg.Error):
                self.connection.execute(statements.undo_reading(savepoint))
            raise
        ((changed,),) = self.connection.execute(
            statements.end_reading(savepoint, schemas, keeps_locks=keeps_locks)
        ).fetchall()
        if changed:
            raise SettingsChangedError(self.endpoint, changed)

    def reset(self, *, lock_wait: float) -> None:
        """Undo whatever triggers, checks and defaults have set in this session; then pin again."""
        patient = keep_timeout("lock_timeout", lock_wait)
        again = [SQL("RESET ALL"), *statements.session_pins(), SQL(_CATALOG["pin"]), patient]
        self.connection.execute(SQL("; ").join(again))

    def end_transaction(self) -> None:
        """Roll back whatever is open. A lost or silent session has nothing open, and is closed."""
        try:
            if not self.connection.closed:
                with self.limit_answer(_ANSWER_SECONDS):
                    self.connection.rollback()
        except psycopg.Error as error:
            log.debug("%s: the control session is lost: %s", self.endpoint, error)
            self.connection.close()

    @contextmanager
    def cancel_on_abort(self, abort: AbortSwitch) -> Iterator[None]:
        """Cancel what this session runs once the switch is thrown in the block: `AbortedError`."""
        with abort.hang(self._cancel), self.connection.unless(lambda: abort.is_thrown):
            try:
                yield
            except psycopg.errors.QueryCanceled:
                abort.check()
                raise

    def _cancel(self, late: threading.Event | None = None) -> None:
        if late is not None:
            late.set()
        self.connection.stop()


@contextmanager
def open_session(
    endpoint: Endpoint,
    *,
    application_name: str,
    connect_timeout: float,
    read_only: bool = False,
    patience: float = PATIENCE_SECONDS,
    lock_wait: float = LOCK_WAIT_SECONDS,
) -> Iterator[Session]:
    """Open a control session, pinned to settings that keep the meaning of text. Raises `StageError`.

    `read_only` sessions cannot write, whatever SQL a user hands them. An answer that takes longer than `patience`
    seconds closes the session and raises psycopg.OperationalError; `Session.limit_answer` sets another limit. A lock
    that another session holds longer than `lock_wait` seconds raises psycopg's `LockNotAvailable`; the log names the
    holder during the wait, and the session's lookout knows it.
    """
    made = endpoint.connect(
        application_name=application_name, connect_timeout=connect_timeout, kind=wire.PromptConnection
    )
    connection = cast("wire.PromptConnection", made)
    connection.patience = patience
    lookout = Lookout(endpoint, application_name)
    connection.lookout = lookout
    try:
        try:
            # A pooler accepts connections although its server may never answer.
            with connection.limit_block(max(2.0, connect_timeout)):
                opening = partial(_introduce, endpoint, connection, read_only=read_only, lock_wait=lock_wait)
                try:
                    session = opening(pooler.require_direct(connection))
                # A pooler is in between, and may be one in session mode.
                except psycopg.errors.DivisionByZero:
                    pooler.require_own_session(
                        endpoint, connection, application_name=application_name, connect_timeout=connect_timeout
                    )
                    session = opening()
        except psycopg.Error as error:
            raise StageError(
                f"{endpoint}: connected, but the server cannot be asked: {error}",
                stage="connect",
                sqlstate=error.sqlstate,
            ) from error
        yield session
    finally:
        lookout.close()
        connection.close()


def end_stage_sessions(session: Session, *, application_name: str, kept_backends: tuple[int, ...]) -> None:
    """End the sessions that the run still has on this server, and wait until they are gone.

    Call it when a stage has failed and its psql has been ended. `kept_backends` are the control sessions' backends,
    which stay. Raises `StageError` if another session is still there after ten seconds.
    """
    asked = {"application": application_name, "spared": list(kept_backends)}
    deadline = time.monotonic() + _GONE_SECONDS
    with session.limit_answer(_GONE_SECONDS + _ANSWER_SECONDS):
        session.connection.execute(_CATALOG["end_sessions"], asked)
        while left := session.fetch_all(_CATALOG["sessions"], asked):
            if time.monotonic() > deadline:
                backends = ", ".join(str(row["pid"]) for row in left)
                raise StageError(f"{session.endpoint}: server session {backends} does not end", stage="connect")
            time.sleep(0.01)
    log.debug("%s: no session of %s is left", session.endpoint, application_name)


def _introduce(
    endpoint: Endpoint,
    connection: wire.PromptConnection,
    condition: Composed | None = None,
    *,
    read_only: bool,
    lock_wait: float,
) -> Session:
    """Pin the settings and read the server's facts, in one message and so in one transaction.

    If `condition` fails, nothing is set.
    """
    more = (
        "publications",
        *(("publications_of_schema",) if connection.info.server_version >= _SCHEMAS_PUBLISHED else ()),
    )
    words = ("own", "pin", "server", *(("read_only",) if read_only else more))
    # First ask for the role's own settings; everything later resolves names in pg_catalog alone.
    asked = [SQL(_CATALOG[word]) for word in words]
    with connection.cursor(row_factory=dict_row) as cursor:
        patient = keep_timeout("lock_timeout", lock_wait)
        conditions = [] if condition is None else [condition]
        cursor.execute(SQL("; ").join([*conditions, asked[0], *statements.session_pins(), *asked[1:], patient]))
        told: list[list[dict[str, Any]]] = []
        while True:
            if cursor.description:
                told.append(cursor.fetchall())
            if not cursor.nextset():
                break
    (own,), _, (facts,), *rest = told[len(conditions) :]
    path = tuple(own.pop("search_path"))
    publications = () if read_only else tuple(row["name"] for rows in rest[: len(more)] for row in rows)
    facts["grantees"] = tuple(facts["grantees"])
    return Session(endpoint.narrow_to(connection), connection, Server(**facts, **own, publications=publications), path)


def find_holders(session: Session, table: LiteralString) -> tuple[Blocker, ...]:
    """Return the holders of locks on our `table` that a write would wait for. It does not wait itself."""
    return tuple(map(read_blocker, session.fetch_all(sql.load("blockers")["holders_by_name"], {"table": table})))
