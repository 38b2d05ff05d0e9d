"""Every refusal, each before anything is touched, with the table, the column and the next step."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import PlanError, Refusal, StageError
from airflow_provider_safecopy.planning import column_match
from airflow_provider_safecopy.planning.catalog import Column, Relation
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.postgres.session import Session, open_session
from airflow_provider_safecopy.spec import CopySpec
from tests.conftest import MakeDatabase, MakeRole
from tests.support.database import Database, Servers

TABLE = "영업.고객"
COLUMNS = '"번호" bigint PRIMARY KEY, "이름" varchar(40) NOT NULL, "금액" numeric(12,2), "가입" timestamptz'
OLD = "INSERT INTO 영업.고객 VALUES (-1, '옛 고객', 0, NULL)"
NEW = "INSERT INTO 영업.고객 SELECT g, '고객 ' || g, g, now() FROM generate_series(1, 3) g"
NFD = unicodedata.normalize("NFD", "고객")
SYLLABLES = "가나다라마바사아자차카타파하거너더러머버서어저처커터퍼허고노도로"


@pytest.fixture(scope="module")
def databases(servers: Servers) -> Iterator[tuple[Database, Database]]:
    """One pair for the whole file: its tests look, and touch nothing that `_clean` does not undo."""
    pair = servers.create(16, "UTF8", None), servers.create(18, "UTF8", None)
    yield pair
    for each in pair:
        servers.drop(each)


@pytest.fixture
def source(databases: tuple[Database, Database], role: MakeRole) -> Iterator[Database]:
    """Three customers. `role` is asked for so that its roles go before the schema does."""
    yield from _with_customers(databases[0], NEW)


@pytest.fixture
def target(databases: tuple[Database, Database], role: MakeRole) -> Iterator[Database]:
    """One old customer."""
    yield from _with_customers(databases[1], OLD)


def _with_customers(database: Database, rows: str) -> Iterator[Database]:
    database.execute(f"CREATE SCHEMA 영업; CREATE TABLE {TABLE} ({COLUMNS}); {rows}")
    yield database
    schemas = database.rows("SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema|public$)'")
    for (schema,) in schemas:
        database.execute(f'DROP SCHEMA "{schema}" CASCADE')


def refused(source: Database | Endpoint, target: Database | Endpoint, **options: Any) -> tuple[Refusal, ...]:
    spec = CopySpec.of(
        **({} if "source_sql" in options else {"source_table": TABLE}) | {"target_table": TABLE} | options
    )
    ends = (each.endpoint if isinstance(each, Database) else each for each in (source, target))
    return pipeline.plan(spec, *ends).refusals


def only(code: str, source: Database | Endpoint, target: Database | Endpoint, **options: Any) -> Refusal:
    """The one refusal there is, of this code, with a next step."""
    found = refused(source, target, **options)
    assert [each.code for each in found] == [code], [str(each) for each in found]
    assert found[0].hint
    return found[0]


def opened(database: Database) -> AbstractContextManager[Session]:
    return open_session(database.endpoint, application_name="safecopy:test", connect_timeout=10)


def test_nothing_is_refused_where_all_is_well(source: Database, target: Database) -> None:
    assert refused(source, target) == ()


# Tables


@pytest.mark.parametrize("side", ["source_table", "target_table"])
def test_no_such_table(source: Database, target: Database, side: str) -> None:
    found = only("no_such_table", source, target, **{side: "영업.없는_표"})
    missing_in = source if side == "source_table" else target
    assert found.table == "영업.없는_표"
    assert f"영업.없는_표: no such table in {missing_in.endpoint}" in found.message
    assert found.hint == "check schema and spelling"


def test_no_such_schema(source: Database, target: Database) -> None:
    assert "there is 영업.고객" in only("no_such_table", source, target, source_table="없는_스키마.고객").hint


def test_a_name_without_schema_is_looked_up_along_the_roles_own_path(source: Database, target: Database) -> None:
    assert "there is 영업.고객" in only("no_such_table", source, target, source_table="고객").hint
    source.execute(f'ALTER ROLE postgres IN DATABASE "{source.name}" SET search_path = 없음, 영업')
    assert refused(source, target, source_table="고객") == ()
    source.execute(f'ALTER ROLE postgres IN DATABASE "{source.name}" RESET search_path')


@pytest.mark.parametrize("stored, asked", [("NFD", "NFC"), ("NFC", "NFD")])
def test_the_table_exists_in_the_other_normalisation(
    source: Database, target: Database, stored: Literal["NFC", "NFD"], asked: Literal["NFC", "NFD"]
) -> None:
    there, given = (unicodedata.normalize(form, "거래처") for form in (stored, asked))
    source.execute(f'CREATE TABLE 영업."{there}" (번호 int)')
    found = only("no_such_table", source, target, source_table=("영업", given))
    assert f"there is 영업.{there} (in {stored}, you gave {asked}: they only look alike)" in found.hint


def test_the_schema_exists_in_nfd_spelling(source: Database, target: Database) -> None:
    schema = unicodedata.normalize("NFD", "판매")
    source.execute(f'CREATE SCHEMA "{schema}"; CREATE TABLE "{schema}".고객 ()')
    found = only("no_such_table", source, target, source_table="판매.고객")
    assert f"there is {schema}.고객 (in NFD, you gave NFC: they only look alike)" in found.hint


def test_the_table_exists_in_other_letter_case(source: Database, target: Database) -> None:
    source.execute('CREATE TABLE 영업."Customer" ()')
    found = only("no_such_table", source, target, source_table="영업.customer")
    assert "there is 영업.Customer (in other letter case)" in found.hint


def test_nfc_and_nfd_beside_each_other_are_two_tables(source: Database, target: Database) -> None:
    source.execute(f'CREATE TABLE 영업."{NFD}" (다른 int)')
    assert refused(source, target) == ()
    assert {each.code for each in refused(source, target, source_table=("영업", NFD))} == {
        "column_extra",
        "column_missing",
        "empty_source",
    }


@pytest.mark.parametrize("side", ["source_table", "target_table"])
def test_a_name_over_63_bytes(source: Database, target: Database, side: str) -> None:
    found = only("name_too_long", source, target, **{side: ("영업", SYLLABLES[:22])})
    assert "66 bytes long in UTF8" in found.message
    assert "cut it at 63" in found.message
    assert found.table == f"영업.{SYLLABLES[:22]}"


def test_a_name_of_just_63_bytes_is_as_good_as_any(source: Database, target: Database) -> None:
    name = SYLLABLES[:21]
    source.execute(f'CREATE TABLE 영업."{name}" AS TABLE {TABLE}')
    assert refused(source, target, source_table=("영업", name)) == ()
    # The server would cut this one to that very table, and copy it.
    only("name_too_long", source, target, source_table=("영업", name + "마"))


def test_a_schema_over_63_bytes(source: Database, target: Database) -> None:
    assert "66 bytes" in only("name_too_long", source, target, target_table=(SYLLABLES[:22], "고객")).message


@pytest.fixture
def korean(database: MakeDatabase) -> Database:
    """A database in EUC_KR, where a syllable takes two bytes."""
    made = database(major=16, encoding="EUC_KR", locale="C")
    made.execute(f"CREATE SCHEMA 영업; CREATE TABLE {TABLE} ({COLUMNS}); {NEW}")
    return made


def test_euc_kr_counts_two_bytes_a_syllable(korean: Database, target: Database) -> None:
    name = SYLLABLES[:31]
    korean.execute(f'CREATE TABLE 영업."{name}" AS TABLE {TABLE}')
    assert refused(korean, target, source_table=("영업", name)) == ()
    found = only("name_too_long", korean, target, source_table=("영업", SYLLABLES[:32]))
    assert "64 bytes long in EUC_KR" in found.message


def test_a_name_that_euc_kr_cannot_spell(korean: Database, target: Database) -> None:
    found = only("name_not_in_encoding", korean, target, source_table="영업.똠방각하")
    assert found.table == "영업.똠방각하"
    assert "cannot be spelled in EUC_KR" in found.message
    assert refused(korean, target) == ()


# Columns


def test_a_target_column_is_missing_in_the_source(source: Database, target: Database) -> None:
    target.execute(f'ALTER TABLE {TABLE} ADD COLUMN "메 모" text')
    found = only("column_missing", source, target)
    assert (found.table, found.column) == (TABLE, '"메 모"')
    assert '"메 모" of the target is not in the source 영업.고객' in found.message
    assert refused(source, target, columns=["번호", "이름", "금액", "가입"]) == ()


def test_a_source_column_is_extra(source: Database, target: Database) -> None:
    source.execute(f"ALTER TABLE {TABLE} ADD COLUMN 메모 text")
    found = only("column_extra", source, target)
    assert (found.table, found.column) == (TABLE, "메모")
    assert "is not in the target" in found.message
    assert "columns" in found.hint


def test_a_chosen_column_is_not_there(source: Database, target: Database) -> None:
    found = only("column_missing", source, target, columns={"번호": "번호", "성명": "이름"})
    assert found.column == "성명"
    found = only("column_extra", source, target, columns={"번호": "번호", "이름": "이름", "금액": "총액"})
    assert found.column == "총액"


def test_a_column_that_may_not_be_null_is_left_out(source: Database, target: Database) -> None:
    found = only("column_required", source, target, columns=["번호", "금액"])
    assert (found.table, found.column) == (TABLE, "이름")
    target.execute(f"ALTER TABLE {TABLE} ALTER 이름 SET DEFAULT '모름'")
    assert refused(source, target, columns=["번호", "금액"]) == ()


def test_a_column_exists_in_nfd_spelling(source: Database, target: Database) -> None:
    there = unicodedata.normalize("NFD", "이름")
    source.execute(f'ALTER TABLE {TABLE} RENAME 이름 TO "{there}"')
    found = only("column_missing", source, target, columns=["번호", "이름"])
    assert f"there is {there} (in NFD, you gave NFC: they only look alike)" in found.hint
    extra, missing = refused(source, target)
    assert (extra.code, extra.column, missing.code, missing.column) == ("column_extra", there, "column_missing", "이름")
    assert "there is 이름 (in NFC" in extra.hint
    assert f"there is {there} (in NFD" in missing.hint
    assert refused(source, target, columns={"번호": "번호", there: "이름"}) == ()


@pytest.mark.parametrize(
    "given, taken",
    [
        ("float8", "bigint"),
        ("varchar(40)", "varchar(20)"),
        ("numeric(10,2)", "numeric(10,1)"),
        ("numeric", "numeric(10,1)"),
        ("timestamp", "timestamptz"),
        ("char(3)", "char(4)"),
        ("bit(3)", "bit(4)"),
        ("json", "jsonb"),
        ("interval", "interval day to second"),
        ("bigint", "int"),
        ("varchar(4)[]", "varchar(3)[]"),
    ],
)
def test_a_type_or_its_length_differs(source: Database, target: Database, given: str, taken: str) -> None:
    source.execute(f"CREATE TABLE 영업.표 (값 {given}); INSERT INTO 영업.표 VALUES (NULL)")
    target.execute(f"CREATE TABLE 영업.표 (값 {taken})")
    found = only("type_differs", source, target, source_table="영업.표", target_table="영업.표")
    spelled = source.value(f"SELECT format_type(atttypid, atttypmod) {FROM_VALUE}")
    wanted = target.value(f"SELECT format_type(atttypid, atttypmod) {FROM_VALUE}")
    assert (found.table, found.column) == ("영업.표", "값")
    assert found.message == f"영업.표.값 is {wanted}, but the source's 값 is {spelled}"
    assert found.hint.endswith(f"cast in source_sql: 값::{wanted}")
    assert refused(source, target, target_table="영업.표", source_sql=f"SELECT NULL::{taken} AS 값") == ()


FROM_VALUE = "FROM pg_attribute WHERE attrelid = '영업.표'::regclass AND attname = '값'"


@pytest.mark.parametrize("array", ["", "[]"])
@pytest.mark.parametrize(
    "made, told",
    [
        (("TYPE 영업.등급 AS ENUM ('금', '은')", "TYPE 영업.등급 AS ENUM ('금', '동')"), "'동'"),
        (("TYPE 영업.등급 AS ENUM ('금', '은')", "TYPE 영업.등급 AS ENUM ('은', '금')"), "'금', '은'"),
        (("TYPE 영업.등급 AS (급 int, 명 text)", "TYPE 영업.등급 AS (급 int)"), '"명" text'),
        (("TYPE 영업.등급 AS (급 int)", "TYPE 영업.등급 AS (급 bigint)"), "bigint"),
        (("DOMAIN 영업.등급 AS varchar(3)", "DOMAIN 영업.등급 AS varchar(4)"), "character varying(4)"),
        (("TYPE 영업.등급 AS ENUM ('3')", "DOMAIN 영업.등급 AS int"), "integer"),
    ],
)
def test_a_type_of_ones_own_is_made_differently(
    source: Database, target: Database, made: tuple[str, str], told: str, array: str
) -> None:
    for database, making in zip((source, target), made, strict=True):
        database.execute(f"CREATE {making}; CREATE TABLE 영업.표 (값 영업.등급{array})")
    source.execute("INSERT INTO 영업.표 VALUES (NULL)")
    found = only("type_differs", source, target, source_table="영업.표", target_table="영업.표")
    assert (found.table, found.column) == ("영업.표", "값")
    assert f'the type "영업"."등급"{array} is made differently' in found.message.replace("영업.등급", '"영업"."등급"')
    assert told in found.hint


def test_a_column_computed_in_the_target_is_left_out_by_itself(source: Database, target: Database) -> None:
    for database in (source, target):
        database.execute(f"ALTER TABLE {TABLE} ADD COLUMN 길이 int GENERATED ALWAYS AS (length(이름)) STORED")
    assert refused(source, target) == ()
    found = only("column_generated", source, target, columns=["번호", "이름", "길이"])
    assert (found.table, found.column) == (TABLE, "길이")
    assert "the target computes it" in found.hint


def test_a_column_computed_in_the_source_is_a_value_like_any_other(source: Database, target: Database) -> None:
    source.execute(f"ALTER TABLE {TABLE} ADD COLUMN 길이 int GENERATED ALWAYS AS (length(이름)) STORED")
    target.execute(f"ALTER TABLE {TABLE} ADD COLUMN 길이 int")
    assert refused(source, target) == ()


def test_a_query_with_two_columns_of_one_name(source: Database, target: Database) -> None:
    query = f"SELECT *, 1 AS 번호 FROM {TABLE}"
    found = refused(source, target, source_sql=query)
    assert (found[0].code, found[0].column) == ("column_twice", "번호")


def test_money_under_another_locale(source: Database, target: Database) -> None:
    for database in (source, target):
        database.execute(f"ALTER TABLE {TABLE} ADD COLUMN 예산 money")
    # Whatever spelling of C a server has, its amounts mean the same.
    source.execute(f"ALTER DATABASE \"{source.name}\" SET lc_monetary = 'POSIX'")
    assert refused(source, target) == ()
    source.execute(f'ALTER DATABASE "{source.name}" RESET lc_monetary')
    # Other locales are not on every machine that runs this.
    with opened(source) as ours, opened(target) as theirs:
        won = replace(ours, server=replace(ours.server, lc_monetary="ko_KR.UTF-8"))
        budget, table = Column("예산", "money", is_money=True), Relation(TableName("영업", "고객"), "r", ())
        (found,) = column_match.check_pairs([(budget, budget)], won, theirs, (table, table))
        assert (found.code, found.table, found.column) == ("money", TABLE, "예산")
        assert "ko_KR.UTF-8" in found.message
        assert "use numeric" in found.hint
        euc = replace(theirs, server=replace(theirs.server, lc_monetary="ko_KR.eucKR"))
        assert list(column_match.check_pairs([(budget, budget)], won, euc, (table, table))) == []


@pytest.mark.parametrize("setting", ["DATABASE", "ROLE postgres IN DATABASE"])
def test_lc_monetary_is_the_databases_or_the_roles_and_not_our_own(target: Database, setting: str) -> None:
    target.execute(f"ALTER {setting} \"{target.name}\" SET lc_monetary = 'POSIX'")
    with opened(target) as session:
        assert session.server.lc_monetary == "POSIX"
        assert session.fetch_value("SELECT current_setting('lc_monetary')") == "C"
    target.execute(f'ALTER {setting} "{target.name}" RESET lc_monetary')


# What cannot be published into, or copied from

FOREIGN = (
    "FOREIGN DATA WRAPPER 먼_곳; CREATE SERVER 먼_서버 FOREIGN DATA WRAPPER 먼_곳; CREATE FOREIGN TABLE 영업.대상 "
    "(번호 bigint NOT NULL, 이름 varchar(40) NOT NULL, 금액 numeric(12,2), 가입 timestamptz) SERVER 먼_서버"
)


@pytest.mark.parametrize(
    "making, kind",
    [
        (f"VIEW 영업.대상 AS TABLE {TABLE}", "a view"),
        (f"MATERIALIZED VIEW 영업.대상 AS TABLE {TABLE}", "a materialized view"),
        (FOREIGN, "a foreign table"),
    ],
    ids=["view", "materialized view", "foreign table"],
)
def test_the_target_is_no_table(source: Database, target: Database, making: str, kind: str) -> None:
    target.execute(f"CREATE {making}")
    found = only("not_a_target", source, target, target_table="영업.대상")
    assert found.table == "영업.대상"
    assert found.message == f"영업.대상 is {kind}: rows can be published into a table only"
    target.execute("DROP FOREIGN DATA WRAPPER IF EXISTS 먼_곳 CASCADE")


@pytest.mark.parametrize(
    "making, kind",
    [
        ("SEQUENCE 영업.대상", "a sequence"),
        (f"INDEX 대상 ON {TABLE} (이름)", "an index"),
        ("TYPE 영업.대상 AS (번호 bigint)", "a composite type"),
    ],
)
def test_the_source_or_the_target_holds_no_rows(source: Database, target: Database, making: str, kind: str) -> None:
    for database in (source, target):
        database.execute(f"CREATE {making}")
    found = {each.code: each for each in refused(source, target, source_table="영업.대상", target_table="영업.대상")}
    assert found["not_a_source"].message == f"영업.대상 is {kind}: it cannot be copied from"
    assert f"is {kind}" in found["not_a_target"].message
    assert all(each.hint for each in found.values())


def test_the_target_has_rules(source: Database, target: Database) -> None:
    target.execute(f"CREATE RULE 대신 AS ON INSERT TO {TABLE} DO INSTEAD NOTHING")
    target.execute(f'CREATE RULE "또 하나" AS ON DELETE TO {TABLE} DO ALSO NOTHING')
    found = only("rules", source, target)
    assert found.table == TABLE
    assert "대신, 또 하나" in found.message


def test_the_target_has_inheritance_children(source: Database, target: Database) -> None:
    target.execute(f"CREATE TABLE 영업.우수_고객 () INHERITS ({TABLE})")
    assert only("inheritance", source, target).table == TABLE
    assert refused(source, target, target_table="영업.우수_고객") == ()


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_temporary_table(source: Database, target: Database, side: str) -> None:
    with (source if side == "source" else target).connect() as session:
        session.execute(f"CREATE TEMPORARY TABLE 임시 (LIKE {TABLE})".encode())
        session.execute(f"INSERT INTO 임시 SELECT * FROM {TABLE}".encode())
        ((schema,),) = session.execute("SELECT pg_my_temp_schema()::regnamespace::text").fetchall()
        found = refused(source, target, **{f"{side}_table": (schema, "임시")})
        assert "temporary" in [each.code for each in found]
        assert next(each for each in found if each.code == "temporary").hint


def test_the_target_is_referenced_with_an_action(source: Database, target: Database) -> None:
    target.execute(f"CREATE TABLE 영업.주문 (번호 bigint CONSTRAINT 주문한_고객 REFERENCES {TABLE} ON DELETE CASCADE)")
    found = only("delete_spreads", source, target, publish="delete_insert")
    assert found.table == TABLE
    assert '주문한_고객 on "영업"."주문"' in found.message.replace("영업.주문", '"영업"."주문"')
    assert only("referenced", source, target, publish="truncate_insert").table == TABLE


@pytest.mark.parametrize("action", ["SET NULL", "SET DEFAULT", "CASCADE"])
@pytest.mark.parametrize("asked, referenced", [("부분", "전체"), ("전체", "부분"), ("전체", "전체")])
def test_a_partition_or_its_parent_is_referenced_with_an_action(
    source: Database, target: Database, action: str, asked: str, referenced: str
) -> None:
    target.execute(
        f"CREATE TABLE 영업.전체 ({COLUMNS}) PARTITION BY RANGE (번호); "
        "CREATE TABLE 영업.부분 PARTITION OF 영업.전체 FOR VALUES FROM (0) TO (100); "
        f"CREATE TABLE 영업.주문 (번호 bigint REFERENCES 영업.{referenced} ON DELETE {action})"
    )
    found = only("delete_spreads", source, target, target_table=f"영업.{asked}", publish="delete_insert")
    assert found.message.count(" on ") == 1


def test_the_target_is_referenced_without_an_action_and_may_be_tried(source: Database, target: Database) -> None:
    target.execute(f"CREATE TABLE 영업.주문 (번호 bigint REFERENCES {TABLE})")
    assert refused(source, target) == ()
    target.execute(f"ALTER TABLE {TABLE} ADD COLUMN 추천 bigint REFERENCES {TABLE} ON DELETE CASCADE")
    source.execute(f"ALTER TABLE {TABLE} ADD COLUMN 추천 bigint")
    assert refused(source, target) == ()  # to itself: all its rows go anyway


@pytest.mark.parametrize("identity", ["none", "full", "key", "truncate"])
def test_a_published_table_without_replica_identity(source: Database, target: Database, identity: str) -> None:
    target.execute(f"CREATE TABLE 영업.표 (LIKE {TABLE}); CREATE PUBLICATION 구독 FOR TABLE 영업.표")
    try:
        if identity == "none":
            found = only("no_replica_identity", source, target, target_table="영업.표")
            assert found.table == "영업.표"
            assert "REPLICA IDENTITY" in found.hint
        if identity == "full":
            target.execute("ALTER TABLE 영업.표 REPLICA IDENTITY FULL")
        if identity == "key":
            target.execute("ALTER TABLE 영업.표 ADD PRIMARY KEY (번호)")
        publish = "truncate_insert" if identity == "truncate" else "auto"
        assert (refused(source, target, target_table="영업.표", publish=publish) == ()) == (identity != "none")
    finally:
        target.execute("DROP PUBLICATION 구독")


@pytest.mark.parametrize("asked", ["전체", "부분"])
@pytest.mark.parametrize("by_root", [True, False])
def test_a_published_partition_without_replica_identity(
    source: Database, target: Database, asked: str, by_root: bool
) -> None:
    target.execute(
        f"CREATE TABLE 영업.전체 (LIKE {TABLE}) PARTITION BY RANGE (번호); "
        "CREATE TABLE 영업.부분 PARTITION OF 영업.전체 FOR VALUES FROM (0) TO (100); "
        f"CREATE PUBLICATION 구독 FOR TABLE 영업.전체 WITH (publish_via_partition_root = {by_root})"
    )
    try:
        assert only("no_replica_identity", source, target, target_table=f"영업.{asked}").table == f"영업.{asked}"
        target.execute("ALTER TABLE 영업.부분 REPLICA IDENTITY FULL")
        assert refused(source, target, target_table=f"영업.{asked}") == ()
    finally:
        target.execute("DROP PUBLICATION 구독")


def test_a_table_onto_itself(source: Database) -> None:
    found = only("onto_itself", source, source)
    assert found.table == TABLE
    source.execute("CREATE SCHEMA 분석; CREATE TABLE 분석.고객 (LIKE 영업.고객)")
    assert refused(source, source, target_table="분석.고객") == ()
    assert refused(source, source, source_sql=f"SELECT * FROM {TABLE} WHERE 번호 > 1") == ()


# Roles

SEES = "USAGE ON SCHEMA 영업"
READS = f"SELECT ON {TABLE}"
WRITES = [SEES, READS, f"INSERT ON {TABLE}", f"DELETE ON {TABLE}", f"TRUNCATE ON {TABLE}"]


def granted(database: Database, grants: list[str]) -> Database:
    """What remains is granted: nothing that is not in `grants`."""
    owner = replace(database, role=None, password=None)
    # For the schema safecopy, which is another chapter.
    for grant in (*grants, f'CREATE ON DATABASE "{database.name}"'):
        owner.execute(f'GRANT {grant} TO "{database.role}"')
    return database


def test_a_role_with_just_these_rights_is_not_refused(source: Database, target: Database, role: MakeRole) -> None:
    reader, writer = granted(role(source), [SEES, READS]), granted(role(target), WRITES)
    assert refused(reader, writer) == ()
    assert refused(reader, writer, publish="truncate_insert") == ()


@pytest.mark.parametrize(
    "missing, told", [(SEES, "USAGE on schema 영업"), (READS, "SELECT")], ids=["schema USAGE", "SELECT"]
)
def test_a_right_is_missing_on_the_source(
    source: Database, target: Database, role: MakeRole, missing: str, told: str
) -> None:
    reader = granted(role(source), [grant for grant in (SEES, READS) if grant != missing])
    found = only("privilege", reader, target)
    assert found.table == TABLE
    assert found.message == f"영업.고객: role {reader.role} lacks {told}"
    assert found.hint == f"grant it to {reader.role}"


@pytest.mark.parametrize(
    "missing, told",
    [
        (WRITES[0], "USAGE on schema 영업"),
        (WRITES[1], "SELECT"),
        (WRITES[2], "INSERT"),
        (WRITES[3], "DELETE"),
        (WRITES[4], "TRUNCATE"),
    ],
    ids=["schema USAGE", "SELECT", "INSERT", "DELETE", "TRUNCATE"],
)
def test_a_right_is_missing_on_the_target(
    source: Database, target: Database, role: MakeRole, missing: str, told: str
) -> None:
    writer = granted(role(target), [grant for grant in WRITES if grant != missing])
    publish = "truncate_insert" if told == "TRUNCATE" else "auto"
    found = only("privilege", source, writer, publish=publish)
    assert found.table == TABLE
    assert found.message == f"영업.고객: role {writer.role} lacks {told}"


def test_delete_and_truncate_are_asked_for_only_where_they_are_used(
    source: Database, target: Database, role: MakeRole
) -> None:
    assert refused(source, granted(role(target), WRITES[:4])) == ()
    assert refused(source, granted(role(target), [*WRITES[:3], WRITES[4]]), publish="truncate_insert") == ()


def test_a_right_is_missing_on_a_column(source: Database, target: Database, role: MakeRole) -> None:
    reader = granted(role(source), [SEES, f"SELECT (번호, 이름, 가입) ON {TABLE}"])
    found = only("privilege", reader, target)
    assert (found.table, found.column) == (TABLE, "금액")
    assert found.message == f"영업.고객: role {reader.role} lacks SELECT on column 금액"
    assert refused(reader, target, columns=["번호", "이름", "가입"]) == ()


def test_a_right_is_missing_on_a_column_of_the_target(source: Database, target: Database, role: MakeRole) -> None:
    writer = granted(
        role(target), [SEES, f"SELECT (번호, 이름, 금액), INSERT (번호, 이름) ON {TABLE}", f"DELETE ON {TABLE}"]
    )
    found = refused(source, writer, columns=["번호", "이름", "금액", "가입"])
    told = [each.message.partition("lacks ")[2] for each in found]
    assert told == ["INSERT on column 금액", "SELECT on column 가입", "INSERT on column 가입"]
    assert [each.column for each in found] == ["금액", "가입", "가입"]
    assert refused(source, writer, columns=["번호", "이름"]) == ()


@pytest.mark.parametrize("array", ["", "[]"])
@pytest.mark.parametrize("missing", ["on the type", "on its schema"])
def test_a_type_may_not_be_used(source: Database, target: Database, role: MakeRole, missing: str, array: str) -> None:
    for each in (source, target):
        each.execute(
            f"CREATE SCHEMA 자료형; CREATE TYPE 자료형.등급 AS ENUM ('금'); ALTER TABLE {TABLE} ADD 등급 자료형.등급{array}"
        )
    if missing == "on the type":
        target.execute("REVOKE USAGE ON TYPE 자료형.등급 FROM PUBLIC; GRANT USAGE ON SCHEMA 자료형 TO PUBLIC")
    writer = granted(role(target), WRITES)
    found = only("privilege", source, writer)
    assert (found.table, found.column) == (TABLE, "등급")
    assert re.search(rf"lacks USAGE on type .*등급.*{re.escape(array)} or on its schema", found.message)
    target.execute("GRANT USAGE ON TYPE 자료형.등급 TO PUBLIC; GRANT USAGE ON SCHEMA 자료형 TO PUBLIC")
    assert refused(source, writer) == ()


def test_row_security_that_would_hide_rows_of_the_source(source: Database, target: Database, role: MakeRole) -> None:
    reader = granted(role(source), [SEES, READS])
    source.execute(f"ALTER TABLE {TABLE} ENABLE ROW LEVEL SECURITY")
    found = only("row_security", reader, target)
    assert found.table == TABLE
    assert found.message == f"영업.고객: row security would hide rows from {reader.role}"
    assert "BYPASSRLS" in found.hint
    # A policy that shows everything today may not tomorrow.
    source.execute(f"CREATE POLICY 모두 ON {TABLE} USING (true)")
    only("row_security", reader, target)
    assert refused(source, target) == ()
    assert refused(granted(role(source, "LOGIN BYPASSRLS"), [SEES, READS]), target) == ()


def test_row_security_that_would_hide_rows_of_the_target(source: Database, target: Database, role: MakeRole) -> None:
    writer = granted(role(target), WRITES)
    target.execute(f"ALTER TABLE {TABLE} ENABLE ROW LEVEL SECURITY")
    found = only("row_security", source, writer)
    assert found.table == TABLE
    assert "survive a replace" in found.message


def test_row_security_binds_the_owner_only_when_forced(source: Database, target: Database, role: MakeRole) -> None:
    owner = granted(role(source), [SEES])
    source.execute(f'ALTER TABLE {TABLE} OWNER TO "{owner.role}"; ALTER TABLE {TABLE} ENABLE ROW LEVEL SECURITY')
    assert refused(owner, target) == ()
    source.execute(f"ALTER TABLE {TABLE} FORCE ROW LEVEL SECURITY")
    only("row_security", owner, target)


@pytest.mark.parametrize("by", ["a view", "a query", "a partition"])
def test_row_security_behind_something_else(source: Database, target: Database, role: MakeRole, by: str) -> None:
    reader = granted(role(source), [SEES, READS])
    source.execute(
        f"ALTER TABLE {TABLE} ENABLE ROW LEVEL SECURITY; "
        f"CREATE VIEW 영업.보기 WITH (security_invoker) AS TABLE {TABLE}; GRANT SELECT ON 영업.보기 TO PUBLIC; "
        f"CREATE TABLE 영업.전체 (LIKE {TABLE}) PARTITION BY RANGE (번호); GRANT SELECT ON 영업.전체 TO PUBLIC; "
        "ALTER TABLE 영업.전체 ENABLE ROW LEVEL SECURITY"
    )
    asked = {
        "a view": {"source_table": "영업.보기"},
        "a query": {"source_sql": f"SELECT * FROM {TABLE}"},
        "a partition": {"source_table": "영업.전체"},
    }
    found = refused(reader, target, **asked[by])
    assert len(found) == 1
    assert "row" in found[0].message
    assert "security" in found[0].message


# Servers


@pytest.mark.parametrize("side", ["source", "target"])
def test_sql_ascii(source: Database, target: Database, database: MakeDatabase, side: str) -> None:
    bytes_only = database(major=16, encoding="SQL_ASCII", locale="C")
    bytes_only.execute(f"CREATE SCHEMA 영업; CREATE TABLE {TABLE} ({COLUMNS}); {NEW}")
    found = only("sql_ascii", *((bytes_only, target) if side == "source" else (source, bytes_only)))
    assert bytes_only.name in found.message
    assert "EUC_KR" in found.hint


def test_a_target_that_is_read_only(source: Database, target: Database) -> None:
    reluctant = Endpoint.from_conninfo(f"{target.conninfo} options='-c default_transaction_read_only=on'")
    assert str(reluctant) in only("read_only", source, reluctant).message
    assert (
        refused(Endpoint.from_conninfo(f"{source.conninfo} options='-c default_transaction_read_only=on'"), target)
        == ()
    )


# psql and the spool


def test_no_psql(source: Database, target: Database, tmp_path: Path) -> None:
    missing = str(tmp_path / "psql")
    found = only("psql", source, target, psql=missing)
    assert missing in found.message


def test_psql_older_than_needed(source: Database, target: Database, script: Callable[[str], str]) -> None:
    old = script('echo "psql (PostgreSQL) 12.3"')
    found = only("psql", source, target, psql=old)
    assert f"{old} is psql 12, and 14 is the oldest that will do" in found.message
    assert "SAFECOPY_PSQL" in found.hint


def test_something_that_is_not_psql(source: Database, target: Database, script: Callable[[str], str]) -> None:
    assert "not PostgreSQL's psql" in only("psql", source, target, psql=script("echo sqlplus 19")).message


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    def write(line: str) -> str:
        path = tmp_path / "psql"
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)
        return str(path)

    return write


@pytest.mark.parametrize("directory", ["/proc", "/없는/곳"])
def test_a_spool_directory_that_will_not_do(source: Database, target: Database, directory: str) -> None:
    assert directory in only("spool_dir", source, target, spool_dir=directory).message


def test_a_spool_limit_the_table_cannot_fit(source: Database, target: Database) -> None:
    source.execute(f"INSERT INTO {TABLE} SELECT g, '고객', 0, now() FROM generate_series(10, 5000) g; ANALYZE {TABLE}")
    found = only("spool_limit", source, target, transfer="sequential", spool_limit=1000)
    assert "transfer=chunked" in found.hint
    assert refused(source, target, transfer="chunked", spool_limit=1000) == ()


# Rows and SQL


@pytest.mark.parametrize("where", [None, "번호 > 99"])
def test_an_empty_source(source: Database, target: Database, where: str | None) -> None:
    if where is None:
        source.execute(f"DELETE FROM {TABLE}")
    found = only("empty_source", source, target, where=where)
    assert found.table == TABLE
    assert "min_rows=0" in found.hint
    assert refused(source, target, where=where, min_rows=0) == ()


@pytest.mark.parametrize(
    "options, told",
    [
        ({"where": "없는_열 > 1"}, "where: "),
        ({"where": "번호 >"}, "where: "),
        ({"where": "번호 > 1) OR (true"}, "where: "),
        ({"where": "true) ORDER BY (true"}, "where: "),
        ({"source_sql": "SELECT 1) AS a, (SELECT 2"}, "source_sql: "),
        ({"where": "이름 = '가"}, "where: "),
        ({"source_sql": "SELEC 1"}, "source_sql: "),
        ({"source_sql": "DELETE FROM 영업.고객 RETURNING *"}, "source_sql: "),
    ],
)
def test_sql_the_server_cannot_run(source: Database, target: Database, options: dict[str, str], told: str) -> None:
    """A text that is no whole condition, or query, by itself is refused, though our parentheses would make it one."""
    found = refused(source, target, **options)
    assert [each.code for each in found] == ["bad_sql"]
    assert found[0].message.startswith(f"{told}{source.endpoint} cannot run it: ")
    assert found[0].hint


@pytest.mark.parametrize("options", [{"source_sql": "SELECT * FROM 고객_보기"}, {"where": "참인가(번호)"}])
def test_sql_that_leaves_the_schema_out_is_told_why(
    source: Database, target: Database, options: dict[str, str]
) -> None:
    source.execute(
        f"CREATE VIEW public.고객_보기 AS TABLE {TABLE}; CREATE FUNCTION public.참인가(bigint) RETURNS bool RETURN true"
    )
    found = only("bad_sql", source, target, **options)
    assert "give names their schema: SafeCopy runs with search_path = pg_catalog" in found.hint
    source.execute("DROP VIEW public.고객_보기; DROP FUNCTION public.참인가")


DELETING = f"CREATE FUNCTION 영업.지우기() RETURNS int LANGUAGE plpgsql AS 'BEGIN DELETE FROM {TABLE}; RETURN 0; END'"
WRITING = {
    "in a common table expression": {
        "source_sql": f"WITH 지운 AS (DELETE FROM {TABLE} RETURNING *) SELECT * FROM 지운",
    },
    "by a function": {"where": "영업.지우기() = 0"},
    "after a COMMIT": {"where": f"true); COMMIT; BEGIN READ WRITE; DELETE FROM {TABLE}; COMMIT; SELECT (true"},
    "after another statement": {"where": f"true); DELETE FROM {TABLE}; SELECT (true"},
    "after a COMMIT in a query": {
        "source_sql": f"TABLE {TABLE}) AS x; COMMIT; BEGIN READ WRITE; DELETE FROM {TABLE}; COMMIT; "
        f"SELECT * FROM (TABLE {TABLE}",
    },
    "having made itself free to": {
        "where": "pg_catalog.set_config('transaction_read_only', 'off', false) = 'off' AND 영업.지우기() = 0"
    },
    "by psql": {"where": "true \\! touch /tmp/safecopy-test-was-here"},
    "by psql in a query": {"source_sql": "SELECT 1 \\g /tmp/safecopy-test-was-here"},
}


@pytest.mark.parametrize("options", WRITING.values(), ids=WRITING)
def test_sql_that_would_write_cannot(source: Database, target: Database, options: dict[str, str]) -> None:
    source.execute(DELETING)
    only("bad_sql", source, target, **options)
    assert source.value(f"SELECT count(*) FROM {TABLE}") == 3
    assert not Path("/tmp/safecopy-test-was-here").exists()


def test_a_query_whose_function_would_write_fails_in_the_export(source: Database, target: Database) -> None:
    # Planning a query calls none of its functions.
    source.execute(DELETING)
    spec = CopySpec.of(source_sql=f"SELECT * FROM {TABLE} WHERE 영업.지우기() = 0", target_table=TABLE)
    with pytest.raises(StageError, match="read-only transaction") as caught:
        pipeline.copy(spec, source.endpoint, target.endpoint)
    assert (caught.value.stage, caught.value.sqlstate) == ("export", "25006")
    assert source.value(f"SELECT count(*) FROM {TABLE}") == 3
    assert target.rows(f"SELECT 이름 FROM {TABLE}") == [("옛 고객",)]


def test_colons_that_mean_nothing_to_psql(source: Database, target: Database) -> None:
    where = "이름::text <> 'a:b' AND 가입 > '2020-01-01 10:30'::timestamptz AND (array[1,2])[1:2] IS NOT NULL"
    assert refused(source, target, where=where) == ()


# Together


def test_every_reason_is_told_at_once(source: Database, target: Database, role: MakeRole) -> None:
    source.execute(f"ALTER TABLE {TABLE} ALTER 이름 TYPE text, ADD COLUMN 메모 text; DELETE FROM {TABLE}")
    target.execute(
        f"ALTER TABLE {TABLE} ADD COLUMN 비고 text; CREATE RULE 대신 AS ON DELETE TO {TABLE} DO ALSO NOTHING"
    )
    writer = granted(role(target), WRITES[:3])
    found = refused(source, writer, psql="/없는/psql", spool_dir="/없는/곳")
    assert {each.code for each in found} == {
        "column_extra",
        "column_missing",
        "type_differs",
        "rules",
        "privilege",
        "empty_source",
        "psql",
        "spool_dir",
    }
    assert all(each.hint for each in found)


@pytest.mark.parametrize(
    "options",
    [
        {"source_table": "영업.없는_표"},
        {"where": "false"},
        {"columns": ["번호", "없는_열"]},
        {"psql": "/없는/psql"},
        {"where": WRITING["after a COMMIT"]["where"]},
        {"spool_dir": "/proc"},
    ],
    ids=["no such table", "empty", "no such column", "no psql", "writing SQL", "no spool"],
)
def test_a_refused_copy_touches_nothing(source: Database, target: Database, options: dict[str, Any]) -> None:
    spec = CopySpec.of(**{"source_table": TABLE, "target_table": TABLE} | options)
    with pytest.raises(PlanError, match="refused: ") as caught:
        pipeline.copy(spec, source.endpoint, target.endpoint)
    assert caught.value.refusals == pipeline.plan(spec, source.endpoint, target.endpoint).refusals
    assert not caught.value.retryable
    assert target.rows(f"SELECT 이름 FROM {TABLE}") == [("옛 고객",)]
    assert source.value(f"SELECT count(*) FROM {TABLE}") == 3
    assert target.value("SELECT count(*) FROM pg_namespace WHERE nspname = 'safecopy'") == 0


# Long SQL

MORE_THAN_AN_ARGUMENT = 128 * 1024


@pytest.mark.parametrize("special", ["'\\\\'", "';'", "':이름'"], ids=["backslash", "semicolon", "variable"])
@pytest.mark.parametrize("option", ["where", "source_sql"])
def test_sql_that_psql_could_read_is_refused_where_it_is_longer_than_an_argument(
    source: Database, target: Database, option: str, special: str
) -> None:
    """What fits is sent unread in an argument; what is longer must hold nothing that psql would interpret."""
    condition = f"이름 <> {special} AND 이름 <> '{'가' * (MORE_THAN_AN_ARGUMENT // 3)}'"
    asked = {option: condition if option == "where" else f"SELECT * FROM {TABLE} WHERE {condition}"}
    found = only("sql_too_long", source, target, **asked)
    assert re.search(r"the export's COPY is \d{6} bytes long", found.message)
    assert "make a view of it" in found.hint
    plain = {name: sql.replace(special, "'없음'") for name, sql in asked.items()}
    assert not refused(source, target, **plain), "plain SQL may be longer"
    short = {name: sql.replace("가" * 1000, "") for name, sql in asked.items()}
    assert not refused(source, target, **short), "and what is short may hold anything"
