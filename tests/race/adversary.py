"""An adversary of copies: updates and deletes, all the time, in every table that the target refers to or is referred to by.

A1  a statement of the adversary's failed, or waited long, because of a table that is not published yet
A2  what was published is not what was proven
A3  an error that is not one of those a copy may end with
"""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import psycopg

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.demo.servers import Server
from airflow_provider_safecopy.errors import SafeCopyError, VerifyError
from airflow_provider_safecopy.postgres import statements
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.publish import clone_table, transaction
from airflow_provider_safecopy.publish.context import PublishContext
from airflow_provider_safecopy.publish.strategies import swap
from airflow_provider_safecopy.spec import CopySpec
from tests.race import report
from tests.race.check import Violation
from tests.race.outcome import Outcome
from tests.race.report import Report

ROWS = 400
GRADES = 8
_LONG_SECONDS = 2.0
"""A lock step is a tenth of this. A busy machine may take its time; a session that holds a lock takes more."""

_ADVERSARIES = 2
_MOST = 6
"""Times the seconds asked for, on a machine so busy that no swap was published in them: without one, nothing is proven."""

_COMPARED = 2
_WAYS = ("swap", "swap", "swap", "delta", "delete_insert")
_STAGING = "__safecopy_"
_SHAPE = f"""
CREATE SCHEMA 분석;
CREATE TABLE 분석.등급 (번호 int PRIMARY KEY); INSERT INTO 분석.등급 SELECT generate_series(1, {GRADES});
CREATE TABLE 분석.나라 (번호 int PRIMARY KEY); INSERT INTO 분석.나라 SELECT generate_series(1, {GRADES});
CREATE TABLE 분석.지역 (번호 int PRIMARY KEY); INSERT INTO 분석.지역 SELECT generate_series(1, {GRADES});
CREATE TABLE 분석.고객 (
    번호 int PRIMARY KEY, 등급 int REFERENCES 분석.등급 ON DELETE SET NULL ON UPDATE CASCADE,
    나라 int REFERENCES 분석.나라 ON DELETE CASCADE ON UPDATE SET DEFAULT,
    지역 int REFERENCES 분석.지역 DEFERRABLE INITIALLY DEFERRED, 상위 int);
CREATE TABLE 분석.주문 (번호 serial PRIMARY KEY, 고객 int REFERENCES 분석.고객 DEFERRABLE INITIALLY DEFERRED);
"""
_FILL = f"""
CREATE TABLE public.고객 AS SELECT g AS 번호, 1 + g % {GRADES} AS 등급, 1 + g % {GRADES - 1} AS 나라, 1 + g % 3 AS 지역,
    g - 1 AS 상위 FROM generate_series(1, {ROWS}) g
"""
# What it does, and undoes at once: most copies are to find what their rows refer to.
_MISCHIEF = (
    ("DELETE FROM 분석.등급 WHERE 번호 = %s", "INSERT INTO 분석.등급 VALUES (%s) ON CONFLICT DO NOTHING"),
    ("UPDATE 분석.등급 SET 번호 = 100 + 번호 WHERE 번호 = %s", "UPDATE 분석.등급 SET 번호 = %s WHERE 번호 > 100"),
    ("DELETE FROM 분석.나라 WHERE 번호 = %s", "INSERT INTO 분석.나라 VALUES (%s) ON CONFLICT DO NOTHING"),
    ("UPDATE 분석.나라 SET 번호 = 100 + 번호 WHERE 번호 = %s", "UPDATE 분석.나라 SET 번호 = %s WHERE 번호 > 100"),
    (
        "DELETE FROM 분석.지역 WHERE 번호 = 3 + %s %% 5",
        "INSERT INTO 분석.지역 VALUES (3 + %s %% 5) ON CONFLICT DO NOTHING",
    ),
    ("INSERT INTO 분석.주문 (고객) VALUES (%s)", "DELETE FROM 분석.주문 WHERE 고객 = %s"),
    ("UPDATE 분석.주문 SET 고객 = 고객 + 1 WHERE 고객 = %s", "DELETE FROM 분석.주문 WHERE 고객 > %s"),
)


@dataclass(frozen=True)
class Ends:
    """Both ends of the copies that the adversary meddles with."""

    source: Endpoint
    target: Endpoint

    @classmethod
    def lay(cls, server: Server, name: str) -> Ends:
        """Two new databases of a server."""
        for database, shape in ((f"원천_{name}", _FILL), (f"대상_{name}", _SHAPE)):
            server.execute("postgres", f'CREATE DATABASE "{database}"')
            with psycopg.connect(server.conninfo(database), autocommit=True) as session:
                session.execute(shape.encode())
                # As it is by default. The race for locks has it shorter than our own steps, to see deadlocks as such.
                session.execute(f"ALTER DATABASE \"{database}\" SET deadlock_timeout = '1s'".encode())
        source, target = (Endpoint.from_conninfo(server.conninfo(f"{each}_{name}")) for each in ("원천", "대상"))
        return cls(source, target)


def run(server: Server, seed: int, seconds: float, *, keys_on_staging: bool = False) -> Outcome:
    """Copy as long as `seconds`, beside the adversary. With `keys_on_staging` in a way that must be noticed."""
    name = "keys on staging" if keys_on_staging else "adversary"
    ends = Ends.lay(server, f"{name.replace(' ', '_')}_{seed}_{os.getpid()}")
    logging.getLogger("airflow_provider_safecopy").setLevel(logging.CRITICAL)
    with TemporaryDirectory() as directory:
        started = time.monotonic()
        with _meddling(ends, seed, Path(directory)):
            counts, violations = _copies(ends, seed, seconds, keys_on_staging=keys_on_staging)
        took = time.monotonic() - started
        words = list(report.read(Path(directory)))
    counts["statements of the adversary"] = sum(word.of["count"] for word in words if word.what == "did")
    violations += [Violation("A1", word.of["text"]) for word in words if word.what == "felt"]
    counts["longest of them, ms"] = round(1000 * max(word.of["longest"] for word in words if word.what == "did"))
    return Outcome(name, took, dict(counts), tuple(violations))


@contextmanager
def _meddling(ends: Ends, seed: int, directory: Path) -> Iterator[None]:
    """Processes of the adversary. They are forked: this one may have no thread and no session open."""
    children = [
        _fork(ends, f"{seed}/{number}", Report(directory / f"adversary {number}")) for number in range(_ADVERSARIES)
    ]
    try:
        yield
    finally:
        for pid in children:
            os.kill(pid, signal.SIGTERM)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    if any(codes):
        raise SystemExit(f"the adversary broke down ({codes}): what it did proves nothing")


def _fork(ends: Ends, seed: str, told: Report) -> int:
    if pid := os.fork():
        return pid
    code = 1
    try:
        _meddle(ends.target, random.Random(seed), told)
        code = 0
    except BaseException:  # noqa: BLE001 -- nothing of the parent's may run in here
        traceback.print_exc(file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)


def _meddle(target: Endpoint, dice: random.Random, told: Report) -> None:
    """Until SIGTERM."""
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
    count, longest = 0, 0.0
    with target.connect(application_name="adversary", connect_timeout=10) as session:
        while not stop:
            number = dice.randint(1, GRADES)
            for statement in dice.choice(_MISCHIEF):
                began = time.monotonic()
                try:
                    session.execute(statement.encode(), (number,))
                except psycopg.Error as error:
                    if _STAGING in str(error) or not isinstance(error, psycopg.IntegrityError):
                        told.say("felt", text=f"{statement}: {error}")
                took = time.monotonic() - began
                if took > _LONG_SECONDS:
                    told.say("felt", text=f"{statement}: took {took:.1f} s")
                count, longest = count + 1, max(longest, took)
            time.sleep(dice.uniform(0, 0.01))
    told.say("did", count=count, longest=longest)


def _copies(ends: Ends, seed: int, seconds: float, *, keys_on_staging: bool) -> tuple[Counter[str], list[Violation]]:
    dice, counts, violations = random.Random(f"{seed}/copies"), Counter[str](), list[Violation]()
    began = time.monotonic()

    def goes_on() -> bool:
        took = time.monotonic() - began
        if keys_on_staging:
            return took < seconds and not violations
        enough = counts["swap published"] and counts["compared before COMMIT"] >= _COMPARED
        return took < (seconds if enough else _MOST * seconds)

    with _watched(violations, counts), _read_keys_on_staging() if keys_on_staging else _as_it_is():
        while goes_on():
            way = "swap" if keys_on_staging else dice.choice(_WAYS)
            given: dict[str, Any] = {"publish": way, "verify": "full"}
            spec = CopySpec.of(source_table="public.고객", target_table="분석.고객", **given)
            try:
                pipeline.copy(spec, ends.source, ends.target, owner="경주")
            except VerifyError as error:
                violations.append(Violation("A2", f"{way}: {error}"))
            except SafeCopyError as error:
                counts[f"{way} failed"] += 1
                if getattr(error, "sqlstate", None) != "23503" and not error.retryable:
                    violations.append(Violation("A3", f"{way}: {error}"))
            else:
                counts[f"{way} published"] += 1
    return counts, violations


@contextmanager
def _watched(violations: list[Violation], counts: Counter[str]) -> Iterator[None]:
    """Compare each published table with its receipt, inside the publishing transaction, before its COMMIT."""
    real = transaction.commit

    def compared(job: PublishContext) -> None:
        columns, table = job.plan.target_columns, job.plan.target_name
        found = job.target.fetch_one(statements.content_hash(columns, statements.select(columns, table, None)))
        receipt = job.target.fetch_one("SELECT row_count, proof FROM safecopy.receipt ORDER BY id DESC LIMIT 1")
        assert found is not None, "a count is always there"
        assert receipt is not None, "the receipt is written before the COMMIT"
        proven = (receipt["row_count"], receipt["proof"]["content hash"]["source"])
        if (found["rows"], found["hash"]) != proven:
            violations.append(Violation("A2", f"{job.plan.publish}: {found} was published, {proven} was proven"))
        counts["compared before COMMIT"] += 1
        real(job)

    with patch.object(transaction, "commit", compared):
        yield


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


@contextmanager
def _read_keys_on_staging() -> Iterator[None]:
    """Make foreign keys as soon as the new table is built, as it looks natural: a race that finds nothing proves nothing."""
    prepare = swap.prepare

    def with_keys(job: PublishContext) -> swap.PreparedSwap:
        prepared = prepare(job)
        for step in prepared.build.phase("refer"):
            job.connection.execute(step.statement.encode())
        time.sleep(0.05)  # as long as a larger table is waited for, say
        return prepared

    def read_existing_rows(*_: object, **__: object) -> None:
        pass

    with patch.object(swap, "prepare", with_keys), patch.object(clone_table, "refer", read_existing_rows):
        yield
