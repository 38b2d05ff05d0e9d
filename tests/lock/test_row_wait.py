"""A row of our tables that another session keeps locked is named with that session, by everything that needs the row."""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from uuid import UUID

import psycopg
import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.demo.servers import Server
from airflow_provider_safecopy.errors import LockStoreError
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.lock.bulk import BulkStore, TableLocks
from airflow_provider_safecopy.lock.living_lock import LivingLock
from airflow_provider_safecopy.lock.model import Contender, Lease, Promise
from airflow_provider_safecopy.lock.postgres import PostgresStore, check_fence
from tests.conftest import NothingLeft
from tests.support.customers import same, spec
from tests.support.database import Database

NAME = "분석.고객"
PROMISE = Promise(stale_after=250, crash_grace=None)
WITHIN_SECONDS = 5.0
ROW = f"FROM safecopy.lock WHERE name = '{NAME}'"
LOCKED_BY: dict[str, tuple[str, ...]] = {
    "for update": (f"SELECT {ROW} FOR UPDATE",),
    "update": (f"UPDATE safecopy.lock SET crash_grace = crash_grace WHERE name = '{NAME}'",),
    "within a savepoint": ("SAVEPOINT 하나", f"SELECT {ROW} FOR UPDATE"),
    "the whole table": ("LOCK TABLE safecopy.lock IN ACCESS EXCLUSIVE MODE",),
}
BY_ROW = [name for name in LOCKED_BY if name != "the whole table"]


@pytest.fixture
def made(target: Database) -> Database:
    with target.connect() as session:
        schema.init(session)
    return target


@pytest.fixture
def store(made: Database) -> Iterator[PostgresStore]:
    with closing(PostgresStore(made.endpoint, patience=1.5)) as store:
        yield store


@contextmanager
def holding(database: Database, *statements: str) -> Iterator[int]:
    """The pid of a session in an open transaction, idle since these statements."""
    with database.connect() as session:
        session.execute("SELECT set_config('application_name', 'migration', false)")
        session.execute("BEGIN")
        for statement in statements:
            session.execute(statement.encode())
        yield session.info.backend_pid
        session.execute("ROLLBACK")


def run(owner: str) -> Contender:
    return Contender(owner, {"owner": owner}, "적재", 1, process=None)


def granted(store: PostgresStore) -> Lease:
    lease = store.acquire(NAME, run("가동"), PROMISE)
    assert isinstance(lease, Lease)
    return lease


def require_named(error: LockStoreError, pid: int) -> None:
    error = pickle.loads(pickle.dumps(error))
    (found,) = error.blockers
    assert (found["pid"], found["application_name"]) == (pid, "migration")
    assert (found["role"], found["state"]) == ("postgres", "idle in transaction")
    assert found["transaction_seconds"] >= 0
    assert f"pid {pid} (postgres, migration, idle in transaction, " in str(error)
    assert "transaction open for " in str(error)
    assert "pg_terminate_backend" in error.hint
    assert (error.sqlstate, error.retryable) == ("55P03", True)


@pytest.mark.parametrize("lock", LOCKED_BY)
def test_an_acquire_names_who_keeps_the_row_of_a_free_lock(
    made: Database, store: PostgresStore, caplog: pytest.LogCaptureFixture, lock: str
) -> None:
    """The kind: a wait in our own tables was taken for a lock that was released a moment ago."""
    store.release(granted(store))
    with holding(made, *LOCKED_BY[lock]) as holder:
        began = time.monotonic()
        with pytest.raises(LockStoreError) as caught:
            store.acquire(NAME, run("후임"), PROMISE)
        assert time.monotonic() - began < WITHIN_SECONDS
    require_named(caught.value, holder)
    if lock not in BY_ROW:
        return  # ends after one step
    lines = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert [line for line in lines if "waiting for its row" in line and f"pid {holder} (" in line]
    assert granted(store).token == 2


def test_a_takeover_names_who_keeps_the_row_and_not_the_holder_that_is_gone(
    made: Database, store: PostgresStore
) -> None:
    lease = granted(store)
    with holding(made, *LOCKED_BY["for update"]) as holder, pytest.raises(LockStoreError) as caught:
        store.acquire(NAME, run("후임"), PROMISE, dead=[str(lease.attempt)])
    require_named(caught.value, holder)


CALLS: dict[str, Callable[[PostgresStore, Lease], object]] = {
    "heartbeat": lambda store, lease: store.heartbeat(lease, phase=1, count=1),
    "release": lambda store, lease: store.release(lease),
    "revoke": lambda store, lease: store.revoke(lease),
    "force-release": lambda store, _: store.force_release(NAME, reason="시험"),
    "reap": lambda store, lease: store.reap(NAME, dead=[str(lease.attempt)]),
}


@pytest.mark.parametrize(
    "call, lock", [(call, lock) for call in CALLS for lock in LOCKED_BY if (call, lock) != ("revoke", "update")]
)
def test_whatever_needs_the_row_names_who_keeps_it(made: Database, lock: str, call: str) -> None:
    with closing(PostgresStore(made.endpoint, patience=0.5)) as store:
        lease = granted(store)
        # Who is called as a copy is ended by a person's force-release; this session is not.
        with holding(made, *LOCKED_BY[lock]) as holder, pytest.raises(LockStoreError) as caught:
            CALLS[call](store, lease)
        require_named(caught.value, holder)


def test_a_members_row_is_named_as_the_locks_own(made: Database, store: PostgresStore) -> None:
    lease = granted(store)
    row = f"SELECT FROM safecopy.member WHERE name = '{NAME}' FOR UPDATE"
    with (
        holding(made, row) as holder,
        pytest.raises(LockStoreError, match=r"RowShareLock on safecopy\.member") as caught,
    ):
        store.heartbeat(lease, phase=1, count=1)
    require_named(caught.value, holder)


@pytest.mark.parametrize("lock", BY_ROW)
def test_another_sessions_row_is_not_blamed(made: Database, store: PostgresStore, lock: str) -> None:
    """Other rows of the table are locked as well: by a person, and by a copy that publishes."""
    lease = granted(store)
    other = f"SELECT FROM safecopy.lock WHERE name = '{NAME} 2' FOR UPDATE"
    second = store.acquire(f"{NAME} 2", run("남"), PROMISE)
    assert isinstance(second, Lease)
    with (
        holding(made, *LOCKED_BY[lock]) as holder,
        holding(made, other),
        psycopg.connect(made.conninfo, application_name=f"safecopy:{UUID(int=0)}") as publishing,
    ):
        third = store.acquire(f"{NAME} 3", run("남"), PROMISE)
        assert isinstance(third, Lease)
        check_fence(publishing, third)
        with pytest.raises(LockStoreError) as caught:
            store.heartbeat(lease, phase=1, count=1)
    require_named(caught.value, holder)


def test_beside_a_publish_that_shares_the_row_the_stranger_is_named(made: Database) -> None:
    """The row names a group of transactions then, and none of them."""
    contender = run("가동")
    name = f"safecopy:{contender.attempt}"
    with (
        closing(PostgresStore(made.endpoint, attempt=contender.attempt)) as store,
        psycopg.connect(made.conninfo, application_name=name) as publishing,
    ):
        lease = store.acquire(NAME, contender, PROMISE)
        assert isinstance(lease, Lease)
        check_fence(publishing, lease)
        with holding(made, LOCKED_BY["update"][0]) as holder, pytest.raises(LockStoreError) as caught:
            store.heartbeat(lease, phase=1, count=1)
    require_named(caught.value, holder)


def test_a_prepared_transaction_is_named_by_its_name(source: Database) -> None:
    settings = {"max_prepared_transactions": "2"}
    with Server.start(source.server.installation, durable=False, settings=settings) as server, ExitStack() as stack:
        made = Database(server, "postgres")
        with made.connect() as session:
            schema.init(session)
        store = stack.enter_context(closing(PostgresStore(made.endpoint, patience=0.3)))
        lease = granted(store)
        with made.connect() as session:
            session.execute(f"BEGIN; SELECT {ROW} FOR UPDATE; PREPARE TRANSACTION '반쯤 끝난 일'".encode())
        with pytest.raises(LockStoreError, match="the prepared transaction 반쯤 끝난 일 ") as caught:
            store.heartbeat(lease, phase=1, count=1)
        (found,) = caught.value.blockers
        assert (found["pid"], found["prepared"]) == (0, "반쯤 끝난 일")
        made.execute("ROLLBACK PREPARED '반쯤 끝난 일'")


def test_a_living_lock_logs_who_kept_its_heartbeat_and_its_release_from_it(
    made: Database, caplog: pytest.LogCaptureFixture
) -> None:
    lock = LivingLock(NAME, made.endpoint)
    with lock, holding(made, *LOCKED_BY["for update"]) as holder:
        lock.send_heartbeat(phase=1, count=1)
        lock.release()
    told = [each.getMessage() for each in caplog.records if f"pid {holder} (" in each.getMessage()]
    assert [line for line in told if line.startswith("no heartbeat: ")]
    assert [line for line in told if "could not be released" in line]


def test_of_many_locks_only_the_one_whose_row_is_locked_is_not_had(
    made: Database, caplog: pytest.LogCaptureFixture
) -> None:
    contender = Contender.alone("시험")
    store = BulkStore(made.endpoint, attempt=contender.attempt, patience=1.5)
    locks = TableLocks(None, store, contender=contender, terms=Promise(), liveness_check=None)
    with closing(store), closing(PostgresStore(made.endpoint)) as first:
        first.release(granted(first))
        with holding(made, *LOCKED_BY["for update"]) as holder:
            found = locks.acquire_tables([NAME, "하나", "둘"])
            error = found.pop(NAME)
            assert isinstance(error, LockStoreError)
            require_named(error, holder)
            assert all(isinstance(each, Lease) for each in found.values())
        with holding(made, "SELECT FROM safecopy.lock WHERE name = '하나' FOR UPDATE") as holder:
            locks.send_heartbeat(phase=1, count=1)
        assert f"pid {holder} (postgres, migration" in caplog.text
        locks.release()


@pytest.mark.parametrize("batch", [False, True], ids=["alone", "one of many"])
def test_a_copy_names_who_keeps_the_row_of_its_lock(
    filled: tuple[Database, Database], nothing_left: NothingLeft, batch: bool
) -> None:
    source, target = filled
    pipeline.copy(spec(), source.endpoint, target.endpoint)
    with holding(target, "SELECT FROM safecopy.lock FOR UPDATE") as holder:
        if batch:
            (failed,) = pipeline.copy_tables([spec()], source.endpoint, target.endpoint).failed
            error = failed.error
        else:
            with pytest.raises(LockStoreError) as caught:
                pipeline.copy(spec(), source.endpoint, target.endpoint)
            error = caught.value
    assert isinstance(error, LockStoreError)
    require_named(error, holder)
    pipeline.copy(spec(), source.endpoint, target.endpoint)
    assert same(source, target)
    nothing_left(source, target)
