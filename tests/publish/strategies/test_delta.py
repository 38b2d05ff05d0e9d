"""Delta: only what differs is written, whatever the type, whatever must be unique, and whoever refers to it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytest_mock import MockerFixture

from airflow_provider_safecopy.errors import PlanError, StageError, VerifyError
from airflow_provider_safecopy.postgres import lock_retry
from airflow_provider_safecopy.publish import receipt
from airflow_provider_safecopy.publish.context import PublishContext
from airflow_provider_safecopy.publish.receipt import WatermarkChange
from airflow_provider_safecopy.report import WrittenRows
from airflow_provider_safecopy.spec import Progress
from tests.conftest import MakeDatabase, MakeRole, NothingLeft
from tests.support.database import ALWAYS, PRESENT, Database, Servers
from tests.support.loose import LOOSE
from tests.support.pairs import NEW, OLD, Pair, counts
from tests.support.selection import number_of_examples

ACTIONS = ["NO ACTION", "RESTRICT", "CASCADE", "SET NULL", "SET DEFAULT"]
BOTH_MAJORS = pytest.mark.parametrize("own", [16, 18], indirect=True)
SEAT = "번호 int PRIMARY KEY, 자리 int"
OLD_SEATS, SEATS_SWAPPED = "(1, 10), (2, 20), (3, 30)", "(1, 20), (2, 10), (3, 30)"
"""An old table, and a new one in which two rows have exchanged what is unique."""


@pytest.fixture(scope="module")
def own(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Database]:
    """One database for the whole file; of the newest major, unless a test asks for both."""
    made = servers.create(getattr(request, "param", 18), "UTF8", None)
    yield made
    servers.drop(made)


@pytest.fixture
def pair(own: Database, role: MakeRole) -> Iterator[Pair]:
    """Empty again after each test. `role` is asked for so that its roles go before the schema does."""
    own.execute('DROP SCHEMA IF EXISTS "자료" CASCADE; CREATE SCHEMA "자료"')
    yield Pair(own)
    for (name,) in own.rows("SELECT pubname FROM pg_publication"):
        own.execute(f'DROP PUBLICATION "{name}"')


def children(pair: Pair, action: str, rows: str, *, event: str = "DELETE", column: str = "번호") -> None:
    """A table of another's that refers to the target."""
    pair.database.execute(
        f"CREATE TABLE 자료.자식 (id int PRIMARY KEY, 부모 int DEFAULT 3 "
        f"CONSTRAINT 자식_부모 REFERENCES {OLD} ({column}) ON {event} {action}); INSERT INTO 자료.자식 VALUES {rows}"
    )


# What differs

VALUES = {
    "boolean": ("true", "false"),
    "integer": ("1", "2"),
    "numeric": ("1.0", "1.00"),
    "double precision": ("'-0'", "'0'"),
    "real": ("'NaN'", "'1'"),
    "text": ("'가'", "'\u1100\u1161'"),
    "character varying(9)": ("'a'", "'a '"),
    "character(3)": ("'a'", "'b'"),
    "bytea": ("'\\x00'", "'\\x0000'"),
    "json": ("'{\"a\":1}'", "'{\"a\": 1}'"),
    "jsonb": ("'{\"a\":1.0}'", "'{\"a\":1.00}'"),
    "point": ("'(1,2)'", "'(1,3)'"),
    "box": ("'(2,1),(0,0)'", "'(1,2),(0,0)'"),
    "polygon": ("'(0,0),(1,0),(1,1)'", "'(1,0),(1,1),(0,0)'"),
    "interval": ("'1 day'", "'24 hours'"),
    "timestamp with time zone": ("'2026-01-01 09:00+09'", "'2026-01-01 09:00:00.000001+09'"),
    "time with time zone": ("'09:00+09'", "'00:00+00'"),
    "integer[]": ("'{1,2}'", "'[0:1]={1,2}'"),
    "text[]": ("'{a,NULL}'", "'{a,\"NULL\"}'"),
    "json[]": ("'{\"1\"}'", "'{\"1 \"}'"),
    "int4range": ("'[1,3)'", "'[1,4)'"),
    "uuid": ("'00000000-0000-0000-0000-000000000001'", "'00000000-0000-0000-0000-000000000002'"),
    "inet": ("'10.0.0.1/8'", "'10.0.0.1/9'"),
    "bit varying": ("'01'", "'010'"),
    "tsvector": ("'a:1'", "'a:2'"),
    "자료.느슨": ("'Kim'", "'kim'"),
    "자료.색": ("'빨강'", "'파랑'"),
    "자료.겹": ("'(1,{})'", "'(1,[])'"),
    "자료.짝수": ("2", "4"),
}
TYPES = """
CREATE TYPE 자료.색 AS ENUM ('파랑', '빨강'); CREATE TYPE 자료.겹 AS (수 int, 글 json);
CREATE DOMAIN 자료.짝수 AS int CHECK (VALUE % 2 = 0)
"""


@BOTH_MAJORS
def test_any_difference_of_any_type_is_found_and_nothing_else(pair: Pair) -> None:
    """Row n changes in column n alone; then there are a row that is NULL everywhere in one or the other, and one that is the same."""
    pair.database.execute(LOOSE.format(schema="자료"))
    pair.database.execute(TYPES)
    columns = ", ".join(f'"열 {number}" {type_}' for number, type_ in enumerate(VALUES, 1))
    before, after = zip(*VALUES.values(), strict=True)
    nulls = ["NULL"] * len(VALUES)
    width = range(1, len(VALUES) + 1)
    old: list[Sequence[str]] = [before, nulls, before, *([before] * len(VALUES))]
    new: list[Sequence[str]] = [before, before, nulls, *([*before[: n - 1], after[n - 1], *before[n:]] for n in width)]
    pair.made(f"번호 int PRIMARY KEY, {columns}", old=rows_with_numbers(old), new=rows_with_numbers(new))
    places = pair.places("번호")
    written = pair.copied(verify="full")
    assert counts(written) == (0, len(VALUES) + 2, 0, 1)
    assert [number for number, place in pair.places("번호").items() if places[number] == place] == [1]


def rows_with_numbers(rows: Sequence[Sequence[str]]) -> str:
    return ", ".join(f"({number}, {', '.join(values)})" for number, values in enumerate(rows, 1))


def test_rows_are_deleted_updated_and_inserted_and_counted(pair: Pair) -> None:
    pair.made(
        '"번 호" int PRIMARY KEY, "이""름" text',
        old="(1, 'a'), (2, 'b'), (3, NULL), (4, 'd')",
        new="(2, 'b'), (3, 'c'), (5, 'e'), (6, NULL)",
    )
    places = pair.places('"번 호"')
    written = pair.copied()
    assert counts(written) == (2, 1, 2, 1)
    assert (written.current_rows, written.previous_rows) == (4, 4)
    assert pair.places('"번 호"')[2] == places[2]


def test_nothing_is_written_where_nothing_differs(pair: Pair) -> None:
    pair.made("번호 int PRIMARY KEY, 값 text")
    for table in (OLD, NEW):
        pair.database.execute(f"INSERT INTO {table} SELECT g, repeat('값', g % 50) FROM generate_series(1, 5000) g")
    pair.database.execute(
        "CREATE FUNCTION 자료.터짐() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'fired'; END$$;"
        f"CREATE TRIGGER 터짐 BEFORE INSERT OR UPDATE OR DELETE ON {OLD} EXECUTE FUNCTION 자료.터짐()"
    )
    pages = f"SELECT pg_total_relation_size('{OLD}')"
    before = pair.database.value(pages)
    with pair.unchanged():
        assert counts(pair.copied()) == (0, 0, 0, 5000)
    assert pair.database.value(pages) == before


def test_a_table_of_nothing_but_its_key(pair: Pair) -> None:
    pair.made("가 int, 나 text, PRIMARY KEY (나, 가)", old="(1, 'a'), (2, 'b')", new="(2, 'b'), (2, 'c')")
    assert counts(pair.copied()) == (1, 0, 1, 1)


def test_an_empty_target_is_filled_and_an_empty_source_empties(pair: Pair) -> None:
    pair.made(SEAT, new="(1, 1), (2, 2)")
    assert counts(pair.copied()) == (2, 0, 0, 0)
    pair.database.execute(f"TRUNCATE {NEW}")
    assert counts(pair.copied(min_rows=0)) == (0, 0, 2, 0)


@pytest.mark.parametrize(
    "type_, old, new",
    [("numeric", "1.0", "1.00"), ("float8", "'-0'", "'0'"), ("자료.느슨", "'Kim'", "'KIM'")],
)
def test_a_key_that_is_equal_and_looks_otherwise_is_updated(pair: Pair, type_: str, old: str, new: str) -> None:
    pair.database.execute(LOOSE.format(schema="자료"))
    pair.made(f"열쇠 {type_} PRIMARY KEY, 값 int", old=f"({old}, 1)", new=f"({new}, 1)")
    assert counts(pair.copied()) == (0, 1, 0, 0)


@pytest.fixture
def rich(database: MakeDatabase) -> Pair:
    """On a server with libxml and ICU: a distribution's, for the wheel's have neither."""
    major = next((each for each in PRESENT if each not in ALWAYS), None)
    if major is None:
        pytest.skip("this machine has PostgreSQL from the wheel alone, without libxml and ICU")
    made = Pair(database(major=major))
    made.database.execute('CREATE SCHEMA "자료"')
    return made


def test_xml_is_compared_though_it_has_no_equality(rich: Pair) -> None:
    rich.made("번호 int PRIMARY KEY, 값 xml", old="(1, '<a/>'), (2, '<b/>')", new="(1, '<a></a>'), (2, '<b/>')")
    assert counts(rich.copied()) == (0, 1, 0, 1)


@pytest.mark.parametrize(
    "column, also",
    [
        ("text COLLATE 자료.무시 PRIMARY KEY", ""),
        ("text NOT NULL", f"CREATE UNIQUE INDEX ON {OLD} (이름 COLLATE 자료.무시)"),
    ],
)
def test_a_key_whose_collation_disregards_case_is_one_row(rich: Pair, column: str, also: str) -> None:
    rich.database.execute(
        "CREATE COLLATION 자료.무시 (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
    )
    rows = {"old": "('Kim', 1), ('Lee', 2)", "new": "('KIM', 1), ('Lee', 2)"}
    rich.made(f"이름 {column}, 값 int", also=also, **rows)
    assert counts(rich.copied()) == (0, 1, 0, 1)


def test_a_key_is_not_set_for_nothing(pair: Pair) -> None:
    pair.made(SEAT, old="(1, 10), (2, 20)", new="(1, 11), (2, 21)")
    pair.database.execute(
        "CREATE FUNCTION 자료.터짐() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'fired'; END$$;"
        f"CREATE TRIGGER 터짐 BEFORE UPDATE OF 번호 ON {OLD} FOR EACH ROW EXECUTE FUNCTION 자료.터짐()"
    )
    assert counts(pair.copied()) == (0, 2, 0, 0)


def test_another_unique_index_can_be_the_key(pair: Pair) -> None:
    """Its rows then keep what they are, and change their primary key."""
    pair.made("번호 int PRIMARY KEY, 코드 text NOT NULL UNIQUE", old="(1, 'a'), (2, 'b')", new="(2, 'a'), (1, 'b')")
    assert counts(pair.copied(key_columns=["코드"])) == (0, 2, 0, 0)


def test_columns_that_are_not_copied_are_left_alone(pair: Pair) -> None:
    columns = "번호 int PRIMARY KEY, 자리 int UNIQUE, 두배 int GENERATED ALWAYS AS (자리 * 2) STORED UNIQUE"
    pair.made("번호 int, 자리 int", new=SEATS_SWAPPED + ", (4, 40)")
    pair.database.execute(
        f"DROP TABLE {OLD}; CREATE TABLE {OLD} ({columns}, 메모 text DEFAULT '새로', 순번 int GENERATED ALWAYS AS IDENTITY)"
    )
    pair.database.execute(
        f"INSERT INTO {OLD} (번호, 자리, 메모) SELECT g, g * 10, '옛 ' || g FROM generate_series(1, 3) g"
    )
    written = pair.copy(columns=["번호", "자리"])
    assert counts(written) == (1, 2, 0, 1)
    assert pair.database.rows(f"SELECT * FROM {OLD} ORDER BY 1") == [
        (1, 20, 40, "옛 1", 1),
        (2, 10, 20, "옛 2", 2),
        (3, 30, 60, "옛 3", 3),
        (4, 40, 80, "새로", 4),
    ]


def test_identities_that_are_always_generated_are_kept_and_changed(pair: Pair) -> None:
    pair.made("번호 int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, 값 int", old="(1, 1), (2, 2)", new="(2, 3), (7, 7)")
    assert counts(pair.copied()) == (1, 1, 1, 0)


def test_an_identity_that_no_update_may_set_is_written_anew(pair: Pair) -> None:
    pair.made(
        "코드 text PRIMARY KEY, 순번 int GENERATED ALWAYS AS IDENTITY",
        old="('a', 1), ('b', 2)",
        new="('a', 5), ('b', 2)",
    )
    assert counts(pair.copied()) == (0, 1, 0, 1)


@BOTH_MAJORS
@pytest.mark.parametrize("also", ["", "CREATE UNIQUE INDEX ON {} (해, 자리)"])
def test_rows_move_between_partitions(pair: Pair, also: str) -> None:
    pair.made("번호 int, 해 int, 자리 int", new="(1, 2025, 10), (2, 2026, 20), (3, 2026, 30), (4, 2026, 40)")
    pair.database.execute(
        f"DROP TABLE {OLD}; CREATE TABLE {OLD} (번호 int NOT NULL, 해 int, 자리 int) PARTITION BY LIST (해);"
        f"CREATE TABLE 자료.작년 PARTITION OF {OLD} FOR VALUES IN (2025); CREATE TABLE 자료.올해 (자리 int, 번호 int NOT NULL, 해 int);"
        f"ALTER TABLE {OLD} ATTACH PARTITION 자료.올해 FOR VALUES IN (2026); ALTER TABLE {OLD} ADD PRIMARY KEY (번호, 해);"
        + also.format(OLD)
    )
    pair.database.execute(f"INSERT INTO {OLD} VALUES (1, 2026, 10), (2, 2026, 30), (3, 2026, 20), (5, 2025, 50)")
    assert counts(pair.copied()) == (2, 2, 2, 0)
    pair.database.execute(f"UPDATE {NEW} SET 자리 = 자리 + 10")
    assert counts(pair.copied()) == (0, 4, 0, 0)


def test_a_row_of_one_key_moves_to_another_partition(pair: Pair) -> None:
    pair.made("번호 int PRIMARY KEY, 나라 text", new="(1, 'KR'), (2, 'KR'), (3, 'JP')")
    pair.database.execute(
        f"DROP TABLE {OLD}; CREATE TABLE {OLD} (번호 int PRIMARY KEY, 나라 text) PARTITION BY HASH (번호);"
        f"CREATE TABLE 자료.하나 PARTITION OF {OLD} FOR VALUES WITH (MODULUS 2, REMAINDER 0) PARTITION BY RANGE (번호);"
        f"CREATE TABLE 자료.하나_ PARTITION OF 자료.하나 FOR VALUES FROM (MINVALUE) TO (MAXVALUE);"
        f"CREATE TABLE 자료.둘 PARTITION OF {OLD} FOR VALUES WITH (MODULUS 2, REMAINDER 1);"
        f"INSERT INTO {OLD} VALUES (1, 'JP'), (2, 'JP'), (3, 'JP')"
    )
    assert counts(pair.copied()) == (0, 2, 0, 1)


# What must be unique


CLASHES = {
    "two exchange": ("UNIQUE (자리)", OLD_SEATS, SEATS_SWAPPED),
    "three in a ring": ("UNIQUE (자리)", OLD_SEATS, "(1, 20), (2, 30), (3, 10)"),
    "a chain": ("UNIQUE (자리)", OLD_SEATS, "(1, 20), (2, 30), (3, 40)"),
    "a chain backwards": ("UNIQUE (자리)", OLD_SEATS, "(3, 20), (2, 10), (1, 0)"),
    "a new row takes it": ("UNIQUE (자리)", OLD_SEATS, "(1, 15), (2, 20), (3, 30), (4, 10)"),
    "from one that vanished": ("UNIQUE (자리)", OLD_SEATS, "(4, 10), (2, 30), (3, 20)"),
    "deferrable": ("UNIQUE (자리) DEFERRABLE", OLD_SEATS, SEATS_SWAPPED),
    "excluded": ("EXCLUDE USING gist (구간 WITH &&)", OLD_SEATS, SEATS_SWAPPED),
    "with NULLs": ("UNIQUE (자리)", "(1, NULL), (2, 20), (3, 30)", "(1, 20), (2, NULL), (3, NULL)"),
    "generated": ("UNIQUE (두배)", OLD_SEATS, SEATS_SWAPPED),
    "by expression": ("CREATE UNIQUE INDEX ON {} ((자리 % 40))", OLD_SEATS, "(1, 60), (2, 50), (3, 30)"),
    "by part": ("CREATE UNIQUE INDEX ON {} ((1)) WHERE 자리 = 10", OLD_SEATS, SEATS_SWAPPED),
    "NULLs that are one": (
        "UNIQUE NULLS NOT DISTINCT (자리)",
        "(1, NULL), (2, 20), (3, 30)",
        "(1, 20), (2, NULL), (3, 30)",
    ),
}


@BOTH_MAJORS
@pytest.mark.parametrize(
    "clash, referred",
    [
        *((clash, None) for clash in CLASHES),
        *((clash, "CASCADE") for clash in CLASHES),
        *(("a chain", action) for action in ACTIONS),
    ],
)
def test_rows_exchange_what_must_be_unique(pair: Pair, clash: str, referred: str | None) -> None:
    """And rows that others refer to do so without these noticing."""
    rule, old, new = CLASHES[clash]
    computed = "두배 int GENERATED ALWAYS AS (자리 * 2) STORED, 구간 int4range GENERATED ALWAYS AS (int4range(자리, 자리 + 10)) STORED"
    pair.made(SEAT, new=new)
    table, index = ("", rule.format(OLD)) if rule.startswith("CREATE") else (f", {rule}", "")
    pair.database.execute(
        f"DROP TABLE {OLD}; CREATE TABLE {OLD} ({SEAT}, {computed}{table}); INSERT INTO {OLD} VALUES {old}; {index}"
    )
    if referred:
        children(pair, referred, "(1, 2), (2, 2), (3, 3)")
    written = pair.copy()
    assert pair.database.rows(f"SELECT 번호, 자리 FROM {OLD} ORDER BY 1") == pair.database.rows(
        f"SELECT 번호, 자리 FROM {NEW} ORDER BY 1"
    )
    assert written.current_rows == written.inserted + written.updated + written.unchanged
    if referred:
        assert pair.database.rows("SELECT * FROM 자료.자식 ORDER BY 1") == [(1, 2), (2, 2), (3, 3)]


@pytest.mark.parametrize(
    "type_, one, other",
    [
        ("smallint", "1", "2"),
        ("numeric(6,2)", "1.5", "2.5"),
        ("text", "'가'", "'나'"),
        ("uuid", f"'{'0' * 32}'", f"'{'1' * 32}'"),
    ],
)
def test_rows_that_are_referred_to_exchange_what_may_not_be_null(pair: Pair, type_: str, one: str, other: str) -> None:
    pair.made(
        f"번호 int PRIMARY KEY, 값 {type_} NOT NULL",
        old=f"(1, {one}), (2, {other})",
        new=f"(1, {other}), (2, {one})",
        also=f"ALTER TABLE {OLD} ADD UNIQUE (값)",
    )
    children(pair, "CASCADE", "(1, 1), (2, 2)")
    assert counts(pair.copied()) == (0, 2, 0, 0)
    assert pair.database.rows("SELECT * FROM 자료.자식 ORDER BY 1") == [(1, 1), (2, 2)]


def test_what_can_wait_for_the_commit_does_not_forbid_the_exchange(pair: Pair) -> None:
    """One table's rows forbid to delete the target's, another's must find their values again at the end."""
    pair.made(SEAT, old=OLD_SEATS, new=SEATS_SWAPPED, also=f"ALTER TABLE {OLD} ADD UNIQUE (자리)")
    children(pair, "RESTRICT", "(1, 1), (2, 2)")
    pair.database.execute(
        f"CREATE TABLE 자료.손님 (자리 int REFERENCES {OLD} (자리) DEFERRABLE); INSERT INTO 자료.손님 VALUES (10), (20)"
    )
    assert counts(pair.copied()) == (0, 2, 0, 1)
    assert pair.database.rows("SELECT * FROM 자료.손님 ORDER BY 1") == [(10,), (20,)]


def test_operators_that_the_role_finds_first_have_no_say(pair: Pair) -> None:
    pair.made(
        "번호 int PRIMARY KEY, 자리 int, 이름 text",
        old="(1, 10, 'a'), (2, 20, 'b'), (3, 30, 'c')",
        new="(1, 20, 'x'), (2, 10, 'b'), (4, 40, 'd')",
        also=f"ALTER TABLE {OLD} ADD UNIQUE (자리)",
    )
    children(pair, "CASCADE", "(1, 1)")
    pair.database.execute("CREATE SCHEMA 함정")
    for type_ in ("int", "text", "oid", "tid", "name", "bigint", '"char"'):
        pair.database.execute(
            f"CREATE FUNCTION 함정.아님({type_}, {type_}) RETURNS bool LANGUAGE sql AS 'SELECT false';"
            f"CREATE OPERATOR 함정.= (LEFTARG = {type_}, RIGHTARG = {type_}, FUNCTION = 함정.아님)"
        )
    try:
        pair.database.execute(f'ALTER DATABASE "{pair.database.name}" SET search_path = 함정, pg_catalog')
        written = pair.copy()
    finally:
        pair.database.execute(f'ALTER DATABASE "{pair.database.name}" RESET search_path; DROP SCHEMA 함정 CASCADE')
    assert counts(written) == (1, 2, 1, 0)
    assert pair.same()


def test_what_cannot_be_exchanged_fails_and_names_the_constraint(pair: Pair, nothing_left: NothingLeft) -> None:
    pair.made(
        "번호 int PRIMARY KEY, 날 date NOT NULL",
        old="(1, '2026-01-01'), (2, '2026-01-02')",
        new="(1, '2026-01-02'), (2, '2026-01-01')",
        also=f"ALTER TABLE {OLD} ADD CONSTRAINT 하루 UNIQUE (날)",
    )
    children(pair, "RESTRICT", "(1, 1), (2, 2)")
    with pair.unchanged(), pytest.raises(StageError, match=r"(?s)하루.*nothing was changed.*DEFERRABLE") as caught:
        pair.copy()
    assert (caught.value.stage, caught.value.sqlstate, caught.value.retryable) == ("publish", "23505", False)
    nothing_left(pair.database)


def test_a_source_that_breaks_a_constraint_fails_and_changes_nothing(pair: Pair) -> None:
    pair.made(SEAT, old=OLD_SEATS, new="(1, 20), (2, 20), (3, 30)", also=f"ALTER TABLE {OLD} ADD UNIQUE (자리)")
    with pair.unchanged(), pytest.raises(StageError, match="duplicate key") as caught:
        pair.copy()
    assert (caught.value.sqlstate, caught.value.retryable) == ("23505", False)


def test_a_partition_may_have_a_unique_index_of_its_own(pair: Pair) -> None:
    pair.made("번호 int, 자리 int", new=SEATS_SWAPPED)
    pair.database.execute(
        f"DROP TABLE {OLD}; CREATE TABLE {OLD} (번호 int PRIMARY KEY, 자리 int) PARTITION BY RANGE (번호);"
        f"CREATE TABLE 자료.조각 PARTITION OF {OLD} FOR VALUES FROM (0) TO (100); CREATE UNIQUE INDEX ON 자료.조각 (자리);"
        f"INSERT INTO {OLD} VALUES {OLD_SEATS}"
    )
    assert counts(pair.copied()) == (0, 2, 0, 1)


# Who refers to it


@BOTH_MAJORS
@pytest.mark.parametrize("action", ACTIONS)
def test_rows_that_vanish_and_are_referred_to_are_not_deleted(
    pair: Pair, action: str, nothing_left: NothingLeft
) -> None:
    pair.made(SEAT, old=OLD_SEATS, new="(2, 21), (4, 40)")
    children(pair, action, "(1, 1), (2, 2), (3, 3), (4, 3)")
    with pair.unchanged(), pytest.raises(StageError, match="자식_부모") as caught:
        pair.copy()
    assert (caught.value.sqlstate, caught.value.retryable) == (
        "23001" if action == "RESTRICT" and pair.database.major > 17 else "23503",
        False,
    )
    if action not in {"NO ACTION", "RESTRICT"}:
        assert (
            f"3 rows of 자료.자식 still refer by 자식_부모 to rows that vanished from the source: its ON DELETE {action}"
            in str(caught.value)
        )
    assert pair.database.value("SELECT count(*) FROM 자료.자식") == 4
    nothing_left(pair.database)


@pytest.mark.parametrize("action", ACTIONS)
def test_rows_that_vanish_unreferred_are_deleted(pair: Pair, action: str) -> None:
    pair.made(SEAT, old=OLD_SEATS, new="(3, 31), (4, 40)")
    children(pair, action, "(1, 3), (2, NULL)")
    assert counts(pair.copied()) == (1, 1, 2, 0)
    assert pair.database.rows("SELECT * FROM 자료.자식 ORDER BY 1") == [(1, 3), (2, None)]


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "SET DEFAULT"])
def test_values_that_are_referred_to_do_not_change_beneath_others(pair: Pair, action: str) -> None:
    pair.made(SEAT, old=OLD_SEATS, new="(1, 11), (2, 20), (3, 31)", also=f"ALTER TABLE {OLD} ADD UNIQUE (자리)")
    children(pair, action, "(1, 10), (2, 20)", event="UPDATE", column="자리")
    with pair.unchanged(), pytest.raises(StageError, match=rf"1 rows of 자료.자식 .*ON UPDATE {action}"):
        pair.copy()
    pair.database.execute("DELETE FROM 자료.자식 WHERE id = 1")
    assert counts(pair.copied()) == (0, 2, 0, 1)
    assert pair.database.rows("SELECT * FROM 자료.자식") == [(2, 20)]


def test_others_may_refer_to_a_partitioned_target_and_to_a_part_of_it(pair: Pair) -> None:
    pair.made(SEAT, new="(1, 10), (150, 20)")
    pair.database.execute(
        f"DROP TABLE {OLD}; CREATE TABLE {OLD} ({SEAT}) PARTITION BY RANGE (번호);"
        f"CREATE TABLE 자료.앞 PARTITION OF {OLD} FOR VALUES FROM (0) TO (100);"
        f"CREATE TABLE 자료.뒤 PARTITION OF {OLD} FOR VALUES FROM (100) TO (200);"
        f"INSERT INTO {OLD} VALUES (1, 10), (2, 20), (150, 20), (151, 30); CREATE TABLE 자료.몫 (부모 int, 해 int) PARTITION BY LIST (해);"
        "CREATE TABLE 자료.몫_26 PARTITION OF 자료.몫 FOR VALUES IN (2026);"
        f"ALTER TABLE 자료.몫 ADD CONSTRAINT 모두 FOREIGN KEY (부모) REFERENCES {OLD} ON DELETE CASCADE;"
        "CREATE TABLE 자료.곁 (부모 int CONSTRAINT 일부 REFERENCES 자료.뒤 ON DELETE SET NULL);"
        "INSERT INTO 자료.몫 VALUES (2, 2026), (2, 2026), (1, 2026); INSERT INTO 자료.곁 VALUES (151), (150)"
    )
    with pytest.raises(StageError, match=r"2 rows of 자료[.]몫 still refer by 모두"):
        pair.copy()
    pair.database.execute("DELETE FROM 자료.몫 WHERE 부모 = 2")
    with pytest.raises(StageError, match=r"1 rows of 자료.곁 still refer by 일부 .*set them to NULL|set to NULL"):
        pair.copy()
    pair.database.execute("UPDATE 자료.곁 SET 부모 = 150")
    assert counts(pair.copied()) == (0, 0, 2, 2)


def test_a_child_that_comes_meanwhile_is_seen(pair: Pair, mocker: MockerFixture) -> None:
    """It holds its parent, which vanishes, until it is committed: then the publish, which has waited, finds it."""
    mocker.patch.object(lock_retry, "iterate_steps", return_value=itertools.repeat(60.0))
    pair.made(SEAT, old=OLD_SEATS, new="(2, 20), (3, 30)")
    children(pair, "CASCADE", "(1, 2)")
    failed: list[Exception] = []

    def publish() -> None:
        try:
            pair.copy()
        except StageError as error:
            failed.append(error)

    with pair.database.connect() as other:
        other.execute("BEGIN")
        other.execute("INSERT INTO 자료.자식 VALUES (9, 1)".encode())
        running = threading.Thread(target=publish)
        running.start()
        until(
            pair,
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name LIKE 'safecopy:%' AND wait_event_type = 'Lock'",
        )
        other.execute("COMMIT")
        running.join(100)
    assert "1 rows of 자료.자식 still refer" in str(failed[0])
    assert pair.database.value("SELECT count(*) FROM 자료.자식") == 2


def until(pair: Pair, question: str) -> None:
    deadline = time.monotonic() + 60
    while not pair.database.value(question):
        assert time.monotonic() < deadline, question
        time.sleep(0.01)


@pytest.mark.parametrize("action", ACTIONS)
def test_a_table_may_refer_to_itself(pair: Pair, action: str) -> None:
    """A parent vanishes with its children, another's child goes to a parent that is new."""
    pair.made(
        "번호 int PRIMARY KEY, 상위 int", old="(1, NULL), (2, 1), (3, 1), (4, 2)", new="(1, NULL), (3, 9), (9, 1)"
    )
    pair.database.execute(f"ALTER TABLE {OLD} ADD FOREIGN KEY (상위) REFERENCES {OLD} ON DELETE {action}")
    assert counts(pair.copied()) == (1, 1, 2, 1)


def test_rows_that_a_foreign_key_of_its_own_takes_along_are_missed(pair: Pair) -> None:
    """The source has an orphan. What refers to a row that vanishes would go with it, and nobody asked for that."""
    pair.made("번호 int PRIMARY KEY, 상위 int", old="(1, NULL), (2, 1)", new="(2, 1)")
    pair.database.execute(f"ALTER TABLE {OLD} ADD FOREIGN KEY (상위) REFERENCES {OLD} ON DELETE CASCADE")
    with pair.unchanged(), pytest.raises(VerifyError):
        pair.copy()


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "SET DEFAULT"])
@pytest.mark.parametrize(
    "way", [{}, {"write_mode": "upsert", "missing": "delete", "publish": "auto"}], ids=["delta", "upsert"]
)
def test_an_action_of_its_own_foreign_key_is_named_where_unique_values_move(
    pair: Pair, action: str, way: Mapping[str, str]
) -> None:
    """The kind: an action on rows that the source keeps was taken for a trigger's doing."""
    pair.made(
        "번호 int PRIMARY KEY, 자리 int UNIQUE, 상위 int DEFAULT 3",
        old="(1, 10, NULL), (2, 20, 1), (3, 30, NULL)",
        new="(2, 30, 1), (3, 20, NULL)",
    )
    pair.database.execute(
        f"ALTER TABLE {OLD} ADD CONSTRAINT 윗줄 FOREIGN KEY (상위) REFERENCES {OLD} ON DELETE {action}"
    )
    with pair.unchanged(), pytest.raises(VerifyError) as caught:
        pair.copy(by=None, **way)
    assert f"its own foreign key 윗줄 (ON DELETE {action})" in caught.value.hint
    assert "trigger" not in caught.value.hint


# Triggers


def trigger(pair: Pair, events: str, body: str) -> None:
    pair.database.execute(
        f"CREATE FUNCTION 자료.방아쇠() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {body} RETURN COALESCE(NEW, OLD); END$$;"
        f"CREATE TRIGGER 방아쇠 {events} ON {OLD} FOR EACH ROW EXECUTE FUNCTION 자료.방아쇠()"
    )


@pytest.mark.parametrize(
    "events, body",
    [
        ("BEFORE INSERT", "IF NEW.번호 = 4 THEN RETURN NULL; END IF;"),
        ("BEFORE UPDATE", "IF NEW.번호 = 2 THEN RETURN NULL; END IF;"),
        ("BEFORE DELETE", "RETURN NULL;"),
        ("BEFORE UPDATE", "NEW.자리 := NEW.자리 + 1;"),
        ("BEFORE INSERT", "NEW.자리 := NULL;"),
        ("AFTER INSERT", f"UPDATE {OLD} SET 자리 = 0 WHERE 번호 = 3;"),
        ("AFTER INSERT", f"DELETE FROM {OLD} WHERE 번호 = 3;"),
    ],
)
def test_triggers_that_have_other_ideas_are_noticed(
    pair: Pair, events: str, body: str, nothing_left: NothingLeft
) -> None:
    pair.made(SEAT, old=OLD_SEATS, new="(2, 21), (3, 30), (4, 40)")
    trigger(pair, events, body)
    with pair.unchanged(), pytest.raises(VerifyError, match=r"nothing was changed.*trigger"):
        pair.copy()
    nothing_left(pair.database)


def test_triggers_fire_for_rows_that_differ_alone(pair: Pair) -> None:
    pair.made(SEAT, old=OLD_SEATS, new="(2, 21), (3, 30), (4, 40)")
    pair.database.execute("CREATE TABLE 자료.기록 (무엇 text, 번호 int)")
    trigger(
        pair, "AFTER INSERT OR UPDATE OR DELETE", "INSERT INTO 자료.기록 VALUES (TG_OP, (COALESCE(NEW, OLD)).번호);"
    )
    assert counts(pair.copied()) == (1, 1, 1, 1)
    assert pair.database.rows("SELECT * FROM 자료.기록 ORDER BY 2") == [("DELETE", 1), ("UPDATE", 2), ("INSERT", 4)]


# What names no row


def test_keys_that_come_twice_are_refused_before_anything_is_written(pair: Pair, nothing_left: NothingLeft) -> None:
    pair.made("가 int, 나 text, PRIMARY KEY (가, 나)", old="(1, 'a')")
    pair.database.execute(f"DROP TABLE {NEW}; CREATE TABLE {NEW} (가 int, 나 text)")
    pair.database.execute(f"INSERT INTO {NEW} VALUES (1, 'a'), (1, 'b'), (1, 'b'), (1, 'b'), (2, 'c'), (2, 'c')")
    with (
        pair.unchanged(),
        pytest.raises(VerifyError, match=r"3 of 6 rows .* repeat another's key; ") as caught,
    ):
        pair.copy()
    assert caught.value.proofs["key"]["repeated"] == 3
    nothing_left(pair.database)


def test_rows_without_a_key_are_refused_before_anything_is_written(pair: Pair) -> None:
    pair.made("가 int, 나 text, PRIMARY KEY (가, 나)", old="(1, 'a')")
    pair.database.execute(f"DROP TABLE {NEW}; CREATE TABLE {NEW} (가 int, 나 text)")
    pair.database.execute(f"INSERT INTO {NEW} VALUES (1, 'a'), (1, NULL), (NULL, NULL)")
    with pair.unchanged(), pytest.raises(VerifyError, match=r"2 of 3 rows .* have no key"):
        pair.copy()


# Who may, and when


def test_auto_chooses_it_where_there_is_a_key(pair: Pair) -> None:
    """And a swap cannot be, as here for the sake of a materialized view."""
    pair.made("번호 int, 자리 int", also=f"CREATE MATERIALIZED VIEW 자료.모음 AS TABLE {OLD}")
    made = pair.plan(publish="auto", min_rows=0)
    assert made.publish == "delete_insert"
    assert any("not delta" in reason and "no primary key" in reason for reason in made.reasons)
    pair.database.execute(f"ALTER TABLE {OLD} ADD PRIMARY KEY (번호)")
    children(pair, "CASCADE", "(1, NULL)")
    made = pair.plan(publish="auto", min_rows=0)
    assert (made.publish, made.refusals) == ("delta", ())
    assert made.key is not None
    assert made.key.names == ("번호",)


RIGHTS = {"SELECT": "SELECT", "INSERT": "INSERT", "UPDATE": "UPDATE (자리)", "DELETE": "DELETE"}


@BOTH_MAJORS
def test_it_takes_no_right_too_many(pair: Pair, role: MakeRole) -> None:
    pair.made(SEAT, old=OLD_SEATS, new="(1, 20), (2, 10), (4, 40)")
    pair.database.execute(f"ALTER TABLE {OLD} ADD UNIQUE (자리)")
    pair.copy()
    pair.database.execute(f"UPDATE {NEW} SET 자리 = 60 - 자리")
    children(pair, "CASCADE", "(1, 1)")
    own = role(pair.database)
    pair.database.execute(
        f'GRANT USAGE ON SCHEMA 자료 TO "{own.role}"; GRANT SELECT ON {NEW} TO "{own.role}";'
        f'GRANT {", ".join(RIGHTS.values())} ON {OLD} TO "{own.role}"; GRANT SELECT (부모) ON 자료.자식 TO "{own.role}";'
        f'GRANT USAGE, CREATE ON SCHEMA safecopy TO "{own.role}"; GRANT ALL ON ALL TABLES IN SCHEMA safecopy TO "{own.role}";'
        f'GRANT ALL ON ALL SEQUENCES IN SCHEMA safecopy TO "{own.role}"'
    )
    assert counts(pair.copied(by=own)) == (0, 3, 0, 0)
    for right, spelled in RIGHTS.items():
        pair.database.execute(f'REVOKE {spelled} ON {OLD} FROM "{own.role}"')
        with pytest.raises(PlanError, match=f"lacks {right}"):
            pair.copy(by=own)
        pair.database.execute(f'GRANT {spelled} ON {OLD} TO "{own.role}"')
    pair.database.execute(f'REVOKE SELECT (부모) ON 자료.자식 FROM "{own.role}"')
    with pytest.raises(PlanError, match=r"자료.자식: role .* lacks SELECT"):
        pair.copy(by=own)


@pytest.mark.parametrize("published", ["update", "delete"])
def test_a_publication_that_could_not_name_its_rows_is_refused(pair: Pair, published: str) -> None:
    pair.made("번호 int NOT NULL UNIQUE, 자리 int", new="(1, 1)")
    pair.database.execute(f"CREATE PUBLICATION 구독 FOR TABLE {OLD} WITH (publish = 'insert, {published}')")
    assert [each.code for each in pair.plan().refusals] == ["no_replica_identity"]
    pair.database.execute(f"ALTER TABLE {OLD} REPLICA IDENTITY FULL")
    assert pair.plan().refusals == ()


def test_a_foreign_partition_is_refused(pair: Pair) -> None:
    pair.database.execute(
        f"CREATE FOREIGN DATA WRAPPER 남; CREATE SERVER 먼곳 FOREIGN DATA WRAPPER 남; CREATE TABLE {NEW} (번호 int);"
        f"CREATE TABLE {OLD} (번호 int) PARTITION BY LIST (번호); CREATE FOREIGN TABLE 자료.먼것 PARTITION OF {OLD} DEFAULT SERVER 먼곳"
    )
    codes = [each.code for each in pair.plan(min_rows=0).refusals]
    pair.database.execute("DROP FOREIGN DATA WRAPPER 남 CASCADE")
    assert "foreign_partition" in codes


def test_a_key_that_changes_meanwhile_is_refused(pair: Pair) -> None:
    pair.made("번호 int PRIMARY KEY, 코드 int NOT NULL UNIQUE", old="(1, 1)", new="(1, 2)")

    def disturb(at: Progress) -> None:
        if at.stage == "verify":
            pair.database.execute(f'ALTER TABLE {OLD} DROP CONSTRAINT "옛것_pkey"')

    from airflow_provider_safecopy import pipeline

    with pair.unchanged(), pytest.raises(PlanError, match="the key it had") as caught:
        pipeline.copy(pair.spec(), pair.database.endpoint, pair.database.endpoint, progress=disturb)
    assert caught.value.retryable


@BOTH_MAJORS
def test_readers_never_wait_and_see_the_old_rows_until_it_is_committed(pair: Pair, mocker: MockerFixture) -> None:
    pair.made(SEAT, old=OLD_SEATS, new="(2, 21), (3, 30), (4, 40)", also=f"ALTER TABLE {OLD} ADD UNIQUE (자리)")
    written, go_on = threading.Event(), threading.Event()
    real = receipt.write_receipt

    def held(job: PublishContext, done: WrittenRows, move: WatermarkChange | None) -> object:
        written.set()
        assert go_on.wait(100)
        return real(job, done, move)

    mocker.patch.object(receipt, "write_receipt", held)
    running = threading.Thread(target=pair.copy)
    with pair.database.connect() as old, pair.database.connect() as reader:
        old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        running.start()
        assert written.wait(100)
        reader.execute("SET lock_timeout = '100ms'; SET statement_timeout = '5s'")
        query = f"SELECT * FROM {OLD} ORDER BY 1".encode()
        try:
            assert reader.execute(query).fetchall() == [(1, 10), (2, 20), (3, 30)]
            reader.execute(f"SELECT FROM {OLD} WHERE 번호 = 3 FOR KEY SHARE".encode())
        finally:
            go_on.set()
            running.join(100)
        assert reader.execute(query).fetchall() == [(2, 21), (3, 30), (4, 40)]
        assert old.execute(query).fetchall() == [(1, 10), (2, 20), (3, 30)]


# Any tables


numbers = st.none() | st.integers(0, 5)
tables = st.dictionaries(st.integers(1, 7), st.tuples(numbers, numbers, st.integers(0, 3)), min_size=1, max_size=7)


def valid(rows: dict[int, tuple[int | None, int | None, int]]) -> bool:
    """Whether the constraints of the next test allow it."""
    ones = [one for one, _, _ in rows.values() if one is not None]
    others = [(other, third > 1) for _, other, third in rows.values() if other is not None and third]
    return len(set(ones)) == len(ones) and len(set(others)) == len(others)


@pytest.fixture
def constrained(pair: Pair) -> Pair:
    pair.made(
        "번호 int PRIMARY KEY, 가 int, 나 int, 다 int",
        also=f"ALTER TABLE {OLD} ADD UNIQUE (가); CREATE UNIQUE INDEX ON {OLD} (나, (다 > 1)) WHERE 다 > 0",
    )
    pair.database.execute(f"CREATE TABLE 자료.자식 (부모 int REFERENCES {OLD} ON DELETE CASCADE)")
    return pair


@settings(
    max_examples=number_of_examples(20),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(old=tables.filter(valid), new=tables.filter(valid), referred=st.sets(st.integers(1, 7)))
def test_any_table_becomes_any_other(
    constrained: Pair, old: dict[int, tuple[int, int, int]], new: dict[int, tuple[int, int, int]], referred: set[int]
) -> None:
    pair = constrained
    pair.database.execute(f"TRUNCATE {OLD}, {NEW}, 자료.자식")
    for table, rows in ((OLD, old), (NEW, new)):
        marks = ", ".join(["(%s::int, %s::int, %s::int, %s::int)"] * len(rows))
        pair.database.execute(
            f"INSERT INTO {table} VALUES {marks}", [each for number in rows for each in (number, *rows[number])]
        )
    safe = sorted(referred & old.keys() & new.keys())
    pair.database.execute("INSERT INTO 자료.자식 SELECT unnest(%s::int[])", [safe])
    stay = old.keys() & new.keys()
    same = sum(old[number] == new[number] for number in stay)
    written = pair.copied()
    assert counts(written) == (len(new.keys() - old.keys()), len(stay) - same, len(old.keys() - new.keys()), same)
    assert pair.database.rows("SELECT * FROM 자료.자식 ORDER BY 1") == [(number,) for number in safe]
