"""The lock behind a transaction pooler: PgBouncer, two sessions shared by all, and another one for each transaction."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import FencedOutError, LockLostError, LockStoreError
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.lock.living_lock import LivingLock
from airflow_provider_safecopy.lock.model import Contender, Holder, Lease, Promise, format_application_name
from airflow_provider_safecopy.lock.postgres import PostgresStore, check_fence
from tests.support.database import Database
from tests.support.pooler import Pooler
from tests.support.until import until

NAME = "분석.고객"
SIZE = 2
PATIENCE = 60.0
LEDGER = "CREATE TABLE public.ledger (id bigserial PRIMARY KEY, token bigint, attempt uuid)"
WRITE = "INSERT INTO public.ledger (token, attempt) VALUES (%s, %s)"


@dataclass
class Ground:
    """A database that holds the schema safecopy, reached directly and through the pooler."""

    direct: Database
    pooler: Pooler
    stack: ExitStack = field(repr=False)

    @property
    def pooled(self) -> Database:
        return self.direct.through(self.pooler.port)

    def store(self, contender: Contender, **options: Any) -> PostgresStore:
        """A contender's own, through the pooler."""
        store = PostgresStore(self.pooled.endpoint, attempt=contender.attempt, **options)
        return self.stack.enter_context(closing(store))

    def publisher(self, contender: Contender) -> psycopg.Connection[Any]:
        """What a contender publishes by, through the pooler."""
        return self.session(format_application_name(contender.attempt))

    def session(self, name: str = "stranger") -> psycopg.Connection[Any]:
        """Somebody's own, through the pooler. Nothing is prepared by name."""
        return self.stack.enter_context(self.pooled.endpoint.connect(application_name=name, connect_timeout=10))


@pytest.fixture
def ground(target: Database) -> Iterator[Ground]:
    pooler = Pooler.before(target, size=SIZE)
    with closing(pooler), ExitStack() as stack:
        with target.connect() as session:
            schema.init(session)
            session.execute(LEDGER)
        yield Ground(target, pooler, stack)


@pytest.fixture
def crowded(ground: Ground) -> Iterator[Ground]:
    """With four others at work on locks of their own, so that one's sessions are hardly ever the same twice."""
    stop, busy = threading.Event(), [threading.Event() for _ in range(4)]

    def work(number: int) -> int:
        contender, rounds = Contender.alone(f"이웃 {number}"), 0
        store = ground.store(contender)
        while not stop.is_set():
            lease = leased(store.acquire(f"이웃 {number}", contender, Promise()))
            store.heartbeat(lease, phase=1, count=rounds)
            assert store.release(lease)
            rounds += 1
            busy[number].set()
        return rounds

    with ThreadPoolExecutor(4) as executor:
        working = [executor.submit(work, number) for number in range(4)]
        try:
            assert all(each.wait(PATIENCE) for each in busy)
            yield ground
        finally:
            stop.set()
    assert min(each.result() for each in working) > 0


def leased(answer: Lease | Holder) -> Lease:
    assert isinstance(answer, Lease), answer
    return answer


# A lock's whole life


def test_many_clients_share_few_sessions(crowded: Ground) -> None:
    servers = [row for row in crowded.pooler.ask("SHOW SERVERS") if row["database"] == crowded.direct.name]
    (pool,) = [row for row in crowded.pooler.ask("SHOW POOLS") if row["database"] == crowded.direct.name]
    assert 1 <= len(servers) <= SIZE
    assert pool["pool_mode"] == "transaction"
    assert pool["cl_active"] + pool["cl_waiting"] >= 4


def test_granted_busy_beating_released_granted(crowded: Ground) -> None:
    one, other = Contender.alone("하나"), Contender.alone("둘")
    ours, theirs = crowded.store(one), crowded.store(other)
    lease = leased(ours.acquire(NAME, one, Promise()))
    assert (lease.token, lease.kind) == (1, "grant")
    for count in range(20):
        assert ours.heartbeat(lease, phase=1, count=count) > 500
        holder = theirs.acquire(NAME, other, Promise())
        assert isinstance(holder, Holder)
        assert (holder.owner_key, holder.members[0].count) == (one.owner_key, count)
    assert [holder.name for holder in theirs.read_holders() if not holder.name.startswith("이웃")] == [NAME]
    assert ours.release(lease)
    assert not ours.release(lease)
    assert leased(theirs.acquire(NAME, other, Promise())).token == 2
    assert [event.kind for event in ours.read_history(NAME)] == ["grant", "release", "grant"]


def test_attempts_of_one_run_join_and_supersede(crowded: Ground) -> None:
    first = Contender("dag|run", member="고객_복사")
    again = replace(first, try_number=2, attempt=uuid4())
    sibling = Contender("dag|run", member="주문_복사")
    ours, later, beside = map(crowded.store, (first, again, sibling))
    lease = leased(ours.acquire(NAME, first, Promise()))
    assert leased(beside.acquire(NAME, sibling, Promise())).kind == "join"
    superseding = leased(later.acquire(NAME, again, Promise()))
    assert (superseding.kind, superseding.token) == ("supersede", lease.token)
    with pytest.raises(LockLostError):
        ours.heartbeat(lease, phase=1, count=1)
    assert later.revoke(superseding)
    with crowded.publisher(again) as session, pytest.raises(FencedOutError), session.transaction():
        check_fence(session, superseding)


def test_a_stale_holder_is_taken_over_and_cannot_publish(crowded: Ground) -> None:
    one, other = Contender.alone("하나"), Contender.alone("둘")
    ours, theirs = crowded.store(one), crowded.store(other)
    lease = leased(ours.acquire(NAME, one, Promise(stale_after=0.2)))
    until(lambda: (holder := theirs.read_holder(NAME)) and holder.is_stale, told="never stale")
    taken = leased(theirs.acquire(NAME, other, Promise()))
    assert (taken.token, taken.kind) == (2, "takeover-stale")
    with crowded.publisher(one) as session, pytest.raises(FencedOutError), session.transaction():
        check_fence(session, lease)
    assert not ours.release(lease)
    with crowded.publisher(other) as session, session.transaction():
        check_fence(session, taken)
        session.execute(WRITE, [taken.token, taken.attempt])
    assert crowded.direct.rows("SELECT token FROM public.ledger") == [(2,)]


def test_an_operator_frees_a_lock_and_reaping_spares_the_living(crowded: Ground) -> None:
    one = Contender.alone("하나")
    ours = crowded.store(one)
    leased(ours.acquire(NAME, one, Promise()))
    other = crowded.store(Contender.alone("운영자"))
    assert other.reap(NAME) is None
    displaced = other.force_release(NAME, reason="시험")
    assert displaced is not None
    assert displaced.attempts == (str(one.attempt),)
    assert other.read_holder(NAME) is None
    assert other.forget(keep=0) > 0


def test_the_lock_for_everybody_works_as_it_is(crowded: Ground) -> None:
    with LivingLock(NAME, crowded.pooled.conninfo) as lock, crowded.publisher(lock.contender) as session:
        lock.heartbeat()
        with session.transaction():
            lock.fence(session)
            session.execute(WRITE, [lock.leases[0].token, lock.contender.attempt])
    assert crowded.direct.value("SELECT count(*) FROM public.ledger") == 1


def test_the_first_of_all_makes_the_schema_through_the_pooler(ground: Ground) -> None:
    ground.direct.execute("DROP SCHEMA safecopy CASCADE")
    with LivingLock(NAME, ground.pooled.conninfo) as lock:
        assert lock.leases[0].token == 1


# What the next client of a session finds

STATE = """
SELECT current_setting('search_path'), current_setting('lock_timeout'), current_setting('statement_timeout'),
       current_setting('transaction_isolation'), current_setting('transaction_read_only'),
       current_setting('default_transaction_isolation'), current_setting('default_transaction_read_only'),
       (SELECT count(*) FROM pg_prepared_statements),
       (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'),
       (SELECT count(*) FROM pg_class WHERE relpersistence = 't')
"""


def test_no_state_is_left_in_a_session_for_the_next_client(crowded: Ground) -> None:
    """Looked at while the lock works: both sessions, taken for a transaction each, are as new."""
    new = crowded.direct.rows(STATE)
    seen: Counter[int] = Counter()
    one, other = crowded.session(), crowded.session()
    for _ in range(20):
        with one.transaction(), other.transaction():
            for session in (one, other):
                assert session.execute(STATE.encode()).fetchall() == new
                seen[session.execute("SELECT pg_backend_pid()").fetchall()[0][0]] += 1
    assert len(seen) >= SIZE


# Living and quiet


def quiet_holder(ground: Ground, promise: Promise, **options: Any) -> Lease:
    """One that lives, does not beat for longer than its grace, and has no session on the server."""
    contender = Contender.alone("조용한")
    store = ground.store(contender, **options)
    lease = leased(store.acquire(NAME, contender, promise))
    named = f"SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = '{format_application_name(contender.attempt)}'"
    one, other = ground.session(), ground.session()
    with one.transaction(), other.transaction():  # both of the pool's sessions serve others
        one.execute("SELECT 1")
        other.execute("SELECT 1")
    until(lambda: ground.direct.value(named), told="its name stays")
    past = "SELECT alive_at < clock_timestamp() - interval '0.5 s' FROM safecopy.lock WHERE name = %s"
    until(lambda: ground.direct.value(past, [NAME]), told="time stands still")
    return lease


@pytest.mark.parametrize("crash_grace", [None, 0.3])
def test_a_living_quiet_holder_is_not_taken_for_crashed(ground: Ground, crash_grace: float | None) -> None:
    """Asked for or not: the store sees that its session is not its own, and then there is no such evidence."""
    lease = quiet_holder(ground, Promise(stale_after=60, crash_grace=crash_grace))
    other = Contender.alone("둘")
    assert isinstance(ground.store(other).acquire(NAME, other, Promise()), Holder)
    direct = PostgresStore(ground.direct.endpoint)
    with closing(direct):
        assert isinstance(direct.acquire(NAME, other, Promise()), Holder)
    assert ground.direct.value("SELECT crash_grace IS NULL FROM safecopy.lock WHERE name = %s", [NAME])
    assert lease.token == 1


def test_that_evidence_would_be_false_behind_a_pooler(ground: Ground) -> None:
    """Without looking at the session, as above: the living holder is displaced. So the test above can fail."""
    credulous = dict(sql.load("lock"))
    looked = "CASE WHEN pg_backend_pid() = %(backend)s THEN %(crash_grace)s::interval END"
    assert looked in credulous["acquire"]
    credulous["acquire"] = credulous["acquire"].replace(looked, "%(crash_grace)s::interval")
    quiet_holder(ground, Promise(stale_after=60, crash_grace=0.3), statements=credulous)
    other = Contender.alone("둘")
    assert leased(ground.store(other).acquire(NAME, other, Promise())).kind == "takeover-crash"


def test_without_a_pooler_the_evidence_is_kept(ground: Ground) -> None:
    contender = Contender.alone("곧바로")
    with closing(PostgresStore(ground.direct.endpoint, attempt=contender.attempt)) as store:
        leased(store.acquire(NAME, contender, Promise(crash_grace=30)))
    grace = "SELECT extract(epoch FROM crash_grace)::float8 FROM safecopy.lock WHERE name = %s"
    assert ground.direct.value(grace, [NAME]) == 30


# Publishers that are ended, and sessions that are lost


def test_a_publisher_ended_in_its_open_transaction_frees_the_lock_for_the_taker(ground: Ground) -> None:
    one, other = Contender.alone("하나"), Contender.alone("둘")
    lease = leased(ground.store(one).acquire(NAME, one, Promise(stale_after=0.2)))
    session = ground.publisher(one)
    session.execute("BEGIN")
    check_fence(session, lease)
    session.execute(WRITE, [lease.token, lease.attempt])
    theirs = ground.store(other)
    until(lambda: (holder := theirs.read_holder(NAME)) and holder.is_stale, told="never stale")
    taken = leased(theirs.acquire(NAME, other, Promise()))
    assert (taken.kind, taken.token) == ("takeover-stale", 2)
    with pytest.raises(psycopg.Error):
        session.execute("COMMIT")
    assert ground.direct.value("SELECT count(*) FROM public.ledger") == 0


def test_a_session_ended_under_the_store_s_hands_is_told_as_a_failure_of_the_store_or_not_at_all(
    ground: Ground,
) -> None:
    """Ended at all times, in the middle of a statement as well: no error but the store's own comes out."""
    contender = Contender.alone("하나")
    store = ground.store(contender)
    lease = leased(store.acquire(NAME, contender, Promise()))
    stop = threading.Event()
    every = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name ^@ 'safecopy:'"

    def end_them() -> int:
        with ground.direct.connect() as session:
            ended = 0
            while not stop.is_set():
                ended += session.execute(every.encode()).fetchall()[0][0]
            return ended

    told: list[LockStoreError] = []
    with ThreadPoolExecutor(1) as executor:
        ending = executor.submit(end_them)
        try:
            for count in range(40):
                told += refusals(lambda count=count: store.heartbeat(lease, phase=1, count=count))  # type: ignore[misc]
                told += refusals(lambda: store.acquire("다른", contender, Promise()))
                told += refusals(store.read_holders)
        finally:
            stop.set()
        assert ending.result(PATIENCE) > 0
    assert told
    assert all(error.retryable for error in told)
    assert store.heartbeat(lease, phase=2, count=0) > 0


def refusals(ask: Callable[[], object]) -> list[LockStoreError]:
    """The store's error, if there was one; any other fails the test."""
    try:
        ask()
    except LockStoreError as error:
        return [error]
    return []


def test_a_pooler_that_is_gone_is_a_failure_of_the_store(ground: Ground) -> None:
    contender = Contender.alone("하나")
    store = ground.store(contender)
    lease = leased(store.acquire(NAME, contender, Promise()))
    ground.pooler.process.terminate()
    ground.pooler.process.wait(100)
    with pytest.raises(LockStoreError) as caught:
        store.heartbeat(lease, phase=1, count=1)
    assert caught.value.retryable


# A race through it


@dataclass
class Racer:
    """One of many: takes the lock, at times too slowly, publishes under it, and lets go, at times without telling."""

    ground: Ground
    number: int
    told: Counter[str] = field(default_factory=Counter)

    def run(self, stop: threading.Event) -> Counter[str]:
        dice = random.Random(self.number)
        while not stop.is_set():
            contender = Contender.alone(f"경주자 {self.number}")
            with closing(PostgresStore(self.ground.pooled.endpoint, attempt=contender.attempt)) as store:
                try:
                    self._once(store, contender, dice, stop)
                except (LockLostError, FencedOutError, LockStoreError, psycopg.Error) as error:
                    self.told[type(error).__name__] += 1
        return self.told

    def _once(self, store: PostgresStore, contender: Contender, dice: random.Random, stop: threading.Event) -> None:
        lease = store.acquire(NAME, contender, Promise(stale_after=0.15))
        if isinstance(lease, Holder):
            stop.wait(dice.uniform(0, 0.01))
            return
        self.told[lease.kind] += 1
        self._dawdle(dice, stop)
        store.heartbeat(lease, phase=1, count=1)
        self._publish(lease, dice, stop)
        self.told["published"] += 1
        if dice.random() < 0.9:
            store.release(lease)

    def _publish(self, lease: Lease, dice: random.Random, stop: threading.Event) -> None:
        named = format_application_name(lease.attempt)
        with (
            self.ground.pooled.endpoint.connect(application_name=named, connect_timeout=10) as session,
            session.transaction(),
        ):
            check_fence(session, lease)
            session.execute(WRITE, [lease.token, lease.attempt])
            self._dawdle(dice, stop)
            session.execute(WRITE, [lease.token, lease.attempt])

    @staticmethod
    def _dawdle(dice: random.Random, stop: threading.Event) -> None:
        stop.wait(dice.choice((0, 0, 0, 0, 0, 0, 0.01, 0.3)))


def test_a_race_through_it_finds_one_owner_at_a_time(ground: Ground) -> None:
    stop, racers = threading.Event(), [Racer(ground, number) for number in range(8)]
    with ThreadPoolExecutor(len(racers)) as executor:
        running = [executor.submit(racer.run, stop) for racer in racers]
        try:
            until(lambda: sum((racer.told for racer in racers), Counter())["published"] >= 40, told="too few publishes")
        finally:
            stop.set()
    told = sum((each.result() for each in running), Counter[str]())
    assert told["takeover-stale"] > 0, told
    granted = ground.direct.rows(
        "SELECT token, attempt, kind FROM safecopy.lock_event WHERE name = %s AND kind <> 'release' ORDER BY id", [NAME]
    )
    assert [token for token, _, _ in granted] == list(range(1, len(granted) + 1))
    published = ground.direct.rows("SELECT token, attempt FROM public.ledger ORDER BY id")
    assert len(published) == 2 * told["published"]
    assert all(before[0] <= after[0] for before, after in pairwise(published))
    owners = {token: attempt for token, attempt, _ in granted}
    assert {(token, attempt) for token, attempt in published} <= set(owners.items())
    assert max(Counter(token for token, _ in published).values()) == 2
