"""After the COMMIT: statistics, and materialized views that are made of the table, where that was asked for.

The publish stands whatever happens here: what goes wrong is a warning. It obeys the abort switch and the publish's own
timeout, and waits for locks in short steps, as long as `_PATIENCE_SECONDS`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import psycopg
from psycopg.sql import SQL, Composed

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import AbortedError, StageTimeoutError
from airflow_provider_safecopy.planning.plan import PlannedStep
from airflow_provider_safecopy.postgres import statements
from airflow_provider_safecopy.postgres.diagnosis import describe
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.postgres.session import SILENT_SECONDS, Session
from airflow_provider_safecopy.publish.context import PublishContext
from airflow_provider_safecopy.publish.lock_waits import Blockers
from airflow_provider_safecopy.report import StageReport, WrittenRows
from airflow_provider_safecopy.spec import Stage, Strategy
from airflow_provider_safecopy.transfer import upkeep

log = logging.getLogger(__name__)

_AFTERMATH = sql.load("aftermath")
_CATALOG = sql.load("catalog")
_PATIENCE_SECONDS = 5.0


@dataclass(frozen=True)
class View:
    """A materialized view made of the target. `beside_readers`: they need not wait while it is refreshed."""

    name: TableName
    owner: str
    beside_readers: bool
    populated: bool
    may_refresh: bool

    def refresh(self) -> Composed:
        """The statement."""
        return upkeep.refresh(self.name, concurrently=self.beside_readers)


def views(session: Session, table: TableName) -> tuple[View, ...]:
    """The materialized views made of `table`, directly or through others; in the order to refresh them in.

    Not seen: those that read it inside a function.
    """
    rows = session.fetch_all(_AFTERMATH["views"], {"schema": table.schema, "name": table.name})
    return tuple(View(name=TableName(row.pop("schema"), row.pop("name")), **row) for row in rows)


def steps(way: Strategy, table: TableName, found: Iterable[View]) -> tuple[PlannedStep, ...]:
    """Return what will be done after the publish, for people, with the views to refresh that were `found`."""
    planned = [] if _has_statistics(way) else [("analyze", upkeep.analyze(table), "SHARE UPDATE EXCLUSIVE")]
    planned += [
        ("refresh", view.refresh(), "EXCLUSIVE" if view.beside_readers else "ACCESS EXCLUSIVE")
        for view in found
        if view.may_refresh
    ]
    return tuple(PlannedStep(stage, "target", statement.as_string(None), lock) for stage, statement, lock in planned)


def warnings(role: str, found: Iterable[View]) -> Iterator[str]:
    """Yield warnings known beforehand of refreshing the views that were `found`."""
    for view in found:
        if not view.may_refresh:
            yield f"{view.name} will not be refreshed: role {role} may not, it belongs to {view.owner}"
        elif view.populated and not view.beside_readers:
            yield f"{view.name}: its readers wait while it is refreshed; a plain unique index on it would spare them that"


def settle(job: PublishContext, written: WrittenRows) -> tuple[tuple[str, ...], tuple[StageReport, ...]]:
    """Do it, after the COMMIT. Returns warnings and reports; raises nothing that a copy would be failed by."""
    changed = written.inserted + written.updated + (written.deleted or 0) > 0
    steps: list[tuple[Stage, Callable[[PublishContext], list[str]]]] = []
    if changed and not _has_statistics(job.plan.publish):
        steps.append(("analyze", _analyze))
    if job.plan.spec.refresh_views:
        steps.append(("refresh", _refresh))
    done = [_time_stage(stage, partial(work, job)) for stage, work in steps]
    told = tuple(warning for warnings, _ in done for warning in warnings)
    for warning in told:
        log.warning("%s", warning)
    return told, tuple(report for _, report in done)


def _time_stage(stage: Stage, work: Callable[[], list[str]]) -> tuple[list[str], StageReport]:
    began = time.monotonic()
    warnings = work()
    return warnings, StageReport(stage, time.monotonic() - began)


def _has_statistics(way: Strategy) -> bool:
    return way == "swap"


def _analyze(job: PublishContext) -> list[str]:
    """The server only warns where a right is lacking, of each partition apart."""
    table, heard = job.plan.target_name, list[str]()

    def listen(notice: psycopg.errors.Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            heard.append(f"{table} was not analyzed: {notice.message_primary}")

    job.connection.add_notice_handler(listen)
    try:
        analyze = partial(_run_with_retries, job, upkeep.analyze(table), "analyze", table)
        failed = list(_failing(job, f"{table} was not analyzed", analyze))
    finally:
        job.connection.remove_notice_handler(listen)
    return [*failed, *heard]


def _refresh(job: PublishContext) -> list[str]:
    """Each view by itself: one that fails does not keep the others from it. What may not be is told by the plan."""
    found: list[View] = []
    table = job.plan.target_name
    look = f"materialized views made of {table} were not refreshed"
    told = list(_failing(job, look, lambda: found.extend(views(job.target, table))))
    for view in found:
        if view.may_refresh:
            refresh = view.refresh()
            told += _failing(
                job, f"{view.name} was not refreshed", partial(_run_with_retries, job, refresh, "refresh", view.name)
            )
    return told


def _failing(job: PublishContext, what: str, work: Callable[[], object]) -> Iterator[str]:
    """Do it. What goes wrong is told, and nothing more."""
    try:
        job.abort.check()
        if job.connection.closed:
            yield f"{what}: the session was lost"
        else:
            work()
    except AbortedError as error:
        yield f"{what}: {error.message}"
    except StageTimeoutError as error:
        yield f"{what}: {error.message.partition(': ')[2]}"
    except psycopg.errors.QueryCanceled:
        yield f"{what}: the time of publish_timeout was over"
    except psycopg.Error as error:
        yield f"{what}: {describe(error)}"


def _run_with_retries(job: PublishContext, statement: Composed, stage: Stage, what: TableName) -> None:
    """In a transaction of its own, with the role's own settings. A lock is waited for in short steps, not for long."""
    seconds_left = job.seconds_left
    until = min(job.deadline, time.monotonic() + _PATIENCE_SECONDS)

    def work(trying: PublishContext) -> None:
        with (
            trying.target.limit_answer(seconds_left + SILENT_SECONDS),
            trying.target.cancel_on_abort(trying.abort),
            trying.connection.transaction(),
        ):
            settings = statements.set_timeout("statement_timeout", seconds_left)
            step = statements.set_timeout("lock_timeout", trying.lock_step)
            usual = SQL(_CATALOG["as_the_role"]), SQL(_AFTERMATH["rows_as_usual"])
            trying.connection.execute(SQL("; ").join([settings, step, *usual]))
            trying.connection.execute(statement)

    with Blockers(replace(job, deadline=until), stage=stage, what=str(what), ends=False) as blockers:
        blockers.outlast(work)
