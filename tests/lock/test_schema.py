"""The schema safecopy: made once by whoever comes first, brought up from an earlier layout, and who may use it."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql as compose

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import FencedOutError, LockStoreError
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.lock.model import Contender, Holder, Lease, Promise
from airflow_provider_safecopy.lock.postgres import PostgresStore, check_fence
from airflow_provider_safecopy.spec import CopySpec
from tests.conftest import MakeRole, NothingLeft
from tests.support.database import PRESENT, Database, Servers

NAME = "분석.고객"
TABLES = ("lock", "lock_event", "member", "receipt", "watermark")


@pytest.fixture
def made(target: Database) -> Database:
    """A target that holds the schema safecopy."""
    with target.connect() as session:
        schema.init(session)
    return target


def grant(database: Database, owner: str = "시험") -> Lease:
    """One more token, whoever holds the lock."""
    with closing(PostgresStore(database.endpoint)) as store:
        contender = Contender(f"{owner}|{uuid4()}", process=None)
        answer = store.acquire(NAME, contender, Promise())
        if isinstance(answer, Holder):
            answer = store.acquire(NAME, contender, Promise(), dead=[seen.attempt for seen in answer.members])
    assert isinstance(answer, Lease)
    return answer


# Making it


def test_init_makes_logged_tables_in_a_schema_that_says_what_it_is(made: Database) -> None:
    tables = made.rows(
        "SELECT relname, relpersistence::text FROM pg_class "
        "WHERE relnamespace = 'safecopy'::regnamespace AND relkind = 'r' ORDER BY 1"
    )
    assert tables == [(table, "p") for table in TABLES]
    assert "SafeCopy" in made.value("SELECT obj_description('safecopy'::regnamespace, 'pg_namespace')")


def test_init_again_leaves_everything_as_it_is(made: Database) -> None:
    relations = "SELECT oid, relname FROM pg_class WHERE relnamespace = 'safecopy'::regnamespace ORDER BY 1"
    assert grant(made).token == 1
    before = made.rows(relations)
    with made.connect() as session:
        schema.init(session)
    assert grant(made).token == 2
    assert made.rows(relations) == before


@pytest.mark.parametrize("table", ["member", "lock_event", "receipt", "watermark"])
def test_init_mends_what_is_missing(made: Database, table: str) -> None:
    lease = grant(made)
    made.execute(f"DROP TABLE safecopy.{table}")
    with made.connect() as session:
        assert not schema.is_ready(session)
        schema.init(session)
        assert schema.is_ready(session)
    with closing(PostgresStore(made.endpoint)) as store:
        store.force_release(NAME, reason="시험")
    assert grant(made).token == lease.token + 2


def test_whoever_acquires_first_makes_it(target: Database) -> None:
    assert grant(target).token == 1
    with target.connect() as session:
        assert schema.is_ready(session)


def test_many_threads_at_once_make_it_once(target: Database) -> None:
    start = threading.Barrier(8)

    def make(number: int) -> int:
        with target.connect() as session, closing(PostgresStore(target.endpoint)) as store:
            start.wait(100)
            schema.init(session)
            lease = store.acquire(f"{NAME} {number}", Contender("시험", process=None), Promise())
            assert isinstance(lease, Lease)
            return lease.token

    with ThreadPoolExecutor(8) as executor:
        assert list(executor.map(make, range(8))) == [1] * 8


def test_many_threads_at_once_acquire_without_it(target: Database) -> None:
    start = threading.Barrier(4)

    def acquire(number: int) -> Lease | Holder:
        with closing(PostgresStore(target.endpoint)) as store:
            start.wait(100)
            return store.acquire(NAME, Contender(f"시험 {number}", process=None), Promise())

    with ThreadPoolExecutor(4) as executor:
        answers = list(executor.map(acquire, range(4)))
    assert [type(answer) for answer in answers].count(Lease) == 1


INIT = """
import sys, psycopg
from airflow_provider_safecopy.lock import schema
with psycopg.connect(sys.stdin.buffer.readline().decode().strip(), autocommit=True) as session:
    print("ready", flush=True)
    sys.stdin.readline()
    schema.init(session)
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
    answers = [process.communicate(b"\n", timeout=100) for process in processes]
    assert [out for out, _ in answers] == [b"made\n"] * 3, answers
    assert target.value("SELECT count(*) FROM safecopy.lock") == 0


def test_init_in_a_transaction_of_ones_own_is_undone_with_it(target: Database) -> None:
    with target.connect() as session, session.transaction(force_rollback=True):
        schema.init(session)
    assert target.value("SELECT to_regnamespace('safecopy')") is None


def test_who_may_not_create_is_told_who_may(target: Database, role: MakeRole) -> None:
    with role(target).connect() as session, pytest.raises(LockStoreError, match="cannot be made") as caught:
        schema.init(session)
    assert (caught.value.sqlstate, caught.value.retryable) == ("42501", False)
    assert "--grant" in caught.value.hint


# Rights


def test_grant_gives_what_a_copy_needs_and_no_more(target: Database, role: MakeRole) -> None:
    loader = role(target)
    with target.connect() as session:
        schema.init(session, grant=loader.role)
        schema.init(session, grant=loader.role)
    lease = grant(loader)
    with loader.connect() as session:
        with session.transaction():
            check_fence(session, lease)
        for forbidden in (
            "DELETE FROM safecopy.lock",
            "TRUNCATE safecopy.lock",
            "UPDATE safecopy.lock_event SET kind = 'grant'",
            "UPDATE safecopy.receipt SET row_count = 0",
            "DELETE FROM safecopy.receipt",
            "DROP TABLE safecopy.receipt",
            "DROP SCHEMA safecopy CASCADE",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(forbidden)
        assert schema.find_refusals(session, role=str(loader.role), may_create=False) == ()


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
        schema.init(session, grant=loader.role)
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
        schema.init(session, grant=name)
        granted = session.execute("SELECT has_table_privilege(%s, 'safecopy.lock', 'UPDATE')", [name]).fetchone()
        session.execute(compose.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(compose.Identifier(name)))
    assert granted == (True,)


def test_a_role_that_is_not_there_cannot_be_granted_to_and_nothing_is_made(target: Database) -> None:
    with target.connect() as session, pytest.raises(LockStoreError) as caught:
        schema.init(session, grant="없는_역할")
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
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA safecopy TO PUBLIC",
        "GRANT USAGE ON SCHEMA safecopy TO PUBLIC; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA safecopy TO PUBLIC",
        "GRANT ALL ON SCHEMA safecopy TO PUBLIC; GRANT SELECT ON ALL TABLES IN SCHEMA safecopy TO PUBLIC",
        "GRANT ALL ON SCHEMA safecopy TO PUBLIC; GRANT SELECT, INSERT, UPDATE, DELETE ON safecopy.lock, safecopy.receipt TO PUBLIC",
    ],
)
def test_a_role_that_finds_it_and_may_not_use_it_is_refused(made: Database, role: MakeRole, rights: str) -> None:
    made.execute(rights)
    assert codes(role(made), may_create=True) == ["not_granted"]


def codes(loader: Database, *, may_create: bool) -> list[str]:
    """Why this role is refused; each reason with the command that helps."""
    with loader.connect() as session:
        found = schema.find_refusals(session, role=str(loader.role), may_create=may_create)
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


@pytest.mark.parametrize("privilege", ["SELECT", "INSERT", "UPDATE", "DELETE"])
@pytest.mark.parametrize("table", TABLES)
def test_every_right_that_is_granted_is_needed_and_asked_for(
    made: Database, role: MakeRole, table: str, privilege: str
) -> None:
    loader = role(made)
    with made.connect() as session:
        schema.init(session, grant=loader.role)
    granted = made.value(f"SELECT has_table_privilege('{loader.role}', 'safecopy.{table}', '{privilege}')")
    made.execute(f'REVOKE {privilege} ON safecopy.{table} FROM "{loader.role}"')
    assert codes(loader, may_create=False) == (["not_granted"] if granted else [])


def test_who_may_not_use_the_lock_is_told_whom_to_ask(made: Database, role: MakeRole) -> None:
    with closing(PostgresStore(role(made).endpoint)) as store, pytest.raises(LockStoreError) as caught:
        store.acquire(NAME, Contender("시험", process=None), Promise())
    assert (caught.value.sqlstate, caught.value.retryable) == ("42501", False)
    assert "--grant" in caught.value.hint


# From layout 1, which had neither members nor history; and from layout 2, whose receipts knew of nothing but replacing

LAYOUT_1 = """
    CREATE SCHEMA safecopy;
    COMMENT ON SCHEMA safecopy IS 'SafeCopy: lock, receipts and staging tables. Layout 1.';
    CREATE TABLE safecopy.lock (
        name       text PRIMARY KEY,
        token      bigint NOT NULL DEFAULT 0,
        lease_id   uuid,
        owner_key  text,
        granted_at timestamptz,
        UNIQUE (name, token, lease_id)
    ) WITH (fillfactor = 50);
    CREATE TABLE safecopy.receipt (
        id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        lock          text NOT NULL,
        token         bigint NOT NULL,
        lease_id      uuid NOT NULL,
        attempt       uuid NOT NULL UNIQUE,
        owner_key     text NOT NULL,
        source        text NOT NULL,
        target        text NOT NULL,
        row_count     bigint NOT NULL,
        previous_rows bigint NOT NULL,
        proof         jsonb NOT NULL,
        published_at  timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    CREATE INDEX receipt_target ON safecopy.receipt (target, id);
    INSERT INTO safecopy.lock VALUES
        ('분석.고객', 41, gen_random_uuid(), '옛 주인', clock_timestamp()),
        ('분석.빈 잠금', 7, NULL, NULL, NULL);
    INSERT INTO safecopy.receipt (lock, token, lease_id, attempt, owner_key, source, target, row_count, previous_rows, proof)
        VALUES ('분석.고객', 41, gen_random_uuid(), gen_random_uuid(), '옛 주인', '영업.고객', '분석.고객', 3, 2, '{"rows": 3}')"""


LAYOUT_2 = """
    CREATE SCHEMA safecopy;
    COMMENT ON SCHEMA safecopy IS 'SafeCopy: lock, receipts and staging tables. Layout 2.';
    CREATE TABLE safecopy.lock (
        name           text PRIMARY KEY,
        token          bigint NOT NULL DEFAULT 0,
        lease_id       uuid,
        owner_key      text,
        granted_at     timestamptz,
        owner          jsonb,
        members        jsonb NOT NULL DEFAULT '{}',
        alive_at       timestamptz,
        due_at         timestamptz,
        stale_after    interval,
        crash_grace    interval,
        not_before     timestamptz NOT NULL DEFAULT '-infinity',
        last_kind      text,
        prev_owner_key text,
        prev_owner     jsonb,
        prev_token     bigint,
        prev_members   jsonb,
        UNIQUE (name, token, lease_id)
    ) WITH (fillfactor = 50);
    CREATE TABLE safecopy.member (
        name          text NOT NULL,
        token         bigint NOT NULL,
        member_key    text NOT NULL,
        member_id     uuid NOT NULL,
        try_number    int NOT NULL,
        place         jsonb,
        joined_at     timestamptz NOT NULL,
        heartbeat_at  timestamptz NOT NULL,
        progressed_at timestamptz NOT NULL,
        phase         int NOT NULL DEFAULT 0,
        count         bigint NOT NULL DEFAULT 0,
        PRIMARY KEY (name, token, member_key),
        UNIQUE (name, token, member_key, member_id)
    ) WITH (fillfactor = 50);
    CREATE TABLE safecopy.lock_event (
        id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name           text NOT NULL,
        token          bigint NOT NULL,
        kind           text NOT NULL,
        owner_key      text,
        owner          jsonb,
        member_key     text,
        attempt        uuid,
        prev_owner_key text,
        at             timestamptz NOT NULL DEFAULT clock_timestamp(),
        detail         jsonb
    );
    CREATE INDEX lock_event_name ON safecopy.lock_event (name, id);
    CREATE TABLE safecopy.receipt (
        id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        lock          text NOT NULL,
        token         bigint NOT NULL,
        lease_id      uuid NOT NULL,
        attempt       uuid NOT NULL UNIQUE,
        owner_key     text NOT NULL,
        source        text NOT NULL,
        target        text NOT NULL,
        row_count     bigint NOT NULL,
        previous_rows bigint NOT NULL,
        proof         jsonb NOT NULL,
        published_at  timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    CREATE INDEX receipt_target ON safecopy.receipt (target, id);
    INSERT INTO safecopy.lock (name, token, lease_id, owner_key, members, granted_at)
        VALUES ('분석.고객', 41, gen_random_uuid(), '지금 주인', '{"작업": 1}', clock_timestamp());
    INSERT INTO safecopy.receipt (lock, token, lease_id, attempt, owner_key, source, target, row_count, previous_rows, proof)
        VALUES ('분석.고객', 41, gen_random_uuid(), gen_random_uuid(), '옛 주인', '영업.고객', '분석.고객', 3, 2, '{"rows": 3}')"""
FORMER_RECEIPT = (
    "SELECT id, lock, token, lease_id, attempt, owner_key, source, target, row_count, previous_rows, proof, published_at "
    "FROM safecopy.receipt"
)


@pytest.fixture
def former(target: Database) -> Database:
    target.execute(LAYOUT_1)
    return target


def test_a_former_layout_is_brought_up_and_its_tokens_and_receipts_stay(former: Database) -> None:
    receipts = former.rows(FORMER_RECEIPT)
    with former.connect() as session:
        assert not schema.is_ready(session)
        schema.init(session)
        assert schema.is_ready(session)
    assert former.rows(FORMER_RECEIPT) == receipts
    free = "SELECT name, token FROM safecopy.lock WHERE lease_id IS NULL AND owner_key IS NULL ORDER BY 2"
    assert former.rows(free) == [("분석.빈 잠금", 7), (NAME, 42)], "whoever held one by the former rules is fenced out"
    assert grant(former).token == 43
    assert "Layout 4" in former.value("SELECT obj_description('safecopy'::regnamespace, 'pg_namespace')")


@pytest.mark.parametrize("major", PRESENT)
def test_it_becomes_what_is_made_anew(servers: Servers, major: int) -> None:
    columns = (
        "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns "
        "WHERE table_schema = 'safecopy' ORDER BY 1, 2"
    )
    keys = (
        "SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE connamespace = 'safecopy'::regnamespace AND contype IN ('p', 'u') ORDER BY 1, 2"
    )
    indexes = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'safecopy' ORDER BY 1"
    found = []
    for prepared in ("SELECT 1", LAYOUT_1, LAYOUT_2):
        database = servers.create(major, "UTF8", None)
        database.execute(prepared)
        with database.connect() as session:
            schema.init(session)
        found.append((database.rows(columns), database.rows(keys), database.rows(indexes)))
        servers.drop(database)
    assert found[0] == found[1] == found[2]


def test_a_run_of_the_former_version_is_fenced_out_by_its_own_rules(former: Database) -> None:
    """Beside a newer one, a process that was started before the upgrade goes on; it asks for its token and lease."""
    fence = "SELECT token FROM safecopy.lock WHERE (name, token, lease_id) = (%s, 41, %s) FOR KEY SHARE"
    lease_id = former.value("SELECT lease_id FROM safecopy.lock WHERE token = 41")
    assert former.rows(fence, [NAME, lease_id]) == [(41,)]
    with former.connect() as session:
        schema.init(session)
    assert former.rows(fence, [NAME, lease_id]) == []


def test_the_first_acquire_brings_it_up(former: Database) -> None:
    assert grant(former).token == 43


def test_whoever_publishes_by_the_former_rules_is_waited_for(former: Database) -> None:
    with former.connect() as publisher, former.connect() as session:
        publisher.execute("BEGIN; SELECT FROM safecopy.lock WHERE token = 41 FOR KEY SHARE")
        session.execute("SET lock_timeout = '100ms'")
        with pytest.raises(LockStoreError) as caught:
            schema.init(session)
        assert (caught.value.sqlstate, caught.value.retryable) == ("55P03", True)
        publisher.execute("COMMIT")
        schema.init(session)


def test_grants_of_the_former_layout_do_not_reach_the_new_tables(former: Database, role: MakeRole) -> None:
    loader = role(former)
    former.execute(
        f'GRANT USAGE, CREATE ON SCHEMA safecopy TO "{loader.role}"; '
        f'GRANT SELECT, INSERT, UPDATE ON safecopy.lock TO "{loader.role}"; '
        f'GRANT SELECT, INSERT ON safecopy.receipt TO "{loader.role}"'
    )
    assert codes(loader, may_create=True) == ["not_initialised"]
    with closing(PostgresStore(loader.endpoint)) as store, pytest.raises(LockStoreError) as caught:
        store.acquire(NAME, Contender("시험", process=None), Promise())
    assert (caught.value.sqlstate, caught.value.retryable) == ("42501", False)
    with former.connect() as session:
        schema.init(session)
    assert codes(loader, may_create=True) == ["not_granted"]
    with former.connect() as session:
        schema.init(session, grant=loader.role)
    assert codes(loader, may_create=True) == []
    assert grant(loader).token == 43


def test_layout_2_is_brought_up_beside_its_runs_and_its_receipts_stay(target: Database) -> None:
    """A process that was started before the upgrade goes on: it holds its lock, and writes receipts as it did."""
    target.execute(LAYOUT_2)
    receipts, locks = target.rows(FORMER_RECEIPT), target.rows("SELECT to_jsonb(l) FROM safecopy.lock l")
    with target.connect() as session:
        assert not schema.is_ready(session)
        schema.init(session)
        assert schema.is_ready(session)
    assert (target.rows(FORMER_RECEIPT), target.rows("SELECT to_jsonb(l) FROM safecopy.lock l")) == (receipts, locks)
    target.execute(
        "INSERT INTO safecopy.receipt (lock, token, lease_id, attempt, owner_key, source, target, row_count, "
        "previous_rows, proof) VALUES ('l', 42, gen_random_uuid(), gen_random_uuid(), 'o', 's', 't', 1, 0, '{}')"
    )
    assert target.rows("SELECT DISTINCT write_mode, slice, origin FROM safecopy.receipt") == [("replace", None, None)]


@pytest.mark.parametrize("layout", [LAYOUT_1, LAYOUT_2])
def test_a_copy_by_its_owner_brings_it_up(
    source: Database, target: Database, role: MakeRole, nothing_left: NothingLeft, layout: str
) -> None:
    owner = role(target)
    target.execute(f'GRANT CREATE ON DATABASE "{target.name}" TO "{owner.role}"')
    owner.execute(layout)
    owner.execute(
        "UPDATE safecopy.lock SET lease_id = NULL, owner_key = NULL, members = '{}'" if "member" in layout else ""
    )
    owner.execute("CREATE SCHEMA 분석; CREATE TABLE 분석.고객 (번호 int)")
    source.execute("CREATE TABLE public.고객 AS SELECT 1 AS 번호")
    assert codes(owner, may_create=True) == []
    spec = CopySpec.of(source_table="public.고객", target_table="분석.고객")
    report = pipeline.copy(spec, source.endpoint, owner.endpoint)
    assert report.token == 42 + (layout == LAYOUT_1)
    assert target.value("SELECT count(*) FROM safecopy.receipt") == 2
    nothing_left(source, target)


@pytest.mark.parametrize("layout", [LAYOUT_1, LAYOUT_2])
def test_who_does_not_own_a_former_layout_is_told_who_may(target: Database, role: MakeRole, layout: str) -> None:
    target.execute(layout)
    loader = role(target)
    target.execute(
        f'GRANT ALL ON SCHEMA safecopy TO "{loader.role}"; '
        f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA safecopy TO "{loader.role}"'
    )
    assert codes(loader, may_create=True) == ["not_initialised"]


# Where there is none


def test_a_store_without_the_schema_says_so(target: Database) -> None:
    with closing(PostgresStore(target.endpoint)) as store, pytest.raises(LockStoreError) as caught:
        store.read_holders()
    assert (caught.value.sqlstate, caught.value.retryable) == ("42P01", False)
    assert "safecopy init" in caught.value.hint


def test_who_is_fenced_out_of_a_schema_made_anew(made: Database) -> None:
    """As after a restore without it: the token comes again, the lease does not."""
    lease = grant(made)
    made.execute("DROP SCHEMA safecopy CASCADE")
    assert grant(made).token == lease.token
    with made.connect() as session, pytest.raises(FencedOutError):
        check_fence(session, lease)


# Receipts


def test_an_attempt_has_one_receipt(made: Database) -> None:
    row = f"('l', 1, gen_random_uuid(), '{uuid4()}', 'o', 's', 't', 1, 0, '{{}}')"
    columns = "lock, token, lease_id, attempt, owner_key, source, target, row_count, previous_rows, proof"
    made.execute(f"INSERT INTO safecopy.receipt ({columns}) VALUES {row}")
    with pytest.raises(psycopg.errors.UniqueViolation):
        made.execute(f"INSERT INTO safecopy.receipt ({columns}) VALUES {row}")
    assert made.value("SELECT now() - published_at < interval '1 minute' FROM safecopy.receipt")


def test_a_slice_is_appended_once_whoever_holds_the_lock(made: Database) -> None:
    columns = "lock, token, lease_id, attempt, owner_key, source, target, proof, write_mode, slice"

    def write(target: str, mode: str, name: str) -> None:
        made.execute(
            f"INSERT INTO safecopy.receipt ({columns}) VALUES ('l', 1, gen_random_uuid(), gen_random_uuid(), 'o', 's', "
            f"'{target}', '{{}}', '{mode}', '{name}')"
        )

    write("분석.고객", "append", "2026-11-19")
    write("분석.고객", "append", "2026-11-20")
    write("분석.주문", "append", "2026-11-19")
    for _ in range(2):
        write("분석.고객", "incremental", "2026-11-19")
    with pytest.raises(psycopg.errors.UniqueViolation):
        write("분석.고객", "append", "2026-11-19")
