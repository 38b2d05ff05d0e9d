"""The source proof: an export's question after its COPY whether it read what the snapshot saw."""

from __future__ import annotations

from psycopg.sql import SQL, Composable, Composed, Literal

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.transfer.statements.rows import verbatim


def proof(snapshot: str) -> Composed:
    """Ask which relations were replaced, in hex, and whether the transaction of `snapshot` is open.

    The first proves it for tables, their partitions and tables behind views. The second adds that everything seen in
    planning is unchanged, because that transaction has locked it.
    """
    query = SQL(
        "SELECT pg_catalog.encode(pg_catalog.convert_to(r.safecopy_replaced, 'UTF8'), 'hex') AS safecopy_replaced, "
        "EXISTS (SELECT FROM pg_catalog.pg_locks k WHERE k.locktype = 'virtualxid' AND k.granted "
        "AND k.mode = 'ExclusiveLock' AND k.virtualtransaction = {}) AS safecopy_keeper FROM ({}) AS r"
    )
    return query.format(Literal(_parse_transaction(snapshot)), verbatim(sql.load("snapshot")["replaced"]))


def read_alone() -> Composable:
    """Have the transaction read without parallel workers where a function may read tables that the proof cannot see."""
    return verbatim(sql.load("snapshot")["read_alone"])


def _parse_transaction(snapshot: str) -> str:
    """Return the transaction that exported `snapshot`, as pg_locks spells it: it is in the snapshot's name."""
    backend, transaction, _ = snapshot.split("-")
    return f"{int(backend, 16)}/{int(transaction, 16)}"
