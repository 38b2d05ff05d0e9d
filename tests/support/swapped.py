"""A swap by hand: a plain copy of a table takes its place, and what is to be carried over is.

So that what is proven of the carrying does not rest on how the new table is built. All is done in the caller's
transaction: whoever rolls it back can swap again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from psycopg.sql import SQL, Composed, Identifier

from airflow_provider_safecopy.planning import catalog
from airflow_provider_safecopy.planning.catalog import Relation
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.postgres.session import Session, open_session
from airflow_provider_safecopy.publish import dependents
from tests.support.database import Database

TABLE = TableName("영업", "고객 표")
NEW = TableName("safecopy", "새것")
QUOTED = '영업."고객 표"'
SHAPE = f"""
CREATE SCHEMA 영업; CREATE SCHEMA safecopy;
CREATE TABLE {QUOTED} (
    번호 int CONSTRAINT "고객의 키" PRIMARY KEY, 이름 text NOT NULL CONSTRAINT "이름.길이" CHECK (length(이름) < 40),
    금액 numeric, 추천 int);
CREATE UNIQUE INDEX "이름 색인" ON {QUOTED} (이름);
INSERT INTO {QUOTED} SELECT g, '고객 ' || g, g * 10, NULL FROM generate_series(1, 3) g;
"""
_ROLES = f"""
CREATE ROLE 주인; CREATE ROLE 하나; CREATE ROLE "다른 이";
ALTER TABLE {QUOTED} OWNER TO 주인; GRANT ALL ON SCHEMA 영업, safecopy TO 주인
"""
_INDEXES = """
SELECT c.relname::text AS name FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = %(oid)s ORDER BY c.oid
"""
_FOREIGN_KEYS = """
SELECT format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', conrelid::regclass, conname, pg_get_constraintdef(oid)) AS made
FROM pg_constraint WHERE conrelid = %(oid)s AND contype = 'f' AND conparentid = 0
"""


@contextmanager
def prepared(database: Database) -> Iterator[Session]:
    """The superuser's session, in a transaction that is rolled back: in it are the table and the roles."""
    with (
        open_session(database.endpoint, application_name="safecopy:test", connect_timeout=10) as session,
        session.connection.transaction(force_rollback=True),
    ):
        session.connection.execute((SHAPE + _ROLES).encode())
        yield session


def hang(session: Session, what: str) -> None:
    """Run what hangs something on the table."""
    session.connection.execute(what.encode())
    session.connection.execute("RESET ROLE")


def relation(session: Session) -> Relation:
    """The table, as it is now."""
    found = catalog.describe(session, TABLE)
    assert found is not None
    return found


def refused(session: Session) -> list[tuple[str, str]]:
    """Codes and messages."""
    return [(refusal.code, refusal.message) for refusal in dependents.refusals(session, relation(session))]


def swap(session: Session, left_out: int | None = None) -> None:
    """Swap, and leave out the statement of `after` that has this position."""
    old = relation(session)
    _all(
        session,
        (
            f"CREATE TABLE safecopy.새것 (LIKE {QUOTED} INCLUDING ALL EXCLUDING COMMENTS)",
            f"INSERT INTO safecopy.새것 SELECT * FROM {QUOTED}",
        ),
    )
    carried = dependents.read_statements(session, old, NEW)
    _all(session, carried.first)
    session.connection.execute(f"LOCK TABLE {QUOTED} IN ACCESS EXCLUSIVE MODE".encode())
    assert dependents.read_statements(session, relation(session), NEW) == carried
    _all(session, carried.before)
    _exchange(session, old.oid)
    _all(session, (each for position, each in enumerate(carried.after) if position != left_out))
    session.connection.execute("DROP TABLE safecopy.옛것".encode())


def _exchange(session: Session, oid: int) -> None:
    names = [row["name"] for row in session.fetch_all(_INDEXES, {"oid": oid})]
    foreign_keys = [row["made"] for row in session.fetch_all(_FOREIGN_KEYS, {"oid": oid})]
    _all(
        session,
        (
            f"ALTER TABLE {QUOTED} RENAME TO 옛것",
            "ALTER TABLE 영업.옛것 SET SCHEMA safecopy",
            "ALTER TABLE safecopy.새것 SET SCHEMA 영업",
            'ALTER TABLE 영업.새것 RENAME TO "고객 표"',
        ),
    )
    made = [row["name"] for row in session.fetch_all(_INDEXES, {"oid": relation(session).oid})]
    rename = SQL("ALTER INDEX 영업.{} RENAME TO {}")
    _all(session, (rename.format(Identifier(now), Identifier(then)) for now, then in zip(made, names, strict=True)))
    _all(session, foreign_keys)


def _all(session: Session, statements: Iterable[str | Composed]) -> None:
    for statement in statements:
        session.connection.execute(statement.encode() if isinstance(statement, str) else statement)
