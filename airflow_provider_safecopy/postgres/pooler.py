"""Find a pooler in transaction mode before anything is set: its sessions, and their settings, serve all its clients.

A session that is reached directly answers with the process id that the server gave the client at login. A pooler gives
ids of its own; then a second client finds out whether it lends a session for longer than a transaction.
"""

from __future__ import annotations

from contextlib import closing
from typing import cast

import psycopg
from psycopg.sql import SQL, Composed, Literal

from airflow_provider_safecopy.errors import StageError
from airflow_provider_safecopy.postgres import wire
from airflow_provider_safecopy.postgres.endpoint import Endpoint

_PID = "SELECT pg_catalog.pg_backend_pid()"
# By chance a pooler may lend a client the same session again, so one look proves nothing.
_ROUNDS = 3
_SECONDS = 5.0


class SharedSessionError(StageError):
    """Sessions are shared with other clients: nothing may be set in them."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(
            f"{endpoint}: between here and the server is a pooler that lends its sessions for a transaction: what a copy "
            "sets would be set for all its clients; nothing was set",
            stage="connect",
            retryable=False,
            hint="connect to the server itself, or to a pool in session mode (PgBouncer: pool_mode=session)",
        )


def require_direct(connection: wire.PromptConnection) -> Composed:
    """Return a statement that fails with `DivisionByZero` unless the session is reached directly."""
    asked = SQL("SELECT 1 / (pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) {})::pg_catalog.int4")
    return asked.format(Literal(connection.info.backend_pid))


def require_own_session(
    endpoint: Endpoint, connection: wire.PromptConnection, *, application_name: str, connect_timeout: float
) -> None:
    """Raise `SharedSessionError` if other clients get the session of `connection` between its transactions."""
    other = endpoint.connect(
        application_name=application_name, connect_timeout=connect_timeout, kind=wire.PromptConnection
    )
    with closing(other):
        if _share(connection, cast("wire.PromptConnection", other)):
            raise SharedSessionError(endpoint)


def _share(connection: wire.PromptConnection, other: wire.PromptConnection) -> bool:
    """Return whether the session of `connection` changes, or serves `other` as well."""
    own = _pid(connection)
    for _ in range(_ROUNDS):
        try:
            # A transaction keeps the session that it has got, so that the two can be compared.
            with other.limit_block(_SECONDS), other.transaction():
                if _pid(other) == own or _pid(connection) != own:
                    return True
        # Each client has a session of its own, and the pool has no other one to lend.
        except wire.LateError:
            return False
        # A pooler in statement mode refuses transactions.
        except psycopg.errors.ProtocolViolation:
            return True
    return False


def _pid(connection: wire.PromptConnection) -> int:
    ((pid,),) = connection.execute(_PID).fetchall()
    return int(pid)
