"""Every right that the carrying needs, and that the role lacks, refuses the swap and is named."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_provider_safecopy.postgres.session import Session
from tests.support import swapped
from tests.support.database import ALWAYS, Servers
from tests.support.swapped import QUOTED, hang, refused

CHILD = "CREATE TABLE 영업.주문 (번호 int, 고객 int);"
REFERS = f"FOREIGN KEY (고객) REFERENCES {QUOTED}"
NOTE = "CREATE FUNCTION 영업.알림() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"

# By right that is lacking: what is there, and what the message names. The role is a member of the owner.
LACKING = {
    "the owner's rights": ("REVOKE 주인 FROM 하나", 'the rights of its owner "주인"'),
    "becoming the owner": ("GRANT 주인 TO 하나 WITH SET FALSE", 'SET on role "주인"'),
    "making tables in the schema": (
        "REVOKE CREATE ON SCHEMA 영업 FROM 주인",
        'lacks CREATE on schema "영업"',
    ),
    "owning tables in the schema": (
        "REVOKE CREATE ON SCHEMA 영업 FROM 주인; GRANT CREATE ON SCHEMA 영업 TO 하나",
        'its owner 주인 lacks CREATE on schema "영업"',
    ),
    "a view": (f"CREATE VIEW 영업.보기 AS TABLE {QUOTED}", 'the rights of postgres, who owns view "영업"."보기"'),
    "the view's schema": (
        f"CREATE SCHEMA 남; CREATE VIEW 남.보기 AS TABLE {QUOTED}; ALTER VIEW 남.보기 OWNER TO 주인",
        'CREATE on schema "남", which is needed to replace view "남"."보기"',
    ),
    "a rule's table": (
        f"{CHILD} CREATE RULE 규칙 AS ON DELETE TO 영업.주문 DO ALSO DELETE FROM {QUOTED}",
        'who owns table "영업"."주문"',
    ),
    "a table that refers to it": (f"{CHILD} ALTER TABLE 영업.주문 ADD {REFERS}", 'who owns table "영업"."주문"'),
    "seeing the rows that refer to it": (
        (
            f"{CHILD} ALTER TABLE 영업.주문 ADD CONSTRAINT 키 {REFERS}, OWNER TO 주인, "
            "ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
        ),
        "BYPASSRLS, which is needed to check constraint 키",
    ),
    "a publication": (f"CREATE PUBLICATION 발행 FOR TABLE {QUOTED}", "who owns publication 발행"),
    "a trigger's function": (
        (
            f"{NOTE}; CREATE TRIGGER 알림 AFTER INSERT ON {QUOTED} EXECUTE FUNCTION 영업.알림(); "
            "REVOKE EXECUTE ON FUNCTION 영업.알림 FROM PUBLIC"
        ),
        'EXECUTE on function "영업"."알림"()',
    ),
    "a schema that a policy needs": (
        (
            "CREATE SCHEMA 남; CREATE FUNCTION 남.셈() RETURNS bool LANGUAGE sql AS 'SELECT true'; "
            f"CREATE POLICY 정책 ON {QUOTED} USING (남.셈())"
        ),
        'USAGE on schema "남", which is needed to make policy 정책',
    ),
    "the grantor's name": (
        (
            f'GRANT USAGE ON SCHEMA 영업 TO "다른 이"; GRANT SELECT ON {QUOTED} TO "다른 이" WITH GRANT OPTION; '
            f'SET LOCAL ROLE "다른 이"; GRANT SELECT ON {QUOTED} TO PUBLIC'
        ),
        'SELECT to PUBLIC by "다른 이"',
    ),
    "the grantor's way to the table": (
        (
            f'GRANT "다른 이" TO 하나; GRANT USAGE ON SCHEMA 영업 TO "다른 이"; GRANT SELECT (이름) ON {QUOTED} TO "다른 이" '
            f'WITH GRANT OPTION; SET LOCAL ROLE "다른 이"; GRANT SELECT (이름) ON {QUOTED} TO PUBLIC; RESET ROLE; '
            'REVOKE USAGE ON SCHEMA 영업 FROM "다른 이"'
        ),
        'SELECT to PUBLIC by "다른 이"',
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


@pytest.mark.parametrize("kind", LACKING)
def test_a_right_that_is_lacking_is_named(session: Session, kind: str) -> None:
    what, named = LACKING[kind]
    if "WITH SET" in what and session.server.major < 16:
        pytest.skip("every member may")
    hang(session, f"GRANT 주인 TO 하나; {what}")
    hang(session, "SET LOCAL SESSION AUTHORIZATION 하나")
    found = refused(session)
    assert {code for code, _ in found} == {"privilege"}
    assert any(named in message for _, message in found), found
