"""The straight line, and the only place where lock and transfer meet.

Plan, token, snapshot, export and import into staging, verify, publish, report. Each step takes what the
one before it made; no step can be left out, because nobody else makes what the next one wants.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.endpoint import Endpoint
from airflow_provider_safecopy.errors import AbortedError, SafeCopyError, StageError
from airflow_provider_safecopy.lock import postgres as lock
from airflow_provider_safecopy.lock.model import Lease, application_name
from airflow_provider_safecopy.transfer import export, load, staging
from airflow_provider_safecopy.transfer.draft import draft
from airflow_provider_safecopy.transfer.export import Exported
from airflow_provider_safecopy.transfer.load import Loaded
from airflow_provider_safecopy.transfer.model import CopyReport, CopySpec, MiB, Progress
from airflow_provider_safecopy.transfer.name import TableName
from airflow_provider_safecopy.transfer.plan import CopyPlan
from airflow_provider_safecopy.transfer.publish import Receipt, publish
from airflow_provider_safecopy.transfer.session import Session, end_stage_sessions, open_session
from airflow_provider_safecopy.transfer.spool import Spool, directory_of
from airflow_provider_safecopy.transfer.stream import Stream
from airflow_provider_safecopy.transfer.verify import verify

log = logging.getLogger(__name__)

WINDOW_BYTES = 8 * MiB
"""What is held in memory between export and import before it goes to disk."""

CHUNKED_SPOOL_BYTES = 1024 * MiB
"""`spool_limit` for chunked when none is given: how far the source may be ahead of the target."""

_UNBOUNDED = 1 << 62


def plan(spec: CopySpec, source: Endpoint, target: Endpoint) -> CopyPlan:
    """What `copy` would do, decided and not done. Refusals are in the plan; raises `StageError` if unreachable."""
    with _sessions(spec, source, target, uuid4()) as (ours, theirs), _answering(spec, ours, theirs):
        return _drafted(spec, ours, theirs)


@dataclass(frozen=True)
class _Run:
    """What every step of one copy needs. The first of `leases` is the run's own; its token names everything."""

    plan: CopyPlan
    leases: tuple[Lease, ...]
    source: Session
    target: Session
    snapshot: str
    abort: AbortSwitch
    progress: Callable[[Progress], None]

    @property
    def lease(self) -> Lease:
        """The run's own."""
        return self.leases[0]

    def fence(self, connection: psycopg.Connection[Any]) -> None:
        """Raise `FencedOutError` unless every lease is still this run's. Always in one order: no deadlock."""
        for lease in sorted(self.leases, key=attrgetter("name")):
            lock.fence(connection, lease)

    @property
    def name(self) -> str:
        """What all its sessions are called."""
        return application_name(self.lease.attempt)


def copy(
    spec: CopySpec,
    source: Endpoint,
    target: Endpoint,
    *,
    owner: str = "",
    abort: AbortSwitch | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> CopyReport:
    """Copy one table, safely: afterwards the target holds the old rows or the new ones.

    `owner` says who runs this, for people. Throwing `abort` (from a signal handler, another thread) ends
    the copy with `AbortedError` unless its COMMIT has been sent. `progress` is called from this thread, a
    few times a second. Raises the errors of `errors`; after any of them but `PublishUnknownError` the
    target is unchanged. Must run in one thread from start to end: psql dies with the thread.
    """
    abort = abort or AbortSwitch()
    attempt, started = uuid4(), time.monotonic()
    with _telling_aborts(abort), _sessions(spec, source, target, attempt) as (ours, theirs):
        abort.check()
        with ours.obeys(abort), theirs.obeys(abort), _answering(spec, ours, theirs):
            first = _drafted(spec, ours, theirs)
            first.require()
            leases = _drawn(first, theirs, owner=owner, attempt=attempt)
        with _snapshot(ours) as snapshot:
            # Once more, now under the token and in the very snapshot that is exported.
            with ours.obeys(abort), theirs.obeys(abort), _answering(spec, ours, theirs):
                decided = _drafted(spec, ours, theirs)
                staging.sweep(theirs)
            decided.require()
            run = _Run(decided, leases, ours, theirs, snapshot, abort, progress or (lambda _: None))
            report = _carried_out(run)
    return replace(report, seconds=time.monotonic() - started, peak_rss_bytes=_peak_rss())


@contextmanager
def _telling_aborts(abort: AbortSwitch) -> Iterator[None]:
    """Whoever stops a run may have stopped psql as well (a terminal, a process group): its failure is no news."""
    try:
        yield
    except StageError as error:
        if abort.reason is None:
            raise
        told = AbortedError(abort.reason)
        for note in getattr(error, "__notes__", ()):
            told.add_note(note)
        raise told from error


def _carried_out(run: _Run) -> CopyReport:
    plan, token, target = run.plan, run.lease.token, run.target
    log.info("copy %s into %s: token %d, %s, %s", plan.source, plan.target, token, plan.transfer, plan.format)
    for reason in plan.reasons:
        log.info("because %s", reason)
    for warning in plan.warnings:
        log.warning("%s", warning)
    spool = _spool(plan)
    with staging.staging(plan, target, token=token, attempt=run.lease.attempt) as table:
        exported, loaded = _transferred(run, table, spool)
        run.progress(Progress("verify", loaded.bytes, loaded.rows, loaded.rows, loaded.bytes))
        with run.source.obeys(run.abort), target.obeys(run.abort):
            verification = verify(plan, exported, loaded, source=run.source, target=target)
        run.progress(Progress("publish", loaded.bytes, loaded.rows, loaded.rows, loaded.bytes))
        published = publish(
            plan,
            verification,
            _receipt(run.lease),
            target=target,
            fence=run.fence,
            abort=run.abort,
        )
    return replace(
        plan.as_report(),
        status="published",
        lock=run.lease.name,
        token=token,
        attempt=str(run.lease.attempt),
        rows=published.rows,
        previous_rows=published.previous_rows,
        bytes=exported.bytes,
        digest=exported.digest,
        content_hash=verification.content_hash,
        stages=(exported.report, loaded.report, verification.report, published.report),
        spool_bytes=spool.most_on_disk,
    )


def _transferred(run: _Run, table: TableName, spool: Spool) -> tuple[Exported, Loaded]:
    """Export and import. When it fails, the children are ended, and their server sessions seen gone."""
    plan, name = run.plan, run.name
    running = export.start(plan, run.source.endpoint, snapshot=run.snapshot, application_name=name)
    stream = Stream(
        running,
        lambda: load.start(plan, run.target.endpoint, table, application_name=name),
        overlapping=plan.transfer == "chunked",
        spool=spool,
        timeouts=plan.spec.timeouts,
        abort=run.abort,
        report=lambda at: run.progress(
            replace(at, expected_rows=plan.expected_rows, expected_bytes=plan.expected_bytes)
        ),
        on_export=lambda: _let_go(run),
    )
    try:
        return stream.run()
    except BaseException as error:
        stream.close()
        _see_them_gone(error, run)
        raise
    finally:
        stream.close()


def _see_them_gone(error: BaseException, run: _Run) -> None:
    own = (run.source.server.backend, run.target.server.backend)
    for session in (run.source, run.target):
        try:
            _end_sessions(session, run.name, own)
        except (SafeCopyError, psycopg.Error) as other:
            error.add_note(f"and the server sessions of this run on {session.endpoint} could not be ended: {other}")
            log.warning("%s: server sessions named %s could not be ended: %s", session.endpoint, run.name, other)


def _end_sessions(session: Session, name: str, own: tuple[int, ...]) -> None:
    """By a session of its own: the run's may be in a failed transaction, or be lost itself."""
    with open_session(session.endpoint, application_name=name, connect_timeout=5) as fresh:
        end_stage_sessions(fresh, application_name=name, spared=(*own, fresh.server.backend))


def _let_go(run: _Run) -> None:
    """End the source's transaction as soon as nothing needs its snapshot."""
    if run.plan.spec.verify != "full":
        run.source.end_transaction()


def _drafted(spec: CopySpec, source: Session, target: Session) -> CopyPlan:
    drafted = draft(spec, source, target)
    found = lock.refusals(target.connection, role=target.server.role, may_create=target.server.may_create)
    return replace(drafted, refusals=drafted.refusals + found)


def _drawn(plan: CopyPlan, target: Session, *, owner: str, attempt: UUID) -> tuple[Lease, ...]:
    """A token for the lock that was asked for, and always one for the table: two runs may call it differently."""
    lock.init(target.connection)
    names = dict.fromkeys([plan.lock, str(plan.target_name)])
    leases = {
        name: lock.draw(target.connection, name, owner=owner or "unnamed", attempt=attempt) for name in sorted(names)
    }
    return tuple(leases[name] for name in names)


@contextmanager
def _sessions(spec: CopySpec, source: Endpoint, target: Endpoint, attempt: UUID) -> Iterator[tuple[Session, Session]]:
    """Both control sessions; the source's cannot write."""
    name, timeout = application_name(attempt), spec.timeouts.connect
    try:
        with (
            open_session(source, application_name=name, connect_timeout=timeout, read_only=True) as ours,
            open_session(target, application_name=name, connect_timeout=timeout) as theirs,
        ):
            yield ours, theirs
    except psycopg.Error as error:
        # Every stage translates what it asks; what is left is a control session lost between two of them.
        message = f"a control session failed: {str(error).strip()}; nothing was changed"
        raise StageError(message, stage="connect", sqlstate=error.sqlstate) from error


@contextmanager
def _answering(spec: CopySpec, source: Session, target: Session) -> Iterator[None]:
    """Questions about what is there may take as long as verifying may, and no longer."""
    with source.within(spec.timeouts.verify), target.within(spec.timeouts.verify):
        yield


@contextmanager
def _snapshot(source: Session) -> Iterator[str]:
    """A transaction on the source, and the name under which psql sees just what it sees."""
    connection = source.connection
    try:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        name: str = source.value(sql.load("catalog")["export_snapshot"])
    except psycopg.Error as error:
        raise StageError(f"export: {source.endpoint}: {error}", stage="export", sqlstate=error.sqlstate) from error
    try:
        yield name
    finally:
        source.end_transaction()


def _spool(decided: CopyPlan) -> Spool:
    chunked = decided.transfer == "chunked"
    return Spool(
        directory_of(decided.spec.spool_dir),
        limit=decided.spec.spool_limit or (CHUNKED_SPOOL_BYTES if chunked else _UNBOUNDED),
        memory=WINDOW_BYTES if chunked else 0,
    )


def _receipt(lease: Lease) -> Receipt:
    return Receipt(lease.name, lease.token, lease.lease_id, lease.attempt, lease.owner, application_name(lease.attempt))


def _peak_rss() -> int:
    """The most memory this process has had since it was started, in bytes (Linux).

    Not getrusage: its figure survives exec, so that a small process shows what its big parent had.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024
