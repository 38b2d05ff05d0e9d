"""Rows that do not fit, values that are too large, and rows of others that come meanwhile."""

from __future__ import annotations

import itertools
import os
import threading
from typing import Any

import psycopg
import pytest

from airflow_provider_safecopy.errors import StageError
from airflow_provider_safecopy.spec import MiB
from tests.faults.invariant import Invariant, said
from tests.faults.trial import ROWS, Trial, ended
from tests.support.content import rows_of
from tests.support.customers import TABLE
from tests.support.database import Database
from tests.support.memory import growth
from tests.support.remains import Remains

FOREIGN = 1_000_000
"""The first key of those rows that somebody else writes."""


@pytest.fixture(autouse=True)
def _afresh(trial: Trial) -> None:
    """Both tables as they were first, whatever the test before has made of them."""
    trial.afresh()


class Writer(threading.Thread):
    """Somebody who goes on adding rows to the target; what was acknowledged is listed, in that order."""

    def __init__(self, target: Database) -> None:
        super().__init__()
        self._target = target
        self._ending = threading.Event()
        self._more = threading.Condition()
        self.acknowledged: list[int] = []
        self.failures: list[str] = []

    def run(self) -> None:
        with self._target.connect() as session:
            for number in itertools.count(FOREIGN):
                if self._ending.is_set():
                    return
                try:
                    session.execute(f"INSERT INTO {TABLE} VALUES ({number}, '남의 행')".encode())
                except psycopg.Error as error:
                    self.failures.append(str(error))
                    continue
                with self._more:
                    self.acknowledged.append(number)
                    self._more.notify()

    def wait_for_more(self) -> None:
        """Until some rows more are there than now."""
        with self._more:
            wanted = len(self.acknowledged) + 5
            assert self._more.wait_for(lambda: len(self.acknowledged) >= wanted, 30)

    def end(self) -> None:
        self._ending.set()
        self.join()


@pytest.mark.parametrize("publish", ["swap", "delta", "delete_insert", "truncate_insert"])
def test_rows_written_meanwhile_go_with_the_old_ones_or_stay_with_the_new(trial: Trial, publish: str) -> None:
    """Those acknowledged before the publish are replaced as all old rows are; of those after it not one is lost."""
    writer = Writer(trial.target)
    writer.start()
    try:
        writer.wait_for_more()
        trial.copy(publish=publish)
        writer.wait_for_more()
    finally:
        writer.end()
    kept = [
        number for (number,) in trial.target.rows(f'SELECT "번호" FROM {TABLE} WHERE "번호" >= {FOREIGN} ORDER BY 1')
    ]
    assert writer.failures == []
    assert 0 < len(kept) < len(writer.acknowledged)
    assert kept == writer.acknowledged[-len(kept) :]
    ours = rows_of(trial.target, f'SELECT * FROM {TABLE} WHERE "번호" < {FOREIGN}')
    assert ours == rows_of(trial.source, f"SELECT * FROM {TABLE}")


_GRADES = (
    'CREATE TABLE "영업"."등급" ("금액" numeric(12,2) PRIMARY KEY); '
    f'INSERT INTO "영업"."등급" SELECT g * 1.25 FROM generate_series(0, {ROWS}) g; '
)
BAD: dict[str, tuple[str, str, str]] = {
    "CHECK": ('ADD CONSTRAINT "금액 검사" CHECK ("금액" >= 0)', '"금액" = -1', "23514"),
    "NOT NULL": ('ALTER "이름" SET NOT NULL', '"이름" = NULL', "23502"),
    "UNIQUE": ('ADD CONSTRAINT "이름은 하나" UNIQUE ("이름")', "\"이름\" = '고객 7'", "23505"),
    "FOREIGN KEY": (
        'ADD CONSTRAINT "등급 있음" FOREIGN KEY ("금액") REFERENCES "영업"."등급"',
        '"금액" = 0.01',
        "23503",
    ),
    "domain": ('ALTER "이름" TYPE "영업"."이름"', "\"이름\" = '나쁜 고객'", "23514"),
}
"""What the target's table demands, what one row of the source has instead, and the SQLSTATE of it."""


@pytest.mark.parametrize(
    ("demand", "row", "publish"),
    [
        ("CHECK", ROWS, "delta"),
        ("NOT NULL", ROWS, "delete_insert"),
        ("UNIQUE", 150, "delta"),
        ("FOREIGN KEY", 1, "truncate_insert"),
        ("domain", 150, "swap"),
        ("domain", ROWS, "delete_insert"),
    ],
)
def test_one_bad_row_wherever_it_is_keeps_all_old_ones(trial: Trial, demand: str, row: int, publish: str) -> None:
    clause, wrong, sqlstate = BAD[demand]
    for database, check in ((trial.source, ""), (trial.target, "CHECK (VALUE !~ '^나쁜')")):
        database.execute(f'ALTER TABLE {TABLE} ALTER "이름" DROP NOT NULL; {_GRADES}')
        database.execute(f'CREATE DOMAIN "영업"."이름" AS varchar(40) {check}')
    if demand == "domain":
        trial.source.execute(f"ALTER TABLE {TABLE} {clause}")
    trial.target.execute(f"ALTER TABLE {TABLE} {clause}")
    trial.source.execute(f'UPDATE {TABLE} SET {wrong} WHERE "번호" = {row}')
    invariant = Invariant.before(trial.source, trial.target, ("영업", "고객"), trial.spool)
    end = ended(lambda: trial.copy(publish=publish))
    assert invariant.hold(said(end)) == "old"
    assert isinstance(end, StageError), end
    assert (end.sqlstate, end.retryable) == (sqlstate, False)
    trial.source.execute(f'DELETE FROM {TABLE} WHERE "번호" = {row}')  # whoever owns the row has mended it
    Invariant.before(trial.source, trial.target, ("영업", "고객"), trial.spool).recovered(trial.copy)


LARGE = int(os.environ.get("FAULT_FIELD_MIB", "24")) * MiB
"""A field larger than any window of ours; ``FAULT_FIELD_MIB=600`` takes some GB of memory on each server."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("transfer", ["chunked", "sequential"])
def test_a_large_field_arrives_and_takes_no_memory_of_ours(trial: Trial, transfer: str) -> None:
    for database in (trial.source, trial.target):
        database.execute('CREATE TABLE "영업"."문서" ("번호" int PRIMARY KEY, "내용" text)')
    hangul = "가나다라마바사아자차"
    trial.source.execute(
        f"INSERT INTO \"영업\".\"문서\" VALUES (1, '앞'), (2, repeat('{hangul}', {LARGE // 30})), (3, '뒤')"
    )
    table: dict[str, Any] = {"source_table": "영업.문서", "target_table": "영업.문서"}
    trial.copy(**table, transfer=transfer)
    grown = growth(lambda: trial.copy(**table, transfer=transfer, publish="delete_insert"))
    seen = 'SELECT "번호", md5("내용"), length("내용") FROM "영업"."문서"'
    assert trial.target.rows(seen) == trial.source.rows(seen)
    assert grown < 32 * MiB, f"{grown:,} bytes"
    nothing_left(trial)


def test_a_value_over_1_gb_is_refused_with_what_to_do(trial: Trial) -> None:
    """The last row's. The server's own words are of memory."""
    large = f'CASE "번호" WHEN {ROWS} THEN repeat("이름", 200000000) ELSE "이름" END::varchar(40)'
    query = f'SELECT "번호", {large} AS "이름", "금액", "가입" FROM {TABLE}'
    held, end = trial.judged(lambda: trial.copy(source_table=None, source_sql=query))
    too_large(end)
    assert held == "old"


@pytest.mark.timeout(600)
@pytest.mark.skipif("FAULT_FIELD_MIB" not in os.environ, reason="takes 3 GB of memory: FAULT_FIELD_MIB=600")
def test_a_row_over_1_gb_is_refused_with_what_to_do(trial: Trial) -> None:
    """Of two values, each of which is small enough."""
    for database in (trial.source, trial.target):
        database.execute('CREATE TABLE "영업"."문서" ("앞" text, "뒤" text)')
    trial.target.execute("INSERT INTO \"영업\".\"문서\" VALUES ('옛', '문서')")
    query = 'SELECT repeat(t, 200000000) AS "앞", repeat(t, 200000000) AS "뒤" FROM (VALUES (\'가\')) AS v(t)'
    end = ended(lambda: trial.copy(source_table=None, source_sql=query, target_table="영업.문서"))
    too_large(end)
    assert trial.target.rows('TABLE "영업"."문서"') == [("옛", "문서")]
    nothing_left(trial)


def too_large(end: Any) -> None:
    assert isinstance(end, StageError), end
    assert (end.stage, end.sqlstate, end.retryable) == ("export", "54000", False)
    assert "1 GB" in end.hint


def nothing_left(trial: Trial) -> None:
    Remains().check(trial.source, trial.target, spool=trial.spool)
