"""What a swap locks: what it tells, views before the tables they read; and why `auto` had rather not swap."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import psycopg
import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.postgres.session import Session, open_session
from airflow_provider_safecopy.publish import dependents
from airflow_provider_safecopy.spec import CopySpec
from tests.conftest import MakeDatabase
from tests.support.database import Database
from tests.support.swapped import NEW, QUOTED, SHAPE, hang, refused, relation, swap
from tests.support.until import until

AROUND = f"""
CREATE TABLE 영업.등급 (번호 int PRIMARY KEY); CREATE TABLE 영업.지역 (번호 int PRIMARY KEY) PARTITION BY LIST (번호);
CREATE TABLE 영업.지역1 PARTITION OF 영업.지역 DEFAULT;
ALTER TABLE {QUOTED} ADD FOREIGN KEY (추천) REFERENCES 영업.등급, ADD FOREIGN KEY (추천) REFERENCES 영업.지역,
    ADD FOREIGN KEY (추천) REFERENCES {QUOTED};
CREATE TABLE 영업.주문 (번호 int, 고객 int REFERENCES {QUOTED}) PARTITION BY LIST (번호);
CREATE TABLE 영업.주문1 PARTITION OF 영업.주문 FOR VALUES IN (1); CREATE TABLE 영업.남 (번호 int);
CREATE RULE 규칙 AS ON DELETE TO 영업.남 DO ALSO DELETE FROM {QUOTED} WHERE 번호 = OLD.번호;
CREATE VIEW 영업.안 AS SELECT 번호 FROM {QUOTED};
CREATE VIEW 영업.겉 AS SELECT 번호 FROM 영업.안 JOIN {QUOTED} t USING (번호); CREATE VIEW 영업.먼 AS TABLE 영업.겉;
"""
LOCKED = sorted(
    f'"영업"."{name}" ACCESS EXCLUSIVE' for name in ("등급", "지역", "지역1", "주문", "주문1", "남", "안", "겉")
)
HELD = """
SELECT relation::regclass::text || ' ACCESS EXCLUSIVE' AS lock FROM pg_locks JOIN pg_class c ON c.oid = relation
WHERE pid = pg_backend_pid() AND mode = 'AccessExclusiveLock' AND c.oid = ANY (%(oids)s)
"""
WAITING = """
SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'safecopy:%' AND wait_event_type = 'Lock'
"""
TELL = "CREATE FUNCTION 영업.알림() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
TRIGGER = f"{TELL} CREATE TRIGGER 알림 AFTER INSERT ON {QUOTED} EXECUTE FUNCTION 영업.알림();"
REFERRING = f"""
CREATE TABLE 영업.등급 (번호 int PRIMARY KEY); ALTER TABLE {QUOTED} ADD CONSTRAINT 키 FOREIGN KEY (추천) REFERENCES 영업.등급;
"""
ON_NEW = """
CREATE FUNCTION 영업.새표() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER 새표 ON ddl_command_end EXECUTE FUNCTION 영업.새표();
"""
CHILD = "CREATE TABLE 영업.주문 (고객 int);"


@pytest.fixture
def target(database: MakeDatabase) -> Database:
    made = database()
    made.execute(SHAPE)
    return made


@pytest.fixture
def session(target: Database) -> Iterator[Session]:
    with open_session(target.endpoint, application_name="safecopy:test", connect_timeout=10) as session:
        yield session


def test_no_more_is_locked_than_is_told(session: Session) -> None:
    hang(session, AROUND)
    there = session.fetch_value("SELECT array_agg(oid) AS oids FROM pg_class WHERE relkind IN ('r', 'p', 'v')")
    told, old = dependents.read_statements(session, relation(session), NEW), relation(session).oid
    assert sorted(told.locks) == LOCKED
    with session.connection.transaction(force_rollback=True):
        swap(session)
        oids = [oid for oid in there if oid != old]
        assert sorted(row["lock"] for row in session.fetch_all(HELD, {"oids": oids})) == LOCKED


def test_all_that_can_be_locked_first_is_and_the_outer_view_before_the_inner(session: Session) -> None:
    hang(session, AROUND)
    there = session.fetch_value("SELECT array_agg(oid) AS oids FROM pg_class WHERE relkind IN ('r', 'p', 'v')")
    first = dependents.read_statements(session, relation(session), NEW).first
    assert [statement.split()[2] for statement in first[:2]] == ['"영업"."겉"', '"영업"."안"']
    with session.connection.transaction(force_rollback=True):
        for statement in first:
            session.connection.execute(statement.encode())
        assert sorted(row["lock"] for row in session.fetch_all(HELD, {"oids": there})) == LOCKED


def test_who_reads_a_view_neither_stops_the_swap_nor_is_stopped_for_good(target: Database, session: Session) -> None:
    hang(session, AROUND)
    with reading_meanwhile(target, session, dependents.read_statements(session, relation(session), NEW).first):
        swap(session)


def test_were_the_table_locked_first_each_would_wait_for_the_other(target: Database, session: Session) -> None:
    hang(session, AROUND)
    first = [f"LOCK TABLE {QUOTED} IN ACCESS EXCLUSIVE MODE"]
    with pytest.raises(psycopg.errors.DeadlockDetected), reading_meanwhile(target, session, first):
        swap(session)


@contextmanager
def reading_meanwhile(target: Database, session: Session, first: Iterable[str]) -> Iterator[None]:
    """A transaction; once it has done what is `first`, somebody begins to read a view, and has to wait for it."""
    read: list[int] = []
    reader = threading.Thread(target=lambda: read.append(target.value("SELECT count(*) FROM 영업.먼")))
    try:
        with session.connection.transaction():
            session.connection.execute("SET LOCAL lock_timeout = '10s'; SET LOCAL deadlock_timeout = '10ms'")
            for statement in first:
                session.connection.execute(statement.encode())
            reader.start()
            deadline = time.monotonic() + 30
            while not target.value("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                assert time.monotonic() < deadline
            yield
    finally:
        reader.join(100)
    assert read == [3]


@pytest.mark.parametrize(
    "what, why",
    [
        ("SELECT 1", None),
        (TRIGGER, "its triggers would not fire: 알림"),
        (f"{TRIGGER} ALTER TABLE {QUOTED} ENABLE ALWAYS TRIGGER 알림", "its triggers would not fire: 알림"),
        (f"{TRIGGER} ALTER TABLE {QUOTED} DISABLE TRIGGER 알림", None),
        (f"CREATE PUBLICATION 발행 FOR TABLE {QUOTED}", "subscribers would not get the rows, of publication 발행"),
        (
            f"{CHILD} ALTER TABLE 영업.주문 ADD CONSTRAINT 키 FOREIGN KEY (고객) REFERENCES {QUOTED}",
            'readers would wait while foreign keys are checked: 키 on "영업"."주문"',
        ),
        (f"{CHILD} ALTER TABLE 영업.주문 ADD FOREIGN KEY (고객) REFERENCES {QUOTED} NOT VALID", None),
        (f"ALTER TABLE {QUOTED} ADD FOREIGN KEY (추천) REFERENCES {QUOTED}", None),
        (
            REFERRING,
            'writers of other tables would wait while foreign keys are checked: 키 to "영업"."등급"',
        ),
        (
            ON_NEW,
            "the new table may be changed by event triggers: 새표",
        ),
        (f"{TRIGGER} CREATE PUBLICATION 발행 FOR TABLE {QUOTED}", "its triggers would not fire: 알림; subscribers"),
    ],
)
def test_why_auto_had_rather_not(session: Session, what: str, why: str | None) -> None:
    with session.connection.transaction(force_rollback=True):
        hang(session, what)
        told = dependents.find_drawback(session, relation(session))
        assert told == why or (why is not None and told is not None and told.startswith(why))


@pytest.mark.pair(18, 16)
def test_a_table_that_a_subscription_feeds_is_refused(source: Database, target: Database, session: Session) -> None:
    source.execute(f"{SHAPE} CREATE PUBLICATION 발행 FOR TABLE {QUOTED}")
    given = source.conninfo.replace("'", "''")
    hang(
        session,
        f"CREATE SUBSCRIPTION 구독 CONNECTION '{given}' PUBLICATION 발행 WITH (enabled = false, create_slot = false, slot_name = NONE)",
    )
    ((code, message),) = refused(session)
    session.connection.execute("DROP SUBSCRIPTION 구독".encode())
    assert code == "swap_published"
    assert "구독" in message


def test_a_reader_that_stays_and_then_reads_a_view_does_not_wait_for_a_swap(source: Database, target: Database) -> None:
    """Readers lock in orders of their own: a view before its table, or the table first and a view of it later.

    A swap that waits for a reader holds no lock that this reader may come to need, whichever it has taken first.
    """
    source.execute(f"{SHAPE} DELETE FROM {QUOTED}; INSERT INTO {QUOTED} SELECT g, g FROM generate_series(1, 9) g")
    target.execute(
        f"CREATE VIEW 영업.안 AS SELECT 번호 FROM {QUOTED}; CREATE TABLE 영업.주문 (고객 int REFERENCES {QUOTED})"
    )
    target.execute(f"ALTER DATABASE \"{target.name}\" SET deadlock_timeout = '20ms'")
    failed: list[BaseException] = []

    def copy() -> None:
        spec = CopySpec.of(source_table=("영업", "고객 표"), target_table=("영업", "고객 표"), publish="swap")
        try:
            pipeline.copy(spec, source.endpoint, target.endpoint)
        except BaseException as error:  # noqa: BLE001 -- told to the test
            failed.append(error)

    copying = threading.Thread(target=copy)
    with target.connect() as reader:
        reader.execute(f"BEGIN; SET LOCAL lock_timeout = '10ms'; SELECT FROM {QUOTED}".encode())
        copying.start()
        until(lambda: failed or target.value(WAITING), told="the swap never waited")
        for _ in range(100):
            assert reader.execute("SELECT count(*) FROM 영업.안".encode()).fetchone() == (3,)
            reader.execute("SELECT FROM 영업.주문".encode())
        reader.execute("COMMIT")
        copying.join(100)
    assert failed == []
    assert target.value(f"SELECT count(*) FROM {QUOTED}") == 9
