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

# A number is given once: what is kept stays kept though the message failed, or is rolled back.
_NUMBERS = count(1)
# What a connection has kept, by the text of the question: there may be several who ask over it.
_KEPT: WeakKeyDictionary[psycopg.Connection[Any], dict[str, str]] = WeakKeyDictionary()


class Recall:
    """Asks static SQL over one connection; each text is planned once, for whatever parameters.

    The server is asked each time. The plans live as long as its session does: behind a transaction pooler none are kept
    them.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._names = _KEPT.setdefault(connection, {})

    def __call__(self, query: LiteralString, parameters: Mapping[str, Any] | None = None, /) -> list[dict[str, Any]]:
        """All rows as dicts."""
        try:
            return self._ask(query, parameters or {})
        except psycopg.errors.InvalidSqlStatementName:
            # A user's trigger has thrown away what the session kept.
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
"""How long after a statement's own timeout the server may take to tell of it, before its connection is cut."""

_LATE = "the server did not tell of its lock_timeout in time; the wait was cancelled"
PATIENCE_SECONDS = 300.0
"""How long an answer may take by default."""

_GONE_SECONDS = 10.0
_READING = "safecopy_reading"
_ANSWER_SECONDS = 5.0

# From this version on a publication may name schemas.
_SCHEMAS_PUBLISHED = 150000


class SettingsChangedError(StageError):
    """SQL that ran on a server changed settings that decide what rows mean: `names` says which."""

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
    """The server's facts about itself. `identity` is equal for two sessions in one database, and unequal else.

    `grantees` are roles that default privileges give rights on the tables this role makes; an empty name is PUBLIC.
    `publications`: those that send the tables of the schema safecopy to subscribers; not asked of a source.
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

    What is composed is asked in binary, because that takes the protocol's one-statement way: SQL of a user's that closes
    our parenthesis and goes on with COMMIT and a DELETE is a syntax error then, not a list of statements. Of static SQL,
    in which there is no user's, the server keeps the plans. `searched` are the schemas in which functions have found
    what they name: the server keeps what it has found there, so that this session cannot tell again whether it takes them.
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
        """The first row as a dict, or None."""
        if isinstance(query, str):
            return next(iter(self.recall(query, parameters)), None)
        with self.connection.cursor(row_factory=dict_row, binary=True) as cursor:
            return cursor.execute(query, parameters).fetchone()

    def fetch_all(
        self, query: LiteralString | Composed, parameters: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """All rows as dicts."""
        if isinstance(query, str):
            return self.recall(query, parameters)
        with self.connection.cursor(row_factory=dict_row, binary=True) as cursor:
            return cursor.execute(query, parameters).fetchall()

    def fetch_value(self, query: LiteralString | Composed, parameters: Mapping[str, Any] | None = None) -> Any:
        """The first column of the first row."""
        row = self.fetch_one(query, parameters)
        return None if row is None else next(iter(row.values()))

    @contextmanager
    def limit_answer(self, seconds: float) -> Iterator[None]:
        """Close the connection when the block waits for answers longer than that: psycopg.OperationalError."""
        with self.connection.limit_block(seconds):
            yield

    @contextmanager
    def limit_lock_wait(self, seconds: float) -> Iterator[None]:
        """Cancel what waits for a lock for longer than its own lock_timeout of `seconds`: psycopg's `LockNotAvailable`.

        A server counts its timeouts by its clock: when that is set back by hours meanwhile, they come hours late, and
        later readers queue behind us so long. Only for what does nothing but wait: what works may take its time.
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
        # It came at the same moment as the lock, and may yet hit what follows.
        if late.is_set():
            raise psycopg.errors.LockNotAvailable(_LATE)

    @contextmanager
    def run_user_sql(self, schemas: Sequence[str] = (), *, keeps_locks: bool = True) -> Iterator[None]:
        """Run user SQL in this block: it cannot write, and its settings are reset afterwards.

        Names are searched in pg_catalog and then in `schemas`. The block is a transaction or, in an open one, a savepoint, whose locks stay with `keeps_locks`; without, nothing
        that it has set stays. Raises `SettingsChangedError` if a setting that decides what rows mean was changed.
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
        """Roll back whatever is open. A session that is lost, or silent, has nothing open: it is closed."""
        try:
            if not self.connection.closed:
                with self.limit_answer(_ANSWER_SECONDS):
                    self.connection.rollback()
        except psycopg.Error as error:
            log.debug("%s: the control session is lost: %s", self.endpoint, error)
            self.connection.close()

    @contextmanager
    def cancel_on_abort(self, abort: AbortSwitch) -> Iterator[None]:
        """Cancel what this session runs when the switch is thrown inside the block: `AbortedError`."""
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
    """Connect, pin the settings that change what text means, and ask who is there. Raises `StageError`.

    `read_only` sessions cannot write, whatever SQL a user hands them. An answer that takes longer than `patience`
    seconds is psycopg.OperationalError, and the session closed; but for what is asked `Session.within` another time.
    A lock that another session holds longer than `lock_wait` seconds raises psycopg's `LockNotAvailable`; who holds it
    is logged while it is waited for, and known to the session's lookout.
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
            # No answer is promised yet.
            with connection.limit_block(max(2.0, connect_timeout)):
                opening = partial(_introduce, endpoint, connection, read_only=read_only, lock_wait=lock_wait)
                try:
                    session = opening(pooler.require_direct(connection))
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
    """End what the run still has on this server, and see it gone.

    Called when a stage failed and its psql has been ended. `kept_backends` are the control sessions' backends.
    Raises `StageError` when one of them is still there after ten seconds.
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
    """All in one message, and hence one transaction. A `condition` that fails lets nothing be set."""
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
    """Return who holds a lock on one of our tables that a write would wait for, without waiting."""
    return tuple(map(read_blocker, session.fetch_all(sql.load("blockers")["holders_by_name"], {"table": table})))
