"""What is there: tables, views and queries, described as the server sees them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

import psycopg
import pytest

from airflow_provider_safecopy.planning import catalog, preflight
from airflow_provider_safecopy.planning.catalog import Relation, count_bytes
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.postgres.session import Session, open_session
from tests.conftest import MakeDatabase, MakeRole
from tests.support.database import PRESENT, Database, Servers


@pytest.fixture(scope="module")
def own(servers: Servers) -> Iterator[Database]:
    """One database for the whole file: its tests make things in it, and look."""
    made = servers.create(18, "UTF8", None)
    yield made
    servers.drop(made)


@pytest.fixture
def target(own: Database, role: MakeRole) -> Iterator[Database]:
    """Empty again after each test. `role` is asked for so that its roles go before the schemas do."""
    yield own
    own.execute(f'ALTER DATABASE "{own.name}" RESET ALL')
    for (schema,) in own.rows("SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema|public$)'"):
        own.execute(f'DROP SCHEMA "{schema}" CASCADE')


@pytest.fixture
def session(target: Database) -> Iterator[Session]:
    target.execute("CREATE SCHEMA 영업")
    with open_session(target.endpoint, application_name="safecopy:test", connect_timeout=10) as session:
        yield session


def made(session: Session, definition: str, name: str = "표") -> Relation:
    """The relation that `definition` makes in the schema 영업."""
    session.connection.execute(f"CREATE {definition}".encode())
    found = catalog.describe(session, TableName("영업", name))
    assert found is not None
    return found


def test_columns_come_in_order_with_all_that_is_said_of_them(session: Session) -> None:
    session.connection.execute(
        "CREATE TABLE 영업.표 (지울 int, 번호 int GENERATED ALWAYS AS IDENTITY, 지운 text)".encode()
    )
    session.connection.execute(
        "ALTER TABLE 영업.표 DROP COLUMN 지운, DROP COLUMN 지울, ADD 이름 varchar(40) NOT NULL, "
        "ADD 금액 numeric(12,2) DEFAULT 0, ADD 길이 int GENERATED ALWAYS AS (length(이름)) STORED, "
        'ADD "메 모" text[]'.encode()
    )
    found = catalog.describe(session, TableName("영업", "표"))
    assert found is not None
    told = [(each.name, each.type, each.not_null, each.has_default) for each in found.columns]
    assert told == [
        ("번호", "integer", True, True),
        ("이름", "character varying(40)", True, False),
        ("금액", "numeric(12,2)", False, True),
        ("길이", "integer", False, True),
        ("메 모", "text[]", False, False),
    ]
    assert [each.name for each in found.columns if each.identity] == ["번호"]
    assert [each.name for each in found.columns if each.generated] == ["길이"]
    assert found.column("이름") is found.columns[1]
    assert found.column("없음") is None


def test_a_column_generated_when_read_is_generated_too(session: Session) -> None:
    found = made(session, "TABLE 영업.표 (번호 int, 두배 int GENERATED ALWAYS AS (번호 * 2) VIRTUAL)")
    assert [each.generated for each in found.columns] == [False, True]


@pytest.mark.parametrize(
    "definition, kind",
    [
        ("TABLE 영업.표 (번호 int)", "r"),
        ("TABLE 영업.표 (번호 int) PARTITION BY LIST (번호)", "p"),
        ("VIEW 영업.표 AS SELECT 1 AS 번호", "v"),
        ("MATERIALIZED VIEW 영업.표 AS SELECT 1 AS 번호", "m"),
        ("SEQUENCE 영업.표", "S"),
        ("TYPE 영업.표 AS (번호 int)", "c"),
    ],
)
def test_kinds(session: Session, definition: str, kind: str) -> None:
    found = made(session, definition)
    assert found.kind == kind
    assert kind in catalog.KINDS
    assert found.persistence == "p"


def test_every_kind_there_is_has_a_word(session: Session) -> None:
    kinds = session.fetch_all("SELECT DISTINCT relkind::text AS kind FROM pg_class")
    assert {row["kind"] for row in kinds} <= set(catalog.KINDS)


@pytest.mark.parametrize("name", ["점.이.셋", '"따옴표"', "빈 칸", "back\\slash", "%s%%", "a_b%", "'", "x" * 63])
def test_any_name_is_found_as_it_is(session: Session, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    found = made(session, f"TABLE 영업.{quoted} ({quoted} int)", name)
    assert found.name == TableName("영업", name)
    assert found.columns[0].name == name


def test_a_name_the_server_would_cut_is_not_the_one_it_would_be_cut_to(session: Session) -> None:
    made(session, f"TABLE 영업.{'가' * 21} ()", "가" * 21)
    assert catalog.describe(session, TableName("영업", "가" * 22)) is None
    assert catalog.describe(session, TableName("영" * 22, "표")) is None


def test_normalisations_and_cases_are_told_apart(session: Session) -> None:
    decomposed = unicodedata.normalize("NFD", "고객")
    for name in (decomposed, "Customer"):
        made(session, f'TABLE 영업."{name}" ()', name)
    assert catalog.describe(session, TableName("영업", "고객")) is None
    assert catalog.describe(session, TableName("영업", "customer")) is None


def test_without_a_schema_the_roles_own_path_decides(target: Database) -> None:
    target.execute(
        "CREATE SCHEMA 영업; CREATE SCHEMA 분석; "
        "CREATE TABLE 영업.고객 (); CREATE TABLE 분석.고객 (); CREATE TABLE 분석.주문 (); CREATE SEQUENCE 영업.주문"
    )
    target.execute(f'ALTER DATABASE "{target.name}" SET search_path = 없음, 영업, 분석')
    with open_session(target.endpoint, application_name="safecopy:test", connect_timeout=10) as session:
        for name, schema in (("고객", "영업"), ("주문", "분석")):
            found = catalog.describe(session, TableName(None, name))
            assert found is not None
            assert found.name == TableName(schema, name)
        assert catalog.describe(session, TableName(None, "없음")) is None


SAFE = [
    *("int2", "int", "bigint", "float4", "float8", "numeric", "numeric(10,2)", "bool", "text", "varchar(3)", "char(3)"),
    *("bytea", "uuid", "json", "jsonb", "date", "time", "timetz", "timestamp", "timestamptz(3)", "interval", "inet"),
    *("cidr", "macaddr", "bit(3)", "varbit", "point", "polygon", "tsvector", "tsquery", "pg_lsn", "xml", "int[]"),
    *("text[]", "numeric(10,2)[]", "timestamptz[]"),
]
UNSAFE = [
    "money",
    "money[]",
    "regclass",
    "regproc[]",
    "int4range",
    "영업.등급",
    "영업.등급[]",
    "영업.주소",
    "영업.점수",
]


@pytest.mark.parametrize("type_", [*SAFE, *UNSAFE])
def test_binary_is_safe_for_built_in_types_that_mean_the_same_everywhere(session: Session, type_: str) -> None:
    session.connection.execute(
        "CREATE TYPE 영업.등급 AS ENUM ('금'); CREATE TYPE 영업.주소 AS (시 text); CREATE DOMAIN 영업.점수 AS int".encode()
    )
    (column,) = made(session, f"TABLE 영업.표 (값 {type_})").columns
    assert column.binary_safe == (type_ in SAFE)
    assert column.is_money == ("money" in type_)


def test_what_a_type_is_made_of(session: Session) -> None:
    session.connection.execute(
        "CREATE TYPE 영업.등급 AS ENUM ('금', 'it''s'); CREATE TYPE 영업.주소 AS (시 text, \"구 동\" varchar(9)); "
        "CREATE DOMAIN 영업.점수 AS numeric(3,1)".encode()
    )
    found = made(session, "TABLE 영업.표 (하나 영업.등급[], 둘 영업.주소, 셋 영업.점수, 넷 int)")
    shapes = [each.inner_shape for each in found.columns]
    assert shapes == ["'금', 'it''s'", '"시" text, "구 동" character varying(9)', "numeric(3,1)", ""]


def test_what_a_role_may_do(target: Database, session: Session, role: MakeRole) -> None:
    made(session, "TABLE 영업.표 (번호 int, 이름 text, 비밀 text)")
    reader = role(target)
    target.execute(
        f'GRANT USAGE ON SCHEMA 영업 TO "{reader.role}"; GRANT SELECT (번호, 이름), DELETE ON 영업.표 TO "{reader.role}"'
    )
    with open_session(reader.endpoint, application_name="safecopy:test", connect_timeout=10) as theirs:
        found = catalog.describe(theirs, TableName("영업", "표"))
    assert found is not None
    rights = (found.may_enter, found.may_select, found.may_insert, found.may_delete, found.may_truncate)
    assert rights == (True, True, False, True, False)
    assert [each.may_select for each in found.columns] == [True, True, False]
    assert [each.may_insert for each in found.columns] == [False, False, False]
    assert found.owner == "postgres"


def test_estimated_rows_are_the_planners_and_never_negative(session: Session) -> None:
    assert made(session, "TABLE 영업.표 AS SELECT generate_series(1, 500) AS 번호").estimated_rows == 0
    session.connection.execute("ANALYZE 영업.표".encode())
    found = catalog.describe(session, TableName("영업", "표"))
    assert found is not None
    assert found.estimated_rows == 500


# Queries


@pytest.mark.parametrize("major", PRESENT)
def test_a_query_is_described_without_running_it(database: MakeDatabase, major: int) -> None:
    asked = (
        "SELECT 1::bigint AS 번호, '가'::varchar(3) AS 이름, 1.5::numeric(9,1) AS 금액, ARRAY['a'] AS 값, "
        "1/(random()*0)::int AS 오류 -- 끝"
    )
    endpoint = database(major=major).endpoint
    with open_session(endpoint, application_name="safecopy:test", connect_timeout=10, read_only=True) as session:
        found = catalog.describe_query(session, asked)
        assert session.connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert (found.name, found.kind, found.label) == (None, "q", "the query")
    assert [(each.name, each.type) for each in found.columns] == [
        ("번호", "bigint"),
        ("이름", "character varying(3)"),
        ("금액", "numeric(9,1)"),
        ("값", "text[]"),
        ("오류", "integer"),
    ]
    assert all(each.may_select for each in found.columns)


@pytest.mark.parametrize("query", ["SELECT", "VALUES (1)", "SELECT 1; SELECT 2", "SELEC 1", "TABLE 없음", "COMMIT"])
def test_sql_that_is_no_query_is_an_error_and_the_session_lives_on(session: Session, query: str) -> None:
    if query in {"SELECT", "VALUES (1)"}:
        assert len(catalog.describe_query(session, query).columns) == (query != "SELECT")
    else:
        with pytest.raises(psycopg.Error):
            catalog.describe_query(session, query)
    assert session.fetch_value("SELECT 1") == 1


# Names


@pytest.mark.parametrize(
    "encoding, name, length",
    [
        ("UTF8", "고객", 6),
        ("UTF8", unicodedata.normalize("NFD", "고객"), 15),
        ("UTF8", "똠😀", 7),
        ("UTF8", "가" * 40, 120),
        ("EUC_KR", "고객", 4),
        ("EUC_KR", "customer", 8),
        ("EUC_KR", "똠", None),
        ("EUC_KR", "😀", None),
        ("EUC_KR", unicodedata.normalize("NFD", "고객"), None),
        ("LATIN1", "é", 1),
        ("LATIN1", "고객", None),
    ],
)
def test_bytes_are_counted_by_the_server(database: MakeDatabase, encoding: str, name: str, length: int | None) -> None:
    endpoint = database(encoding=encoding, locale="C").endpoint
    with open_session(endpoint, application_name="safecopy:test", connect_timeout=10) as session:
        assert count_bytes(session, name) == length
        assert count_bytes(session, "x") == 1


def test_lookalikes_differ_in_normalisation_case_or_schema_and_the_nearest_comes_first(session: Session) -> None:
    decomposed = unicodedata.normalize("NFD", "고객")
    session.connection.execute(
        f'CREATE SCHEMA 분석; CREATE TABLE 분석.고객 (); CREATE TABLE 영업."{decomposed}" (); '
        'CREATE TABLE 영업."고객 " (); CREATE TABLE 영업.고객들 (); CREATE SEQUENCE 영업.고객'.encode()
    )
    assert preflight.find_lookalikes(catalog.read_names(session), TableName("영업", "고객")) == (
        TableName("영업", decomposed),
        TableName("분석", "고객"),
    )
    assert preflight.find_lookalikes(catalog.read_names(session), TableName("영업", "pg_class")) == ()


def test_at_most_five_lookalikes_are_told(session: Session) -> None:
    for number in range(7):
        session.connection.execute(f"CREATE SCHEMA 부서{number}; CREATE VIEW 부서{number}.고객 AS SELECT 1".encode())
    assert len(preflight.find_lookalikes(catalog.read_names(session), TableName(None, "고객"))) == 5
