"""What is particular to locks in a database: the fence, what ends whoever is in the way, and sessions of any kind."""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any, Protocol
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.demo.servers import Server, installations
from airflow_provider_safecopy.errors import FencedOutError, LockLostError, LockStoreError
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.lock.model import Contender, Holder, Lease, Promise
from airflow_provider_safecopy.lock.postgres import PostgresStore, build_contender_parameters, check_fence, parse_lease
from tests.conftest import MakeDatabase, MakeRole
from tests.lock.world import MovableClock, World, blocked
from tests.support.database import PRESENT, Database, Servers
from tests.support.proxy import Proxy
from tests.support.until import until

PROMISE = Promise(stale_after=250, crash_grace=None)
NAME = "분석.고객"


@pytest.fixture(scope="module")
def world(servers: Servers) -> Iterator[World]:
    database = servers.create(18, "UTF8", None)
    world = World.made(database)
    yield world
    world.close()
    servers.drop(database)


@pytest.fixture
def made(target: Database) -> Database:
    """A database of its own that holds the schema safecopy."""
    with target.connect() as session:
        schema.init(session)
    return target


class Open(Protocol):
    """The type of the fixture `opened`."""

    def __call__(self, database: Database, **more: Any) -> PostgresStore: ...


@pytest.fixture
def opened() -> Iterator[Open]:
    """Make stores by their servers' own clocks: ``opened(made)``. Closed after the test."""
    with ExitStack() as stack:

        def open_store(database: Database, **more: Any) -> PostgresStore:
            return stack.enter_context(closing(PostgresStore(database.endpoint, **more)))

        yield open_store


@pytest.fixture
def store(made: Database, opened: Open) -> PostgresStore:
    return opened(made)


def run(owner: str = "가동", member: str = "적재", number: int = 1, **more: Any) -> Contender:
    return Contender(owner, {"owner": owner}, member, number, **{"process": None} | more)


def taken(store: PostgresStore, name: str, contender: Contender, dead: tuple[UUID, ...] = ()) -> Lease:
    lease = store.acquire(name, contender, PROMISE, dead=[str(each) for each in dead])
    assert isinstance(lease, Lease), lease
    return lease


# The fence

IN_THE_WAY: dict[str, Callable[[PostgresStore, Lease], Any]] = {
    "takeover": lambda store, lease: taken(store, lease.name, run("후임"), (lease.attempt,)),
    "supersede": lambda store, lease: taken(store, lease.name, run(number=2)),
    "release": lambda store, lease: store.release(lease),
    "revoke": lambda store, lease: store.revoke(lease),
    "force-release": lambda store, lease: store.force_release(lease.name, reason="시험"),
    "reap": lambda store, lease: store.reap(lease.name, dead=[str(lease.attempt)]),
}


@pytest.mark.parametrize("change", IN_THE_WAY)
def test_whoever_changes_hands_waits_for_the_publish(world: World, change: str) -> None:
    lease = taken(world.store, world.new_name(), run())
    session = world.publishing(lease)
    with world.sparing():
        assert blocked(lambda: IN_THE_WAY[change](world.store, lease)) == "blocked"
        session.execute("COMMIT")
        assert blocked(lambda: IN_THE_WAY[change](world.store, lease)) not in ("blocked", None, False)
    assert not world.fenced(session, lease), "what was current before is fenced out after"
    world.hide(session)


def test_whoever_changes_nothing_passes_a_publish(world: World) -> None:
    lease = taken(world.store, world.new_name(), run())
    session = world.publishing(lease)
    with world.sparing():
        assert world.store.heartbeat(lease, phase=1, count=1) > 200
        sibling = taken(world.store, lease.name, run(member="검증"))
        assert world.store.heartbeat(sibling, phase=1, count=1) > 200
        assert isinstance(world.store.acquire(lease.name, run("후임"), PROMISE), Holder)
        assert isinstance(world.store.acquire(lease.name, run(), PROMISE), Holder)
        assert world.store.release(sibling) is False
        assert world.store.read_holder(lease.name) is not None
        assert taken(world.store, world.new_name(), run("남")).token == 1
    session.execute("COMMIT")
    world.hide(session)


def test_two_members_publish_under_one_lock_at_once(world: World) -> None:
    """As two tasks of one run do, into two tables."""
    first = taken(world.store, world.new_name(), run(member="하나"))
    second = taken(world.store, first.name, run(member="둘"))
    sessions = [world.publishing(lease) for lease in (first, second)]
    for session in sessions:
        session.execute("COMMIT")
        world.hide(session)


def test_who_is_fenced_out_is_told_of_lock_and_token(world: World) -> None:
    lease = taken(world.store, world.new_name(), run())
    with world.session(lease.attempt) as session:
        check_fence(session, lease)
        world.store.force_release(lease.name, reason="시험")
        with pytest.raises(FencedOutError, match=lease.name) as caught:
            check_fence(session, lease)
        assert (caught.value.lock, caught.value.token, caught.value.retryable) == (lease.name, 1, False)


def test_a_fence_behind_an_unfinished_takeover_waits_and_then_loses(world: World) -> None:
    lease = taken(world.store, world.new_name(), run())
    session = world.session(lease.attempt)
    with ThreadPoolExecutor(1) as executor, psycopg.connect(world.observer.info.dsn, password=password(world)) as rival:
        rival.execute("UPDATE safecopy.lock SET token = token + 1 WHERE name = %s", [lease.name])
        waiting = executor.submit(world.fenced, session, lease)
        wait_for_a_lock(world, session)
        rival.commit()
        assert waiting.result(100) is False
    world.hide(session)


def test_progress_saves_a_stale_holder_from_a_takeover_that_waits_for_its_publish(world: World) -> None:
    """The takeover looks again once it has the row: what was stale when it began to wait is alive by then."""
    lease = taken(world.store, world.new_name(), run())
    session = world.publishing(lease)
    clock = MovableClock(sql.load("lock"), lock_timeout="4s")
    rival = PostgresStore(world.store.endpoint, statements=clock)
    world.clock.seconds += 300
    clock.seconds = world.clock.seconds
    rival.read_holder(lease.name)
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(rival.acquire, lease.name, run("후임"), PROMISE)
        until(lambda: is_waiting(world, rival.backends[0]))
        world.store.heartbeat(lease, phase=1, count=1)
        session.execute("COMMIT")
        answer = waiting.result(100)
    assert isinstance(answer, Holder)
    assert answer.owner_key == "가동"
    rival.close()
    world.hide(session)


def password(world: World) -> str:
    return world.store.endpoint.parameters["password"]


def wait_for_a_lock(world: World, session: psycopg.Connection[Any]) -> None:
    until(lambda: is_waiting(world, session.info.backend_pid))


def is_waiting(world: World, backend: int) -> bool:
    return bool(world.value("SELECT pg_blocking_pids(%s) <> '{}'", backend))


# Ending whoever is in the way

MAY_BE_DISPLACED: dict[str, tuple[int, Callable[[World, Lease], Any]]] = {
    "takeover-stale": (300, lambda world, lease: taken(world.store, lease.name, run("후임")).kind),
    "takeover-dead": (0, lambda world, lease: taken(world.store, lease.name, run("후임"), (lease.attempt,)).kind),
    "supersede": (0, lambda world, lease: taken(world.store, lease.name, run(number=2)).kind),
    "force-release": (0, lambda world, lease: world.store.force_release(lease.name, reason="시험") and "force-release"),
    "reap": (300, lambda world, lease: world.store.reap(lease.name) and "reap"),
}


@pytest.mark.parametrize("kind", MAY_BE_DISPLACED)
def test_a_publish_of_whoever_may_be_displaced_is_ended(world: World, kind: str) -> None:
    later, displace = MAY_BE_DISPLACED[kind]
    lease = taken(world.store, world.new_name(), run())
    session = world.publishing(lease)
    session.execute("INSERT INTO safecopy.lock (name) VALUES (%s)", [f"늦은 글 {lease.name}"])
    world.clock.seconds += later
    assert displace(world, lease) == kind
    with pytest.raises(psycopg.OperationalError):
        session.execute("COMMIT")
    session.close()
    assert world.value("SELECT count(*) FROM safecopy.lock WHERE name = %s", f"늦은 글 {lease.name}") == 0
    assert world.store.heartbeat(taken(world.store, world.new_name(), run()), phase=1, count=1) > 0


def test_a_forced_release_ends_the_publish_of_one_whose_sibling_was_revoked(world: World) -> None:
    revoked = taken(world.store, world.new_name(), run(member="하나"))
    world.store.revoke(revoked)
    session = world.publishing(taken(world.store, revoked.name, run(member="둘")))
    forced = world.store.force_release(revoked.name, reason="시험")
    assert forced is not None
    assert len(forced.attempts) == 2
    with pytest.raises(psycopg.OperationalError):
        session.execute("COMMIT")
    session.close()


def test_one_members_supersede_leaves_the_others_publish_alone(world: World) -> None:
    first = taken(world.store, world.new_name(), run(member="하나"))
    second = taken(world.store, first.name, run(member="둘"))
    session, other = world.publishing(first), world.publishing(second)
    assert taken(world.store, first.name, run(member="하나", number=2)).kind == "supersede"
    other.execute("COMMIT")
    world.hide(other)
    session.close()


def test_end_sessions_ends_theirs_and_no_others(world: World) -> None:
    lease = taken(world.store, world.new_name(), run())
    theirs, mine = [world.session(lease.attempt) for _ in range(2)], world.session(uuid4())
    after = taken(world.store, lease.name, run("후임"), (lease.attempt,))
    assert after.displaced is not None
    assert world.store.end_sessions(after.displaced) == 2
    assert world.store.end_sessions(after.displaced) == 0
    for session in theirs:
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
        session.close()
    mine.execute("SELECT 1")
    world.hide(mine)


# Rights


@pytest.fixture
def loader(made: Database, role: MakeRole) -> Database:
    """The database as somebody sees it who may use the lock, and nothing else."""
    loader = role(made)
    with made.connect() as session:
        schema.init(session, grant=loader.role)
    return loader


def test_a_publish_of_somebody_it_may_not_end_is_waited_for_and_left_alone(
    made: Database, loader: Database, store: PostgresStore, opened: Open
) -> None:
    lease = taken(store, NAME, run())
    rival = opened(loader, patience=0.3)
    with psycopg.connect(made.conninfo, application_name=f"safecopy:{lease.attempt}") as session:
        check_fence(session, lease)
        answer = rival.acquire(NAME, run("후임"), PROMISE, dead=[str(lease.attempt)])
        assert isinstance(answer, Holder)
        assert answer.owner_key == "가동"
        with pytest.raises(LockStoreError) as caught:
            rival.reap(NAME, dead=[str(lease.attempt)])
        assert (caught.value.sqlstate, caught.value.retryable) == ("55P03", True)
    after = taken(rival, NAME, run("후임"), (lease.attempt,))
    assert after.displaced is not None
    assert rival.end_sessions(after.displaced) == 0


def test_of_the_same_role_it_may(loader: Database, opened: Open) -> None:
    holder, rival = opened(loader), opened(loader)
    lease = taken(holder, NAME, run())
    with psycopg.connect(loader.conninfo, application_name=f"safecopy:{lease.attempt}") as session:
        check_fence(session, lease)
        assert taken(rival, NAME, run("후임"), (lease.attempt,)).kind == "takeover-dead"
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
    with pytest.raises(LockLostError):
        holder.heartbeat(lease, phase=1, count=1)


def test_another_roles_session_is_a_sign_of_life_too(
    made: Database, loader: Database, store: PostgresStore, opened: Open
) -> None:
    grace = Promise(stale_after=600, crash_grace=0.001)
    lease = store.acquire(NAME, run(), grace)
    assert isinstance(lease, Lease)
    rival = opened(loader)
    with psycopg.connect(made.conninfo, application_name=f"safecopy:{lease.attempt}"):
        assert isinstance(rival.acquire(NAME, run("후임"), grace), Holder)
    kinds: list[str] = []

    def crashed() -> bool:
        answer = rival.acquire(NAME, run("후임"), grace)
        kinds.extend([answer.kind] if isinstance(answer, Lease) else [])
        return bool(kinds)

    until(crashed)
    assert kinds == ["takeover-crash"]


# Whatever the role, the database and the names are


def everything(store: PostgresStore, name: str = NAME) -> None:
    """Every call once, with the answer it must have."""
    lease = taken(store, name, run())
    assert isinstance(store.acquire(name, run("후임"), PROMISE), Holder)
    store.record_refusal(name, run("후임"))
    assert store.heartbeat(lease, phase=1, count=1) > 200
    assert taken(store, name, run(number=2)).kind == "supersede"
    sibling = taken(store, name, run(member="검증"))
    assert (store.revoke(sibling), store.release(sibling)) == (True, False)
    assert store.reap(name) is None
    assert [holder.name for holder in store.read_holders()] == [name]
    assert store.force_release(name, reason="it's 100 %s") is not None
    assert len(store.read_history(name)) == 7
    assert store.forget(keep=0) == 7
    assert store.read_holder(name) is None


ODD_SETTINGS = [
    "default_transaction_isolation = 'serializable'",
    "default_transaction_isolation = 'repeatable read'",
    "default_transaction_read_only = on",
    "search_path = 악의, pg_catalog",
    "TimeZone = 'Asia/Pyongyang'",
    "DateStyle = 'SQL, DMY'",
    "IntervalStyle = 'sql_standard'",
    "extra_float_digits = -15",
    "bytea_output = 'escape'",
    "standard_conforming_strings = off",
    "lock_timeout = '1ms'",
    "row_security = off",
]
SHADOWS = """
    CREATE SCHEMA 악의;
    CREATE TABLE 악의.lock (name text); CREATE TABLE 악의.member (name text);
    CREATE FUNCTION 악의.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT 'epoch'::timestamptz $$;
    CREATE FUNCTION 악의.jsonb_each(jsonb, OUT key text, OUT value jsonb) RETURNS SETOF record LANGUAGE sql
        AS $$ SELECT 'x', to_jsonb(1 / 0) $$;
    GRANT USAGE ON SCHEMA 악의 TO PUBLIC"""


def test_no_default_of_the_roles_has_a_say_and_none_is_changed(made: Database, loader: Database, opened: Open) -> None:
    made.execute(SHADOWS)
    for setting in ODD_SETTINGS:
        made.execute(f'ALTER ROLE "{loader.role}" SET {setting}')
        name = setting.partition(" ")[0]
        store = opened(loader)
        with loader.connect() as session:
            expected = session.execute(f"SHOW {name}".encode()).fetchone()
        everything(store, f"{NAME} {setting}")
        assert store._connection is not None
        assert store._connection.execute(f"SHOW {name}".encode()).fetchone() == expected
        made.execute(f'ALTER ROLE "{loader.role}" RESET {name}')


def test_a_roles_short_statement_timeout_ends_no_wait_for_a_lock(
    made: Database, loader: Database, opened: Open
) -> None:
    made.execute(f"ALTER ROLE \"{loader.role}\" SET statement_timeout = '150ms'")
    store = opened(loader)
    lease = taken(store, NAME, run())
    with made.connect() as session, session.transaction():
        check_fence(session, lease)
        with pytest.raises(LockStoreError) as caught:
            store.release(lease)
    assert caught.value.sqlstate == "55P03", "after its own 200 ms"


@pytest.mark.parametrize("major", PRESENT)
def test_nothing_but_the_schema_is_touched_and_nothing_left_in_the_session(
    database: MakeDatabase, opened: Open, major: int
) -> None:
    made = database(major=major)
    outside = (
        "SELECT count(*), (SELECT count(*) FROM pg_proc), (SELECT count(*) FROM pg_type t JOIN pg_namespace n ON "
        "n.oid = typnamespace WHERE nspname <> 'safecopy') FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
        "WHERE nspname NOT IN ('safecopy', 'pg_toast')"
    )
    before = made.rows(outside)
    store = opened(made)
    everything(store)
    session = store._connection
    assert session is not None
    assert session.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    left = "SELECT name FROM pg_settings WHERE source = 'session' AND name NOT LIKE 'transaction%'"
    assert session.execute(left).fetchall() == []
    for view in (
        "pg_prepared_statements",
        "pg_cursors",
        "pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'",
    ):
        assert session.execute(f"SELECT count(*) FROM {view}".encode()).fetchone() == (0,)
    assert made.rows(outside) == before


@pytest.mark.parametrize("text", ['it\'s "그"', "%s %(name)s %%", "한글\n줄", "\\' \\", "가" * 10_000])
def test_owners_members_and_reasons_may_be_any_text(world: World, text: str) -> None:
    name, owner = world.new_name(), {"owner": text, text[:50]: text}
    first = world.store.acquire(name, Contender(text, owner, text[:100], process=None), PROMISE)
    assert isinstance(first, Lease)
    busy = world.store.acquire(name, run("후임"), PROMISE)
    assert isinstance(busy, Holder)
    assert (busy.owner_key, busy.owner, busy.members[0].member) == (text, owner, text[:100])
    assert world.store.heartbeat(first, phase=1, count=1) > 0
    after = taken(world.store, name, run("후임"), (first.attempt,))
    assert after.displaced is not None
    assert (after.displaced.owner_key, after.displaced.owner) == (text, owner)
    world.store.force_release(name, reason=text)
    assert world.store.read_history(name)[0].detail["reason"] == text


def test_a_name_too_long_for_an_index_is_an_error_that_no_retry_mends(store: PostgresStore) -> None:
    with pytest.raises(LockStoreError, match="index row size") as caught:
        store.acquire(secrets.token_hex(1500) * 2, run(), PROMISE)
    assert (caught.value.sqlstate, caught.value.retryable) == ("54000", False)
    everything(store)


# Many at once


def test_of_eight_first_contenders_for_a_new_lock_one_gets_it(made: Database) -> None:
    answers = contended(made, 8, [f"새 잠금 {index}" for index in range(10)])
    for name, found in answers.items():
        winners = [answer for answer in found if isinstance(answer, Lease)]
        assert [winner.token for winner in winners] == [1]
        assert {answer.owner_key for answer in found if isinstance(answer, Holder)} == {winners[0].contender.owner_key}
        assert made.value("SELECT count(*) FROM safecopy.lock_event WHERE name = %s", [name]) == 1


def test_of_eight_rivals_for_a_stale_lock_one_gets_it(made: Database, store: PostgresStore) -> None:
    names = [f"낡은 잠금 {index}" for index in range(30)]
    for name in names:
        store.acquire(name, run(), Promise(stale_after=0.000001, crash_grace=None))
    for found in contended(made, 8, names).values():
        assert [answer.token for answer in found if isinstance(answer, Lease)] == [2]


def contended(made: Database, rivals: int, names: list[str]) -> dict[str, list[Lease | Holder]]:
    """What each of so many was answered, who asked for each of the names at the same moment."""
    start = threading.Barrier(rivals)

    def contend(number: int) -> list[Lease | Holder]:
        with closing(PostgresStore(made.endpoint)) as store:
            store.read_holders()
            found = []
            for name in names:
                start.wait(100)
                found.append(store.acquire(name, run(f"경쟁자 {number}"), PROMISE))
            return found

    with ThreadPoolExecutor(rivals) as executor:
        found = list(executor.map(contend, range(rivals)))
    return dict(zip(names, map(list, zip(*found, strict=True)), strict=True))


# Connections that are lost


def test_an_ended_session_is_made_anew_and_the_lock_is_still_held(made: Database, store: PostgresStore) -> None:
    lease = taken(store, NAME, run())
    for _ in range(2):
        (backend,) = store.backends
        made.execute("SELECT pg_terminate_backend(%s, 5000)", [backend])
        assert store.heartbeat(lease, phase=1, count=1) > 0
        assert store.backends not in ((), (backend,))
    assert store.release(lease)


def test_an_acquire_on_an_ended_session_is_told_and_may_be_tried_again(made: Database, store: PostgresStore) -> None:
    """Not asked again by itself: its answer may have been lost on the way, and the lock be held."""
    assert store.read_holders() == ()
    made.execute("SELECT pg_terminate_backend(%s, 5000)", [store.backends[0]])
    with pytest.raises(LockStoreError) as caught:
        store.acquire(NAME, run(), PROMISE)
    assert caught.value.retryable
    assert taken(store, NAME, run()).token == 1


def test_what_was_done_though_its_answer_got_lost_is_done_once(
    made: Database, proxy: Callable[[Database], Proxy], opened: Open
) -> None:
    line = proxy(made)
    store = opened(made.through(line.port))
    lease = taken(store, NAME, run())
    for call in (lambda: store.heartbeat(lease, phase=1, count=1), lambda: store.release(lease)):
        line.lose_answer_after(b"UPDATE safecopy.lock")
        with pytest.raises(LockStoreError) as caught:
            call()
        assert caught.value.retryable
        assert line.met.is_set()
        line.mend()
    until(lambda: store.read_holder(NAME) is None)
    assert store.release(lease) is False
    assert taken(store, NAME, run("후임")).token == 2


def test_a_network_that_swallows_everything_is_given_up_in_time(
    made: Database, proxy: Callable[[Database], Proxy], opened: Open
) -> None:
    """Once: whoever is silent is not asked again at once, nor connected to anew."""
    line = proxy(made)
    store = opened(made.through(line.port), connect_timeout=2)
    lease = taken(store, NAME, run())
    line.stall()
    before, started = threading.active_count(), time.monotonic()
    with pytest.raises(LockStoreError, match="no answer within") as caught:
        store.heartbeat(lease, phase=1, count=1)
    assert time.monotonic() - started < 10
    assert caught.value.retryable
    assert store.backends == ()
    assert threading.active_count() == before
    line.mend()
    assert store.heartbeat(lease, phase=1, count=1) > 0


def test_a_server_that_crashed_and_recovered_has_its_tokens_still(opened: Open) -> None:
    with Server.start(installations()[0], durable=False, settings={"synchronous_commit": "on"}) as server:
        made = Database(server, "postgres")
        store = opened(made)
        lease = taken(store, NAME, run())
        with made.connect() as session:
            os.kill(session.info.backend_pid, signal.SIGKILL)  # of one session: the server restarts all
            until(lambda: not is_open(session))
        until(lambda: answers(made))
        assert store.heartbeat(lease, phase=1, count=1) > 0
        assert taken(store, NAME, run("후임"), (lease.attempt,)).token == 2


def test_who_was_displaced_while_being_granted_has_nothing_to_revoke(made: Database, opened: Open) -> None:
    """The displacing statement began before the grant was committed: it took the lock, but saw no member to remove."""
    store, person = opened(made), opened(made)
    former = taken(store, NAME, run())
    contender = run("후임")
    asked = build_contender_parameters(contender) | {
        "name": NAME,
        "lease_id": uuid4(),
        "place": None,
        "detached": False,
        "backend": 0,
    }
    asked |= {"stale_after": "250 s", "crash_grace": None, "dead": [str(former.attempt)]}
    with made.connect() as session, ThreadPoolExecutor(1) as executor:
        session.execute("BEGIN")
        cursor = psycopg.ClientCursor(session, row_factory=dict_row)
        row = cursor.execute(sql.load("lock")["acquire"], asked).fetchone()
        assert row is not None
        forced = executor.submit(person.force_release, NAME, reason="시험")
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        until(lambda: bool(made.value(waits)))
        session.execute("COMMIT")
        displaced = forced.result(100)
    assert displaced is not None
    assert displaced.owner_key == contender.owner_key
    assert not store.revoke(parse_lease(NAME, contender, row))
    assert "revoke" not in [event.kind for event in store.read_history(NAME)]


def answers(database: Database) -> bool:
    try:
        return bool(database.rows("SELECT 1"))
    except psycopg.OperationalError:
        return False


def is_open(session: psycopg.Connection[Any]) -> bool:
    try:
        session.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True
