"""Foreign keys and staging: other sessions do not feel a table that is being built, and it does not feel them.

A foreign key acts from the moment it is there: it keeps others from deleting rows that are referred to, and ON DELETE
and ON UPDATE change the rows that refer to them. So what is proven in staging stays as it is only without one.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from pytest_mock import MockerFixture

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.errors import SafeCopyError, StageError
from airflow_provider_safecopy.publish.context import PublishContext
from airflow_provider_safecopy.publish.strategies import swap
from airflow_provider_safecopy.spec import CopySpec, Progress, Timeouts
from tests.conftest import MakeDatabase, NothingLeft
from tests.support.database import Database
from tests.support.fingerprint import differences, fingerprint
from tests.support.until import until

ROWS = 30
KEYS = [
    "REFERENCES public.등급",
    "REFERENCES public.등급 ON DELETE SET NULL ON UPDATE CASCADE",
    "REFERENCES public.등급 ON DELETE CASCADE ON UPDATE SET DEFAULT",
    "REFERENCES public.등급 DEFERRABLE INITIALLY DEFERRED",
]
# Those of staging that refer to another table.
FELT = """
SELECT count(*) FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'safecopy' AND c.relname LIKE '%\\_\\_safecopy\\_%' AND k.contype = 'f' AND k.confrelid <> k.conrelid
"""


def lay(source: Database, target: Database, key: str = KEYS[0]) -> None:
    """A table whose rows refer to 등급 1 to 3; a target whose only row refers to 등급 9."""
    source.execute(
        f"CREATE TABLE public.고객 AS SELECT g AS 번호, 1 + g % 3 AS 등급 FROM generate_series(1, {ROWS}) g;"
    )
    target.execute(
        "CREATE TABLE public.등급 (번호 int PRIMARY KEY); INSERT INTO public.등급 SELECT generate_series(1, 9);"
        "CREATE TABLE public.고객 (번호 int PRIMARY KEY, 등급 int DEFAULT 9);"
        f"ALTER TABLE public.고객 ADD CONSTRAINT 등급키 FOREIGN KEY (등급) {key};"
        "INSERT INTO public.고객 VALUES (-1, 9)"
    )


@pytest.fixture(params=[16, 18])
def both(request: pytest.FixtureRequest, database: MakeDatabase) -> tuple[Database, Database]:
    return database(), database(major=request.param)


def spec(**options: object) -> CopySpec:
    given = {"source_table": "public.고객", "target_table": "public.고객", "publish": "swap"}
    return CopySpec.of(**given | options)


def at_once(target: Database, statement: str) -> None:
    """Run it as another session does that would rather fail than wait for a lock."""
    target.execute(f"SET lock_timeout = '200ms'; {statement}")


def after_prepare(mocker: MockerFixture, act: Callable[[PublishContext], None]) -> None:
    """Have something done when the new table has all that it is given before the publish."""
    prepare = swap.prepare

    def then(job: PublishContext) -> swap.PreparedSwap:
        prepared = prepare(job)
        act(job)
        return prepared

    mocker.patch.object(swap, "prepare", side_effect=then)


@contextmanager
def waiting(target: Database, statement: str, *, lock_timeout: str = "0") -> Iterator[list[float]]:
    """How long each run of a statement took that another session repeats all the time; infinite of one that failed."""
    waits, over = [0.0], threading.Event()

    def work() -> None:
        with target.connect() as session:
            session.execute(f"SET lock_timeout = '{lock_timeout}'".encode())
            while not over.wait(0.01):
                began = time.monotonic()
                try:
                    session.execute(statement.encode())
                except psycopg.Error:
                    waits.append(math.inf)
                else:
                    waits.append(time.monotonic() - began)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield waits
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("key", [*KEYS, f"{KEYS[1]} NOT VALID"])
@pytest.mark.parametrize(
    "change", ["DELETE FROM public.등급 WHERE 번호 = 3", "UPDATE public.등급 SET 번호 = 20 WHERE 번호 = 2"]
)
def test_rows_are_published_as_they_were_proven_or_not_at_all(
    both: tuple[Database, Database], mocker: MockerFixture, nothing_left: NothingLeft, key: str, change: str
) -> None:
    """What others do to a table that staging's rows refer to, between the proof and the publish, changes none of them."""
    source, target = both
    lay(source, target, key)
    before = fingerprint(target, "public", "고객")
    after_prepare(mocker, lambda _: at_once(target, change))
    rows = "SELECT 번호, 등급 FROM public.고객 ORDER BY 1"
    if key.endswith("NOT VALID"):
        pipeline.copy(spec(), source.endpoint, target.endpoint)
        assert target.rows(rows) == source.rows(rows)
    else:
        with pytest.raises(StageError, match="등급키") as caught:
            pipeline.copy(spec(), source.endpoint, target.endpoint)
        assert (caught.value.sqlstate, caught.value.retryable) == ("23503", False)
        assert target.rows(rows) == [(-1, 9)]
    assert differences(before, fingerprint(target, "public", "고객")) == []
    nothing_left(source, target)


@pytest.mark.parametrize("key", KEYS)
def test_the_key_is_there_and_valid_after_the_publish(both: tuple[Database, Database], key: str) -> None:
    source, target = both
    lay(source, target, key)
    before = fingerprint(target, "public", "고객")
    report = pipeline.copy(spec(verify="full"), source.endpoint, target.endpoint)
    assert report.rows == ROWS
    assert differences(before, fingerprint(target, "public", "고객")) == []
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        target.execute("INSERT INTO public.고객 VALUES (0, 77)")


def test_a_key_to_a_partitioned_table_and_one_to_itself(both: tuple[Database, Database], mocker: MockerFixture) -> None:
    """A key to its own table is built beforehand: no other session writes to staging."""
    source, target = both
    lay(source, target)
    target.execute(
        "CREATE TABLE public.지역 (번호 int PRIMARY KEY) PARTITION BY RANGE (번호);"
        "CREATE TABLE public.지역1 PARTITION OF public.지역 FOR VALUES FROM (0) TO (3);"
        "CREATE TABLE public.지역2 PARTITION OF public.지역 DEFAULT;"
        "INSERT INTO public.지역 SELECT generate_series(1, 9);"
        "ALTER TABLE public.고객 ADD CONSTRAINT 지역키 FOREIGN KEY (등급) REFERENCES public.지역 ON DELETE SET NULL,"
        "ADD CONSTRAINT 제키 FOREIGN KEY (번호) REFERENCES public.고객 ON DELETE CASCADE"
    )
    before = fingerprint(target, "public", "고객")
    felt: list[int] = []
    after_prepare(mocker, lambda _: felt.append(target.value(FELT)))
    for _ in range(2):
        pipeline.copy(spec(), source.endpoint, target.endpoint)
    assert felt == [0, 0]
    assert differences(before, fingerprint(target, "public", "고객")) == []
    target.execute("DELETE FROM public.고객; DELETE FROM public.지역 WHERE 번호 = 2")


def test_no_other_session_feels_staging_at_any_stage(both: tuple[Database, Database], mocker: MockerFixture) -> None:
    """Statements on the table that staging's rows refer to neither fail nor wait, as long as the copy has not published."""
    source, target = both
    lay(source, target)
    stages: list[str] = []

    def disturb(at: Progress) -> None:
        stages.append(at.stage)
        at_once(target, "INSERT INTO public.등급 VALUES (50); DELETE FROM public.등급 WHERE 번호 = 50")
        at_once(
            target,
            "BEGIN; UPDATE public.등급 SET 번호 = 30 WHERE 번호 = 3; DELETE FROM public.등급 WHERE 번호 = 2; ROLLBACK",
        )

    after_prepare(mocker, lambda _: disturb(Progress("prepare")))
    pipeline.copy(spec(), source.endpoint, target.endpoint, progress=disturb)
    assert {"export", "verify", "publish", "prepare"} <= set(stages)
    assert target.value("SELECT count(*) FROM public.고객") == ROWS


@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM", "lost"])
def test_staging_that_is_left_is_not_felt(
    both: tuple[Database, Database], mocker: MockerFixture, nothing_left: NothingLeft, end: str
) -> None:
    """However a copy ends, with a reader of the table that its rows refer to in the way: others go on as if it were not."""
    source, target = both
    lay(source, target)
    abort = AbortSwitch()

    def end_it(job: PublishContext) -> None:
        if end == "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        elif end == "SIGTERM":
            abort.throw("SIGTERM")
        else:
            target.execute(f"SELECT pg_terminate_backend({job.target.server.backend})")

    after_prepare(mocker, end_it)
    with target.connect() as reader:
        reader.execute("BEGIN; SELECT FROM public.등급".encode())
        if end == "SIGKILL":
            if (child := os.fork()) == 0:
                try:
                    pipeline.copy(spec(), source.endpoint, target.endpoint)
                finally:
                    os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        else:
            with pytest.raises(SafeCopyError):
                pipeline.copy(spec(), source.endpoint, target.endpoint, abort=abort)
        assert target.value(FELT) == 0
        at_once(target, "DELETE FROM public.등급 WHERE 번호 = 3; UPDATE public.등급 SET 번호 = 20 WHERE 번호 = 2")
        at_once(target, "SELECT count(*) FROM public.등급")
        target.execute("INSERT INTO public.등급 VALUES (2), (3)")
        # What the next run drops of it makes no reader wait either.
        mocker.stopall()
        until(
            lambda: target.value("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'safecopy:%'") == 0
        )
        with (
            waiting(target, "SELECT count(*) FROM public.등급") as waits,
            pytest.raises(SafeCopyError),  # the reader is still there
        ):
            pipeline.copy(spec(timeouts=Timeouts(publish=1)), source.endpoint, target.endpoint)
        assert max(waits) < 1
        reader.rollback()
    pipeline.copy(spec(), source.endpoint, target.endpoint)
    nothing_left(source, target)


def test_a_swap_that_waits_for_a_reader_holds_up_no_writer_of_what_it_refers_to(
    both: tuple[Database, Database],
) -> None:
    """The key is made only after each lock could be taken: a reader that stays makes only the swap wait."""
    source, target = both
    lay(source, target)
    with target.connect() as reader:
        reader.execute("BEGIN; SELECT FROM public.고객".encode())
        write = "UPDATE public.등급 SET 번호 = 번호 WHERE 번호 = 3"
        with (
            waiting(target, write, lock_timeout="20ms") as waits,
            pytest.raises(StageError, match="stayed locked"),
        ):
            pipeline.copy(spec(timeouts=Timeouts(publish=2)), source.endpoint, target.endpoint)
        assert max(waits) < math.inf, "locks are tried one at a time, and none is held while waiting"
        reader.rollback()


def test_auto_rather_makes_no_writer_wait(both: tuple[Database, Database]) -> None:
    """The key is checked while it is made, which takes as long as there are rows: where another way will do, `auto` takes it."""
    source, target = both
    lay(source, target)
    plan = pipeline.plan(spec(publish="auto"), source.endpoint, target.endpoint)
    assert plan.publish == "delta"
    assert any("writers of other tables would wait" in reason for reason in plan.reasons)
