"""The straight line.

Plan, token, snapshot, export and import into staging, verify, publish, report. Each step takes what the
one before it made; no step can be left out, because nothing else makes what the next one wants.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.errors import PlanError
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.lock.connection_gate import Opening
from airflow_provider_safecopy.lock.heartbeat import Heartbeat
from airflow_provider_safecopy.lock.living_lock import LivenessCheck, LivingLock
from airflow_provider_safecopy.lock.model import Contender, format_application_name
from airflow_provider_safecopy.pipeline.outcome import build_report
from airflow_provider_safecopy.pipeline.planner import draft
from airflow_provider_safecopy.pipeline.run import (
    PHASES,
    Attempt,
    Run,
    answering,
    end_displaced,
    ending_the_lost,
    guard_fork,
    name_blockers,
    name_holders,
    require_excluded,
    require_room,
    see_them_gone,
    translate_aborts,
    translate_losses,
    translate_lost_lock,
)
from airflow_provider_safecopy.planning.exchange import name_exchanges
from airflow_provider_safecopy.planning.page_ranges import PageRange
from airflow_provider_safecopy.planning.plan import CopyPlan
from airflow_provider_safecopy.postgres.activity import ActivityWatch
from airflow_provider_safecopy.postgres.diagnosis import set_rows_shown
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.postgres.session import Session, open_session
from airflow_provider_safecopy.publish import receipt, staging
from airflow_provider_safecopy.publish.transaction import publish
from airflow_provider_safecopy.report import CopyReport
from airflow_provider_safecopy.spec import CopySpec, MiB, Progress
from airflow_provider_safecopy.transfer import export, load
from airflow_provider_safecopy.transfer.export import Export, Exported
from airflow_provider_safecopy.transfer.flow_control import RateLimit
from airflow_provider_safecopy.transfer.load import Load, Loaded
from airflow_provider_safecopy.transfer.relay import Pipe, Relay
from airflow_provider_safecopy.transfer.snapshot import hold_snapshot, require_no_deadlock, require_unreplaced
from airflow_provider_safecopy.transfer.spool import Spool, choose_directory
from airflow_provider_safecopy.transfer.verify import verify
from airflow_provider_safecopy.transfer.wal_flush import WalFlush

WINDOW_BYTES = 8 * MiB
"""What is held in memory between export and import before it goes to disk."""

CHUNKED_SPOOL_BYTES = 1024 * MiB
"""`spool_limit` for chunked when none is given: how far the source may be ahead of the target."""

_UNBOUNDED = 1 << 62


def transfer_table(run: Run, table: TableName, spools: Sequence[Spool]) -> tuple[Exported, Loaded]:
    """Export and import. When it fails, the children are ended, and their server sessions seen gone."""
    plan, throttle = run.plan, RateLimit(run.plan.spec.rate_limit)
    lanes: list[Pipe] = []
    stream = Relay(
        lanes,
        overlaps=plan.transfer == "chunked",
        abort=run.abort,
        wal=WalFlush(run.target),
        on_progress=lambda at: run.progress(
            replace(at, expected_rows=plan.expected_rows, expected_bytes=plan.expected_bytes)
        ),
        on_export=lambda: _let_go(run),
        on_move=lambda size: run.pulse.advance(PHASES["export"], size),
        on_silence=lambda readers: require_no_deadlock(run.source, readers=readers),
        on_idle=(run.source.lookout.look, run.target.lookout.look),
    )
    try:
        for pages, spool in zip(plan.page_ranges, spools, strict=True):
            lanes.append(
                Pipe(
                    _exporting(run, pages),
                    lambda: _loading(run, table),
                    spool=spool,
                    rate_limit=throttle,
                    timeouts=plan.spec.timeouts,
                )
            )
        run.opening.close()
        with name_blockers(run.source, run.target):
            return stream.run()
    except BaseException as error:
        stream.close()
        see_them_gone(error, run.asked, run.lock, run.source, run.target)
        raise
    finally:
        stream.close()


def _exporting(run: Run, pages: PageRange | None) -> Export:
    """Start the export, when it is its turn to connect. No thread of ours may live while psql is forked."""
    asked, source = run.asked, run.source.endpoint
    with run.opening.turn(waiting=run.pulse.count_step):
        with run.pulse.pause():
            running = export.start(run.plan, source, pages=pages, snapshot=run.snapshot, application_name=asked.name)
        if asked.spec.connect_interval is not None:
            export.wait_for_session(running, seconds=asked.spec.timeouts.connect, abort=asked.abort)
    return running


def _loading(run: Run, table: TableName) -> Load:
    with run.pulse.pause():
        return load.start(run.plan, run.target.endpoint, table, application_name=run.asked.name)


def _let_go(run: Run) -> None:
    """End the source's transaction as soon as nothing needs its snapshot."""
    if run.plan.spec.verify != "full":
        run.source.end_transaction()


def spools_of(decided: CopyPlan) -> list[Spool]:
    """One for each lane; they share what disk there may be."""
    chunked = decided.transfer == "chunked"
    limit = decided.spec.spool_limit or (CHUNKED_SPOOL_BYTES if chunked else _UNBOUNDED)
    return [
        Spool(
            choose_directory(decided.spec.spool_dir),
            limit=limit // len(decided.page_ranges),
            memory=WINDOW_BYTES if chunked else 0,
        )
        for _ in decided.page_ranges
    ]


log = logging.getLogger(__name__)


def plan(spec: CopySpec, source: Endpoint, target: Endpoint) -> CopyPlan:
    """Return what `copy` would do, decided and not done. Refusals are in the plan; raises `StageError` if unreachable."""
    name, timeout = format_application_name(uuid4()), spec.timeouts.connect
    require_room(spec)
    with (
        set_rows_shown(show=spec.show_rows),
        translate_losses(),
        open_session(
            source, application_name=name, connect_timeout=timeout, lock_wait=spec.timeouts.lock_wait, read_only=True
        ) as ours,
        open_session(
            target, application_name=name, connect_timeout=timeout, lock_wait=spec.timeouts.lock_wait
        ) as theirs,
        answering(spec, ours, theirs),
    ):
        return _drafted_twice(spec, ours, theirs)[-1]


def copy(
    spec: CopySpec,
    source: Endpoint,
    target: Endpoint,
    *,
    owner: str = "",
    contender: Contender | None = None,
    judge: LivenessCheck | None = None,
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
    require_room(spec, abort)
    abort, started = abort or AbortSwitch(), time.monotonic()
    contender = contender or Contender.alone(owner)
    with set_rows_shown(show=spec.show_rows), translate_aborts(abort), translate_losses(), ExitStack() as stack:
        asked = Attempt(spec, contender, abort, guard_fork(progress or (lambda _: None)))
        theirs = stack.enter_context(asked.session(target))
        lock = asked.lock(theirs, judge)
        stack.callback(lock.release)
        abort.check()
        displacing = lock.peek()
        opening = asked.opening(lock, source)
        stack.callback(opening.close)
        with opening.turn():
            ours = stack.enter_context(asked.session(source, read_only=True))
        ours.lookout.enter_gate = opening.glance
        report = _copy_under_lock(asked, lock, opening, ours, theirs, displacing=displacing)
    return replace(report, seconds=time.monotonic() - started, peak_rss_bytes=peak_rss())


def _copy_under_lock(
    asked: Attempt, lock: LivingLock, opening: Opening, source: Session, target: Session, *, displacing: bool = False
) -> CopyReport:
    """Plan, hold the lock, and do it.

    `displacing`: the lock comes first. A run that has it, stopped in the midst of its publish, may keep the target locked;
    to describe it would wait for one whom only the lock's next holder ends.
    """
    spec, abort = asked.spec, asked.abort
    with (
        ending_the_lost(asked, lock, source, target),
        source.cancel_on_abort(abort),
        target.cancel_on_abort(abort),
        answering(spec, source, target),
        name_holders(target),
    ):
        if not displacing:
            _require_copyable(spec, source, target)
        schema.init(target.connection)
        lock.acquire()
        end_displaced(lock, source)
    watches = [
        ActivityWatch(source.endpoint, application_name=asked.name, enter_gate=opening.glance),
        ActivityWatch(target.endpoint, application_name=asked.name),
    ]
    with (
        translate_lost_lock(lock),
        ending_the_lost(asked, lock, source, target),
        ExitStack() as stack,
        hold_snapshot(source) as seen,
        Heartbeat(lock, abort, is_working=lambda: any(watch.is_working() for watch in watches)) as pulse,
    ):
        for watch in watches:
            stack.callback(watch.close)
        # Once more, now under the lock and in the very snapshot that is exported.
        with source.cancel_on_abort(abort), target.cancel_on_abort(abort), answering(spec, source, target):
            decided = _plan_copy(spec, source, target, telling=False)
            staging.drop_leftovers(target, gone_attempts=lock.displaced_attempts)
            require_unreplaced(source, refused_oid=decided.source_oid if decided.refusals else 0)
            require_excluded(decided, lock.relatives)
        # What spoke against it only now came a moment ago, and may be gone in another.
        decided.require_accepted(retryable=None if displacing else True)
        if (first := decided.find_earlier_report()) is not None:
            log.info("copy %s into %s: %s", decided.source, decided.target, *first.reasons)
            return first
        receipt.require_no_sibling(target, decided, lock.leases[0].contender)
        return _carry_out(Run(asked, decided, lock, pulse, source, target, seen, opening))


def _carry_out(run: Run) -> CopyReport:
    plan, token, target = run.plan, run.lease.token, run.target
    log.info("copy %s into %s: token %d, %s, %s", plan.source, plan.target, token, plan.transfer, plan.format)
    for reason in plan.reasons:
        log.info("because %s", reason)
    for warning in plan.warnings:
        log.warning("%s", warning)
    spools = spools_of(plan)
    with staging.hold_staging(plan, target, token=token, attempt=run.lease.attempt) as table:
        exported, loaded = transfer_table(run, table, spools)
        run.progress(Progress("verify", loaded.bytes, loaded.rows, loaded.rows, loaded.bytes))
        with run.source.cancel_on_abort(run.abort), target.cancel_on_abort(run.abort):
            verification = verify(plan, exported, loaded, source=run.source, target=target)
        # What it has locked in its snapshot may be the target, where both are one database.
        run.source.end_transaction()
        run.progress(Progress("publish", loaded.bytes, loaded.rows, loaded.rows, loaded.bytes))
        published = publish(
            plan,
            verification,
            run.lease,
            target=target,
            fence=run.lock.fence,
            abort=run.abort,
            on_try=run.pulse.count_step,
        )
    report = build_report(run.lease, (exported, loaded, verification), published, run.lock.takeovers)
    return replace(report, spool_bytes=sum(spool.peak_disk_bytes for spool in spools))


def _require_copyable(spec: CopySpec, source: Session, target: Session) -> None:
    """Raise `PlanError` if something speaks against the copy at both looks."""
    first, last = _drafted_twice(spec, source, target, telling=False)
    last.require_accepted(retryable=None if last.refusals == first.refusals else True)


def _drafted_twice(
    spec: CopySpec, source: Session, target: Session, *, telling: bool = True
) -> tuple[CopyPlan, CopyPlan]:
    """Return the plan twice, or if it has refusals, that plan and a new one.

    A table that is exchanged while its catalog is read seems to have no columns or pages: one look may be wrong.
    """
    first = _plan_copy(spec, source, target, telling=telling)
    if not first.refusals:
        return first, first
    second = _plan_copy(spec, source, target, telling=telling)
    return first, name_exchanges(first, second, source, target)


def _plan_copy(spec: CopySpec, source: Session, target: Session, *, telling: bool = True) -> CopyPlan:
    found = schema.find_refusals(target.connection, role=target.server.role, may_create=target.server.may_create)
    if any(refused.code == "untrusted_schema" for refused in found):
        # A plan would read the ledger.
        raise PlanError(found)
    drafted = draft(spec, source, target, telling=telling)
    return replace(drafted, refusals=drafted.refusals + found)


def peak_rss() -> int:
    """The most memory this process has had since it was started, in bytes (Linux).

    Not getrusage: its figure survives exec, so that a small process shows what its big parent had.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024
