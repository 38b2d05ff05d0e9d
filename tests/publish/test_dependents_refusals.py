"""What cannot be carried over refuses the swap, and is named; so does every right that the role lacks."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from airflow_provider_safecopy.planning import catalog
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.postgres.session import Session
from airflow_provider_safecopy.publish import dependents
from tests.support import swapped
from tests.support.database import ALWAYS, Servers
from tests.support.swapped import QUOTED, TABLE, hang, refused, swap

CHILD = "CREATE TABLE 영업.주문 (번호 int, 고객 int);"
REFERS = f"FOREIGN KEY (고객) REFERENCES {QUOTED}"
NOTE = "CREATE FUNCTION 영업.알림() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
HOLDS = f"CREATE TYPE 영업.꼴 AS (번호 int); DROP TABLE {QUOTED}; CREATE TABLE {QUOTED} OF 영업.꼴"

# By kind: what hangs on the table, the refusal's code, and what its message names.
UNFIT = {
    "a typed table": (HOLDS, "swap_kind", '"영업"."꼴"'),
    "a child": (f"CREATE TABLE 영업.부모 (); ALTER TABLE {QUOTED} INHERIT 영업.부모", "swap_kind", '"영업"."부모"'),
    "a parent": (f"CREATE TABLE 영업.자식 () INHERITS ({QUOTED})", "swap_kind", '"영업"."자식"'),
    "a partition": (
        (
            "CREATE TABLE 영업.전체 (번호 int NOT NULL, 이름 text NOT NULL, 금액 numeric, 추천 int) PARTITION BY LIST (번호); "
            f"ALTER TABLE 영업.전체 ATTACH PARTITION {QUOTED} DEFAULT"
        ),
        "swap_kind",
        '"영업"."전체"',
    ),
    "a member of an extension": (f"ALTER EXTENSION plpgsql ADD TABLE {QUOTED}", "swap_kind", "extension plpgsql"),
    "an index that goes with an extension": (
        'ALTER INDEX 영업."이름 색인" DEPENDS ON EXTENSION plpgsql',
        "swap_kind",
        "extension plpgsql",
    ),
    "a security label": (
        f"INSERT INTO pg_seclabel VALUES ('{QUOTED}'::regclass, 'pg_class'::regclass, 2, '꼬리표', '비밀')",
        "swap_depends",
        "꼬리표",
    ),
    "privileges on the row type": (f"GRANT USAGE ON TYPE {QUOTED} TO 하나", "swap_depends", "row type"),
    "a rule of its own": (f"CREATE RULE 규칙 AS ON DELETE TO {QUOTED} DO INSTEAD NOTHING", "swap_depends", "rule"),
    "a materialized view": (
        f"CREATE MATERIALIZED VIEW 영업.굳음 AS TABLE {QUOTED}",
        "swap_depends",
        'materialized view "영업"."굳음"',
    ),
    "a temporary view": (f"CREATE TEMP VIEW 잠깐 AS TABLE {QUOTED}", "swap_depends", "잠깐"),
    "a function of its rows": (
        f"CREATE FUNCTION 영업.셈({QUOTED}) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "swap_depends",
        'function "영업"."셈"',
    ),
    "a function that returns its rows": (
        f"CREATE FUNCTION 영업.셈() RETURNS SETOF {QUOTED} LANGUAGE sql AS 'SELECT 1, NULL::text, 1.0, 3'",
        "swap_depends",
        'function "영업"."셈"()',
    ),
    "a function with a body of SQL": (
        f"CREATE FUNCTION 영업.셈() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM {QUOTED}; END",
        "swap_depends",
        'function "영업"."셈"()',
    ),
    "a procedure": (
        f"CREATE PROCEDURE 영업.일(int) BEGIN ATOMIC DELETE FROM {QUOTED} WHERE 번호 = $1; END",
        "swap_depends",
        "영업",
    ),
    "an aggregate over its rows": (
        f"CREATE AGGREGATE 영업.모음 ({QUOTED}) (sfunc = array_append, stype = {QUOTED}[])",
        "swap_depends",
        "모음",
    ),
    "a column of its row type": (f"CREATE TABLE 영업.보관 (행 {QUOTED})", "swap_depends", "column"),
    "a column of an array of it": (f"CREATE TABLE 영업.보관 (행 {QUOTED}[])", "swap_depends", "column"),
    "a view with a whole row for a column": (
        f"CREATE VIEW 영업.보기 AS SELECT t FROM {QUOTED} t",
        "swap_depends",
        'column t of view "영업"."보기"',
    ),
    "a domain over it": (f"CREATE DOMAIN 영업.값 AS {QUOTED}", "swap_depends", 'type "영업"."값"'),
    "a cast": (f"CREATE CAST ({QUOTED} AS json) WITH INOUT", "swap_depends", "cast"),
    "a default elsewhere": (
        f"CREATE TABLE 영업.남 (글 text DEFAULT (ROW(1, '가', 2, 3)::{QUOTED})::text)",
        "swap_depends",
        "default value",
    ),
    "a check elsewhere": (
        f"{CHILD} ALTER TABLE 영업.주문 ADD CONSTRAINT 검사 CHECK (ROW(번호, '가', 2, 3)::{QUOTED} IS NOT NULL)",
        "swap_depends",
        " 검사 on ",
    ),
    "a policy elsewhere": (
        f"{CHILD} CREATE POLICY 정책 ON 영업.주문 USING (EXISTS (SELECT FROM {QUOTED}))",
        "swap_depends",
        " 정책 on ",
    ),
    "a trigger elsewhere that goes with it": (
        (
            f"{NOTE}; {CHILD} CREATE CONSTRAINT TRIGGER 알림 AFTER INSERT ON 영업.주문 FROM {QUOTED} "
            "FOR EACH ROW EXECUTE FUNCTION 영업.알림()"
        ),
        "swap_depends",
        " 알림 on ",
    ),
    "a trigger's condition elsewhere": (
        (
            f"{NOTE}; {CHILD} CREATE TRIGGER 알림 AFTER INSERT ON 영업.주문 FOR EACH ROW "
            f"WHEN (ROW(NEW.번호, '가', 2, 3)::{QUOTED} IS NOT NULL) EXECUTE FUNCTION 영업.알림()"
        ),
        "swap_depends",
        " 알림 on ",
    ),
    "an index elsewhere": (
        f"{CHILD} CREATE INDEX 색인 ON 영업.주문 ((ROW(번호, '가', 2, 3)::{QUOTED} IS NULL))",
        "swap_depends",
        '"색인"',
    ),
    "a foreign key that is switched off": (
        f"{CHILD} ALTER TABLE 영업.주문 ADD CONSTRAINT 키 {REFERS}; ALTER TABLE 영업.주문 DISABLE TRIGGER ALL",
        "swap_depends",
        " 키 on ",
    ),
    "its own foreign key, switched off": (
        (
            f"ALTER TABLE {QUOTED} ADD CONSTRAINT 키 FOREIGN KEY (추천) REFERENCES {QUOTED}; "
            f"ALTER TABLE {QUOTED} DISABLE TRIGGER ALL"
        ),
        "swap_depends",
        " 키 on ",
    ),
    "a partition whose foreign key has another name": (
        (
            f"CREATE TABLE 영업.전체 (고객 int) PARTITION BY LIST (고객); CREATE TABLE 영업.일부 (고객 int, CONSTRAINT 딴것 {REFERS}); "
            f"ALTER TABLE 영업.전체 ADD CONSTRAINT 키 {REFERS}; ALTER TABLE 영업.전체 ATTACH PARTITION 영업.일부 DEFAULT"
        ),
        "swap_depends",
        " 딴것 on ",
    ),
    "a publication of all tables": ("CREATE PUBLICATION 온것 FOR ALL TABLES", "swap_published", '"온것"'),
    "a publication of its schema": (
        "CREATE PUBLICATION 온것 FOR TABLES IN SCHEMA 영업",
        "swap_published",
        'schema "영업"',
    ),
    "a publication of our schema": (
        "CREATE TABLE safecopy.receipt (); CREATE PUBLICATION 온것 FOR TABLES IN SCHEMA safecopy",
        "swap_published",
        "schema safecopy",
    ),
}


@pytest.fixture(scope="module", params=ALWAYS)
def own(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Session]:
    """In a database of each major, the table."""
    made = servers.create(request.param, "UTF8", None)
    with swapped.prepared(made) as session:
        yield session
    servers.drop(made)


@pytest.fixture
def session(own: Session) -> Iterator[Session]:
    """As it was, for each test."""
    with own.connection.transaction(force_rollback=True):
        yield own


@pytest.mark.parametrize("kind", UNFIT)
def test_what_cannot_be_carried_is_named(session: Session, kind: str) -> None:
    what, code, named = UNFIT[kind]
    hang(session, what)
    ((told, message),) = refused(session)
    assert told == code
    assert message.startswith(f"{TABLE}: ")
    assert named in message


def test_every_refusal_says_what_to_do(session: Session) -> None:
    hang(session, f"CREATE DOMAIN 영업.값 AS {QUOTED}; CREATE PUBLICATION 온것 FOR ALL TABLES")
    for refusal in dependents.refusals(session, swapped.relation(session)):
        assert "publish=delta" in refusal.hint
        assert refusal.table == str(TABLE)


def test_only_a_table_can_be_swapped(session: Session) -> None:
    hang(session, "CREATE TABLE 영업.나뉜 (번호 int) PARTITION BY LIST (번호)")
    found = catalog.describe(session, TableName("영업", "나뉜"))
    assert found is not None
    ((code, message),) = [(refusal.code, refusal.message) for refusal in dependents.refusals(session, found)]
    assert code == "swap_kind"
    assert "partitioned table" in message


def test_what_comes_after_the_plan_makes_the_drop_fail(session: Session) -> None:
    """The safety net, for what nobody thought of: the old table is never dropped with anything still hanging on it."""
    hang(session, f"CREATE FUNCTION 영업.셈() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM {QUOTED}; END")
    with pytest.raises(psycopg.errors.DependentObjectsStillExist, match="셈"):
        swap(session)
