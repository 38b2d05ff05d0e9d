"""The straight line.

Plan, token, snapshot, export and import into staging, verify, publish, report. Each step takes what the
one before it made; no step can be left out, because nobody else makes what the next one wants.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.endpoint import Endpoint
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.lock.living import Judge, LivingLock
from airflow_provider_safecopy.lock.model import Contender, Lease, application_name
from airflow_provider_safecopy.lock.pulse import Pulse
from airflow_provider_safecopy.pipeline.attempt import (
    Attempt,
    answering,
    end_displaced,
    see_them_gone,
    telling_aborts,
    telling_losses,
    telling_the_lost_lock,
)
from airflow_provider_safecopy.transfer import export, load, staging
from airflow_provider_safecopy.transfer.draft import draft
from airflow_provider_safecopy.transfer.export import Export, Exported
from airflow_provider_safecopy.transfer.job import Right
from airflow_provider_safecopy.transfer.load import Load, Loaded
from airflow_provider_safecopy.transfer.model import MiB, Progress, Stage
from airflow_provider_safecopy.transfer.name import TableName
from airflow_provider_safecopy.transfer.plan import CopyPlan
from airflow_provider_safecopy.transfer.publish import publish
from airflow_provider_safecopy.transfer.report import CopyReport
from airflow_provider_safecopy.transfer.session import Session, open_session
from airflow_provider_safecopy.transfer.snapshot import snapshot
from airflow_provider_safecopy.transfer.spec import CopySpec
from airflow_provider_safecopy.transfer.spool import Spool, directory_of
from airflow_provider_safecopy.transfer.stream import Stream
from airflow_provider_safecopy.transfer.verify import verify
from airflow_provider_safecopy.transfer.watch import Watch

log = logging.getLogger(__name__)

WINDOW_BYTES = 8 * MiB
"""What is held in memory between export and import before it goes to disk."""

CHUNKED_SPOOL_BYTES = 1024 * MiB
"""`spool_limit` for chunked when none is given: how far the source may be ahead of the target."""

_UNBOUNDED = 1 << 62
# What the lock is told of: bytes move in the first, the others are a server's work.
_PHASES: dict[Stage, int] = {"export": 1, "import": 1, "verify": 2, "publish": 3}


def plan(spec: CopySpec, source: Endpoint, target: Endpoint) -> CopyPlan:
    """What `copy` would do, decided and not done. Refusals are in the plan; raises `StageError` if unreachable."""
    name, timeout = application_name(uuid4()), spec.timeouts.connect
    with (
        telling_losses(),
        open_session(source, application_name=name, connect_timeout=timeout, read_only=True) as ours,
        open_session(target, application_name=name, connect_timeout=timeout) as theirs,
        answering(spec, ours, theirs),
    ):
        return _drafted(spec, ours, theirs)


@dataclass(frozen=True)
class _Run:
    """What every step of one copy needs. The token of `lease`, the run's own, names everything."""

    asked: Attempt
    plan: CopyPlan
    lock: LivingLock
    pulse: Pulse
    source: Session
    target: Session
    snapshot: str

    @property
    def abort(self) -> AbortSwitch:
        """What stops the run."""
        return self.asked.abort

    @property
    def lease(self) -> Lease:
        """Of the lock that was asked for; the target table's is held as well."""
        return next(lease for lease in self.lock.leases if lease.name == self.plan.lock)

    def progress(self, at: Progress) -> None:
        """Tell the lock, and whoever asked to be told."""
        self.pulse.advance(_PHASES[at.stage], 0)
        self.asked.progress(at)


def copy(
    spec: CopySpec,
    source: Endpoint,
    target: Endpoint,
    *,
    owner: str = "",
    contender: Contender | None = None,
    judge: Judge | None = None,
    abort: AbortSwitch | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> CopyReport:
    """Copy one table, safely: afterwards the target holds the old rows or the new ones.

    `owner` says who runs this, for people; `contender` says it for the lock as well, so that attempts of one run
    share it; `judge` knows holders that are gone. Throwing `abort` (from a signal handler, another thread) ends
    the copy with `AbortedError` unless its COMMIT has been sent. `progress` is called from this thread, a
    few times a second. Raises the errors of `errors`, `LockBusyError` when another run holds the lock; after any
    of them but `PublishUnknownError` the target is unchanged. Must run in one thread from start to end: psql dies
    with the thread.
    """
    abort, started = abort or AbortSwitch(), time.monotonic()
    contender = contender or Contender.alone(owner)
    with telling_aborts(abort), telling_losses(), ExitStack() as stack:
        asked = Attempt(spec, contender, abort, progress or (lambda _: None))
        theirs = stack.enter_context(asked.session(target))
        lock = asked.lock(theirs, judge)
        stack.callback(lock.release)
        abort.check()
        lock.peek()
        with asked.gate(lock, source).turn(abort):
            ours = stack.enter_context(asked.session(source, read_only=True))
        report = _locked(asked, lock, ours, theirs)
    return replace(report, seconds=time.monotonic() - started, peak_rss_bytes=_peak_rss())


def _locked(asked: Attempt, lock: LivingLock, source: Session, target: Session) -> CopyReport:
    """Plan, hold the lock, and do it."""
    spec, abort = asked.spec, asked.abort
    with source.obeys(abort), target.obeys(abort), answering(spec, source, target):
        _drafted(spec, source, target).require()
        schema.init(target.connection)
        lock.acquire()
        end_displaced(lock, source)
    watches = [
        Watch(source.endpoint, application_name=asked.name, turn=asked.gate(lock, source.endpoint).glance),
        Watch(target.endpoint, application_name=asked.name),
    ]
    with (
        telling_the_lost_lock(lock),
        ExitStack() as stack,
        snapshot(source) as seen,
        Pulse(lock, abort, working=lambda: any(watch.works() for watch in watches)) as pulse,
    ):
        for watch in watches:
            stack.callback(watch.close)
        # Once more, now under the lock and in the very snapshot that is exported.
        with source.obeys(abort), target.obeys(abort), answering(spec, source, target):
            decided = _drafted(spec, source, target)
            staging.sweep(target, gone=lock.displaced)
        decided.require()
        if (first := decided.already_published()) is not None:
            log.info("copy %s into %s: %s", decided.source, decided.target, *first.reasons)
            return first
        return _carried_out(_Run(asked, decided, lock, pulse, source, target, seen))


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
            _right(run.lease),
            target=target,
            fence=run.lock.fence,
            abort=run.abort,
            trying=run.pulse.step,
        )
    return replace(
        plan.as_report(),
        status="published",
        lock=run.lease.name,
        token=token,
        attempt=str(run.lease.attempt),
        rows=published.written.held,
        previous_rows=published.written.previous,
        inserted=published.written.inserted,
        updated=published.written.updated,
        deleted=published.written.deleted,
        unchanged=published.written.unchanged,
        watermark=published.receipt.watermark,
        published_at=published.receipt.published_at,
        bytes=exported.bytes,
        digest=exported.digest,
        content_hash=verification.content_hash,
        warnings=plan.warnings + run.lock.takeovers + published.warnings,
        stages=(exported.report, loaded.report, verification.report, *published.reports),
        spool_bytes=spool.most_on_disk,
    )


def _transferred(run: _Run, table: TableName, spool: Spool) -> tuple[Exported, Loaded]:
    """Export and import. When it fails, the children are ended, and their server sessions seen gone."""
    plan = run.plan
    stream = Stream(
        _exporting(run),
        lambda: _loading(run, table),
        overlapping=plan.transfer == "chunked",
        spool=spool,
        timeouts=plan.spec.timeouts,
        abort=run.abort,
        report=lambda at: run.progress(
            replace(at, expected_rows=plan.expected_rows, expected_bytes=plan.expected_bytes)
        ),
        on_export=lambda: _let_go(run),
        moved=lambda size: run.pulse.advance(_PHASES["export"], size),
    )
    try:
        return stream.run()
    except BaseException as error:
        stream.close()
        see_them_gone(error, run.asked, run.lock, run.source, run.target)
        raise
    finally:
        stream.close()


def _exporting(run: _Run) -> Export:
    """Start the export, when it is its turn to connect. No thread of ours may live while psql is forked."""
    asked, source = run.asked, run.source.endpoint
    with asked.gate(run.lock, source).turn(run.abort, waiting=run.pulse.step):
        with run.pulse.resting():
            running = export.start(run.plan, source, snapshot=run.snapshot, application_name=asked.name)
        if asked.spec.launch_interval is not None:
            export.opened(running, seconds=asked.spec.timeouts.connect, abort=asked.abort)
    return running


def _loading(run: _Run, table: TableName) -> Load:
    with run.pulse.resting():
        return load.start(run.plan, run.target.endpoint, table, application_name=run.asked.name)


def _let_go(run: _Run) -> None:
    """End the source's transaction as soon as nothing needs its snapshot."""
    if run.plan.spec.verify != "full":
        run.source.end_transaction()


def _drafted(spec: CopySpec, source: Session, target: Session) -> CopyPlan:
    drafted = draft(spec, source, target)
    found = schema.refusals(target.connection, role=target.server.role, may_create=target.server.may_create)
    return replace(drafted, refusals=drafted.refusals + found)


def _spool(decided: CopyPlan) -> Spool:
    chunked = decided.transfer == "chunked"
    return Spool(
        directory_of(decided.spec.spool_dir),
        limit=decided.spec.spool_limit or (CHUNKED_SPOOL_BYTES if chunked else _UNBOUNDED),
        memory=WINDOW_BYTES if chunked else 0,
    )


def _right(lease: Lease) -> Right:
    return Right(
        lease.name,
        lease.token,
        lease.lease_id,
        lease.attempt,
        lease.contender.label,
        application_name(lease.attempt),
    )


def _peak_rss() -> int:
    """The most memory this process has had since it was started, in bytes (Linux).

    Not getrusage: its figure survives exec, so that a small process shows what its big parent had.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024
