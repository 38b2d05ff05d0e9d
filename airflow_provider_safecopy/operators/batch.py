"""Many tables in one task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, Context

from airflow_provider_safecopy.operators.contender import contender_of, make_judge
from airflow_provider_safecopy.operators.journal import Journal
from airflow_provider_safecopy.operators.living_lock import lock_of
from airflow_provider_safecopy.operators.outcome import push_result, tell_assets_of_all
from airflow_provider_safecopy.operators.told import told

if TYPE_CHECKING:
    from airflow_provider_safecopy.abort import AbortSwitch
    from airflow_provider_safecopy.errors import LockBusyError
    from airflow_provider_safecopy.hooks.safecopy import SafeCopyHook
    from airflow_provider_safecopy.operators.safecopy import SafeCopyOperator
    from airflow_provider_safecopy.pipeline.outcome import BatchReport
    from airflow_provider_safecopy.transfer.report import CopyReport
    from airflow_provider_safecopy.transfer.spec import CopySpec

_NAMED = 50


def run(
    task: SafeCopyOperator, hook: SafeCopyHook, context: Context, abort: AbortSwitch, event: dict[str, Any] | None
) -> BatchReport:
    """Copy the task's tables, or plan them. Raises Airflow's exceptions where any was not copied."""
    from airflow_provider_safecopy.pipeline.outcome import BatchReport

    journal, specs = Journal(task.log), task.specs(context)
    journal.asked_of_all(specs)
    if task.plan_only:
        return _planned(hook, journal, specs)
    deadline, contender = task.on_busy.deadline(event), contender_of(context)
    lock = lock_of(task, hook, context, contender)
    specs = tuple(replace(spec, lock=lock) for spec in specs)

    def skipped(error: LockBusyError) -> None:
        task.log.warning("skipped: %s", told(error))
        if task.do_xcom_push:
            push_result(context, BatchReport(tuple(_skip(spec, hook, error) for spec in specs)))

    with task.on_busy.answering(task, task.target_conn_id, deadline, skipped):
        done = hook.copy_tables(
            specs,
            contender=contender,
            judge=make_judge(context, contender),
            abort=abort,
            progress=journal.count,
            keep_going=task.keep_going,
            on_busy=task.on_busy.mode,
        )
    journal.report_of_all(done)
    if done.failed:
        if task.do_xcom_push:
            push_result(context, done)
        raise failure_of(done)
    tell_assets_of_all(context, task.outlets, done)
    return done


def failure_of(done: BatchReport) -> AirflowException:
    """What fails the task: which tables were not copied and why, and how many were. Worth a retry if any of them is."""
    named = [f"{failed.target}: {told(failed.error)}" for failed in done.failed[:_NAMED]]
    more = f"; and {len(done.failed) - _NAMED} more" if len(done.failed) > _NAMED else ""
    published = ", ".join(report.target.partition(" ")[2] for report in done.tables if report.status == "published")
    message = (
        f"{len(done.failed)} of {len(done.outcomes)} tables were not copied: {'; '.join(named)}{more}. "
        f"Published: {published or 'none'}"
    )
    retryable = any(failed.error.retryable for failed in done.failed)
    return AirflowException(message) if retryable else AirflowFailException(message)


def _planned(hook: SafeCopyHook, journal: Journal, specs: Sequence[CopySpec]) -> BatchReport:
    from airflow_provider_safecopy.pipeline.outcome import BatchReport

    plans = hook.plan_tables(specs)
    for plan in plans:
        journal.plan(plan)
    for plan in plans:
        plan.require()
    return BatchReport(tuple(plan.as_report() for plan in plans))


def _skip(spec: CopySpec, hook: SafeCopyHook, error: LockBusyError) -> CopyReport:
    from airflow_provider_safecopy.transfer.report import CopyReport

    return CopyReport.skipped(spec, hook.source, hook.target, error)
