"""The race: processes that fight for locks and publish, stopped and killed at the worst moments; then the judge.

    python -m tests.race.race [--seconds S] [--seed N] [--copy-seconds S] [--processes N] [--major 18] [--quick] [--json]

First with the package's own fence, where nothing may be violated; then with its two ablations, which must be caught:
else the race proves nothing. Then real copies, beside an adversary that changes what their target refers to and is
referred to by; and the same with foreign keys on staging, which must be caught as well. The exit code is 0 when all that holds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from airflow_provider_safecopy.demo.servers import Installation, Server, installations
from airflow_provider_safecopy.errors import LockStoreError
from airflow_provider_safecopy.lock.model import Contender, Lease, Promise
from airflow_provider_safecopy.lock.postgres import PostgresStore
from tests.race import adversary, check, outcome
from tests.race.ablation import ABLATIONS
from tests.race.check import Violation
from tests.race.contender import GRACE_SECONDS, STALE_SECONDS
from tests.race.course import SETTINGS, Course
from tests.race.history import History
from tests.race.marshal import Marshal
from tests.race.outcome import Outcome
from tests.race.publish import REAL, Way
from tests.support.place import place

ABLATION_SECONDS = 40.0
_SHOWN = 20
# Nothing is measured here but whether it comes at all; a loaded machine may take its time.
_RETRY_SECONDS = 15.0
_LOOK_SECONDS = 1.0
_SESSIONS = """
SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'safecopy:%' AND datname = current_database()
"""


def run(server: Server, way: Way, options: argparse.Namespace, seconds: float, *, until_found: bool = False) -> Outcome:
    """One race on a new database of the server. `until_found`: no longer than until the history shows a violation."""
    course = Course.lay(server, options.seed)
    since = server.log.stat().st_size
    with TemporaryDirectory() as directory:
        marshal = Marshal(course, options.processes, way, Path(directory))
        try:
            started = time.monotonic()
            marshal.race(until(course, seconds, found=until_found))
            took = time.monotonic() - started
            stuck, waited = unrecovered(course)
            wait_for_sessions(course)
        finally:
            looked_on = marshal.close()
        if not looked_on:
            raise SystemExit("the observer broke down: what it saw proves nothing")
        log = outcome.text_of(server.log, since)
        counts, violations = outcome.judge(marshal, History.read(course), log, allow_deadlocks=way is not REAL)
    counts["longest wait afterwards, ms"] = round(waited * 1000)
    return Outcome(way.name, took, counts, (*violations, *stuck))


def until(course: Course, seconds: float, *, found: bool) -> Callable[[], bool]:
    """Whether a race goes on: for so many seconds, or with `found` until its history shows something wrong."""
    end = time.monotonic() + seconds
    looks = itertools.count(time.monotonic() + _LOOK_SECONDS, _LOOK_SECONDS)
    look_at = next(looks)

    def goes_on() -> bool:
        nonlocal look_at
        if found and time.monotonic() > look_at:
            look_at = next(looks)
            if check.history(History.read(course)):
                return False
        return time.monotonic() < end

    return goes_on


def unrecovered(course: Course) -> tuple[list[Violation], float]:
    """C7: whatever state the dead have left, every lock can be had once its last promise is over. And how long it took."""
    promise = Promise(STALE_SECONDS[1], GRACE_SECONDS[1])
    store = PostgresStore(course.owner)
    started = time.monotonic()
    try:
        refused = [Violation("C7", why) for name in course.names if (why := had_not(store, name, promise))]
        return refused, time.monotonic() - started
    finally:
        store.close()


def had_not(store: PostgresStore, name: str, promise: Promise) -> str:
    """Why a lock cannot be had; empty when it could."""
    contender = Contender("뒤이은 작업", process=None)
    deadline = time.monotonic() + promise.stale_after + _RETRY_SECONDS
    while time.monotonic() < deadline:
        try:
            answer = store.acquire(name, contender, promise)
        except LockStoreError as error:
            return f"{name} is not to be had: {error}"
        if isinstance(answer, Lease):
            return ""
        if answer.seconds_to_takeover > promise.stale_after:
            return f"{name} is promised for longer than anybody asked: {answer.as_dict()}"
        time.sleep(0.01)
    return f"{name} stays busy"


def wait_for_sessions(course: Course) -> None:
    """Until the server has done with all that the dead had begun."""
    deadline = time.monotonic() + _RETRY_SECONDS
    with course.connect() as session:
        while (row := session.execute(_SESSIONS).fetchone()) and row[0]:
            if time.monotonic() > deadline:
                raise SystemExit(f"{row[0]} sessions of dead racers would not end")
            time.sleep(0.01)


def main(arguments: list[str], say: Callable[[str], None] = print) -> int:
    options = _options().parse_args(arguments)
    with Server.start(_installation(options.major), durable=False, settings=SETTINGS, place=place()) as server:
        say(f"PostgreSQL {server.major}, {options.processes} processes, seed {options.seed}")
        outcomes = [run(server, REAL, options, options.seconds)]
        _show(outcomes[0], say)
        for way in ABLATIONS:
            outcomes.append(run(server, way, options, options.ablation_seconds, until_found=options.quick))
            _show(outcomes[-1], say)
        copies = [adversary.run(server, options.seed, options.copy_seconds)]
        copies.append(adversary.run(server, options.seed, options.ablation_seconds, keys_on_staging=True))
        for each in copies:
            _show(each, say)
    say(outcome.printed(outcomes))
    say(outcome.printed(copies))
    (race, *ablations), (beside, keyed) = outcomes, copies
    blind = [each.name for each in ablations if not any(each.found[name] for name in ("C1", "C1b", "C3", "C5"))]
    blind += [keyed.name] if not keyed.violations else []
    if blind:
        say(f"The race proves nothing: it found nothing wrong with {' and '.join(blind)}.")
    found, wanted = len(race.violations + beside.violations), sum(len(each.violations) for each in (*ablations, keyed))
    say(f"{found} violations. {wanted} in the ablations.")
    if options.json:
        say(json.dumps([each.as_dict() for each in (*outcomes, *copies)]))
    return int(bool(found or blind))


def _show(found: Outcome, say: Callable[[str], None]) -> None:
    say(f"{found.name}: {found.seconds:.0f} s, {len(found.violations)} violations")
    for violation in found.violations[: _SHOWN if found.name == REAL.name else 1]:
        say(f"    {violation}")


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make race", description="Race processes for the living lock.")
    parser.add_argument("--seconds", type=float, default=300.0, help="of the race itself")
    parser.add_argument("--ablation-seconds", type=float, default=ABLATION_SECONDS, help="of each ablation")
    parser.add_argument("--copy-seconds", type=float, default=60.0, help="of copies beside an adversary")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument(
        "--seed", type=int, default=secrets.randbelow(1_000_000), help="of all dice; not of the scheduler"
    )
    parser.add_argument("--major", type=int, help="of PostgreSQL; the newest by default")
    parser.add_argument("--quick", action="store_true", help="end an ablation when it is caught")
    parser.add_argument("--json", action="store_true", help="one more line, for machines")
    return parser


def _installation(major: int | None) -> Installation:
    there = {each.major: each for each in reversed(installations())}
    if major is not None and major not in there:
        raise SystemExit(f"PostgreSQL {major} is not here; there are {', '.join(map(str, there))}")
    return there[major] if major is not None else installations()[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
