"""The snapshot a copy reads, and all its questions about the source are answered from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import StageError
from airflow_provider_safecopy.transfer.session import Session

_SNAPSHOT = sql.load("snapshot")
READ_AGAIN = "run it again: it reads what is there by then"


@contextmanager
def snapshot(source: Session) -> Iterator[str]:
    """A transaction on the source, and the name under which psql sees just what it sees. Raises `StageError`."""
    connection = source.connection
    try:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        name: str = source.value(sql.load("catalog")["export_snapshot"])
    except psycopg.Error as error:
        raise StageError(f"export: {source.endpoint}: {error}", stage="export", sqlstate=error.sqlstate) from error
    try:
        yield name
    finally:
        source.end_transaction()


def require_whole(source: Session) -> None:
    """Raise `StageError`, worth a retry, where what `source` has locked is not what its snapshot saw.

    Asked after planning: an export asks the same once more, of what it has read itself.
    """
    if names := source.value(_SNAPSHOT["replaced"]):
        message = f"export: {replacement(names)}; nothing was changed"
        raise StageError(message, stage="export", retryable=True, hint=READ_AGAIN)


def require_no_deadlock(source: Session, *, readers: Sequence[int]) -> None:
    """Raise `StageError`, worth a retry, where one of `readers` waits for what waits for `source` itself.

    `source` keeps what was planned as it is, and is idle: a TRUNCATE waits for it, and an export that comes only then
    waits behind that TRUNCATE. Ending the copy is the way out that harms no other.
    """
    if (found := source.one(_SNAPSHOT["waits_for_us"], {"readers": list(readers)})) is None:
        return
    facts = ", ".join(str(found[key]) for key in ("role", "application") if found[key])
    who = f"pid {found['pid']}" + (f" ({facts})" if facts else "")
    raise StageError(
        f"export: {source.endpoint}: {who} waits to change {found['relation'] or 'what is read'}, which this copy keeps as "
        "its snapshot saw it, and the export waits behind that; nothing was changed",
        stage="export",
        retryable=True,
        hint=READ_AGAIN,
    )


def replacement(names: str) -> str:
    """Say what happened to relations that are not what the snapshot saw."""
    return f"{names} was emptied, rewritten or replaced after the snapshot was taken"
