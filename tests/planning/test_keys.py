"""The key: which unique index tells rows apart, compared as it compares, and why another cannot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.planning import catalog, keys
from airflow_provider_safecopy.planning.keys import Key
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.postgres.session import Session, open_session
from airflow_provider_safecopy.spec import CopySpec
from tests.support.database import Servers
from tests.support.loose import LOOSE


@pytest.fixture(scope="module")
def whole(servers: Servers) -> Iterator[Session]:
    made = servers.create(18, "UTF8", None)
    with open_session(made.endpoint, application_name="safecopy:test", connect_timeout=10) as session:
        yield session
    servers.drop(made)


@pytest.fixture
def session(whole: Session) -> Iterator[Session]:
    with whole.connection.transaction(force_rollback=True):
        whole.connection.execute("CREATE SCHEMA 영업".encode())
        yield whole


def found(session: Session, *definitions: str, **options: object) -> Key | Refusal:
    """The key of the table 영업.표 that `definitions` make."""
    for definition in definitions:
        session.connection.execute(definition.encode())
    relation = catalog.describe(session, TableName("영업", "표"))
    assert relation is not None
    asked: dict[str, Any] = {"source_table": "영업.원본", "target_table": "영업.표", "write_mode": "upsert"} | options
    return keys.find(session, relation, CopySpec.of(**asked))


def named(session: Session, *definitions: str, **options: object) -> tuple[str, tuple[str, ...]]:
    """Its index and its columns."""
    by = found(session, *definitions, **options)
    assert isinstance(by, Key), by
    return by.index, by.names


def refused(session: Session, *definitions: str, **options: object) -> tuple[str, str]:
    """Why there is none: code and message."""
    why = found(session, *definitions, **options)
    assert isinstance(why, Refusal), why
    return why.code, str(why)


# Which


def test_the_primary_key_serves_in_its_own_order(session: Session) -> None:
    table = 'CREATE TABLE 영업.표 ("B 열" int, a text, 값 int UNIQUE NOT NULL, CONSTRAINT 열쇠 PRIMARY KEY (a, "B 열"))'
    assert named(session, table) == ("열쇠", ("a", "B 열"))


def test_key_columns_find_a_unique_index_in_whatever_order(session: Session) -> None:
    table = "CREATE TABLE 영업.표 (id int PRIMARY KEY, 해 int NOT NULL, 달 int NOT NULL, 값 int)"
    unique = "CREATE UNIQUE INDEX 달마다 ON 영업.표 (해, 달) INCLUDE (값)"
    assert named(session, table, unique, key_columns=["달", "해"]) == ("달마다", ("해", "달"))


def test_without_a_primary_key_a_replica_identity_serves_before_any_other(session: Session) -> None:
    table = "CREATE TABLE 영업.표 (가 int NOT NULL UNIQUE, 나 int NOT NULL, 다 int NOT NULL)"
    unique = "CREATE UNIQUE INDEX 신원 ON 영업.표 (나, 다)"
    assert named(session, table, unique)[1] == ("가",)
    assert named(session, "ALTER TABLE 영업.표 REPLICA IDENTITY USING INDEX 신원") == ("신원", ("나", "다"))


def test_a_partitioned_table_has_the_key_of_the_whole(session: Session) -> None:
    table = "CREATE TABLE 영업.표 (id int, 해 int, PRIMARY KEY (id, 해)) PARTITION BY LIST (해)"
    part = "CREATE TABLE 영업.표_26 PARTITION OF 영업.표 FOR VALUES IN (2026)"
    assert named(session, table, part) == ("표_pkey", ("id", "해"))


def test_a_key_that_is_not_copied_gives_way_to_one_that_is(session: Session) -> None:
    table = "CREATE TABLE 영업.표 (id int PRIMARY KEY, 코드 text NOT NULL CONSTRAINT 부호 UNIQUE)"
    assert named(session, table, columns=["코드"]) == ("부호", ("코드",))


# Why none


@pytest.mark.parametrize(
    "columns",
    [
        "id int",
        "id int UNIQUE",
        "id int NOT NULL, 켜짐 bool, EXCLUDE USING btree (id WITH =)",
    ],
)
def test_no_key(session: Session, columns: str) -> None:
    code, told = refused(session, f"CREATE TABLE 영업.표 ({columns})")
    assert code == "no_key"
    assert "add a primary key" in told


@pytest.mark.parametrize(
    "index",
    [
        "(id) WHERE 켜짐",
        "(abs(id))",
        "(id, 켜짐)",
    ],
)
def test_an_index_that_leaves_rows_out_or_has_more_or_other_columns_is_no_key(session: Session, index: str) -> None:
    table = "CREATE TABLE 영업.표 (id int NOT NULL, 켜짐 bool NOT NULL)"
    assert refused(session, table, f"CREATE UNIQUE INDEX ON 영업.표 {index}", key_columns=["id"])[0] == "key_not_unique"


def test_an_index_that_is_not_unique_or_not_valid_is_no_key(session: Session) -> None:
    table = "CREATE TABLE 영업.표 (id int NOT NULL)"
    assert refused(session, table, "CREATE INDEX 찾기 ON 영업.표 (id)", key_columns=["id"])[0] == "key_not_unique"
    broken = (
        "CREATE UNIQUE INDEX 깨짐 ON 영업.표 (id)",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = '영업.깨짐'::regclass",
    )
    assert refused(session, *broken, key_columns=["id"])[0] == "key_not_unique"


@pytest.mark.parametrize("distinct", ["", "NULLS NOT DISTINCT"])
def test_a_key_that_may_be_null_is_refused(session: Session, distinct: str) -> None:
    code, told = refused(
        session, f"CREATE TABLE 영업.표 (가 int NOT NULL, 나 int, UNIQUE {distinct} (가, 나))", key_columns=["나", "가"]
    )
    assert code == "key_nullable"
    assert "ALTER 나 SET NOT NULL" in told


def test_a_key_that_is_not_copied_is_refused(session: Session) -> None:
    table = "CREATE TABLE 영업.표 (id int PRIMARY KEY, 두배 int NOT NULL GENERATED ALWAYS AS (id * 2) STORED UNIQUE, 값 int)"
    assert refused(session, table, columns=["값"])[0] == "key_not_copied"
    assert refused(session, columns=["값"], key_columns=["id"])[0] == "key_not_copied"
    assert refused(session, key_columns=["두배"])[0] == "key_not_copied"
    code, told = refused(session, key_columns=["없음"])
    assert code == "key_not_copied"
    assert "does not exist" in told


# How it compares


def test_each_column_is_compared_by_its_own_index(session: Session) -> None:
    table = """CREATE TABLE 영업.표 (느슨 영업.느슨, 글 text COLLATE "C", 수 numeric, 정수 int, 칸 char(4), 이름 varchar(9),
               PRIMARY KEY (느슨, 글, 수, 정수, 칸, 이름))"""
    by = found(session, LOOSE.format(schema="영업"), table)
    assert isinstance(by, Key)
    told = {each.name: (each.operator, each.operator_class, each.collation, each.exact) for each in by.columns}
    default = ("pg_catalog", "default")
    assert told == {
        "느슨": (("영업", "="), ("영업", "느슨_ops"), default, False),
        "글": (("pg_catalog", "="), ("pg_catalog", "text_ops"), ("pg_catalog", "C"), True),
        "수": (("pg_catalog", "="), ("pg_catalog", "numeric_ops"), None, False),
        "정수": (("pg_catalog", "="), ("pg_catalog", "int4_ops"), None, True),
        "칸": (("pg_catalog", "="), ("pg_catalog", "bpchar_ops"), default, False),
        "이름": (("pg_catalog", "="), ("pg_catalog", "text_ops"), default, True),
    }
    assert by.exact == {"글", "정수", "이름"}


def test_an_index_may_compare_otherwise_than_its_column(session: Session) -> None:
    table = 'CREATE TABLE 영업.표 (글 text COLLATE "C" NOT NULL)'
    unique = 'CREATE UNIQUE INDEX ON 영업.표 (글 COLLATE "POSIX" text_pattern_ops)'
    by = found(session, table, unique)
    assert isinstance(by, Key)
    (column,) = by.columns
    assert (column.operator_class, column.collation) == (("pg_catalog", "text_pattern_ops"), ("pg_catalog", "POSIX"))
