"""One run of a copy: the attempt, its sessions and lock, and how its failures are reported."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

import psycopg

from airflow_provider_safecopy import shortage, sql
from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.errors import (
    AbortedError,
    LockLostError,
    LockStoreError,
    PlanError,
    Refusal,
    SafeCopyError,
    StageError,
    StageTimeoutError,
    StalledError,
    may_pass,
)
from airflow_provider_safecopy.lock.connection_gate import ConnectionGate, Opening
from airflow_provider_safecopy.lock.heartbeat import Heartbeat
from airflow_provider_safecopy.lock.living_lock import LivenessCheck, LivingLock
from airflow_provider_safecopy.lock.model import Contender, Lease, Promise, format_application_name
from airflow_provider_safecopy.lock.postgres import PostgresStore
from airflow_provider_safecopy.planning import catalog, create_table, preflight
from airflow_provider_safecopy.planning.plan import CopyPlan
from airflow_provider_safecopy.postgres.diagnosis import describe
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.postgres.lookout import list_blockers, lock_wait_error
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.postgres.psql import LOCK_NOT_AVAILABLE
from airflow_provider_safecopy.postgres.session import (
    SILENT_SECONDS,
    Session,
    end_stage_sessions,
    find_holders,
    open_session,
)
from airflow_provider_safecopy.spec import CopySpec, Progress, Stage

log = logging.getLogger(__name__)

_Of = TypeVar("_Of")


@dataclass(frozen=True)
class Attempt:
    """The spec of a copy, and who asks for it."""

    spec: CopySpec
    contender: Contender
    abort: AbortSwitch
    progress: Callable[[Progress], None]

    @property
    def name(self) -> str:
        """The name of all sessions of this attempt."""
        return format_application_name(self.contender.attempt)

    def session(self, endpoint: Endpoint, *, read_only: bool = False) -> AbstractContextManager[Session]:
        """A control session. It waits for an answer as long as a stage may stand still."""
        limits = self.spec.timeouts
        return open_session(
            endpoint,
            application_name=self.name,
            connect_timeout=limits.connect,
            read_only=read_only,
            patience=limits.stall + SILENT_SECONDS,
            lock_wait=limits.lock_wait,
        )

    def lock(self, target: Session, judge: LivenessCheck | None) -> LivingLock:
        """The lock that was asked for, and always the table's own: two runs may call it differently. Not held yet."""
        table, relatives = self._describe_target(target)
        store = PostgresStore(
            target.endpoint, attempt=self.contender.attempt, connect_timeout=self.spec.timeouts.connect
        )
        store.watcher = target.lookout
        names, promise = {self.spec.lock or str(table), str(table)}, Promise(stale_after=self.spec.patience)
        return LivingLock(names, store, contender=self.contender, promise=promise, judge=judge, relatives=relatives)

    def _describe_target(self, target: Session) -> tuple[TableName, frozenset[str]]:
        """Return the table's full name, and its partitions and parents. Raises `StageTimeoutError` if one stays locked."""
        table = self.spec.target_table
        try:
            with target.cancel_on_abort(self.abort), target.limit_answer(self.spec.timeouts.verify):
                if any(preflight.check_name(target, table)):
                    return table, frozenset()
                found = catalog.describe(target, table)
                kin = frozenset(map(str, found.kin)) if found else frozenset()
                return (found and found.name) or create_table.place(target, table), kin
        except psycopg.errors.LockNotAvailable as error:
            raise lock_wait_error(error, "plan", f"{table} or a partition of it", target.lookout) from error

    def opening(self, lock: LivingLock, source: Endpoint) -> Opening:
        """The turn before the source, in which all its connections are opened."""
        spec = self.spec
        gate = ConnectionGate(lock.store, str(source), spec.connect_interval, self.contender, spec.timeouts.connect)
        return Opening(gate, self.abort)


def require_room(spec: CopySpec, abort: AbortSwitch | None = None) -> None:
    """Raise `PlanError` if this process may not open or start all that a copy needs. Call it before anything is open.

    The descriptors of `abort`, if there is one already, are among those.
    """
    if refusals := shortage.check(lanes=spec.parallel, switch=abort is None):
        raise PlanError(refusals)


def guard_fork(progress: Callable[[_Of], None]) -> Callable[[_Of], None]:
    """Return `progress`, but end a child that it forks: a copy goes on in the process that began it.

    Cleaning up in the child leaves alone what belongs to the parent.
    """
    process = os.getpid()

    def report(at: _Of) -> None:
        progress(at)
        if os.getpid() != process:
            raise AbortedError("a forked child cannot go on with the copy of its parent")

    return report


def require_excluded(plan: CopyPlan, relatives: Collection[str]) -> None:
    """Raise a retryable `PlanError` if a relative was attached since the table was locked."""
    came = [
        str(each) for each in (plan.target_relation.kin if plan.target_relation else ()) if str(each) not in relatives
    ]
    if came:
        message = f"{plan.target_name} and {', '.join(came)} became partition and parent after the lock was taken"
        refused = Refusal("target_changed", message, str(plan.target_name), hint="run the copy again")
        raise PlanError((refused,), retryable=True)


@contextmanager
def translate_aborts(abort: AbortSwitch) -> Iterator[None]:
    """Raise the abort instead of errors that it causes: psql stopped as well (a terminal, a process group), a question cancelled."""
    try:
        yield
    except (StageError, LockStoreError) as error:
        if abort.reason is None:
            raise
        told = AbortedError(abort.reason)
        for note in getattr(error, "__notes__", ()):
            told.add_note(note)
        raise told from error


@contextmanager
def translate_losses() -> Iterator[None]:
    """Every stage translates what it asks; what is left is a control session lost between two of them, or a shortage."""
    try:
        with shortage.translate("prepare"):
            yield
    except psycopg.errors.LockNotAvailable as error:
        raise lock_wait_error(error, "connect", "a table that a control session reads") from error
    except psycopg.Error as error:
        message = f"a control session failed: {describe(error)}; nothing was changed"
        short = shortage.find(error.__cause__) if error.__cause__ else None
        hint = short.hint if short else ""
        raise StageError(
            message, stage="connect", sqlstate=error.sqlstate, hint=hint, retryable=may_pass(error.sqlstate)
        ) from error


@contextmanager
def name_holders(target: Session) -> Iterator[None]:
    """Add the holders to the error of a lock store whose tables another session has locked.

    The store waits in steps too short for a lookout, so it asks for the holders afterwards.
    """
    try:
        yield
    except LockStoreError as error:
        if error.sqlstate != LOCK_NOT_AVAILABLE or error.blockers:
            raise
        with suppress(psycopg.Error):
            found = target.lookout.read_recent_blockers() or find_holders(target, "safecopy.lock")
            error.blockers = tuple(blocker.as_dict() for blocker in found)
            error.message = f"{error.message}; blocked by {list_blockers(found)}"
            error.hint = error.hint or "end the session that holds it, and run this again"
        raise


@contextmanager
def translate_lost_lock(lock: LivingLock) -> Iterator[None]:
    """Raise the loss of the lock instead of errors that it causes: the abort that stops the run, or sessions ended by others."""
    try:
        yield
    except (AbortedError, StageError) as error:
        if isinstance(error, StageError) and lock.lost_error is None and lock.store_answers:
            with suppress(LockLostError):
                lock.send_heartbeat(phase=0, count=0)
        if lock.lost_error is None:
            raise
        raise lock.lost_error from error


@contextmanager
def answering(spec: CopySpec, source: Session, target: Session) -> Iterator[None]:
    """Limit questions about what is there to the time that verifying may take.

    Raises `StageTimeoutError` if another session kept a table locked for ``lock_wait_timeout``.
    """
    try:
        with source.limit_answer(spec.timeouts.verify), target.limit_answer(spec.timeouts.verify):
            yield
    except psycopg.errors.LockNotAvailable as error:
        what = f"{spec.source_table or 'a table that the query reads'} or {spec.target_table}"
        raise lock_wait_error(error, "plan", what, source.lookout, target.lookout) from error


@contextmanager
def name_blockers(source: Session, target: Session) -> Iterator[None]:
    """Add the blockers to the error of a psql stage that waited for a lock."""
    try:
        yield
    except StageError as error:
        lookout = source.lookout if error.stage == "export" else target.lookout
        found = lookout.read_recent_blockers()
        if isinstance(error, StalledError | StageTimeoutError) and (standbys := lookout.describe_standbys()):
            error.message = f"{error.message}; {standbys}"
        if error.blockers or not found or not (error.sqlstate == LOCK_NOT_AVAILABLE or isinstance(error, StalledError)):
            raise
        error.blockers = tuple(blocker.as_dict() for blocker in found)
        error.message = f"{error.message}; {lookout.describe()}"
        raise


def end_displaced(lock: LivingLock, source: Session) -> None:
    """End the reads of a displaced run from the source; its sessions in the target are ended already."""
    names = [f"safecopy:{attempt}" for lease in lock.leases if lease.displaced for attempt in lease.displaced.attempts]
    if names and (ended := source.fetch_all(sql.load("lock")["end_sessions"], {"names": names})):
        log.warning("%s: ended %d sessions of the run that held the lock before", source.endpoint, len(ended))


def see_them_gone(error: BaseException, attempt: Attempt, lock: LivingLock, *sessions: Session) -> None:
    """End what a failed run still has on the servers of its control `sessions`; a failure is noted on `error`."""
    _see_gone(error, attempt, sessions, (*_backends(*sessions), *lock.backends))


@contextmanager
def ending_the_lost(attempt: Attempt, lock: LivingLock, source: Session, target: Session) -> Iterator[None]:
    """A control session may be lost to us alone, and hold on the server what others wait for: ended there, too."""
    try:
        yield
    except BaseException as error:
        # Where the lock could not ask, or a stage has tried without success, there is no server to ask.
        reached = [source, target] if lock.store_answers else [source]
        if not getattr(error, "__notes__", ()):
            # The lock's own session may be lost as well, and not know it yet; it opens another.
            _see_gone(error, attempt, [each for each in reached if each.connection.closed], _backends(source, target))
        raise
    # Lost as it was to end its transaction, which then only the source misses.
    lost = [source] if source.connection.closed else []
    _see_gone(None, attempt, lost, (*_backends(source, target), *lock.backends))


def _backends(*sessions: Session) -> tuple[int, ...]:
    """Of those that live."""
    return tuple(session.server.backend for session in sessions if not session.connection.closed)


def _see_gone(
    error: BaseException | None, attempt: Attempt, sessions: Iterable[Session], spared: tuple[int, ...]
) -> None:
    for session in sessions:
        # A forked child that leaves its parent's copy.
        if not session.connection.is_own:
            continue
        try:
            _end_sessions(session, attempt.name, spared)
        except (SafeCopyError, psycopg.Error) as other:
            if error is not None:
                error.add_note(f"and the server sessions of this run on {session.endpoint} could not be ended: {other}")
            log.warning("%s: server sessions of %s could not be ended: %s", session.endpoint, attempt.name, other)


def _end_sessions(session: Session, name: str, own: tuple[int, ...]) -> None:
    """By a session of its own: the run's may be in a failed transaction, or be lost itself."""
    with open_session(session.endpoint, application_name=name, connect_timeout=4) as fresh:
        end_stage_sessions(fresh, application_name=name, kept_backends=(*own, fresh.server.backend))


# What the lock is told of: bytes move in the first, the others are a server's work.
PHASES: dict[Stage, int] = {"export": 1, "import": 1, "verify": 2, "publish": 3}


@dataclass(frozen=True)
class Run:
    """The values that every step of one copy needs. The token of `lease`, the run's own, names everything."""

    asked: Attempt
    plan: CopyPlan
    lock: LivingLock
    pulse: Heartbeat
    source: Session
    target: Session
    snapshot: str
    opening: Opening

    @property
    def abort(self) -> AbortSwitch:
        """The switch that stops the run."""
        return self.asked.abort

    @property
    def lease(self) -> Lease:
        """Of the lock that was asked for; the target table's is held as well."""
        return next(lease for lease in self.lock.leases if lease.name == self.plan.lock)

    def progress(self, at: Progress) -> None:
        """Report to the lock, and to the caller's listener."""
        self.pulse.advance(PHASES[at.stage], 0)
        self.asked.progress(at)
