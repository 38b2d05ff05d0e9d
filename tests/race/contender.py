"""One racing process: acquires, works, publishes and releases as fast as it can, and comes to grief at the worst points."""

from __future__ import annotations

import logging
import os
import random
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import closing
from typing import NoReturn
from uuid import UUID, uuid4

import psycopg

from airflow_provider_safecopy.errors import FencedOutError, LockBusyError, LockLostError, LockStoreError, StageError
from airflow_provider_safecopy.lock.liveness import find_gone
from airflow_provider_safecopy.lock.living_lock import LivingLock
from airflow_provider_safecopy.lock.model import Contender, Promise, format_application_name
from airflow_provider_safecopy.lock.process import ProcessIdentity
from tests.race.course import MEMBERS, Course
from tests.race.publish import REAL, Session, Way, publish
from tests.race.report import Report

STALE_SECONDS = (0.12, 0.3)
GRACE_SECONDS = (0.06, 0.15)
_RUN_SECONDS = 0.8
_STOP_CHANCE, _KILL_CHANCE = 0.025, 0.003
# A lock timeout, a session ended by a takeover, a statement that outlived its time on a busy machine.
_EXPECTED = {"55P03", "57P01", "57014"}


class Overheard(logging.Handler):
    """Errors that the lock does not raise, but only warns of."""

    def __init__(self, tell: Callable[[Exception], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        for each in record.args if isinstance(record.args, tuple) else ():
            if isinstance(each, Exception):
                self._tell(each)


class Racer:
    """What one process does from its start to its end."""

    def __init__(self, course: Course, number: int, way: Way, report: Report) -> None:
        self.course = course
        self.way = way
        self.report = report
        self.dice = random.Random(f"{course.seed}/{number}")
        self.progress = 0
        self.lingers = 0.0

    def run(self) -> NoReturn:
        logger = logging.getLogger("airflow_provider_safecopy")
        logger.addHandler(Overheard(self.failed))
        logger.propagate = False
        while True:
            try:
                self.attempt()
            except LockBusyError:
                self.report.say("gave up")
            except LockLostError as error:
                self.report.say("stopped itself" if "stopped itself before" in error.message else "lost at heartbeat")
            except FencedOutError:
                self.report.say("lost at publish")
            except Exception as error:  # noqa: BLE001 -- told to the judge, who accepts none
                self.failed(error)

    def attempt(self) -> None:
        """One attempt, as one process of a real task would make it: its own sessions, its own lock."""
        contender = self.contender()
        where = self.dice.choice(self.course.racers)
        grace = None if self.chance(0.1) else self.dice.uniform(*GRACE_SECONDS)
        promise = Promise(self.dice.uniform(*STALE_SECONDS), grace)
        names = self.dice.sample(self.course.names, 2 if self.chance(0.3) else 1)
        lock = LivingLock(names, where, contender=contender, promise=promise)
        try:
            self.acquire(lock)
            self.point("acquired")
            name = format_application_name(contender.attempt)
            with closing(where.connect(application_name=name, connect_timeout=10)) as session:
                for _ in range(self.dice.choice((1, 1, 2, 3))):
                    self.work(lock)
                    self.publish(lock, session)
            self.point("before release")
        finally:
            if self.chance(0.05):
                lock.store.close()  # gone without a word: only the session and the heartbeats tell
            else:
                lock.release()

    def acquire(self, lock: LivingLock) -> None:
        """Ask again and again, as whoever waits does, on the same session."""
        while True:
            try:
                lock.acquire()
            except LockBusyError as error:
                self.turned_away(error)
                if self.chance(0.05):
                    raise
            else:
                return

    def contender(self) -> Contender:
        """A lone process, or a task of a run that several processes take part in, with tries that rise in time."""
        place = ProcessIdentity.read_current(may_end=self.chance(0.08)) if self.chance(0.7) else None
        member, attempt, now = self.dice.choice(MEMBERS), uuid4(), time.monotonic()
        if self.chance(0.3):
            return Contender(f"단독|{attempt}", {"owner": "단독"}, member, 1, attempt, place)
        run = f"{self.dice.choice(('야간', '주간'))}|{int(now / _RUN_SECONDS)}"
        rank = 0 if self.chance(0.1) else int(now % _RUN_SECONDS * 1000)
        return Contender(run, {"dag": run}, member, rank, attempt, place)

    def work(self, lock: LivingLock) -> None:
        """A few heartbeats. Some are careful and stop themselves; some make no progress, and outlive their promise."""
        stuck, careful = self.chance(0.1), self.chance(0.4)
        for _ in range(self.dice.randrange(4)):
            self.pause(0.004)
            self.point("before heartbeat")
            self.progress += not stuck
            if careful:
                lock.heartbeat(self.progress)
            else:
                lock.send_heartbeat(phase=0, count=self.progress)
        if stuck:
            self.pause(lock.terms.stale_after)
            if careful:
                lock.check()

    def publish(self, lock: LivingLock, session: Session) -> None:
        if self.chance(0.03):
            for lease in lock.leases:
                lock.store.revoke(lease)
        self.lingers = self.dice.uniform(0.01, 0.4) if self.chance(0.1) else 0.0
        mark = publish(lock, session, self.way, self.point, self.lingers)
        self.report.say("published", mark=str(mark))

    def turned_away(self, error: LockBusyError) -> None:
        """Busy: wait a little. Now and then somebody clears away what is dead or overdue, or frees the lock by force."""
        self.report.say("busy")
        store = LivingLock(error.lock, self.dice.choice(self.course.racers)).store
        try:
            if self.chance(0.005):
                store.force_release(error.lock, reason="the race")
            elif self.chance(0.02) and (holder := store.read_holder(error.lock)):
                store.reap(error.lock, dead=find_gone(holder), overdue=self.dice.choice((0, 3600)))
                store.forget(keep=3600)
        except LockStoreError as failure:
            self.failed(failure)
        finally:
            store.close()
        self.pause(0.008)

    def point(self, name: str, *, mark: UUID | None = None) -> None:
        """A moment at which it is worst to be stopped or killed, worst of all while the server is committing."""
        fate = self.dice.random() / (12 if name == "COMMIT sent" and self.lingers else 1)
        if name != "COMMIT sent":
            self.pause(0.0005)
        if fate < _KILL_CHANCE:
            self.report.say("killed", at=name, mark=str(mark))
            os.kill(os.getpid(), signal.SIGKILL)
        elif fate < _KILL_CHANCE + _STOP_CHANCE:
            self.report.say("stopped", at=name, mark=str(mark))
            os.kill(os.getpid(), signal.SIGSTOP)

    def failed(self, error: Exception) -> None:
        """A failure that a race brings with it is counted; every other is told in full."""
        expected = _EXPECTED if self.way is REAL else _EXPECTED | {"40P01"}
        if is_expected(error, expected):
            self.report.say("cut off", by=_sqlstate(error))
        else:
            self.report.say("error", text="".join(traceback.format_exception(error)))

    def chance(self, of: float) -> bool:
        return self.dice.random() < of

    def pause(self, seconds: float) -> None:
        time.sleep(self.dice.expovariate(1 / seconds))


def is_expected(error: Exception, expected: set[str]) -> bool:
    """Whether a takeover, a timeout or an ended session is behind it."""
    cause = error.__cause__ if isinstance(error, LockStoreError) and error.__cause__ else error
    if (state := _sqlstate(error)) is not None:
        return state in expected
    # The session was ended between two statements: there is no SQLSTATE, only a connection that is no more.
    return isinstance(cause, psycopg.OperationalError) or (
        isinstance(cause, StageError) and "administrator command" in cause.message
    )


def _sqlstate(error: Exception) -> str | None:
    return getattr(error, "sqlstate", None)
