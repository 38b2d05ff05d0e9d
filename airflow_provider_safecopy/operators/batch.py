"""Many tables in one task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, Context

from airflow_provider_safecopy.operators.contender import build_contender, make_liveness_check
from airflow_provider_safecopy.operators.journal import TaskLog
from airflow_provider_safecopy.operators.living_lock import find_lock
from airflow_provider_safecopy.operators.outcome import push_result, update_assets_of_all
from airflow_provider_safecopy.operators.told import format_error

if TYPE_CHECKING:
    from airflow_provider_safecopy.abort import AbortSwitch
    from airflow_provider_safecopy.errors import LockBusyError
    from airflow_provider_safecopy.hooks.safecopy import SafeCopyHook
    from airflow_provider_safecopy.operators.safecopy import SafeCopyOperator
    from airflow_provider_safecopy.pipeline.outcome import BatchReport
    from airflow_provider_safecopy.transfer.report import CopyReport
    from airflow_provider_safecopy.transfer.spec import CopySpec

_MAX_NAMED = 50


def run_batch(
    task: SafeCopyOperator, hook: SafeCopyHook, context: Context, abort: AbortSwitch, event: dict[str, Any] | None
) -> BatchReport:
    """Copy the task's tables, or plan them. Raises Airflow's exceptions where any was not copied."""
    from airflow_provider_safecopy.pipeline.outcome import BatchReport

    journal, specs = TaskLog(task.log), task.specs(context)
    journal.log_options_of_all(specs)
    if task.plan_only:
        return _plan_batch(hook, journal, specs)
    deadline, contender = task.on_busy.find_deadline(event), build_contender(context)
    lock = find_lock(task, hook, context, contender)
    specs = tuple(replace(spec, lock=lock) for spec in specs)

    def report_skip(error: LockBusyError) -> None:
        task.log.warning("skipped: %s", format_error(error))
        if task.do_xcom_push:
            push_result(context, BatchReport(tuple(_skip_table(spec, hook, error) for spec in specs)))

    with task.on_busy.handle_busy(task, task.target_conn_id, deadline, report_skip):
        done = hook.copy_tables(
            specs,
            contender=contender,
            judge=make_liveness_check(context, contender),
            abort=abort,
            progress=journal.log_count,
            keep_going=task.keep_going,
            on_busy=task.on_busy.mode,
        )
    journal.log_report_of_all(done)
    if done.failed:
        if task.do_xcom_push:
            push_result(context, done)
        raise build_failure(done)
    update_assets_of_all(context, task.outlets, done)
    return done


def build_failure(done: BatchReport) -> AirflowException:
    """What fails the task: which tables were not copied and why, and how many were. Worth a retry if any of them is."""
    named = [f"{failed.target}: {format_error(failed.error)}" for failed in done.failed[:_MAX_NAMED]]
    more = f"; and {len(done.failed) - _MAX_NAMED} more" if len(done.failed) > _MAX_NAMED else ""
    published = ", ".join(report.target.partition(" ")[2] for report in done.tables if report.status == "published")
    message = (
        f"{len(done.failed)} of {len(done.outcomes)} tables were not copied: {'; '.join(named)}{more}. "
        f"Published: {published or 'none'}"
    )
    retryable = any(failed.error.retryable for failed in done.failed)
    return AirflowException(message) if retryable else AirflowFailException(message)


def _plan_batch(hook: SafeCopyHook, journal: TaskLog, specs: Sequence[CopySpec]) -> BatchReport:
    from airflow_provider_safecopy.pipeline.outcome import BatchReport

    plans = hook.plan_tables(specs)
    for plan in plans:
        journal.log_plan(plan)
    for plan in plans:
        plan.require_accepted()
    return BatchReport(tuple(plan.as_report() for plan in plans))


def _skip_table(spec: CopySpec, hook: SafeCopyHook, error: LockBusyError) -> CopyReport:
    from airflow_provider_safecopy.transfer.report import CopyReport

    return CopyReport.from_busy_error(spec, hook.source, hook.target, error)
