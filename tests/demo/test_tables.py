"""The demo's tables: realistic, awkward, the same on every server."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from threading import Event

import pytest

from airflow_provider_safecopy.demo import tables
from airflow_provider_safecopy.demo.servers import Server, installations
from airflow_provider_safecopy.demo.tables import Content, Database
from tests.support.database import ALWAYS
from tests.support.place import place

LONG = "월별지역별상품군별매출실적및재고현황집계표"
ROWS = {"고객": 1_200, "주문_내역": 4_200, LONG: 54 * 17 * 12}


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Database, Database]]:
    """The demo's two databases, smaller, on servers of their own: their names are fixed."""
    found = {each.major: each for each in installations()}
    older, newer = (found[major] for major in ALWAYS)
    with (
        pytest.MonkeyPatch.context() as patch,
        Server.start(older, durable=False, place=place()) as one,
        Server.start(newer, durable=False, place=place()) as other,
    ):
        patch.setattr(tables, "CUSTOMERS", ROWS["고객"])
        patch.setattr(tables, "ORDERS", ROWS["주문_내역"])
        source, target = Database(one, "erp", "영업"), Database(other, "dw", "분석")
        tables.fill_source(source, Event())
        tables.fill_target(target, Event())
        yield source, target


def test_the_demo_copies_half_a_million_rows() -> None:
    assert tables.CUSTOMERS >= 100_000
    assert tables.ORDERS >= 400_000
    assert tables.CUSTOMERS + tables.ORDERS >= 500_000


def test_one_name_is_as_long_as_a_name_can_be(pair: tuple[Database, Database]) -> None:
    with pair[0].session() as session:
        names = {name for (name,) in session.execute("SELECT tablename FROM pg_tables WHERE schemaname = '영업'")}
    assert names == {"고객", "주문_내역", LONG}
    assert len(LONG.encode()) == 63


def test_the_source_is_full_and_the_target_holds_yesterday(pair: tuple[Database, Database]) -> None:
    source, target = pair
    assert tables.counts(source) == ROWS
    before = tables.counts(target)
    assert before["고객"] == ROWS["고객"] // 10 + 1  # one of them has left since
    assert before["주문_내역"] == ROWS["주문_내역"] // 10
    assert 0 < before[LONG] < ROWS[LONG]
    contents = tables.contents(source), tables.contents(target)
    assert all(contents[0][table] != contents[1][table] for table in ROWS)


def test_the_types_are_many(pair: tuple[Database, Database]) -> None:
    query = (
        "SELECT DISTINCT format_type(atttypid, atttypmod) FROM pg_attribute JOIN pg_class c ON c.oid = attrelid "
        "WHERE c.relnamespace = '영업'::regnamespace AND c.relkind = 'r' AND attnum > 0"
    )
    with pair[0].session() as session:
        types = {name for (name,) in session.execute(query.encode())}
    assert types == {
        *("bigint", "integer", "integer[]", "text", "text[]", "boolean", "date", "jsonb", "bytea", "double precision"),
        *("timestamp with time zone", "numeric(12,2)", "character varying(20)", "character varying(30)", '"고객등급"'),
    }


def test_the_text_is_as_awkward_as_people_s_is(pair: tuple[Database, Database]) -> None:
    with pair[0].session() as session:
        texts = {text for (text,) in session.execute("SELECT DISTINCT 비고 FROM 고객".encode())}
    nfd = {text for text in texts if text and not unicodedata.is_normalized("NFC", text)}
    assert {None, "", "NULL", "\\N", "\\."} <= texts
    assert nfd
    for piece in ("\t", "\n", "\r\n", "\\", '"', "'", "😀", "똠", "\x01", "　"):
        assert any(text and piece in text for text in texts), piece


def test_every_server_makes_the_same_rows_and_any_difference_shows(pair: tuple[Database, Database]) -> None:
    source, target = pair
    with target.session() as session:
        session.execute("TRUNCATE 고객".encode())
        session.execute(tables._statement("customers"), {"rows": ROWS["고객"]})
        same = tables.contents(target)["고객"]
        assert same == tables.contents(source)["고객"] == Content(ROWS["고객"], same.hash)
        for change in ("비고 = 'NULL' WHERE 비고 IS NULL", "이름 = 이름 || ' ' WHERE 고객번호 = 7"):
            session.execute("BEGIN")
            session.execute(f"UPDATE 고객 SET {change}".encode())
            session.execute("COMMIT")
            assert tables.contents(target)["고객"].hash != same.hash


def test_a_running_copy_is_seen_on_either_side(pair: tuple[Database, Database]) -> None:
    source, target = pair
    with source.session() as watching, target.session() as also, source.session() as one, target.session() as other:
        assert tables.positions(watching, also, ROWS) == {}
        one.execute("SET application_name = 'safecopy:1'")
        other.execute("SET application_name = 'safecopy:1'; CREATE TABLE \"주문_내역__safecopy_1_a\" (n int)".encode())
        copy_out = 'COPY (SELECT repeat(주문번호::text, 999) FROM "영업"."주문_내역") TO STDOUT'
        with (
            one.cursor().copy(copy_out.encode()) as reading,
            other.cursor().copy('COPY "분석"."주문_내역__safecopy_1_a" FROM STDIN'.encode()) as writing,
        ):
            reading.read()
            writing.write(b"1\n2\n3\n" * 100_000)
            seen = tables.positions(watching, also, ROWS)
            assert seen.keys() == {"주문_내역"}
            assert seen["주문_내역"].rows == ROWS["주문_내역"]
            assert 0 < seen["주문_내역"].exported < ROWS["주문_내역"]
            for _ in reading:
                pass
        assert tables.positions(watching, also, ROWS) == {}
        other.execute('DROP TABLE "주문_내역__safecopy_1_a"'.encode())


def test_filling_stops_when_told_to(pair: tuple[Database, Database]) -> None:
    stop = Event()
    stop.set()
    server = pair[1].server
    database = Database(server, "erp", "영업")
    tables._make(database, "schema_of_source", 1, 1, stop)
    with database.session() as session:
        assert session.execute("SELECT to_regclass('영업.고객')".encode()).fetchone() == (None,)
