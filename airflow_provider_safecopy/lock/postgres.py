"""The lock in the target database: the schema it lives in, its token, and its fence.

A token is always granted: the newest run wins and every older one is fenced out of publishing. Refusing,
waiting and takeover are not promised here.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg import sql as compose

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import FencedOutError, LockStoreError, Refusal
from airflow_provider_safecopy.lock.model import Lease

_SCHEMA = sql.load("schema")
_LOCK = sql.load("lock")
_MADE = ("schema", "comment", "lock", "receipt", "receipt_index")


def init(connection: psycopg.Connection[Any], *, grant: str | None = None) -> None:
    """Make the schema `safecopy`, or leave it as it is; let the role `grant` use it. Raises `LockStoreError`.

    Creating it needs CREATE on the database, once. Two at a time do no harm.
    """
    try:
        with connection.transaction():
            connection.execute(_SCHEMA["guard"])
            if not _made(connection):
                for statement in _MADE:
                    connection.execute(_SCHEMA[statement])
            for privilege in _grants(grant) if grant else ():
                connection.execute(privilege)
    except psycopg.Error as error:
        raise _failed("the schema safecopy cannot be made", error) from error


def refusals(connection: psycopg.Connection[Any], *, role: str, may_create: bool) -> tuple[Refusal, ...]:
    """Why this role cannot draw a token and keep a receipt here; empty when it can."""
    hint = f"have an owner of the database run: safecopy init --target … --grant {role}"
    row = connection.execute(_SCHEMA["present"]).fetchone()
    made, schema_made = row or (False, False)
    if made:
        usable = connection.execute(_SCHEMA["usable"]).fetchone()
        missing = not (usable and usable[0])
        return (Refusal("not_granted", f"role {role} may not use the schema safecopy", hint=hint),) if missing else ()
    if schema_made or not may_create:
        return (
            Refusal("not_initialised", "the target has no schema safecopy, which holds lock and receipts", hint=hint),
        )
    return ()


def draw(connection: psycopg.Connection[Any], name: str, *, owner: str, attempt: UUID) -> Lease:
    """The next token of `name`, for this attempt. Raises `LockStoreError`."""
    lease_id = uuid4()
    asked = {"name": name, "lease_id": lease_id, "owner_key": owner}
    try:
        connection.execute(_LOCK["ensure"], asked)
        row = connection.execute(_LOCK["draw"], asked).fetchone()
    except psycopg.Error as error:
        raise _failed(f"no token can be drawn for the lock {name}", error) from error
    if row is None:
        raise LockStoreError(f"the row of the lock {name} vanished while its token was drawn")
    return Lease(name, row[0], lease_id, attempt, owner)


def fence(connection: psycopg.Connection[Any], lease: Lease) -> None:
    """Inside the publishing transaction: hold the lock's row until COMMIT. Raises `FencedOutError`."""
    asked = {"name": lease.name, "token": lease.token, "lease_id": lease.lease_id}
    if connection.execute(_LOCK["fence"], asked).fetchone() is None:
        raise FencedOutError(
            f"lock {lease.name}: a newer run holds it; token {lease.token} may not publish any more",
            lock=lease.name,
            token=lease.token,
        )


def _made(connection: psycopg.Connection[Any]) -> bool:
    row = connection.execute(_SCHEMA["present"]).fetchone()
    return bool(row and row[0])


def _grants(role: str) -> tuple[compose.Composed, ...]:
    to = compose.Identifier(role)
    return tuple(compose.SQL(_SCHEMA[name]).format(to) for name in ("grant_schema", "grant_lock", "grant_receipt"))


def _failed(what: str, error: psycopg.Error) -> LockStoreError:
    denied = error.sqlstate in {"42501", "42704", "3F000", "42P01"}
    return LockStoreError(
        f"{what}: {str(error).strip()}",
        sqlstate=error.sqlstate,
        hint="run safecopy init as a role that may, with --grant for this one" if denied else "",
        retryable=not denied,
    )
