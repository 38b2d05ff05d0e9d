"""The schema `safecopy` in the target: made by whoever comes first, brought up by its owner, and who may use it."""

from __future__ import annotations

import shlex
from typing import Any

import psycopg
from psycopg import sql as compose

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import LockStoreError, Refusal

_SCHEMA = sql.load("schema")
_MADE = (
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
_OF_THE_ASKER = frozenset({None, "22021", "22P05"})
_GRANTS = ("grant_schema", "grant_lock", "grant_member", "grant_lock_event", "grant_receipt", "grant_watermark")


def init(connection: psycopg.Connection[Any], *, grant: str | None = None) -> None:
    """Make the schema `safecopy`, or leave it as it is; let the role `grant` use it. Raises `LockStoreError`.

    Creating it needs CREATE on the database, once; bringing up an earlier layout, to be its owner. Two at a time do no
    harm.
    """
    try:
        if grant is None and made(connection):
            return
        with connection.transaction():
            connection.execute(_SCHEMA["guard"])
            if not made(connection):
                for statement in _MADE:
                    connection.execute(_SCHEMA[statement])
            for privilege in _grants(grant) if grant else ():
                connection.execute(privilege)
    except psycopg.Error as error:
        raise failed("the schema safecopy cannot be made", error) from error


def refusals(connection: psycopg.Connection[Any], *, role: str, may_create: bool) -> tuple[Refusal, ...]:
    """Why this role cannot hold a lock and keep a receipt here; empty when it can."""
    hint = f"have an owner of the database run: safecopy init --target … --grant {role}"
    row = connection.execute(_SCHEMA["present"]).fetchone()
    made, schema_made, mine = row or (False, False, False)
    if made:
        usable = connection.execute(_SCHEMA["usable"]).fetchone()
        if usable and usable[0]:
            return ()
        lacking = ", ".join(told for (told,) in connection.execute(_SCHEMA["lacking"]).fetchall())
        return (Refusal("not_granted", f"role {role} may not use the schema safecopy: it lacks {lacking}", hint=hint),)
    if not may_create or (schema_made and not mine):
        what = "is of an earlier version" if schema_made else "is missing"
        told = f"the target's schema safecopy, which holds lock and receipts, {what}"
        return (Refusal("not_initialised", told, hint=hint),)
    return ()


def mending(lock: str) -> str:
    """The next step where the row of a lock cannot be used."""
    return (
        f"safecopy locks release {shlex.quote(lock)} clears the row, all but its token: a token that is wrong is to be put "
        "above all in safecopy.receipt, by UPDATE safecopy.lock"
    )


def failed(what: str, error: psycopg.Error | UnicodeEncodeError, *, lock: str | None = None) -> LockStoreError:
    """The error of a store in a database, with the next step where a right or the schema is missing, or a row is garbled."""
    if isinstance(error, UnicodeEncodeError):  # a name, an owner or a reason with bytes of another encoding in it
        told = f"{what}: a text of it is none: {error.reason}"
        return LockStoreError(told, hint="give names, owners and reasons in UTF-8", retryable=False)
    denied = error.sqlstate in {"42501", "42703", "42704", "3F000", "42P01"}
    too_long = error.sqlstate == "54000"  # of a name, for an index
    hint = "run safecopy init as a role that may, with --grant for this one" if denied else ""
    garbled = isinstance(error, psycopg.DataError | psycopg.errors.NotNullViolation)
    if lock is not None and garbled and error.sqlstate not in _OF_THE_ASKER:
        hint = mending(lock)
    return LockStoreError(
        f"{what}: {str(error).strip()}",
        sqlstate=error.sqlstate,
        hint=hint,
        retryable=not (denied or too_long or garbled),
    )


def made(connection: psycopg.Connection[Any]) -> bool:
    """Whether the schema is there, in this layout. Any role may ask."""
    row = connection.execute(_SCHEMA["present"]).fetchone()
    return bool(row and row[0])


def _grants(role: str) -> tuple[compose.Composed, ...]:
    to = compose.Identifier(role)
    return tuple(compose.SQL(_SCHEMA[name]).format(to) for name in _GRANTS)
