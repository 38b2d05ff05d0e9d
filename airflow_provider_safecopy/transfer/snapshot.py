"""The snapshot that a copy reads. It also answers all questions of the copy about the source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import StageError
from airflow_provider_safecopy.postgres.session import Session

_SNAPSHOT = sql.load("snapshot")
READ_AGAIN = "run the copy again: it takes a new snapshot"


@contextmanager
def hold_snapshot(source: Session) -> Iterator[str]:
    """Hold a transaction on the source, and yield the name of its snapshot.

    Under that name psql sees just what the transaction sees. Raises `StageError`.
    """
    connection = source.connection
    try:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        name: str = source.fetch_value(sql.load("catalog")["export_snapshot"])
    except psycopg.Error as error:
        raise StageError(f"export: {source.endpoint}: {error}", stage="export", sqlstate=error.sqlstate) from error
    try:
        yield name
    finally:
        source.end_transaction()


def require_unreplaced(source: Session, *, refused_oid: int = 0) -> None:
    """Raise a retryable `StageError` if what `source` has locked is not what its snapshot saw.

    It is called after planning; each export checks the same again for what it has read itself. `refused_oid` is the OID
    of a table whose plan has refusals: planning has not locked it.
    """
    # TRUNCATE and rewrites are no part of MVCC: an older snapshot sees no rows in the new file. A table that was
    # replaced before it was planned is refused for reasons that mislead.
    names = source.fetch_value(_SNAPSHOT["replaced"])
    if names or (refused_oid and (names := source.fetch_value(_SNAPSHOT["planned"], {"table": refused_oid}))):
        message = f"export: {describe_replacement(names)}; nothing was changed"
        raise StageError(message, stage="export", retryable=True, hint=READ_AGAIN)


def require_no_deadlock(source: Session, *, readers: Sequence[int]) -> None:
    """Raise a retryable `StageError` if one of `readers` waits for a session that waits for this copy.

    `source` holds locks on what was planned, and is idle: a TRUNCATE waits for it, and a later export waits behind that
    TRUNCATE. The same happens behind a TRUNCATE that waits for another export of this copy.
    """
    # The server does not detect this deadlock, because the session that holds the snapshot waits for no lock. Ending
    # the copy is the way out that harms no other session.
    if (found := source.fetch_one(_SNAPSHOT["waits_for_us"], {"readers": list(readers)})) is None:
        return
    facts = ", ".join(str(found[key]) for key in ("role", "application") if found[key])
    who = f"pid {found['pid']}" + (f" ({facts})" if facts else "")
    keeper = "this copy" if found["for_snapshot"] else "another export of this copy"
    raise StageError(
        f"export: {source.endpoint}: {who} waits to change {found['relation'] or 'what is read'}, which {keeper} keeps as "
        "its snapshot saw it, and the export waits behind that; nothing was changed",
        stage="export",
        retryable=True,
        hint=READ_AGAIN,
    )


def describe_replacement(names: str) -> str:
    """Return a message about relations that are not what the snapshot saw."""
    return f"emptied, rewritten or replaced after the snapshot was taken: {names}"
