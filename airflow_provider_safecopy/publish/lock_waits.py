"""The blockers of a publish: found while it waits, reported now and then, ended only on request.

The publish waits in short steps, so it is watched from another session, opened once a step got no lock. If no
session can be opened, the holders of the table between steps are reported instead, and none is ended.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar

import psycopg
from psycopg.rows import dict_row

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import SafeCopyError, StageTimeoutError
from airflow_provider_safecopy.postgres import lock_retry, wire
from airflow_provider_safecopy.postgres.diagnosis import describe
from airflow_provider_safecopy.postgres.lookout import Blocker, list_blockers, read_blocker
from airflow_provider_safecopy.publish.context import PublishContext

log = logging.getLogger(__name__)

_BLOCKERS = sql.load("blockers")
_CATALOG = sql.load("catalog")
_FIRST_TOLD_SECONDS = 1.0
_TOLD_EVERY_SECONDS = 10.0
_SEEN_SECONDS, _LOOK_AGAIN_SECONDS = 4.0, 0.2
# A step is short: look often while it is young, and seldom once it works instead of waiting.
_LOOK_EVERY_SECONDS = (0.01, 0.1)
_YOUNG_SECONDS = 0.5
# Longer than the longest pause between two steps.
_LONG_AGO_SECONDS = 8.0
_ANSWER_SECONDS = 3.0
_OPEN_AGAIN_SECONDS = 10.0

Result = TypeVar("Result")

# A session may serve many transactions, and many clients of a pooler: pid, and when its transaction began.
_Key = tuple[int, str | None]


class _LookoutConnection(wire.PromptConnection):
    patience = _ANSWER_SECONDS


class Blockers:
    """Watches for blockers of one publish, inside ``with``. The first step without a lock starts its thread.

    `stage` and `what` say in messages which stage waits for what. `ends`: whether ``terminate_blockers_after`` holds here. `warnings`
    names the sessions it has ended, or was not allowed to end. `vacuumed`: whether a VACUUM held the table after the
    last step.
    """

    def __init__(
        self, job: PublishContext, *, stage: str = "publish", what: str | None = None, ends: bool = True
    ) -> None:
        self.vacuumed = False
        # By the thread, as are the next four.
        self.warnings: list[str] = []
        self._job = job
        self._stage = stage
        self._what = what or str(job.plan.target_name)
        self._ends = ends
        self._seen: tuple[Blocker, ...] = ()
        self._seen_at = 0.0
        self._since: dict[_Key, float] = {}
        self._dealt_with: set[_Key] = set()
        self._began: float | None = None
        self._told = self._step_began = 0.0
        self._stepping = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._stepping.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def seconds(self) -> float:
        """Seconds that the publish has waited for the lock."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    def outlast(
        self, work: Callable[[PublishContext], Result], *, held_up: Callable[[], None] = lambda: None
    ) -> Result:
        """Call `work` with the job of each step, until it gets its locks.

        `held_up` is called after each step without a lock; it may raise to end the wait. Raises `StageTimeoutError` that names
        the blockers, `AbortedError`, and whatever `work` raises but `LockNotAvailable`.
        """

        def step(seconds: float) -> Result:
            self._step_began = time.monotonic()
            self._stepping.set()
            try:
                return work(replace(self._job, lock_step=seconds))
            finally:
                self._stepping.clear()

        def report_blocked(error: psycopg.errors.LockNotAvailable) -> None:
            self._count_step(error)
            held_up()

        return lock_retry.retry(
            step,
            abort=self._job.abort,
            read_deadline=self._find_deadline,
            on_blocked=report_blocked,
            on_wait=self._meanwhile,
        )

    def read_latest(self) -> tuple[Blocker, ...]:
        """Return the latest blockers, or else the holders of the table now. Call it between two steps only."""
        if self._seen and time.monotonic() - self._seen_at < _LONG_AGO_SECONDS:
            return self._seen
        plan = self._job.plan
        asked = {"target": plan.target_oid, "exclusive": plan.publish in {"truncate_insert", "swap"}}
        return tuple(read_blocker(row) for row in self._job.target.fetch_all(_BLOCKERS["holders"], asked))

    def go_on_with(self, job: PublishContext) -> None:
        """Watch `job`, which publishes in another way, from now on. The wait goes on."""
        self._job = job

    def _find_deadline(self) -> float:
        """Return when waiting ends: lock_wait_timeout after the first step, at most when the publish ends."""
        if self._began is None:
            return self._job.deadline
        return min(self._job.deadline, self._began + self._job.plan.spec.timeouts.lock_wait)

    def _count_step(self, error: psycopg.errors.LockNotAvailable) -> None:
        job, now = self._job, time.monotonic()
        job.target.end_transaction()
        if self._began is None:
            self._began, self._told = now, now - _TOLD_EVERY_SECONDS + _FIRST_TOLD_SECONDS
            self._thread = threading.Thread(target=self._watch, name="safecopy blockers", daemon=True)
            self._thread.start()
        if now > self._find_deadline():
            raise self._timeout_error() from error
        self.vacuumed = bool(job.target.fetch_value(_CATALOG["vacuumed"], {"oid": job.plan.target_oid}))

    def _meanwhile(self) -> None:
        self._job.trying()
        now = time.monotonic()
        if self._began is not None and now - self._told >= _TOLD_EVERY_SECONDS:
            seen = self.read_latest()
            # Its next step is looked at.
            if not seen and now - self._began < _SEEN_SECONDS:
                self._told = now - _TOLD_EVERY_SECONDS + _LOOK_AGAIN_SECONDS
                return
            self._told, found = now, list_blockers(seen)
            log.warning(
                "%s: has been waiting for %s for %.0f s, blocked by %s",
                self._stage,
                self._what,
                now - self._began,
                found,
            )

    def _timeout_error(self) -> StageTimeoutError:
        found = self.read_latest()
        error = StageTimeoutError(
            f"{self._stage}: {self._what} stayed locked for {self.seconds:.0f} s by "
            f"{list_blockers(found)}{''.join(f'; {each}' for each in self.warnings)}",
            stage=self._stage,
            sqlstate="55P03",
            hint="end the session that holds it, raise lock_wait_timeout and publish_timeout, or set terminate_blockers_after",
        )
        if found:
            error.blockers = tuple(blocker.as_dict() for blocker in found)
        return error

    def _watch(self) -> None:
        """Look, in a thread of its own, as long as the publish waits."""
        endpoint, name = self._job.target.endpoint, self._job.application_name
        while not self._stop.is_set():
            try:
                with endpoint.connect(
                    application_name=name, connect_timeout=_ANSWER_SECONDS, kind=_LookoutConnection
                ) as session:
                    session.row_factory = dict_row
                    session.execute(_BLOCKERS["own_names"])
                    while not self._stop.is_set():
                        self._stepping.wait(_OPEN_AGAIN_SECONDS)
                        self._look(session)
                        young = time.monotonic() - self._step_began < _YOUNG_SECONDS
                        self._stop.wait(_LOOK_EVERY_SECONDS[0 if young else 1])
            except (SafeCopyError, psycopg.Error) as error:
                log.info("%s: cannot see the blockers: %s", self._stage, error)
                self._stop.wait(_OPEN_AGAIN_SECONDS)

    def _look(self, session: psycopg.Connection[Any]) -> None:
        plan, waiting = self._job.plan, {"waiting": self._job.target.server.backend}
        if session.execute(_BLOCKERS["waits"], waiting).fetchone() != {"waits": True}:
            return
        asked = {"target": plan.target_oid, "application": self._job.application_name} | waiting
        if found := tuple(read_blocker(row) for row in session.execute(_BLOCKERS["in_the_way"], asked)):
            self._seen, self._seen_at = found, time.monotonic()
            self._end_those_due(session)

    def _end_those_due(self, session: psycopg.Connection[Any]) -> None:
        """End blockers once each, when each has blocked longer than ``terminate_blockers_after``."""
        after, now = self._job.plan.spec.terminate_blockers_after, time.monotonic()
        if after is None or not self._ends:
            return
        endable = {(blocker.pid, blocker.transaction_start): blocker for blocker in self._seen if blocker.endable}
        self._since = {key: self._since.get(key, now) for key in endable}
        for key, blocker in endable.items():
            if now - self._since[key] >= after and key not in self._dealt_with:
                self._end(session, blocker, now - self._since[key])

    def _end(self, session: psycopg.Connection[Any], blocker: Blocker, seconds: float) -> None:
        waiting, began = self._job.target.server.backend, blocker.transaction_start
        seen = {"pid": blocker.pid, "transaction_start": began, "waiting": waiting}
        try:
            if session.execute(_BLOCKERS["end"], seen).fetchone() != {"ended": True}:
                # The step is over: the next will show whether it is still there.
                return
            warning = f"ended {blocker}, which had held up the publish for {seconds:.1f} s"
        except psycopg.errors.InsufficientPrivilege as error:
            warning = f"{blocker} held up the publish and could not be ended: {describe(error)}"
        self._dealt_with.add((blocker.pid, began))
        self.warnings.append(warning)
        log.warning("publish: %s", warning)
