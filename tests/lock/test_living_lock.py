"""The living lock: held together or not at all, alive only by progress, told to its holder when it is lost."""

from __future__ import annotations

import inspect
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest
from pytest_mock import MockerFixture

from airflow_provider_safecopy.errors import ConfigError, FencedOutError, LockBusyError, LockLostError, LockStoreError
from airflow_provider_safecopy.lock import living_lock, schema
from airflow_provider_safecopy.lock.file_store import FileStore
from airflow_provider_safecopy.lock.living_lock import LivenessCheck, LivingLock
from airflow_provider_safecopy.lock.model import Contender, Holder, Lease, Promise
from airflow_provider_safecopy.lock.postgres import PostgresStore
from airflow_provider_safecopy.lock.process import ProcessIdentity
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from tests.support.database import Database
from tests.support.proxy import Proxy
from tests.support.until import until

NAME = "야간_집계"
PROMISE = Promise(stale_after=600, crash_grace=60)
OWNER = {"dag": "야간 집계", "run": "scheduled__2026-01-01"}


class Clock:
    """Of a store and of the processes that use it: it stands still until the test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(mocker: MockerFixture) -> Clock:
    clock = Clock()
    mocker.patch.object(living_lock, "time", SimpleNamespace(monotonic=clock))
    return clock


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "잠금"


@pytest.fixture
def locks(directory: Path, clock: Clock) -> Iterator[Callable[..., LivingLock]]:
    """Make locks in files, by the movable clock; released at the end."""
    made: list[LivingLock] = []

    def make(names: str | list[str] = NAME, owner: str = "r1", **more: object) -> LivingLock:
        contender = Contender(owner, OWNER | {"run": owner}, "복사[3]", 2)
        options = {"contender": contender, "promise": PROMISE} | more
        made.append(LivingLock(names, FileStore(directory, clock=clock), **options))  # type: ignore[arg-type] # options
        return made[-1]

    yield make
    for lock in made:
        lock.release()


Locks = Callable[..., LivingLock]


# Several at once


def test_several_are_held_in_sorted_order_each_once(locks: Locks) -> None:
    lock = locks(["다", "가", "나", "가"])
    assert lock.names == ("가", "나", "다")
    with lock:
        assert [(lease.name, lease.token) for lease in lock.leases] == [("가", 1), ("나", 1), ("다", 1)]
        assert lock.acquire() is lock  # held already
        assert [lease.token for lease in lock.leases] == [1, 1, 1]
    assert lock.leases == ()


def test_they_are_asked_for_in_one_order_whoever_asks(locks: Locks, mocker: MockerFixture) -> None:
    lock = locks(["다", "가", "나"])
    asked = mocker.spy(lock.store, "acquire")
    lock.acquire()
    assert [call.args[0] for call in asked.call_args_list] == ["가", "나", "다"]


def test_they_are_held_together_or_not_at_all(locks: Locks) -> None:
    other = locks("다", "r2").acquire()
    lock = locks(["가", "나", "다"])
    with pytest.raises(LockBusyError, match="lock 다 is held by") as caught:
        lock.acquire()
    assert caught.value.lock == "다"
    assert lock.leases == ()
    assert [holder.name for holder in other.store.read_holders()] == ["다"]
    other.release()
    assert [lease.name for lease in lock.acquire().leases] == ["가", "나", "다"]


def test_what_was_taken_is_given_back_whatever_goes_wrong(locks: Locks, mocker: MockerFixture) -> None:
    lock = locks(["가", "나"])
    real = lock.store.acquire

    def fail(name: str, *args: object, **more: object) -> object:
        if name == "나":
            raise KeyboardInterrupt
        return real(name, *args, **more)  # type: ignore[arg-type] # as they came

    mocker.patch.object(lock.store, "acquire", fail)
    with pytest.raises(KeyboardInterrupt):
        lock.acquire()
    mocker.stopall()
    assert lock.store.read_holders() == ()


@pytest.mark.parametrize("name", ["", "  ", "\n", "a\0b"])
def test_a_name_that_is_none_is_refused(directory: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="name of a lock"):
        LivingLock([NAME, name], directory)


def test_it_lives_in_a_database_a_directory_or_any_store(target: Database, directory: Path) -> None:
    store = FileStore(directory)
    assert LivingLock(NAME, store).store is store
    assert isinstance(LivingLock(NAME, directory).store, FileStore)
    for where in (target.conninfo, target.endpoint):
        with LivingLock(NAME, where) as lock:
            assert isinstance(lock.store, PostgresStore)
            assert len(lock.backends) == 1
            name = "SELECT application_name FROM pg_stat_activity WHERE pid = %s"
            assert target.value(name, list(lock.backends)) == f"safecopy:{lock.contender.attempt}"
        assert not lock.backends
    with LivingLock(NAME, directory) as lock:
        assert not lock.backends


# Heartbeats


def test_heartbeats_closer_together_than_the_interval_cost_nothing(
    locks: Locks, clock: Clock, mocker: MockerFixture
) -> None:
    lock = locks().acquire()
    beats = mocker.spy(lock.store, "heartbeat")
    assert PROMISE.interval == 5
    for _ in range(100):
        clock.now += 1
        lock.heartbeat()
    assert beats.call_count == 20
    counts = [call.kwargs["count"] for call in beats.call_args_list]
    assert counts == list(range(5, 101, 5))


def test_the_interval_between_heartbeats_may_be_chosen(locks: Locks, mocker: MockerFixture) -> None:
    lock = locks(minimum_heartbeat_interval=0)
    with lock:
        asked = mocker.spy(lock.store, "heartbeat")
        for _ in range(3):
            lock.heartbeat()
        assert asked.call_count == 3


@pytest.mark.parametrize("interval", [-1, 31, True, "1", float("nan")])
def test_an_interval_that_could_not_keep_the_lock_is_refused(directory: Path, interval: float) -> None:
    with pytest.raises(
        ConfigError, match=r"from 0 to 30, which is half of the shorter one of stale_after and crash_grace"
    ):
        LivingLock(NAME, directory, promise=PROMISE, minimum_heartbeat_interval=interval)


def test_each_call_is_progress_unless_it_says_how_far_the_work_is(locks: Locks, clock: Clock) -> None:
    lock = locks().acquire()
    for _ in range(10):
        clock.now += 300
        lock.heartbeat()
        assert lock.seconds_left == pytest.approx(570)
    clock.now += 300
    lock.heartbeat(10)  # as far as it was
    assert lock.seconds_left == pytest.approx(270)
    lock.heartbeat(11)
    assert lock.seconds_left == pytest.approx(270)  # too soon to be told
    clock.now += 5
    lock.heartbeat(11)
    assert lock.seconds_left == pytest.approx(570)


def test_all_locks_live_by_one_heartbeat(locks: Locks, clock: Clock) -> None:
    lock = locks(["가", "나"]).acquire()
    clock.now += 500
    lock.heartbeat()
    clock.now += 500
    for name in ("가", "나"):
        with pytest.raises(LockBusyError):
            locks(name, "r2").acquire()


def test_of_several_promises_the_first_to_end_counts(locks: Locks) -> None:
    locks("나", promise=Promise(stale_after=6000)).acquire()  # another member of the same run
    lock = locks(["가", "나"], contender=Contender("r1", member="적재")).acquire()
    assert [lease.remaining for lease in lock.leases] == [600, 6000]
    assert lock.seconds_left == pytest.approx(600 - PROMISE.margin)


def test_without_the_lock_there_is_no_heartbeat(locks: Locks, clock: Clock) -> None:
    lock = locks()
    for held in (False, True):
        if held:
            lock.acquire()
            lock.heartbeat()
            lock.release()
            clock.now += 100
        with pytest.raises(ConfigError, match=f"{NAME}: it is not held"):
            lock.heartbeat()
        lock.check()


def test_who_makes_no_progress_stops_itself_before_others_may_take_it(locks: Locks, clock: Clock) -> None:
    lock, rival = locks().acquire(), locks(owner="r2")
    for _ in range(9):
        clock.now += 60
        lock.heartbeat(0)
        lock.check()
    clock.now += 600 - 9 * 60 - PROMISE.margin - 1
    lock.check()
    lock.heartbeat(0)
    with pytest.raises(LockBusyError):
        rival.acquire()
    clock.now += 2
    with pytest.raises(LockLostError, match="stopped itself") as caught:
        lock.check()
    assert (caught.value.lock, caught.value.token, caught.value.retryable) == (NAME, 1, True)
    assert "stale_after" in caught.value.hint
    with pytest.raises(LockBusyError) as busy:
        rival.acquire()
    assert busy.value.holder["takeable_in"] == pytest.approx(PROMISE.margin - 1)
    assert lock.lost_error is caught.value
    for call in (lock.check, lock.heartbeat):
        with pytest.raises(LockLostError) as again:
            call()
        assert again.value is caught.value
    clock.now += PROMISE.margin
    assert rival.acquire().leases[0].kind == "takeover-stale"


def test_the_promise_counts_from_before_the_store_was_asked(locks: Locks, clock: Clock, mocker: MockerFixture) -> None:
    lock = locks()
    real = lock.store.acquire

    def slow(*args: object, **more: object) -> object:
        lease = real(*args, **more)  # type: ignore[arg-type] # as they came
        clock.now += 100  # an answer that took its time
        return lease

    mocker.patch.object(lock.store, "acquire", slow)
    lock.acquire()
    assert lock.seconds_left == pytest.approx(600 - PROMISE.margin - 100)


def test_a_lock_that_is_somebody_elses_is_told_at_the_next_heartbeat(locks: Locks, clock: Clock) -> None:
    lock, other = locks().acquire(), locks(owner="r2")
    assert lock.lost_error is None
    assert other.store.force_release(NAME, reason="시험") is not None
    other.acquire()
    lock.check()  # asks nobody
    clock.now += 10
    with pytest.raises(LockLostError, match="token 1 was taken") as caught:
        lock.heartbeat()
    assert lock.lost_error is caught.value
    with pytest.raises(LockLostError):
        lock.check()
    lock.release()
    lock.release()
    assert [seen.attempt for seen in (other.store.read_holder(NAME) or pytest.fail("free")).members] == [
        str(other.contender.attempt)
    ]
    other.release()
    assert lock.acquire().lost_error is None
    lock.heartbeat()


def test_release_is_idempotent_and_lets_others_in(locks: Locks) -> None:
    lock = locks().acquire()
    lock.release()
    lock.release()
    other = locks(owner="r2").acquire()
    lock.release()
    other.send_heartbeat(phase=1, count=1)


def test_a_block_is_left_with_the_lock_released_whatever_happens(locks: Locks) -> None:
    lock = locks()
    with pytest.raises(ZeroDivisionError), lock:
        raise ZeroDivisionError
    assert lock.store.read_holder(NAME) is None


# When the store cannot be asked


def test_a_store_that_is_unreachable_and_back_loses_nobody(
    target: Database, proxy: Callable[[Database], Proxy], caplog: pytest.LogCaptureFixture
) -> None:
    wire = proxy(target)
    lock = LivingLock(NAME, target.through(wire.port).endpoint, promise=PROMISE).acquire()
    (lease,) = lock.leases
    wire.cut()
    with caplog.at_level(logging.WARNING):
        lock.send_heartbeat(phase=1, count=1)
    assert "no heartbeat: " in caplog.text
    assert lock.lost_error is None
    lock.check()
    wire.mend()
    lock.send_heartbeat(phase=1, count=2)
    assert target.value("SELECT count FROM safecopy.member") == 2
    lock.release()
    assert target.value("SELECT lease_id IS NULL AND token = %s FROM safecopy.lock", [lease.token])


def test_a_store_that_stays_unreachable_ends_the_run_in_time(
    locks: Locks, clock: Clock, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lock = locks().acquire()
    hidden = directory.rename(directory.with_name("옮김"))
    directory.write_text("")
    for _ in range(5):
        clock.now += 100
        lock.heartbeat()
    assert caplog.text.count("no heartbeat") == 5
    clock.now += 100 - PROMISE.margin
    with pytest.raises(LockLostError, match="no progress was confirmed"):
        lock.heartbeat()
    lock.release()
    assert "could not be released" in caplog.text
    directory.unlink()
    hidden.rename(directory)


def test_a_store_that_cannot_be_asked_grants_nothing(tmp_path: Path, target: Database) -> None:
    for where in (tmp_path / "없음" / "잠금", Endpoint.from_conninfo(target.conninfo + " port=1")):
        lock = LivingLock(NAME, where)
        with pytest.raises(LockStoreError):
            lock.acquire()
        assert lock.leases == ()


# The fence


def test_the_fence_holds_others_off_until_commit(target: Database) -> None:
    with target.connect() as session:
        schema.init(session)
    with LivingLock(["가", "나"], target.endpoint) as lock, target.connect() as session, target.connect() as other:
        with session.transaction():
            lock.fence(session)
            other.execute("SET lock_timeout = '50ms'")
            for name in ("가", "나"):
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    other.execute("UPDATE safecopy.lock SET token = token + 1 WHERE name = %s", [name])
        other.execute("UPDATE safecopy.lock SET token = token + 1 WHERE name = '나'")
        with pytest.raises(FencedOutError) as caught, session.transaction():
            lock.fence(session)
        assert (caught.value.lock, caught.value.token) == ("나", 1)


def test_files_cannot_fence(locks: Locks, target: Database) -> None:
    with target.connect() as session, pytest.raises(ConfigError, match="only locks in a database"):
        locks().acquire().fence(session)


# Who is gone


def test_whom_a_judge_knows_to_be_gone_is_taken_over_at_once(locks: Locks) -> None:
    first = locks().acquire()
    asked: list[str | None] = []

    def judge(holder: Holder) -> list[str]:
        asked.append(holder.owner_key)
        return [seen.attempt for seen in holder.members] if verdict else []

    verdict = False
    with pytest.raises(LockBusyError):
        locks(owner="r2", judge=judge).acquire()
    verdict = True
    (lease,) = locks(owner="r2", judge=judge).acquire().leases
    assert (lease.kind, asked) == ("takeover-dead", ["r1", "r1"])
    assert lease.displaced is not None
    assert lease.displaced.attempts == (str(first.contender.attempt),)


def test_a_free_lock_needs_no_judge(locks: Locks) -> None:
    def judge(holder: Holder) -> list[str]:
        pytest.fail(f"asked about {holder}")

    locks(judge=judge).acquire()


HOLD_AND_SLEEP = """
import json, signal, sys
from pathlib import Path
from airflow_provider_safecopy.lock.living_lock import LivingLock
from airflow_provider_safecopy.lock.model import Contender, Promise
from airflow_provider_safecopy.lock.process import ProcessIdentity
given = json.loads(sys.argv[1])
contender = Contender("r1", given["owner"], process=ProcessIdentity.read_current(may_end=given["may_end"]))
lock = LivingLock(given["name"], Path(given["directory"]), contender=contender, promise=Promise(600)).acquire()
print("held", flush=True)
signal.pause()
"""


@pytest.mark.parametrize("may_end", [True, False])
def test_a_displaced_process_is_ended_only_where_that_is_allowed(
    directory: Path, caplog: pytest.LogCaptureFixture, *, may_end: bool
) -> None:
    given = json.dumps({"owner": OWNER, "may_end": may_end, "name": NAME, "directory": str(directory)})
    with subprocess.Popen([sys.executable, "-c", HOLD_AND_SLEEP, given], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        judge: LivenessCheck = lambda holder: [seen.attempt for seen in holder.members]  # noqa: E731 -- short, and typed
        with caplog.at_level(logging.WARNING), LivingLock(NAME, directory, judge=judge) as lock:
            assert lock.takeovers
        if may_end:
            assert process.wait(100) == -signal.SIGTERM
        else:
            assert process.poll() is None
        assert (f"processes {process.pid}" if may_end else "and no process") in caplog.text
        assert "dag 야간 집계" in caplog.text
        process.kill()


def test_server_sessions_of_the_displaced_are_ended(target: Database) -> None:
    first = LivingLock(NAME, target.endpoint, contender=Contender("r1")).acquire()
    (backend,) = first.backends
    second = LivingLock(NAME, target.endpoint, judge=lambda holder: [seen.attempt for seen in holder.members]).acquire()
    assert target.value("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", [backend]) == 0
    (takeover,) = second.takeovers
    assert NAME in takeover
    assert "takeover-dead" in takeover
    with pytest.raises(LockLostError):
        first.send_heartbeat(phase=1, count=1)
    first.release()
    second.release()


# What is told


def test_a_busy_answer_names_holder_members_host_since_progress_and_when_it_will_be_taken(
    locks: Locks, clock: Clock
) -> None:
    lock = locks().acquire()
    clock.now += 100
    lock.heartbeat()
    clock.now += 60
    with pytest.raises(LockBusyError) as caught:
        locks(owner="r2").acquire()
    error, here = caught.value, ProcessIdentity.read_current()
    since = (lock.store.read_holder(NAME) or pytest.fail("free")).granted_at
    told = str(error)
    for part in (
        f"lock {NAME} is held by dag 야간 집계, run r1",
        f"복사[3], try 2, pid {os.getpid()} on {here.host}",
        f"since {since:%Y-%m-%d %H:%M}",
        "last progress 60 s ago",
        "it will be taken in 540 s if nothing moves",
        "safecopy locks",
    ):
        assert part in told
    assert error.lock == NAME
    assert error.retryable
    assert error.holder["owner"] == OWNER | {"run": "r1"}
    (member,) = error.holder["members"]
    assert (member["member"], member["try"], member["host"], member["pid"]) == ("복사[3]", 2, here.host, os.getpid())
    assert error.holder["takeable_in"] == 540


def test_a_lock_that_rests_says_for_how_long(locks: Locks, clock: Clock) -> None:
    lock = locks().acquire()
    (lease,) = lock.leases
    assert lock.store.release(lease, at_least=30)
    clock.now += 10
    with pytest.raises(LockBusyError, match=r"can be taken in 20\.0 s"):
        locks(owner="r2").acquire()


def test_whoever_was_sent_away_is_noted(locks: Locks) -> None:
    lock = locks().acquire()
    for _ in range(2):
        with pytest.raises(LockBusyError):
            locks(owner="r2").acquire()
    with pytest.raises(LockBusyError) as caught:
        locks(owner="r3").peek()
    assert caught.value.holder["refused"] == 2
    assert [event.owner_key for event in lock.store.read_history() if event.kind == "refused"] == ["r3", "r2", "r2"]


def test_peek_tells_only_of_who_lives_and_changes_nothing(locks: Locks, clock: Clock, tmp_path: Path) -> None:
    locks().peek()
    lock = locks().acquire()
    locks(owner="r1").peek()  # its own run
    with pytest.raises(LockBusyError):
        locks(owner="r2").peek()
    locks(owner="r2", judge=lambda holder: [seen.attempt for seen in holder.members]).peek()
    clock.now += 11
    locks(owner="r2").peek()  # it may have crashed
    lock.heartbeat()
    with pytest.raises(LockBusyError):
        locks(owner="r2").peek()
    clock.now += 601
    locks(owner="r2").peek()
    LivingLock(NAME, tmp_path / "없음" / "잠금").peek()
    assert [lease.token for lease in lock.leases] == [1]
    assert (lock.store.read_holder(NAME) or pytest.fail("free")).token == 1


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_its_errors_survive_pickling(locks: Locks, clock: Clock, protocol: int) -> None:
    lock = locks().acquire()
    with pytest.raises(LockBusyError) as busy:
        locks(owner="r2").acquire()
    clock.now += 600
    with pytest.raises(LockLostError) as lost:
        lock.check()
    for error in (busy.value, lost.value):
        again = pickle.loads(pickle.dumps(error, protocol))
        assert type(again) is type(error)
        assert (str(again), vars(again)) == (str(error), vars(error))


# On its own


BARE = """
import sys
sys.modules["airflow"] = None  # importing it fails
from pathlib import Path
from airflow_provider_safecopy.lock.living_lock import LivingLock
with LivingLock("야간_집계", Path(sys.argv[1])) as lock:
    lock.heartbeat()
    print(lock.leases[0].token)
print([name for name in sys.modules if name.startswith("airflow.")])
"""


def test_it_needs_no_airflow(directory: Path) -> None:
    told = subprocess.check_output([sys.executable, "-c", BARE, directory], text=True)
    assert told == "1\n[]\n"


def test_the_example_of_its_documentation_runs(target: Database) -> None:
    text = inspect.getdoc(living_lock) or ""
    example = textwrap.dedent(text.split("::\n", 1)[1])
    code = example.replace("host=dw dbname=dw", target.conninfo)
    assert code != example
    worked: list[tuple[int, str]] = []

    def work(batch: int) -> None:
        kind = target.value("SELECT last_kind FROM safecopy.lock WHERE lease_id IS NOT NULL")
        worked.append((batch, kind))

    exec(code, {"LivingLock": LivingLock, "batches": range(3), "work": work})
    assert worked == [(batch, "grant") for batch in range(3)]
    assert target.rows("SELECT name, lease_id FROM safecopy.lock") == [(NAME, None)]


def test_a_real_run_is_taken_over_after_it_made_no_progress(directory: Path) -> None:
    """Without any clock of a test's: the whole of it, by real seconds."""
    promise = Promise(stale_after=0.5, crash_grace=0.5)
    lock = LivingLock(NAME, directory, promise=promise).acquire()
    stopped: list[LockLostError] = []

    def lost() -> bool:
        try:
            lock.heartbeat(0)
        except LockLostError as error:
            stopped.append(error)
        return bool(stopped)

    until(lost)
    rival = LivingLock(NAME, directory)
    got: list[Lease] = []

    def taken() -> bool:
        try:
            got.extend(rival.acquire().leases)
        except LockBusyError:
            return False
        return True

    until(taken)
    assert [(lease.kind, lease.token) for lease in got] == [("takeover-stale", 2)]
    lock.release()
    rival.release()
