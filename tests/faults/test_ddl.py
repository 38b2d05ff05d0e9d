"""Tables that are changed while they are copied, by whoever may: dropped columns, other types, other tables of the name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from pytest_mock import MockerFixture

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import PlanError, StageError
from airflow_provider_safecopy.pipeline.outcome import BatchProgress
from tests.faults.invariant import said
from tests.faults.trial import QUICK, ROWS, Trial, empty, ended, sampled, steps_of
from tests.support import customers
from tests.support.content import rows_of
from tests.support.customers import TABLE
from tests.support.database import Database
from tests.support.proxy import Proxy
from tests.support.remains import Remains

COLUMNS = '"번호" bigint PRIMARY KEY, "이름" varchar(40) NOT NULL, "금액" numeric(12,2), "가입" timestamptz'


@pytest.fixture(autouse=True)
def _afresh(trial: Trial) -> None:
    """Both tables as they were first, whatever the test before has made of them."""
    trial.afresh()


Change = tuple[str, ...]
"""Statements, each by itself; several in one are one transaction."""

SAME_ROWS: dict[str, Change] = {
    "rewritten": (f'ALTER TABLE {TABLE} ALTER "금액" TYPE numeric(12,2) USING "금액" + 0',),
    "emptied and filled": (
        (
            f'CREATE TABLE "영업"."비축" AS TABLE {TABLE}; TRUNCATE {TABLE}; '
            f'INSERT INTO {TABLE} TABLE "영업"."비축"; DROP TABLE "영업"."비축"'
        ),
    ),
    "replaced": (
        (
            f'CREATE TABLE "영업"."새" (LIKE {TABLE} INCLUDING ALL); INSERT INTO "영업"."새" TABLE {TABLE}; DROP TABLE {TABLE}; '
            'ALTER TABLE "영업"."새" RENAME TO "고객"; ALTER INDEX "영업"."새_pkey" RENAME TO "고객_pkey"'
        ),
    ),
    "vacuumed": (f"VACUUM FULL {TABLE}",),
    "clustered": (f'CLUSTER {TABLE} USING "고객_pkey"',),
}
"""What leaves a table's rows as they are. In the first three a transaction with an older snapshot sees none of them."""

OTHERS: dict[str, Change] = {
    "renamed": (f'ALTER TABLE {TABLE} RENAME TO "옛 고객"',),
    "a column less": (f'ALTER TABLE {TABLE} DROP COLUMN "가입"',),
    "a column more": (f"ALTER TABLE {TABLE} ADD COLUMN \"비고\" text DEFAULT '있음'",),
    "another type": (f'ALTER TABLE {TABLE} ALTER "금액" TYPE text',),
}


class Altering:
    """Somebody who changes a table, unless it is locked: then they try no longer than a moment."""

    def __init__(self, database: Database, change: Change) -> None:
        self._database = database
        self._change = change
        self.done = False

    def __call__(self) -> None:
        with self._database.connect() as session:
            session.execute("SET lock_timeout = '20ms'")
            try:
                for statement in self._change:
                    session.execute(statement.encode())
            except psycopg.errors.LockNotAvailable:
                return
        self.done = True


@contextmanager
def before(database: Database) -> Iterator[Proxy]:
    wire = Proxy.before("127.0.0.1", database.server.port)
    try:
        yield wire
    finally:
        wire.close()


def just_after_the_snapshot(wire: Proxy, do: Callable[[], object]) -> None:
    """Do it at the first step after the one that exports the snapshot: nothing has been read under it yet."""
    seen = False

    def come() -> None:
        nonlocal seen
        if seen:
            do()
            return
        assert wire._asking is not None
        seen = b"pg_export_snapshot" in wire._asking.said
        wire._step = (wire.steps + 1, come)

    wire.at_step(wire.steps + 1, come)


@pytest.mark.parametrize("change", ["rewritten", "emptied and filled", "replaced", "vacuumed"])
def test_a_table_rewritten_after_the_snapshot_is_not_taken_for_empty(trial: Trial, change: str) -> None:
    """Found: such a snapshot sees none of its rows, and where a source may be empty the target was emptied."""
    altering = Altering(trial.source, SAME_ROWS[change])
    with before(trial.source) as wire:
        just_after_the_snapshot(wire, altering)
        held, end = trial.judged(
            lambda: trial.copy(**trial.through(wire, "source"), min_rows=0), heal=lambda: fill_again(trial)
        )
    assert altering.done
    assert isinstance(end, StageError), end
    assert (held, end.stage, end.retryable) == ("old", "export", True)
    assert '"영업"."고객"' in end.message


def test_a_partition_rewritten_after_the_snapshot_is_not_left_out(trial: Trial) -> None:
    """Found: its rows were missing from the target, and no guard could see that, since others were there."""
    empty(trial.source)
    part = '"영업"."고객 앞"'
    trial.source.execute(
        f'DROP TABLE {TABLE}; CREATE TABLE {TABLE} ({COLUMNS}) PARTITION BY RANGE ("번호"); '
        f"CREATE TABLE {part} PARTITION OF {TABLE} FOR VALUES FROM (1) TO (101); "
        f'CREATE TABLE "영업"."고객 뒤" PARTITION OF {TABLE} FOR VALUES FROM (101) TO (1000)'
    )
    customers.fill(trial.source, ROWS)
    refill = (
        f'CREATE TABLE "영업"."비축" AS TABLE {part}; TRUNCATE {part}; '
        f'INSERT INTO {part} TABLE "영업"."비축"; DROP TABLE "영업"."비축"'
    )
    with before(trial.source) as wire:
        just_after_the_snapshot(wire, Altering(trial.source, (refill,)))
        held, end = trial.judged(lambda: trial.copy(**trial.through(wire, "source")))
    assert isinstance(end, StageError), end
    assert (held, end.retryable) == ("old", True)
    assert part in end.message


def test_a_table_of_a_batch_rewritten_before_it_is_read_is_not_taken_for_empty(trial: Trial) -> None:
    """Found: as of one table; and of a batch the last is read long after the snapshot."""
    names = [f"표_{number}" for number in range(4)]
    for name in names:
        shape = f'CREATE TABLE "영업"."{name}" ("번호" int PRIMARY KEY)'
        trial.source.execute(f'{shape}; INSERT INTO "영업"."{name}" SELECT generate_series(1, 9)')
        trial.target.execute(f'{shape}; INSERT INTO "영업"."{name}" VALUES (-1)')
    last = 'TABLE "영업"."표_3"'
    rewriting = Altering(trial.source, (f'ALTER {last} ALTER "번호" TYPE int USING "번호" + 0',))

    def rewrite(at: BatchProgress) -> None:
        if at.done == 1:
            rewriting()

    def run(*wanted: str) -> Any:
        specs = [
            customers.spec(source_table=f"영업.{name}", target_table=f"영업.{name}", min_rows=0) for name in wanted
        ]
        return pipeline.copy_tables(specs, trial.source.endpoint, trial.target.endpoint, progress=rewrite)

    (failed,) = run(*names).failed
    assert rewriting.done
    assert (failed.target, type(failed.error), failed.error.retryable) == ("영업.표_3", StageError, True)
    assert trial.target.rows(last) == [(-1,)]
    assert run("표_3").failed == ()
    assert trial.target.value('SELECT count(*) FROM "영업"."표_3"') == 9


def fill_again(trial: Trial) -> None:
    """The source as it was, whatever became of its table."""
    empty(trial.source)
    customers.fill(trial.source, ROWS)


CHANGES = SAME_ROWS | OTHERS


@pytest.mark.parametrize("change", [*OTHERS, "replaced"])
def test_a_source_that_changes_at_any_step_is_copied_as_it_was_or_not_at_all(trial: Trial, change: str) -> None:
    with before(trial.source) as wire:
        total = steps_of(wire, trial, "source")
        for step in sampled(total, 1, turn=2 * list(CHANGES).index(change)):
            altering = Altering(trial.source, CHANGES[change])
            wire.at_step(wire.steps + step, altering)
            trial.judged(
                lambda: trial.copy(**trial.through(wire, "source"), min_rows=0, timeouts=QUICK),
                heal=lambda: fill_again(trial),
            )
            wire.mend()
            trial.reset()


@pytest.mark.parametrize("change", [*OTHERS, "replaced", "clustered"])
def test_a_target_that_changes_at_any_step_holds_old_rows_or_new_ones(trial: Trial, change: str) -> None:
    """By whatever name it is called then; and what was said of it is true."""
    with before(trial.target) as wire:
        total = steps_of(wire, trial, "target")
        for step in sampled(total, 1, turn=2 * list(CHANGES).index(change)):
            wire.at_step(wire.steps + step, Altering(trial.target, CHANGES[change]))
            end = ended(lambda: trial.copy(**trial.through(wire, "target"), timeouts=QUICK))
            wire.mend()
            expected = ["new"] if said(end) == "published" else ["old"]
            assert held_by_each(trial) == expected, f"step {step} of {total}: {end!r}"
            empty(trial.target)
            trial.target.execute(customers.OLD)
            assert trial.copy().rows == ROWS
            nothing_left(trial)
            trial.reset()


@pytest.mark.parametrize(
    ("publish", "moment"), [("delta", "pipeline.planner.find_pairing_key"), ("swap", "publish.clone_table.finish")]
)
def test_a_table_that_goes_between_two_questions_is_no_mistake_of_ours(
    trial: Trial, mocker: MockerFixture, publish: str, moment: str
) -> None:
    """Found: a delta lacked the key it had been chosen for, a swap met a table without a size; neither error was ours."""
    room, _, name = moment.rpartition(".")
    asked = getattr(importlib.import_module(f"airflow_provider_safecopy.{room}"), name)
    altering = Altering(trial.target, SAME_ROWS["replaced"])

    def then(*given: Any) -> Any:
        if publish == "delta":
            altering()
        answer = asked(*given)
        if publish == "swap":
            altering()
        return answer

    meeting = mocker.patch(f"airflow_provider_safecopy.{moment}", side_effect=then)
    held, end = trial.judged(lambda: trial.copy(publish=publish), heal=lambda: mocker.stop(meeting))
    assert altering.done
    assert isinstance(end, PlanError), end
    assert (held, end.retryable, end.refusals[0].code) == ("old", True, "target_changed")


def held_by_each(trial: Trial) -> list[str]:
    """What each table of the target's schema holds, in two columns that no change takes away."""
    seen = 'SELECT "번호", "이름" FROM {}'
    new = rows_of(trial.source, seen.format(TABLE))
    names = "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace = '\"영업\"'::regnamespace"
    held = []
    for (name,) in trial.target.rows(names + " AND strpos(relname, '__safecopy_') = 0"):
        rows = rows_of(trial.target, seen.format(name))
        assert rows == new or len(rows) == 2, f"{name} holds neither old nor new rows: {len(rows)}"
        held.append("new" if rows == new else "old")
    return held


def nothing_left(trial: Trial) -> None:
    Remains().check(trial.source, trial.target, spool=trial.spool)
