"""Carrying over: nothing that hangs on a table is lost when another takes its place, and each statement is needed."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from airflow_provider_safecopy.postgres.session import Session
from airflow_provider_safecopy.publish import dependents
from tests.support import swapped
from tests.support.database import ALWAYS, Servers
from tests.support.fingerprint import Fingerprint, differences, look
from tests.support.swapped import NEW, QUOTED, hang, refused, relation, swap

TELL = "CREATE FUNCTION 영업.알림() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
CHILD = "CREATE TABLE 영업.주문 (번호 int PRIMARY KEY, 고객 int); INSERT INTO 영업.주문 VALUES (1, 1), (2, NULL);"
REFERS = f"FOREIGN KEY (고객) REFERENCES {QUOTED}"

# By kind: what hangs on the table, in SQL. 주인 (its owner), 하나 and "다른 이" are roles.
KINDS = {
    "owner": "SELECT 1",
    "grants": f"""
        GRANT SELECT, INSERT ON {QUOTED} TO 하나 WITH GRANT OPTION; GRANT UPDATE, REFERENCES ON {QUOTED} TO PUBLIC;
        GRANT TRIGGER ON {QUOTED} TO 주인 WITH GRANT OPTION; REVOKE DELETE, TRUNCATE ON {QUOTED} FROM 주인""",
    "grants by others": f"""
        GRANT USAGE ON SCHEMA 영업 TO 하나, "다른 이"; GRANT SELECT ON {QUOTED} TO 하나 WITH GRANT OPTION;
        SET LOCAL ROLE 하나; GRANT SELECT ON {QUOTED} TO "다른 이" WITH GRANT OPTION; GRANT SELECT (이름) ON {QUOTED} TO PUBLIC;
        SET LOCAL ROLE "다른 이"; GRANT SELECT ON {QUOTED} TO PUBLIC""",
    "no grants at all": f"REVOKE ALL ON {QUOTED} FROM 주인",
    "grants on columns": f"""
        GRANT USAGE ON SCHEMA 영업 TO 하나; GRANT SELECT (이름), UPDATE (이름, 금액) ON {QUOTED} TO PUBLIC;
        GRANT INSERT (번호) ON {QUOTED} TO 하나 WITH GRANT OPTION; SET LOCAL ROLE 하나; GRANT INSERT (번호) ON {QUOTED} TO "다른 이" """,
    "default privileges": "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO 하나; ALTER DEFAULT PRIVILEGES REVOKE INSERT ON TABLES FROM postgres",
    "comments": f"""
        COMMENT ON TABLE {QUOTED} IS '고객''s \\ "표"'; COMMENT ON COLUMN {QUOTED}.이름 IS '100100 % %s %(oid)s';
        COMMENT ON CONSTRAINT "이름.길이" ON {QUOTED} IS '짧게'; COMMENT ON CONSTRAINT "고객의 키" ON {QUOTED} IS '열쇠';
        COMMENT ON INDEX 영업."고객의 키" IS '열쇠의 색인'; COMMENT ON INDEX 영업."이름 색인" IS E'두\n줄'; COMMENT ON TYPE {QUOTED} IS '행'""",
    "triggers": f"""
        {TELL}; CREATE TRIGGER "하나" AFTER UPDATE OF 이름, 금액 ON {QUOTED} FOR EACH ROW
            WHEN (OLD.* IS DISTINCT FROM NEW.* AND NEW.금액 > 3) EXECUTE FUNCTION 영업.알림('인수 1', '%');
        CREATE TRIGGER 둘 AFTER INSERT ON {QUOTED} REFERENCING NEW TABLE AS 새것 FOR EACH STATEMENT EXECUTE FUNCTION 영업.알림();
        CREATE TRIGGER 셋 BEFORE TRUNCATE ON {QUOTED} FOR EACH STATEMENT EXECUTE FUNCTION 영업.알림();
        CREATE CONSTRAINT TRIGGER 넷 AFTER INSERT ON {QUOTED} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION 영업.알림();
        ALTER TABLE {QUOTED} DISABLE TRIGGER "하나", ENABLE REPLICA TRIGGER 둘, ENABLE ALWAYS TRIGGER 셋;
        COMMENT ON TRIGGER 넷 ON {QUOTED} IS '넷째'; COMMENT ON CONSTRAINT 넷 ON {QUOTED} IS '넷째의 제약'""",
    "row security": f"""
        CREATE POLICY 읽기 ON {QUOTED} FOR SELECT TO 하나, "다른 이" USING (이름 = current_user OR EXISTS (SELECT FROM {QUOTED} 남 WHERE 남.추천 = 번호));
        CREATE POLICY 쓰기 ON {QUOTED} AS RESTRICTIVE FOR INSERT WITH CHECK (금액 > 0);
        CREATE POLICY "모 두" ON {QUOTED} USING (true) WITH CHECK (번호 > 0); CREATE POLICY 고침 ON {QUOTED} FOR UPDATE USING (금액 < 9);
        CREATE POLICY 지움 ON {QUOTED} FOR DELETE TO 하나 USING (false); COMMENT ON POLICY 쓰기 ON {QUOTED} IS '쓸 때';
        ALTER TABLE {QUOTED} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY""",
    "forced row security that is off": f"ALTER TABLE {QUOTED} FORCE ROW LEVEL SECURITY",
    "replica identity full": f"ALTER TABLE {QUOTED} REPLICA IDENTITY FULL",
    "replica identity nothing": f"ALTER TABLE {QUOTED} REPLICA IDENTITY NOTHING",
    "replica identity by an index": f'ALTER TABLE {QUOTED} REPLICA IDENTITY USING INDEX "이름 색인"',
    "cluster mark": f'ALTER TABLE {QUOTED} CLUSTER ON "이름 색인"',
    "publications": f"""
        CREATE PUBLICATION "발행 1" FOR TABLE {QUOTED}; CREATE PUBLICATION 발행2 FOR TABLE {QUOTED} (번호, 이름) WHERE (번호 > 1 AND 이름 <> '%');
        CREATE TABLE 영업.남 (); ALTER PUBLICATION 발행2 ADD TABLE 영업.남""",
    "foreign keys of others": f"""
        {CHILD} CREATE TABLE safecopy.손자 (고객 int UNIQUE);
        ALTER TABLE 영업.주문 ADD CONSTRAINT "첫 키" {REFERS} MATCH FULL ON DELETE SET NULL ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED,
            ADD CONSTRAINT "둘째 키" {REFERS} ON DELETE CASCADE NOT VALID;
        ALTER TABLE safecopy.손자 ADD CONSTRAINT 키 FOREIGN KEY (고객) REFERENCES {QUOTED} (번호);
        COMMENT ON CONSTRAINT "첫 키" ON 영업.주문 IS '주문한 이'""",
    "a foreign key to itself": f"ALTER TABLE {QUOTED} ADD CONSTRAINT 자기 FOREIGN KEY (추천) REFERENCES {QUOTED}; COMMENT ON CONSTRAINT 자기 ON {QUOTED} IS '서로'",
    "a foreign key to others": f"{CHILD} ALTER TABLE {QUOTED} ADD CONSTRAINT 키 FOREIGN KEY (추천) REFERENCES 영업.주문; COMMENT ON CONSTRAINT 키 ON {QUOTED} IS '밖'",
    "foreign keys of partitions": f"""
        CREATE TABLE 영업.주문 (번호 int, 고객 int, {REFERS}) PARTITION BY LIST (번호); CREATE TABLE 영업.주문1 PARTITION OF 영업.주문 FOR VALUES IN (1);
        CREATE TABLE 영업.주문2 PARTITION OF 영업.주문 FOR VALUES IN (2) PARTITION BY LIST (고객); CREATE TABLE 영업.주문21 PARTITION OF 영업.주문2 DEFAULT;
        ALTER TABLE 영업.주문1 ADD CONSTRAINT 제것 {REFERS}; INSERT INTO 영업.주문 VALUES (1, 2), (2, 3);
        COMMENT ON CONSTRAINT 주문_고객_fkey ON 영업.주문1 IS '조각'""",
    "views": f"""
        CREATE VIEW 영업.부름 WITH (security_invoker) AS TABLE {QUOTED};
        CREATE VIEW 영업."보 기" WITH (security_barrier, check_option = local) AS SELECT 번호, 이름 AS "이 름" FROM {QUOTED} WHERE 이름 <> '%';
        CREATE VIEW 영업.겹 AS SELECT * FROM 영업."보 기" JOIN {QUOTED} t USING (번호); CREATE VIEW 영업.끝 AS SELECT 번호 FROM 영업.겹;
        CREATE VIEW 영업.묶음 AS SELECT 번호, 이름, count(t), t IS NULL AS 없음 FROM {QUOTED} t GROUP BY 번호;
        CREATE RECURSIVE VIEW 영업.거듭 (n) AS SELECT 번호 FROM {QUOTED} UNION SELECT 번호 FROM 거듭 JOIN {QUOTED} t ON 추천 = n;
        CREATE RULE 넣기 AS ON INSERT TO 영업.겹 DO INSTEAD INSERT INTO {QUOTED} VALUES (NEW.번호, NEW.이름) RETURNING 번호, 이름, 이름, 금액, 추천;
        CREATE MATERIALIZED VIEW 영업.굳음 AS TABLE 영업."보 기"; ALTER VIEW 영업."보 기" RENAME COLUMN 번호 TO 번;
        ALTER VIEW 영업."보 기" ALTER 번 SET DEFAULT 7; ALTER VIEW 영업."보 기" OWNER TO 하나; GRANT SELECT ON 영업."보 기" TO "다른 이";
        {TELL}; CREATE TRIGGER 대신 INSTEAD OF INSERT ON 영업."보 기" FOR EACH ROW EXECUTE FUNCTION 영업.알림(); COMMENT ON VIEW 영업."보 기" IS '말'""",
    "rules of others": f"""
        {CHILD} CREATE RULE 하나 AS ON INSERT TO 영업.주문 DO ALSO (INSERT INTO {QUOTED} VALUES (NEW.번호, '새'); DELETE FROM {QUOTED} WHERE 번호 = 9);
        CREATE RULE 둘 AS ON UPDATE TO 영업.주문 WHERE EXISTS (SELECT FROM {QUOTED} WHERE 번호 = OLD.고객) DO INSTEAD NOTHING;
        ALTER TABLE 영업.주문 DISABLE RULE 하나; ALTER TABLE 영업.주문 ENABLE ALWAYS RULE 둘; COMMENT ON RULE 하나 ON 영업.주문 IS '규칙'""",
}
# What only the newest server knows of.
NEW_KINDS = {
    "foreign keys that are not enforced": f"{CHILD} ALTER TABLE 영업.주문 ADD CONSTRAINT 키 {REFERS} NOT ENFORCED",
    "a comment on what may not be NULL": f"COMMENT ON CONSTRAINT \"고객 표_이름_not_null\" ON {QUOTED} IS '꼭'",
    "the right to maintain": f"GRANT MAINTAIN ON {QUOTED} TO 하나",
    "partitions whose foreign key is not valid": f"""
        CREATE TABLE 영업.주문 (번호 int, 고객 int) PARTITION BY LIST (번호); CREATE TABLE 영업.주문1 PARTITION OF 영업.주문 DEFAULT;
        ALTER TABLE 영업.주문 ADD CONSTRAINT 키 {REFERS} NOT VALID""",
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


def lost(session: Session, before: Fingerprint, left_out: int | None = None) -> list[str]:
    """What a swap loses, or why it fails; it is undone."""
    try:
        with session.connection.transaction(force_rollback=True):
            swap(session, left_out)
            return differences(before, look(session.connection, "영업", "고객 표"))
    except psycopg.Error as error:
        return [str(error)]


@pytest.mark.parametrize("own", ALWAYS[:-1], indirect=True)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_lost(session: Session, kind: str) -> None:
    hang(session, KINDS[kind])
    assert refused(session) == []
    assert lost(session, look(session.connection, "영업", "고객 표")) == []


@pytest.mark.parametrize("own", ALWAYS[-1:], indirect=True)
@pytest.mark.parametrize("kind", KINDS | NEW_KINDS)
def test_nothing_is_lost_and_no_statement_is_in_vain(session: Session, kind: str) -> None:
    """Whichever is left out, something is lost, or the publish fails."""
    hang(session, (KINDS | NEW_KINDS)[kind])
    before = look(session.connection, "영업", "고객 표")
    assert refused(session) == []
    assert lost(session, before) == []
    statements = dependents.read_statements(session, relation(session), NEW).after
    assert [each for position, each in enumerate(statements) if not lost(session, before, position)] == []


BY_ITS_OWNER = f"""
    CREATE VIEW 영업.보기 AS TABLE {QUOTED}; {TELL}; CREATE TRIGGER 알림 AFTER INSERT ON {QUOTED} EXECUTE FUNCTION 영업.알림();
    {CHILD} ALTER TABLE 영업.주문 ADD {REFERS}; CREATE RULE 규칙 AS ON DELETE TO 영업.주문 DO ALSO DELETE FROM {QUOTED} WHERE 번호 = OLD.고객;
    CREATE POLICY 정책 ON {QUOTED} USING (true); ALTER TABLE {QUOTED} ENABLE ROW LEVEL SECURITY; COMMENT ON TABLE {QUOTED} IS '말';
    GRANT SELECT ON {QUOTED} TO PUBLIC; CREATE PUBLICATION 발행 FOR TABLE {QUOTED}; ALTER TABLE {QUOTED} REPLICA IDENTITY FULL"""


def test_a_member_of_the_owner_carries_over_what_is_the_owners(session: Session) -> None:
    hang(session, f'GRANT CREATE ON DATABASE "{session.server.database}" TO 주인; SET LOCAL ROLE 주인; {BY_ITS_OWNER}')
    before = look(session.connection, "영업", "고객 표")
    hang(session, "GRANT 주인 TO 하나; SET LOCAL SESSION AUTHORIZATION 하나")
    assert refused(session) == []
    swap(session)
    hang(session, "RESET SESSION AUTHORIZATION")
    assert differences(before, look(session.connection, "영업", "고객 표")) == []


# What nothing is carried of, and what would go with the old table without a word.
DEPENDENTS = {
    "a function": f"CREATE FUNCTION 영업.셈() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM {QUOTED}; END",
    "a trigger of another table": f"{TELL}; {CHILD} CREATE CONSTRAINT TRIGGER 알림 AFTER INSERT ON 영업.주문 FROM {QUOTED} FOR EACH ROW EXECUTE FUNCTION 영업.알림()",
    "a subscription": f"INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate) VALUES (1, '{QUOTED}'::regclass, 'r')",
}


@pytest.mark.parametrize("kind", [kind for kind in KINDS | DEPENDENTS if kind != "default privileges"])
def test_what_changes_meanwhile_is_seen(session: Session, kind: str) -> None:
    before = dependents.read_statements(session, relation(session), NEW)
    assert dependents.read_statements(session, relation(session), NEW) == before
    hang(session, (KINDS | DEPENDENTS)[kind] if kind != "owner" else f"ALTER TABLE {QUOTED} OWNER TO 하나")
    assert dependents.read_statements(session, relation(session), NEW) != before
