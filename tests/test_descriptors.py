"""A process with 1,024 descriptors open or more, beyond what select can name: a busy worker, a pool, a leak of another.

Whatever waits must wait by poll: select raises ValueError there, in the middle of a publish.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.cli.waiting import LockWait
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.lock.connection_gate import ConnectionGate
from airflow_provider_safecopy.lock.living_lock import LivingLock
from airflow_provider_safecopy.lock.model import Contender, Lease, Promise
from airflow_provider_safecopy.lock.postgres import PostgresStore
from airflow_provider_safecopy.spec import CopySpec
from tests.conftest import NothingLeft
from tests.support.customers import TABLE, spec
from tests.support.database import Database

SELECT_LIMIT = 1024
COUNT = 1100

Free = Callable[[], object]
WhileWaiting = Callable[[Free], list[int]]


@pytest.fixture(autouse=True)
def _many_descriptors() -> Iterator[None]:
    """Whatever a test opens gets a descriptor that select refuses."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 4 * COUNT), max(before[1], 4 * COUNT)))
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        for _ in range(COUNT):
            stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        yield


@pytest.fixture
def while_waiting(monkeypatch: pytest.MonkeyPatch) -> WhileWaiting:
    """Remove what is waited for, as soon as something waits; the descriptors of those who waited are collected."""
    wait, waited = AbortSwitch.wait, list[int]()

    def free_as_soon_as_waiting(free: Free) -> list[int]:
        def free_and_wait(switch: AbortSwitch, seconds: float) -> bool:
            waited.append(switch.fileno())
            free()
            return wait(switch, seconds)

        monkeypatch.setattr(AbortSwitch, "wait", free_and_wait)
        return waited

    return free_as_soon_as_waiting


@contextmanager
def a_reader(target: Database) -> Iterator[Free]:
    """A transaction that has read the table and stays open."""
    with target.connect() as session:
        session.execute(f"BEGIN; SELECT FROM {TABLE}".encode())
        yield session.rollback


@contextmanager
def a_writer(target: Database) -> Iterator[Free]:
    """A transaction that is about to write into the table."""
    with target.connect() as session:
        session.execute(f"BEGIN; LOCK TABLE {TABLE} IN ROW EXCLUSIVE MODE".encode())
        yield session.rollback


@pytest.mark.parametrize(
    ("busy", "options"),
    [
        (a_reader, {"publish": "swap"}),
        (a_reader, {"publish": "truncate_insert"}),
        (a_writer, {"publish": "delta"}),
        (a_writer, {"publish": "delete_insert"}),
        (a_reader, {"drift": "add_columns"}),
    ],
    ids=lambda value: getattr(value, "__name__", "-".join(map(str, value.values())) if isinstance(value, dict) else ""),
)
def test_a_copy_that_waits_for_others_goes_on_when_they_are_gone(
    filled: tuple[Database, Database],
    while_waiting: WhileWaiting,
    nothing_left: NothingLeft,
    busy: Callable[[Database], AbstractContextManager[Free]],
    options: dict[str, object],
) -> None:
    source, target = filled
    if "drift" in options:
        source.execute(f'ALTER TABLE {TABLE} ADD "등급" text')
    with busy(target) as free:
        waited = while_waiting(free)
        report = pipeline.copy(spec(**options), source.endpoint, target.endpoint)
    assert report.rows == 2000
    assert waited
    assert min(waited) >= SELECT_LIMIT
    nothing_left(source, target)


def test_many_tables_in_one_psql_end_as_they_do_elsewhere(
    filled: tuple[Database, Database], nothing_left: NothingLeft
) -> None:
    source, target = filled
    tables = [TABLE.replace("고객", f"고객_{number}") for number in range(3)]
    for table in tables:
        source.execute(f"CREATE TABLE {table} AS TABLE {TABLE}")
        target.execute(f"CREATE TABLE {table} (LIKE {TABLE})")
    specs = [CopySpec.of(source_table=table, target_table=table) for table in tables]
    done = pipeline.copy_tables(specs, source.endpoint, target.endpoint)
    assert [report.rows for report in done.tables] == [2000] * 3
    nothing_left(source, target)


def test_an_opener_waits_before_the_launch_gate(target: Database, while_waiting: WhileWaiting) -> None:
    with target.connect() as session:
        schema.init(session)
    first, second = (PostgresStore(target.endpoint) for _ in range(2))
    with ExitStack() as stack:
        stack.callback(first.close)
        stack.callback(second.close)
        inside = stack.enter_context(ExitStack())
        opener = ConnectionGate(first, "원천", 0.1, Contender.alone("먼저"), 60)
        inside.enter_context(opener.wait_turn(AbortSwitch()))
        waited = while_waiting(inside.close)
        with ConnectionGate(second, "원천", 0.1, Contender.alone("나중"), 60).wait_turn(AbortSwitch()):
            assert waited
    assert min(waited) >= SELECT_LIMIT


def test_the_command_waits_for_a_busy_lock(target: Database, while_waiting: WhileWaiting) -> None:
    with target.connect() as session:
        schema.init(session)
    store = PostgresStore(target.endpoint)
    with ExitStack() as stack:
        stack.callback(store.close)
        lease = store.acquire("집계", Contender.alone("밤샘"), Promise())
        assert isinstance(lease, Lease)
        waited = while_waiting(partial(store.release, lease))
        patience = LockWait(store, seconds=60, abort=AbortSwitch(), telling=lambda: nullcontext(lambda _: None))

        def attempt() -> str:
            with LivingLock("집계", target.endpoint, contender=Contender.alone("낮")) as lock:
                return lock.leases[0].kind

        assert patience.until_free(attempt) == "grant"
    assert min(waited) >= SELECT_LIMIT
