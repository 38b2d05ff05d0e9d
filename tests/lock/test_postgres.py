"""The lock in the target: made once by whoever comes first, tokens that only grow, and a fence that holds."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql as compose

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import FencedOutError, LockStoreError
from airflow_provider_safecopy.lock import postgres as lock
from airflow_provider_safecopy.lock.model import Lease, application_name
from airflow_provider_safecopy.transfer.model import CopySpec
from tests.conftest import MakeRole, NothingLeft
from tests.ground.database import Database

NAME = "분석.고객"


@pytest.fixture
def made(target: Database) -> Database:
    """A target that holds the schema safecopy."""
    with target.connect() as session:
        lock.init(session)
    return target


def draw(session: psycopg.Connection[Any], name: str = NAME) -> Lease:
    return lock.draw(session, name, owner="시험|dag|run", attempt=uuid4())


# Making it


def test_init_makes_logged_tables_in_a_schema_that_says_what_it_is(made: Database) -> None:
    tables = made.rows(
        "SELECT relname, relpersistence::text FROM pg_class "
        "WHERE relnamespace = 'safecopy'::regnamespace AND relkind = 'r' ORDER BY 1"
    )
    assert tables == [("lock", "p"), ("receipt", "p")]
    assert "SafeCopy" in made.value("SELECT obj_description('safecopy'::regnamespace, 'pg_namespace')")


def test_init_again_leaves_everything_as_it_is(made: Database) -> None:
    with made.connect() as session:
        draw(session)
        before = made.rows("SELECT oid, relname FROM pg_class WHERE relnamespace = 'safecopy'::regnamespace ORDER BY 1")
        lock.init(session)
        assert draw(session).token == 2
    after = made.rows("SELECT oid, relname FROM pg_class WHERE relnamespace = 'safecopy'::regnamespace ORDER BY 1")
    assert before == after


def test_init_mends_what_is_missing(made: Database) -> None:
    with made.connect() as session:
        draw(session)
        session.execute("DROP TABLE safecopy.receipt")
        lock.init(session)
        assert draw(session).token == 2
    assert made.value("SELECT count(*) FROM safecopy.receipt") == 0


def test_many_threads_at_once_make_it_once(target: Database) -> None:
    start = threading.Barrier(8)

    def make(_: int) -> int:
        with target.connect() as session:
            start.wait(30)
            lock.init(session)
            return draw(session).token

    with ThreadPoolExecutor(8) as executor:
        tokens = list(executor.map(make, range(8)))
    assert sorted(tokens) == list(range(1, 9))


INIT = """
import sys, psycopg
from airflow_provider_safecopy.lock import postgres as lock
with psycopg.connect(sys.stdin.buffer.readline().decode().strip(), autocommit=True) as session:
    print("ready", flush=True)
    sys.stdin.readline()
    lock.init(session)
print("made", flush=True)
"""


def test_many_processes_at_once_make_it_once(target: Database) -> None:
    command = [sys.executable, "-c", INIT]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(target.conninfo.encode() + b"\n")
        process.stdin.flush()
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    answers = [process.communicate(b"\n", timeout=60) for process in processes]
    assert [out for out, _ in answers] == [b"made\n"] * 3, answers
    assert target.value("SELECT count(*) FROM safecopy.lock") == 0


def test_init_in_a_transaction_of_ones_own_is_undone_with_it(target: Database) -> None:
    with target.connect() as session, session.transaction(force_rollback=True):
        lock.init(session)
    assert target.value("SELECT to_regnamespace('safecopy')") is None


def test_who_may_not_create_is_told_who_may(target: Database, role: MakeRole) -> None:
    with role(target).connect() as session, pytest.raises(LockStoreError, match="cannot be made") as caught:
        lock.init(session)
    assert (caught.value.sqlstate, caught.value.retryable) == ("42501", False)
    assert "--grant" in caught.value.hint


# Rights


def test_grant_gives_what_a_copy_needs_and_no_more(target: Database, role: MakeRole) -> None:
    loader = role(target)
    with target.connect() as session:
        lock.init(session, grant=loader.role)
        lock.init(session, grant=loader.role)
    with loader.connect() as session:
        lease = draw(session)
        with session.transaction():
            lock.fence(session, lease)
        for forbidden in (
            "DELETE FROM safecopy.lock",
            "TRUNCATE safecopy.lock",
            "UPDATE safecopy.receipt SET row_count = 0",
            "DELETE FROM safecopy.receipt",
            "DROP TABLE safecopy.receipt",
            "DROP SCHEMA safecopy CASCADE",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(forbidden)
        assert lock.refusals(session, role=str(loader.role), may_create=False) == ()


@pytest.mark.parametrize("publish", ["delete_insert", "truncate_insert"])
def test_a_granted_role_without_any_other_rights_copies_a_table(
    source: Database, target: Database, role: MakeRole, nothing_left: NothingLeft, publish: str
) -> None:
    for database in (source, target):
        database.execute("CREATE SCHEMA 영업; CREATE TABLE 영업.고객 (번호 int, 이름 text)")
    source.execute("INSERT INTO 영업.고객 VALUES (1, '철수'), (2, '영희')")
    target.execute("INSERT INTO 영업.고객 VALUES (0, '옛 고객')")
    reader, loader = role(source), role(target)
    source.execute(f'GRANT USAGE ON SCHEMA 영업 TO "{reader.role}"; GRANT SELECT ON 영업.고객 TO "{reader.role}"')
    removing = "DELETE" if publish == "delete_insert" else "TRUNCATE"
    target.execute(
        f'GRANT USAGE ON SCHEMA 영업 TO "{loader.role}"; GRANT SELECT, INSERT, {removing} ON 영업.고객 TO "{loader.role}"'
    )
    with target.connect() as session:
        lock.init(session, grant=loader.role)
    spec = CopySpec.of(source_table="영업.고객", target_table="영업.고객", publish=publish, verify="full")
    report = pipeline.copy(spec, reader.endpoint, loader.endpoint, owner="least")
    assert (report.rows, report.previous_rows) == (2, 1)
    assert sorted(target.rows("TABLE 영업.고객")) == [(1, "철수"), (2, "영희")]
    assert target.rows("SELECT owner_key, row_count FROM safecopy.receipt") == [("least", 2)]
    nothing_left(source, target)


def test_any_role_name_can_be_granted_to(target: Database) -> None:
    name = 'it\'s "역할"; DROP TABLE x --'
    with target.connect() as session:
        session.execute(compose.SQL("CREATE ROLE {}").format(compose.Identifier(name)))
        lock.init(session, grant=name)
        granted = session.execute("SELECT has_table_privilege(%s, 'safecopy.lock', 'UPDATE')", [name]).fetchone()
        session.execute(compose.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(compose.Identifier(name)))
    assert granted == (True,)


def test_a_role_that_is_not_there_cannot_be_granted_to_and_nothing_is_made(target: Database) -> None:
    with target.connect() as session, pytest.raises(LockStoreError) as caught:
        lock.init(session, grant="없는_역할")
    assert (caught.value.sqlstate, caught.value.retryable) == ("42704", False)
    assert target.value("SELECT to_regnamespace('safecopy')") is None


@pytest.mark.parametrize(
    "prepared, may_create, code",
    [
        ("", True, None),
        ("", False, "not_initialised"),
        ("CREATE SCHEMA safecopy", True, "not_initialised"),
        ("CREATE SCHEMA safecopy; GRANT USAGE ON SCHEMA safecopy TO PUBLIC", False, "not_initialised"),
    ],
)
def test_a_role_that_finds_nothing_and_may_not_make_it_is_refused(
    target: Database, role: MakeRole, prepared: str, may_create: bool, code: str | None
) -> None:
    target.execute(prepared)
    assert codes(role(target), may_create=may_create) == ([code] if code else [])


@pytest.mark.parametrize(
    "rights",
    [
        "",
        "GRANT USAGE, CREATE ON SCHEMA safecopy TO PUBLIC",
        "GRANT ALL ON safecopy.lock, safecopy.receipt TO PUBLIC",
        "GRANT USAGE ON SCHEMA safecopy TO PUBLIC; GRANT ALL ON safecopy.lock, safecopy.receipt TO PUBLIC",
        "GRANT ALL ON SCHEMA safecopy TO PUBLIC; GRANT SELECT ON safecopy.lock, safecopy.receipt TO PUBLIC",
    ],
)
def test_a_role_that_finds_it_and_may_not_use_it_is_refused(made: Database, role: MakeRole, rights: str) -> None:
    made.execute(rights)
    assert codes(role(made), may_create=True) == ["not_granted"]


def codes(loader: Database, *, may_create: bool) -> list[str]:
    """Why this role is refused; each reason with the command that helps."""
    with loader.connect() as session:
        found = lock.refusals(session, role=str(loader.role), may_create=may_create)
    assert all(f"safecopy init --target … --grant {loader.role}" in each.hint for each in found)
    return [each.code for each in found]


def test_a_plan_refuses_a_role_without_the_schema_and_says_how_to_get_it(
    source: Database, made: Database, role: MakeRole
) -> None:
    for database in (source, made):
        database.execute("CREATE TABLE public.고객 AS SELECT 1 AS 번호")
    loader = role(made)
    made.execute(f'GRANT ALL ON public.고객 TO "{loader.role}"')
    spec = CopySpec.of(source_table="public.고객", target_table="public.고객")
    (found,) = pipeline.plan(spec, source.endpoint, loader.endpoint).refusals
    assert found.code == "not_granted"
    assert f"--grant {loader.role}" in found.hint


# Tokens


def test_tokens_begin_at_one_and_grow_by_one_for_each_name(made: Database) -> None:
    with made.connect() as session:
        assert [draw(session).token for _ in range(3)] == [1, 2, 3]
        assert draw(session, "다른 잠금").token == 1
        assert draw(session).token == 4
    assert made.rows("SELECT name, token FROM safecopy.lock ORDER BY token") == [("다른 잠금", 1), (NAME, 4)]


@pytest.mark.parametrize("name", ["x" * 3000, "it's; DROP TABLE safecopy.lock --", "한글\n이름", "%s %(x)s"])
def test_any_text_is_a_name(made: Database, name: str) -> None:
    with made.connect() as session:
        lease = draw(session, name)
        assert lease.name == name
        with session.transaction():
            lock.fence(session, lease)


def test_a_lease_says_who_and_is_kept(made: Database) -> None:
    attempt = uuid4()
    with made.connect() as session:
        lease = lock.draw(session, NAME, owner="배치|dag|run", attempt=attempt)
    assert (lease.name, lease.token, lease.attempt, lease.owner) == (NAME, 1, attempt, "배치|dag|run")
    ((lease_id, owner, age),) = made.rows("SELECT lease_id, owner_key, now() - granted_at FROM safecopy.lock")
    assert (lease_id, owner) == (lease.lease_id, "배치|dag|run")
    assert 0 <= age.total_seconds() < 60
    assert application_name(attempt) == f"safecopy:{attempt}"


def test_concurrent_draws_never_share_a_token(made: Database) -> None:
    start = threading.Barrier(6)

    def draw_many(_: int) -> list[int]:
        with made.connect() as session:
            start.wait(30)
            return [draw(session).token for _ in range(20)]

    with ThreadPoolExecutor(6) as executor:
        drawn = list(executor.map(draw_many, range(6)))
    assert sorted(token for tokens in drawn for token in tokens) == list(range(1, 121))
    assert all(tokens == sorted(tokens) for tokens in drawn)


def test_where_there_is_nothing_to_draw_from_init_is_asked_for(target: Database) -> None:
    with target.connect() as session, pytest.raises(LockStoreError, match=NAME) as caught:
        draw(session)
    assert (caught.value.sqlstate, caught.value.retryable) == ("42P01", False)
    assert "safecopy init" in caught.value.hint


def test_a_lost_connection_may_be_tried_again(made: Database) -> None:
    session = made.connect()
    session.close()
    with pytest.raises(LockStoreError) as caught:
        draw(session)
    assert caught.value.retryable


# The fence


def test_the_newest_lease_passes_and_every_older_one_is_fenced_out(made: Database) -> None:
    with made.connect() as session:
        older, newer = draw(session), draw(session)
        with session.transaction():
            lock.fence(session, newer)
        with pytest.raises(FencedOutError, match=NAME) as caught, session.transaction():
            lock.fence(session, older)
    error = caught.value
    assert (error.lock, error.token, error.stage, error.retryable) == (NAME, older.token, "publish", False)


def test_a_lock_is_no_other_locks_business(made: Database) -> None:
    with made.connect() as session:
        lease = draw(session)
        draw(session, "다른 잠금")
        with session.transaction():
            lock.fence(session, lease)


def test_a_token_issued_twice_after_a_restore_fences_the_first_one_out(made: Database) -> None:
    with made.connect() as session:
        before = draw(session)
        session.execute("DELETE FROM safecopy.lock")  # as a restore from an older backup would
        after = draw(session)
        assert before.token == after.token
        with pytest.raises(FencedOutError), session.transaction():
            lock.fence(session, before)
        with session.transaction():
            lock.fence(session, after)


def test_a_fence_holds_off_every_draw_until_commit(made: Database) -> None:
    with made.connect() as publisher, made.connect() as rival:
        lease = draw(publisher)
        with publisher.transaction():
            lock.fence(publisher, lease)
            rival.execute("SET lock_timeout = '100ms'")
            with pytest.raises(LockStoreError) as caught:
                draw(rival)
            assert (caught.value.sqlstate, caught.value.retryable) == ("55P03", True)
            lock.fence(publisher, lease)
        assert draw(rival).token == 2
        with pytest.raises(FencedOutError), publisher.transaction():
            lock.fence(publisher, lease)


def test_a_draw_that_waits_for_a_publish_gets_the_next_token_after_it(made: Database) -> None:
    with made.connect() as publisher, made.connect() as rival, ThreadPoolExecutor(1) as executor:
        lease = draw(publisher)
        with publisher.transaction():
            lock.fence(publisher, lease)
            waiting = executor.submit(draw, rival)
            _until(lambda: made.value("SELECT pg_blocking_pids(%s)", [rival.info.backend_pid]) != [])
            publisher.execute("INSERT INTO safecopy.lock (name) VALUES ('published')")
            assert not waiting.done()
        assert waiting.result(30).token == 2
        assert rival.execute("SELECT count(*) FROM safecopy.lock WHERE name = 'published'").fetchone() == (1,)


def test_a_fence_behind_an_unfinished_draw_waits_and_then_loses(made: Database) -> None:
    with made.connect() as publisher, made.connect() as rival, ThreadPoolExecutor(1) as executor:
        lease = draw(publisher)

        def publish() -> None:
            with publisher.transaction():
                lock.fence(publisher, lease)

        with rival.transaction():
            draw(rival)
            waiting = executor.submit(publish)
            _until(lambda: made.value("SELECT pg_blocking_pids(%s)", [publisher.info.backend_pid]) != [])
        with pytest.raises(FencedOutError):
            waiting.result(30)


def test_a_draw_that_is_rolled_back_fences_nobody_out(made: Database) -> None:
    with made.connect() as publisher, made.connect() as rival:
        lease = draw(publisher)
        with rival.transaction(force_rollback=True):
            draw(rival)
        with publisher.transaction():
            lock.fence(publisher, lease)


def test_readers_and_other_locks_pass_a_held_fence(made: Database) -> None:
    with made.connect() as publisher, made.connect() as other:
        lease = draw(publisher)
        with publisher.transaction():
            lock.fence(publisher, lease)
            other.execute("SET lock_timeout = '100ms'")
            assert other.execute("SELECT token FROM safecopy.lock").fetchall() == [(1,)]
            assert draw(other, "다른 잠금").token == 1


def _until(holds: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline


# Receipts


def test_an_attempt_has_one_receipt(made: Database) -> None:
    row = f"('l', 1, gen_random_uuid(), '{uuid4()}', 'o', 's', 't', 1, 0, '{{}}')"
    columns = "lock, token, lease_id, attempt, owner_key, source, target, row_count, previous_rows, proof"
    made.execute(f"INSERT INTO safecopy.receipt ({columns}) VALUES {row}")
    with pytest.raises(psycopg.errors.UniqueViolation):
        made.execute(f"INSERT INTO safecopy.receipt ({columns}) VALUES {row}")
    assert made.value("SELECT now() - published_at < interval '1 minute' FROM safecopy.receipt")
