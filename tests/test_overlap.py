"""Two runs at once: one works, the other is refused; what dies, hangs or is paused is displaced and cannot publish."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import (
    FencedOutError,
    LockBusyError,
    LockLostError,
    PlanError,
    StageError,
    StageTimeoutError,
    VerifyError,
)
from airflow_provider_safecopy.lock.model import Contender, Lease, Promise
from airflow_provider_safecopy.lock.postgres import PostgresStore
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.spec import CopySpec, Progress, Strategy, Timeouts
from tests.conftest import MakePsql, NothingLeft
from tests.support.customers import TABLE, same, spec
from tests.support.database import Database
from tests.support.fake_psql import Behaviour

NAME = "영업.고객"
FEW = '"번호" < 5'
NOWHERE = Endpoint.from_conninfo("host=127.0.0.1 port=1 dbname=없음 connect_timeout=2")


def during(stage: str, what: Callable[[], object]) -> Callable[[Progress], None]:
    """A progress callback that does `what` once, at the beginning of a stage."""
    done: list[str] = []

    def look(at: Progress) -> None:
        if at.stage == stage and not done:
            done.append(stage)
            what()

    return look


def kinds(target: Database, name: str = NAME) -> list[str]:
    return [kind for (kind,) in target.rows("SELECT kind FROM safecopy.lock_event WHERE name = %s ORDER BY id", [name])]


def held(target: Database) -> int:
    return int(target.value("SELECT count(*) FROM safecopy.lock WHERE lease_id IS NOT NULL"))


def make_overdue(target: Database) -> None:
    target.execute("UPDATE safecopy.lock SET due_at = clock_timestamp() - interval '1 second'")


# Refused


def test_a_second_run_is_refused_and_told_by_whom(filled: tuple[Database, Database], nothing_left: NothingLeft) -> None:
    source, target = filled
    refused: list[LockBusyError] = []

    def overlap() -> None:
        with pytest.raises(LockBusyError) as caught:
            # It does not even look for its source: there is none.
            pipeline.copy(spec(where=FEW), NOWHERE, target.endpoint, owner="둘째")
        refused.append(caught.value)

    report = pipeline.copy(spec(), source.endpoint, target.endpoint, owner="첫째", progress=during("verify", overlap))
    (error,) = refused
    assert (report.token, error.lock, error.holder["token"]) == (1, NAME, 1)
    assert error.holder["owner"]["owner"] == "첫째"
    for word in ("첫째", "since", "last progress", "it will be taken in"):
        assert word in str(error)
    assert kinds(target) == ["grant", "refused", "release"]
    assert same(source, target)
    nothing_left(source, target)


@pytest.mark.parametrize("options", [{"lock": "야간 배치"}, {"target_table": "고객"}], ids=["a lock", "a spelling"])
def test_runs_into_one_table_exclude_each_other_whatever_they_call_it(
    filled: tuple[Database, Database], options: dict[str, str]
) -> None:
    source, target = filled
    target.execute(f'ALTER DATABASE "{target.name}" SET search_path = "영업"')

    def overlap() -> None:
        with pytest.raises(LockBusyError):
            pipeline.copy(spec(where=FEW), source.endpoint, target.endpoint)

    pipeline.copy(spec(**options), source.endpoint, target.endpoint, progress=during("export", overlap))
    assert same(source, target)


def test_a_lock_of_its_own_name_excludes_runs_into_other_tables_too(filled: tuple[Database, Database]) -> None:
    source, target = filled
    target.execute(f'CREATE TABLE "다른_고객" (LIKE {TABLE})')

    def overlap() -> None:
        with pytest.raises(LockBusyError) as caught:
            pipeline.copy(spec(lock="야간", target_table="public.다른_고객"), source.endpoint, target.endpoint)
        assert caught.value.lock == "야간"

    report = pipeline.copy(spec(lock="야간"), source.endpoint, target.endpoint, progress=during("verify", overlap))
    assert report.lock == "야간"
    assert held(target) == 0


def test_a_run_that_gets_one_of_its_two_locks_holds_none(filled: tuple[Database, Database]) -> None:
    source, target = filled
    target.execute(f'CREATE TABLE "다른_고객" (LIKE {TABLE})')

    def overlap() -> None:
        other = spec(lock="가장 먼저", target_table=NAME)
        with pytest.raises(LockBusyError):
            pipeline.copy(other, source.endpoint, target.endpoint)
        assert target.value("SELECT count(*) FROM safecopy.lock WHERE name = '가장 먼저' AND lease_id IS NOT NULL") == 0

    pipeline.copy(spec(), source.endpoint, target.endpoint, progress=during("verify", overlap))


@pytest.mark.parametrize("options", [{"columns": ["없는_열"]}, {"where": "false"}, {"psql": "stuck"}])
def test_whatever_becomes_of_a_run_its_locks_are_free_afterwards(
    filled: tuple[Database, Database], nothing_left: NothingLeft, fake_psql: MakePsql, options: dict[str, str]
) -> None:
    """A refused plan, a source without rows, a failed stage."""
    source, target = filled
    if "psql" in options:
        options = {"psql": fake_psql(Behaviour("import", die_after=100))}
    pipeline.copy(spec(), source.endpoint, target.endpoint)
    with pytest.raises((PlanError, VerifyError, StageError)):
        pipeline.copy(spec(**options), source.endpoint, target.endpoint)
    assert held(target) == 0
    assert pipeline.copy(spec(), source.endpoint, target.endpoint).rows == 2000
    nothing_left(source, target)


# One run


def contender(member: str, *, try_number: int = 1) -> Contender:
    return Contender("배포|영업_복사|run|시작", {"dag": "영업_복사", "run": "run"}, member, try_number)


def test_tasks_of_one_run_work_side_by_side(filled: tuple[Database, Database]) -> None:
    source, target = filled
    target.execute(f'CREATE TABLE "다른_고객" (LIKE {TABLE})')

    def beside() -> None:
        other = spec(lock="야간", target_table="public.다른_고객")
        report = pipeline.copy(other, source.endpoint, target.endpoint, contender=contender("둘"))
        assert report.token == 1

    first = pipeline.copy(
        spec(lock="야간"),
        source.endpoint,
        target.endpoint,
        contender=contender("하나"),
        progress=during("verify", beside),
    )
    assert first.token == 1
    assert kinds(target, "야간") == ["grant", "join", "leave", "release"]
    assert same(source, target)


def test_a_retry_supersedes_the_attempt_that_is_still_at_it(
    filled: tuple[Database, Database], nothing_left: NothingLeft
) -> None:
    source, target = filled

    def again() -> None:
        retry = contender("하나", try_number=2)
        assert pipeline.copy(spec(), source.endpoint, target.endpoint, contender=retry).rows == 2000

    with pytest.raises((FencedOutError, LockLostError)):
        pipeline.copy(
            spec(where=FEW),
            source.endpoint,
            target.endpoint,
            contender=contender("하나"),
            progress=during("publish", again),
        )
    assert same(source, target), "the retry's rows stand"
    assert kinds(target) == ["grant", "supersede", "release"]
    nothing_left(source, target)


def test_an_attempt_of_the_same_number_beside_the_first_is_refused(filled: tuple[Database, Database]) -> None:
    source, target = filled

    def twice() -> None:
        with pytest.raises(LockBusyError):
            pipeline.copy(spec(where=FEW), source.endpoint, target.endpoint, contender=contender("하나"))

    pipeline.copy(
        spec(), source.endpoint, target.endpoint, contender=contender("하나"), progress=during("verify", twice)
    )
    assert same(source, target)


# Displaced


def test_a_run_whose_lock_was_taken_away_is_fenced_out_inside_its_publish(
    filled: tuple[Database, Database], nothing_left: NothingLeft
) -> None:
    source, target = filled

    def take() -> None:
        store = PostgresStore(target.endpoint)
        store.force_release(NAME, reason="시험")
        store.close()
        pipeline.copy(spec(), source.endpoint, target.endpoint)

    with pytest.raises(FencedOutError) as caught:
        pipeline.copy(spec(where=FEW), source.endpoint, target.endpoint, progress=during("publish", take))
    assert (caught.value.lock, caught.value.token) == (NAME, 1)
    assert same(source, target), "the newer run's rows stand"
    nothing_left(source, target)


@pytest.mark.parametrize("stage", ["export", "verify", "publish"])
def test_an_overdue_run_is_taken_over_and_loses_its_sessions_and_its_staging(
    filled: tuple[Database, Database], nothing_left: NothingLeft, caplog: pytest.LogCaptureFixture, stage: str
) -> None:
    source, target = filled

    def take_over() -> None:
        make_overdue(target)
        newer = pipeline.copy(spec(), source.endpoint, target.endpoint, owner="다음")
        assert newer.token == 2

    with pytest.raises(LockLostError) as caught:
        pipeline.copy(
            spec(where=FEW), source.endpoint, target.endpoint, owner="늦은", progress=during(stage, take_over)
        )
    assert caught.value.lock == NAME
    assert same(source, target)
    assert "takeover-stale" in kinds(target)
    assert "takeover-stale from 늦은" in caplog.text
    nothing_left(source, target)


def test_a_stuck_copy_stops_itself_before_it_may_be_taken_over(
    filled: tuple[Database, Database], nothing_left: NothingLeft, fake_psql: MakePsql
) -> None:
    source, target = filled
    stuck = spec(psql=fake_psql(Behaviour("export", hang_after=100)), stale_after=2, timeouts=Timeouts(stall=60))
    started = time.monotonic()
    with pytest.raises(LockLostError, match="stopped itself"):
        pipeline.copy(stuck, source.endpoint, target.endpoint)
    assert time.monotonic() - started < 50  # it may stall for 60
    assert kinds(target) == ["grant", "release"], "nobody else had to"
    nothing_left(source, target)


def test_a_copy_whose_server_waits_for_a_lock_makes_no_progress(
    filled: tuple[Database, Database], nothing_left: NothingLeft
) -> None:
    source, target = filled
    waiting = CopySpec.of(
        source_sql=f"SELECT c.* FROM {TABLE} c, LATERAL (SELECT pg_advisory_lock_shared(7) OFFSET 0) l",
        target_table=NAME,
        stale_after=2,
        timeouts=Timeouts(stall=60),
    )
    with source.connect() as blocker:
        blocker.execute("SELECT pg_advisory_lock(7)")
        with pytest.raises(LockLostError, match="stopped itself"):
            pipeline.copy(waiting, source.endpoint, target.endpoint)
    nothing_left(source, target)


def test_a_server_that_works_is_progress_though_no_byte_moves(filled: tuple[Database, Database]) -> None:
    source, target = filled
    slow = CopySpec.of(
        source_sql=f"SELECT c.* FROM (SELECT pg_sleep(3) OFFSET 0) s, {TABLE} c",
        target_table=NAME,
        stale_after=1,
        timeouts=Timeouts(stall=60),
    )
    rival = Rival(target)
    try:
        report = pipeline.copy(slow, source.endpoint, target.endpoint, progress=during("export", rival.start))
        assert (report.token, rival.granted) == (1, False)
    finally:
        rival.stop()
    assert rival.refusals > 5
    assert same(source, target)


def test_a_publish_that_waits_for_a_busy_table_keeps_its_lock(filled: tuple[Database, Database]) -> None:
    source, target = filled
    with target.connect() as reader:
        reader.execute("BEGIN")
        reader.execute(f"LOCK TABLE {TABLE} IN SHARE MODE")
        ending = threading.Timer(3, reader.execute, ["COMMIT"])
        pipeline.copy(spec(stale_after=1), source.endpoint, target.endpoint, progress=during("publish", ending.start))
        ending.join()
    assert same(source, target)
    assert kinds(target) == ["grant", "release"]


class Rival:
    """Somebody who wants the table's lock again and again, from `start` to `stop`; gives up once it was granted."""

    def __init__(self, target: Database) -> None:
        self.refusals = 0
        self.granted = False
        self._store = PostgresStore(target.endpoint)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._want)
        self.start = self._thread.start

    def stop(self) -> None:
        self._done.set()
        self._thread.join()
        self._store.close()

    def _want(self) -> None:
        while not self._done.wait(0.1) and not self.granted:
            rival = replace(Contender.alone("경쟁자"), process=None)
            self.granted = isinstance(self._store.acquire(NAME, rival, Promise()), Lease)
            self.refusals += 1


# A process of its own


PROGRAM = """
import json, sys
from dataclasses import replace
from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.errors import SafeCopyError
from airflow_provider_safecopy.lock.model import Contender
from airflow_provider_safecopy.lock.process import ProcessIdentity
from airflow_provider_safecopy.spec import CopySpec
given = json.load(sys.stdin)
def told(at):
    print(at.stage, flush=True)
try:
    report = pipeline.copy(
        CopySpec.of(**given["spec"]),
        Endpoint.from_conninfo(given["source"]),
        Endpoint.from_conninfo(given["target"]),
        contender=replace(Contender.alone("따로"), process=ProcessIdentity.read_current(may_end=given["may_end"])),
        progress=told,
    )
    print("published", report.token, flush=True)
except SafeCopyError as error:
    print(type(error).__name__, flush=True)
"""


@contextmanager
def apart(
    source: Database, target: Database, *, may_end: bool = False, **options: object
) -> Iterator[subprocess.Popen[str]]:
    """A copy in a process of its own, which prints its stages, and how it ended."""
    given = {"source": source.conninfo, "target": target.conninfo, "may_end": may_end}
    asked = {"source_table": NAME, "target_table": NAME, **options}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(given | {"spec": asked}))
        process.stdin.close()
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.split()[0] == word:
            return
    pytest.fail(f"it ended before {word}")


def test_a_killed_run_is_taken_over_at_once(
    filled: tuple[Database, Database], nothing_left: NothingLeft, fake_psql: MakePsql
) -> None:
    source, target = filled
    hanging = fake_psql(Behaviour("export", hang_after=100))
    with apart(source, target, psql=hanging, where=FEW) as process:
        read_until(process, "export")
        with pytest.raises(LockBusyError):
            pipeline.copy(spec(), source.endpoint, target.endpoint)
        process.kill()
        process.wait()
        report = pipeline.copy(spec(), source.endpoint, target.endpoint)
    assert report.token == 2
    assert any("taken over from 따로" in warning and "takeover-dead" in warning for warning in report.warnings)
    assert kinds(target) == ["grant", "refused", "takeover-dead", "release"]
    assert same(source, target)
    nothing_left(source, target)


def test_a_paused_run_that_wakes_up_later_cannot_publish(
    filled: tuple[Database, Database], nothing_left: NothingLeft, fake_psql: MakePsql
) -> None:
    source, target = filled
    hanging = fake_psql(Behaviour("export", hang_after=100))
    with apart(source, target, psql=hanging, where=FEW, stale_after=1) as process:
        read_until(process, "export")
        process.send_signal(signal.SIGSTOP)
        assert taken_over(source, target) == 2
        process.send_signal(signal.SIGCONT)
        read_until(process, "LockLostError")
    assert same(source, target), "the newer run's rows stand"
    assert "takeover-stale" in kinds(target)
    nothing_left(source, target)


def test_whoever_takes_over_ends_the_process_too_where_it_does_nothing_else(
    filled: tuple[Database, Database], nothing_left: NothingLeft, fake_psql: MakePsql
) -> None:
    source, target = filled
    hanging = fake_psql(Behaviour("export", hang_after=100))
    with apart(source, target, may_end=True, psql=hanging, where=FEW, stale_after=1) as process:
        read_until(process, "export")
        process.send_signal(signal.SIGSTOP)
        assert taken_over(source, target) == 2
        assert process.wait(100) == -signal.SIGKILL, "stopped, it could not hear SIGTERM"
    assert same(source, target)
    nothing_left(source, target)


def taken_over(source: Database, target: Database) -> int | None:
    """The token of a copy that is tried until it is let in."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return pipeline.copy(spec(), source.endpoint, target.endpoint).token
        except LockBusyError:
            assert time.monotonic() < deadline


# The launch gate


def test_a_copy_opens_its_connections_to_the_source_in_one_turn_of_the_gate(
    filled: tuple[Database, Database], caplog: pytest.LogCaptureFixture
) -> None:
    source, target = filled
    with caplog.at_level(logging.INFO):
        pipeline.copy(spec(connect_interval=60), source.endpoint, target.endpoint)
    assert gate_log(caplog) == ["acquired", "opened", "opened", "released"]
    assert same(source, target)


def gate_log(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the gate's lines in the log say, by their first words."""
    gate = [record.getMessage() for record in caplog.records if "launch gate" in record.getMessage()]
    return [line.rpartition(": ")[2].split()[0] for line in gate if ": waiting" not in line]


def test_so_does_one_with_several_streams(filled: tuple[Database, Database], caplog: pytest.LogCaptureFixture) -> None:
    source, target = filled
    with caplog.at_level(logging.INFO):
        streams = spec(connect_interval=60, parallel=3, publish="delete_insert")
        assert len(pipeline.plan(streams, source.endpoint, target.endpoint).page_ranges) == 3
        pipeline.copy(streams, source.endpoint, target.endpoint)
    assert gate_log(caplog) == ["acquired", *["opened"] * 4, "released"]
    assert same(source, target)


@pytest.mark.parametrize("publish", ["delete_insert", "swap"], ids=["by one psql", "one by one"])
def test_a_batch_takes_one_turn_and_those_of_its_tables_that_are_copied_by_themselves_one_each(
    filled: tuple[Database, Database], caplog: pytest.LogCaptureFixture, publish: Strategy
) -> None:
    source, target = filled
    with caplog.at_level(logging.INFO):
        specs = [spec(connect_interval=0.1, publish=publish)]
        assert not pipeline.copy_tables(specs, source.endpoint, target.endpoint).failed
    opened = ["opened", "opened"]
    expected = ["acquired", *opened, "released"]
    assert gate_log(caplog) == (expected if publish != "swap" else ["acquired", "opened", "released", *expected])
    assert same(source, target)


def test_a_refused_copy_gives_its_turn_back(
    filled: tuple[Database, Database], caplog: pytest.LogCaptureFixture
) -> None:
    source, target = filled
    with caplog.at_level(logging.INFO), pytest.raises(PlanError):
        pipeline.copy(spec(connect_interval=0.1, columns=["없는_열"]), source.endpoint, target.endpoint)
    assert gate_log(caplog) == ["acquired", "opened", "released"]


def test_a_copy_that_waits_for_a_lock_looks_for_the_holder_in_its_own_turn(
    filled: tuple[Database, Database], caplog: pytest.LogCaptureFixture
) -> None:
    """Held by the copy itself, the gate does not keep its lookout from opening a session."""
    source, target = filled
    waits = Timeouts(lock_wait=4)
    with source.connect() as session, caplog.at_level(logging.INFO):
        holder = session.info.backend_pid
        session.execute(f"BEGIN; LOCK TABLE {TABLE}".encode())
        with pytest.raises(StageTimeoutError) as caught:
            pipeline.copy(spec(connect_interval=60, timeouts=waits), source.endpoint, target.endpoint)
    assert [each["pid"] for each in caught.value.blockers] == [holder]
    assert gate_log(caplog)[-1] == "released"
