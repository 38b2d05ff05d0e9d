"""Every setting of a server that changes rows on their way out or in is pinned: measured, by walking through all of them.

The kind: a setting of the database, the role or a function that changes what bytes mean. Which ones do is not known by
heart; each other value of each setting is tried on a table of many types, on every server of the suite.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import SafeCopyError
from airflow_provider_safecopy.postgres import statements
from airflow_provider_safecopy.postgres.statements import together
from airflow_provider_safecopy.spec import CopySpec
from tests.conftest import MakeDatabase
from tests.support.database import PRESENT, Database

VALUES = {
    "text": "E'a\\\\b''\"가é'",
    "text[]": "ARRAY['x', NULL, 'NULL', '']",
    "float8": "3.141592653589793",
    "float4": "2.7182817",
    "float8[]": "ARRAY[0.1, 1e300, 'NaN']",
    "numeric": "1.10",
    "bytea": "'\\x00ff5c61'",
    "bytea[]": "ARRAY['\\xff'::bytea]",
    "timestamptz": "'2026-01-02 03:04:05.678+09'",
    "timestamptz[]": "ARRAY['2026-07-02 03:04:05+09'::timestamptz]",
    "timestamp": "'2026-03-04 05:06:07'",
    "date": "'2026-02-03'",
    "time": "'04:05:06'",
    "timetz": "'04:05:06+09'",
    "interval": "'-1 day -2 hours'",
    "interval[]": "ARRAY['1 year -2 days'::interval, '-3:00']",
    "money": "'1234.56'",
    "json": "'{\"가\":  1}'",
    "jsonb": '\'{"b": "é"}\'',
    "jsonpath": "'$.a[*]'",
    "inet": "'10.0.0.1/8'",
    "uuid": "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",
    "bit varying": "B'101'",
    "polygon": "'((0,0),(1,1),(1,0.1))'",
    "tstzrange": "'[2026-01-01 00:00+09,2026-02-01 00:00+09)'",
    "datemultirange": "'{[2026-01-01,2026-01-05)}'",
    "tsvector": "'a:1 b:2A'",
    "tsquery": "'a & !b'",
    "regtype": "'timestamptz'",
    "regclass": "'pg_catalog.pg_class'",
    '"char"': "'c'",
    "name": "'이름'",
    "char(5)": "'ab'",
    "bool": "true",
    "oid": "5",
    "pg_lsn": "'0/1A2B'",
    "odd.kinds": "'가'",
    "odd.parts": "ROW(1, 'x y', 0.1, '-1 day -2 hours'::interval)",
    "odd.domain": "1.5",
}
XML = {"xml": "'글 <a>1</a>'", "xml[]": "ARRAY['<b/>'::xml]"}
OTHERS = {
    "search_path": ["odd, pg_catalog", "odd"],
    "DateStyle": ["SQL, DMY", "German", "Postgres, DMY"],
    "TimeZone": ["Asia/Seoul", "America/New_York"],
    "client_encoding": ["LATIN1", "EUC_KR"],
    "extra_float_digits": ["-15", "0", "1"],
    "timezone_abbreviations": ["Australia", "India"],
    "lc_monetary": ["C.UTF-8", "ko_KR.UTF-8", "en_US.UTF-8"],
    "default_text_search_config": ["pg_catalog.english"],
}
"""Settings whose values cannot be read from the catalog."""

# These keep a session from working at all, whatever it copies, and so say nothing of what bytes mean.
_STOPS = {"statement_timeout", "transaction_timeout", "temp_buffers", "default_transaction_read_only", "exit_on_error"}
PINNED = {name for name, _ in statements.MEANINGS}


@dataclass(frozen=True)
class Table:
    """A table of many types, on a server whose settings are walked through."""

    database: Database

    @classmethod
    def made(cls, database: Database) -> Table:
        database.execute(
            "CREATE SCHEMA odd; CREATE TYPE odd.kinds AS ENUM ('가', '나'); CREATE DOMAIN odd.domain AS numeric(8,3);"
            "CREATE TYPE odd.parts AS (x int, y text, z float8, i interval)"
        )
        types = dict(VALUES)
        with database.connect() as session:
            try:
                session.execute("SELECT '<a/>'::xml")
                types |= XML
            except psycopg.errors.FeatureNotSupported:
                pass  # built without libxml
        columns = ", ".join(f"c{n} {type_}" for n, type_ in enumerate(types))
        database.execute(
            f"CREATE TABLE odd.things (id int PRIMARY KEY, {columns}); INSERT INTO odd.things (id) VALUES (0)"
        )
        database.execute("INSERT INTO odd.things VALUES (1, " + ", ".join(types.values()) + ")")
        return cls(database)


def others(session: psycopg.Connection[Any]) -> Iterator[tuple[str, str]]:
    """Each setting that a role may change, with each of its other values, the ends of their range where they are many."""
    query = "SELECT name, vartype, setting, enumvals, min_val, max_val FROM pg_settings WHERE context IN ('user', 'superuser')"
    for name, kind, now, enum, least, most in session.execute(query).fetchall():
        found = {"bool": ["on", "off"], "enum": enum, "integer": [least, most], "real": [least, most]}.get(kind, [])
        for value in OTHERS.get(name, found):
            if value != now:
                yield name, value


def out(session: psycopg.Connection[Any], form: str) -> bytes:
    with (
        session.cursor() as cursor,
        cursor.copy(f"COPY (SELECT * FROM odd.things) TO STDOUT (FORMAT {form})".encode()) as copy,
    ):
        return b"".join(map(bytes, copy))


def held(database: Database) -> bytes:
    """Its rows, with what they mean pinned, and in any order."""
    with database.connect() as session, session.transaction():
        session.execute(together(statements.pins()))
        return b"\n".join(sorted(out(session, "text").splitlines()))


def into(session: psycopg.Connection[Any], form: str, data: bytes) -> bytes:
    """What is there afterwards, in binary."""
    session.execute("DELETE FROM odd.things")
    with session.cursor() as cursor, cursor.copy(f"COPY odd.things FROM STDIN (FORMAT {form})".encode()) as copy:
        copy.write(data)
    session.execute(together(statements.pins()))
    return out(session, "binary")


def measured(session: psycopg.Connection[Any]) -> dict[str, set[str]]:
    """The settings that change something, and with which values."""
    good: dict[str, tuple[bytes, bytes]] = {}
    for form in ("text", "binary"):
        with session.transaction(force_rollback=True):
            session.execute(together(statements.pins()))
            data = out(session, form)
            good[form] = data, into(session, form, data)
    found: dict[str, set[str]] = {}
    for name, value in others(session):
        for form, (data, held) in good.items():
            for try_, right in ((lambda: out(session, form), data), (lambda: into(session, form, data), held)):  # noqa: B023 -- called at once
                if name not in _STOPS and not _same(session, (name, value), try_, right):
                    found.setdefault(name, set()).add(value)
    return found


def _same(session: psycopg.Connection[Any], setting: tuple[str, str], try_: Any, right: bytes) -> bool:
    try:
        with session.transaction(force_rollback=True):
            session.execute(together(statements.pins()))
            try:
                with session.transaction():
                    session.execute("SELECT pg_catalog.set_config(%s, %s, true)", setting)
            except psycopg.Error:
                return True  # nobody can set that here
            return bool(try_() == right)
    except psycopg.Error:
        return False


@pytest.mark.parametrize("major", PRESENT)
def test_every_setting_that_changes_what_a_row_becomes_is_pinned(database: MakeDatabase, major: int) -> None:
    table = Table.made(database(major=major))
    with table.database.connect() as session:
        found = measured(session)
    assert found.keys() <= PINNED, found
    # The walk finds what is known to matter: it would find another.
    assert {
        "DateStyle",
        "IntervalStyle",
        "TimeZone",
        "extra_float_digits",
        "bytea_output",
        "array_nulls",
    } <= found.keys()


@pytest.mark.pair(16, 18)
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_database_that_has_them_all_otherwise_gives_and_takes_the_same_rows(
    source: Database, target: Database, side: str
) -> None:
    """All at once, since each alone is seen by the walk; those without a copy that works are walked alone there."""
    for database in (source, target):
        Table.made(database)
    target.execute(
        "ALTER TABLE odd.things DROP COLUMN IF EXISTS c39, DROP COLUMN IF EXISTS c40; DELETE FROM odd.things"
    )
    odd = {"quote_all_identifiers": "on"} | {name: values[0] for name, values in OTHERS.items()} | {
        "IntervalStyle": "sql_standard", "bytea_output": "escape", "array_nulls": "off", "xmloption": "document",
        "standard_conforming_strings": "off", "row_security": "on", "backslash_quote": "off",
        "transform_null_equals": "on", "escape_string_warning": "off",
    }  # fmt: skip
    chosen = {"source": source, "target": target}[side]
    for name, value in odd.items():
        with chosen.connect() as session:
            given = (
                SQL(", ").join(map(Identifier, value.split(", "))) if name == "search_path" else SQL("{}").format(value)
            )
            told = SQL("ALTER DATABASE {} SET {} TO {}").format(Identifier(chosen.name), SQL(name), given)
            session.execute(told)
    for form in ("text", "auto"):
        for verify in ("counts", "full"):
            spec = CopySpec.of(source_table="odd.things", target_table="odd.things", format=form, verify=verify)
            pipeline.copy(spec, source.endpoint, target.endpoint)
            assert held(target) == held(source)


@pytest.mark.pair(18, 18)
@pytest.mark.parametrize("form", ["text", "binary"])
def test_a_null_in_an_array_stays_one(source: Database, target: Database, form: str) -> None:
    """In text it would become the string NULL where the target reads arrays without NULLs."""
    for database in (source, target):
        database.execute("CREATE TABLE 배열 (값 text[])")
    source.execute("INSERT INTO 배열 VALUES (ARRAY['가', NULL])")
    target.execute(f'ALTER DATABASE "{target.name}" SET array_nulls = off')
    spec = CopySpec.of(source_table="public.배열", target_table="public.배열", format=form)
    try:
        pipeline.copy(spec, source.endpoint, target.endpoint)
    except SafeCopyError:
        pytest.fail("it is copied")
    assert target.rows("SELECT 값 FROM public.배열") == [(["가", None],)]
