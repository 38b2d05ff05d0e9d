"""The schema `safecopy` in the target: creation, upgrades by its owner, and rights to use it.

Nothing in it is touched before `lock.trust` allows it.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any, LiteralString
from weakref import WeakKeyDictionary

import psycopg
from psycopg import sql as compose
from psycopg.pq import TransactionStatus

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import LockStoreError, Refusal
from airflow_provider_safecopy.lock import takeover, trust

_SCHEMA = sql.load("schema")
# Sessions that have found the schema of this oid trusted. Once is enough: only trusted roles could change it. The
# check takes ten times as long as asking whether the schema is there.
_TRUSTED: WeakKeyDictionary[psycopg.Connection[Any], int] = WeakKeyDictionary()
# A server opens a table to spell its defaults: another session may have locked it.
_LOCK_TIMEOUT: LiteralString = "SET LOCAL lock_timeout = '5s'"
_PRESENT_WITH_SUSPICIONS = trust.add_suspicions(_SCHEMA["present"])
_MAKING_STATEMENTS = (
    "schema",
    "comment",
    "lock",
    "lock_columns",
    "lock_of_layout_1",
    "member",
    "lock_event",
    "lock_event_index",
    "receipt",
    "receipt_index",
    "receipt_columns",
    "receipt_slice",
    "receipt_texts",
    "watermark",
    "watermark_columns",
    "watermark_texts",
)
# Data errors that a name leads to, and no row: NUL (told by the driver, without a code), letters the server lacks.
_CALLER_ERRORS = frozenset({None, "22021", "22P05"})
_GRANTS = ("grant_schema", "grant_lock", "grant_member", "grant_lock_event", "grant_receipt", "grant_watermark")


@dataclass(frozen=True)
class SchemaState:
    """State of the schema: `made` in this layout, `is_owned` to upgrade, and the suspicions against it."""

    is_current: bool
    exists: bool
    is_owned: bool
    suspicions: tuple[trust.Suspicion, ...]


def init(connection: psycopg.Connection[Any], *, grant: str | None = None, take_over: bool = False) -> tuple[str, ...]:
    """Make the schema `safecopy`, or leave it as it is; let the role `grant` use it. Raises `LockStoreError`.

    Creating it needs CREATE on the database, once; bringing up an earlier layout, to be its owner. Two at a time do no
    harm. An untrusted schema is refused, or with `take_over` taken from its owner. Returns what the takeover did, for
    people.
    """
    try:
        found = read_state(connection)
        if grant is None and found.is_current and not found.suspicions:
            return ()
        with connection.transaction():
            connection.execute(trust.PIN)
            connection.execute(_SCHEMA["guard"])
            done = _upgrade(connection, take_over=take_over)
            for privilege in _build_grants(grant) if grant else ():
                connection.execute(privilege)
            if grant and not trust.is_trusted_by(connection, grant):
                raise _grant_error(grant)
            return done
    except psycopg.Error as error:
        raise store_error("the schema safecopy cannot be made", error) from error


def read_state(connection: psycopg.Connection[Any]) -> SchemaState:
    """Return the state of the schema, by one question of the catalogs that any role may ask."""
    if connection in _TRUSTED:
        ((made, schema_made, mine, oid),) = _ask(connection, _SCHEMA["present"])
        if oid == _TRUSTED[connection]:
            return SchemaState(made, schema_made, mine, ())
    ((made, schema_made, mine, oid, found),) = _ask(connection, _PRESENT_WITH_SUSPICIONS)
    suspicions = tuple(trust.Suspicion(*each) for each in found)
    if made and not suspicions:
        _TRUSTED[connection] = oid
    return SchemaState(made, schema_made, mine, suspicions)


def find_refusals(connection: psycopg.Connection[Any], *, role: str, may_create: bool) -> tuple[Refusal, ...]:
    """Why this role cannot hold a lock and keep a receipt here; empty when it can."""
    hint = f"have an owner of the database run: safecopy init --target … --grant {role}"
    found = read_state(connection)
    if found.suspicions:
        return (
            Refusal(
                "untrusted_schema",
                trust.describe_suspicions(found.suspicions),
                hint=f"{trust.suggest_takeover(found.suspicions)} --grant {role}",
            ),
        )
    if found.is_current:
        ((usable,),) = _ask(connection, _SCHEMA["usable"])
        if usable:
            return ()
        lacking = ", ".join(told for (told,) in _ask(connection, _SCHEMA["lacking"]))
        return (Refusal("not_granted", f"role {role} may not use the schema safecopy: it lacks {lacking}", hint=hint),)
    if not may_create or (found.exists and not found.is_owned):
        what = "is of an earlier version" if found.exists else "is missing"
        told = f"the target's schema safecopy, which holds lock and receipts, {what}"
        return (Refusal("not_initialised", told, hint=hint),)
    return ()


def build_repair_hint(lock: str) -> str:
    """The next step where the row of a lock cannot be used."""
    return (
        f"safecopy locks release {shlex.quote(lock)} clears the row, all but its token: a token that is wrong is to be put "
        "above all in safecopy.receipt, by UPDATE safecopy.lock"
    )


def store_error(problem: str, error: psycopg.Error | UnicodeEncodeError, *, lock: str | None = None) -> LockStoreError:
    """The error of a store in a database, with the next step where a right or the schema is missing, or a row is garbled."""
    if isinstance(error, UnicodeEncodeError):  # a name, an owner or a reason with bytes of another encoding in it
        told = f"{problem}: a text of it is none: {error.reason}"
        return LockStoreError(told, hint="give names, owners and reasons in UTF-8", retryable=False)
    if (found := trust.parse_suspicions(str(error))) is not None:
        return trust.distrust_error(found)
    denied = error.sqlstate in {"42501", "42703", "42704", "3F000", "42P01"}
    too_long = error.sqlstate == "54000"  # of a name, for an index
    hint = "run safecopy init as a role that may, with --grant for this one" if denied else ""
    garbled = isinstance(error, psycopg.DataError | psycopg.errors.NotNullViolation)
    if lock is not None and garbled and error.sqlstate not in _CALLER_ERRORS:
        hint = build_repair_hint(lock)
    return LockStoreError(
        f"{problem}: {str(error).strip()}",
        sqlstate=error.sqlstate,
        hint=hint,
        retryable=not (denied or too_long or garbled),
    )


def is_ready(connection: psycopg.Connection[Any]) -> bool:
    """Whether the schema is there, in this layout. Raises `LockStoreError` if it cannot be trusted."""
    found = read_state(connection)
    if found.suspicions:
        raise trust.distrust_error(found.suspicions)
    return found.is_current


def _ask(connection: psycopg.Connection[Any], question: LiteralString) -> list[tuple[Any, ...]]:
    """Ask in one message, with search_path pinned first: it may put others' functions before the server's."""
    idle = connection.info.transaction_status == TransactionStatus.IDLE
    pins = trust.PIN + ("; " + _LOCK_TIMEOUT if idle else "")
    try:
        cursor = connection.execute(pins + "; " + question)
    except psycopg.errors.LockNotAvailable as error:
        raise store_error("the schema safecopy cannot be looked at", error) from error
    while cursor.nextset():
        pass
    return cursor.fetchall()


def _upgrade(connection: psycopg.Connection[Any], *, take_over: bool) -> tuple[str, ...]:
    found, done = read_state(connection), tuple[str, ...]()
    if found.suspicions and not take_over:
        raise trust.distrust_error(found.suspicions)
    if found.suspicions:
        done = takeover.take_over(connection, found.suspicions, make_tables=_make_tables)
    elif not found.is_current:
        _make_tables(connection)
    # Another role may have made the schema since the first look.
    _TRUSTED.pop(connection, None)
    if left := read_state(connection).suspicions:
        raise trust.distrust_error(left)
    return done


def _make_tables(connection: psycopg.Connection[Any]) -> None:
    for statement in _MAKING_STATEMENTS:
        connection.execute(_SCHEMA[statement])


def _grant_error(role: str) -> LockStoreError:
    return LockStoreError(
        f"the schema safecopy cannot be granted to {role}: it belongs to another role, whose code its tables could run "
        f"with the rights of {role}",
        hint="run safecopy init as the database's owner or as a superuser",
        retryable=False,
    )


def _build_grants(role: str) -> tuple[compose.Composed, ...]:
    to = compose.Identifier(role)
    return tuple(compose.SQL(_SCHEMA[name]).format(to) for name in _GRANTS)
