"""Content of tables, compared by the tests' own means: never by what is being tested."""

from __future__ import annotations

from tests.support.database import Database

_PINNED = (
    "SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC'; SET bytea_output = 'hex'; "
    "SET extra_float_digits = 3"
)


def rows_of(database: Database, query: str) -> list[str]:
    """Each row of `query` as the server's own text of it, sorted here: collations and encodings differ."""
    with database.connect() as session:
        session.execute(_PINNED)
        found = session.execute(f"SELECT ROW(t.*)::text FROM ({query}) AS t".encode()).fetchall()
    return sorted(text for (text,) in found)
