"""Many tables in one command: copied or planned, and told of together."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from airflow_provider_safecopy.cli import exitcode, failure
from airflow_provider_safecopy.cli.output import Output, write_message
from airflow_provider_safecopy.display import align_columns, escape
from airflow_provider_safecopy.errors import AbortedError, PlanError, Refusal

if TYPE_CHECKING:
    from airflow_provider_safecopy.pipeline.batch import OnBusy
    from airflow_provider_safecopy.pipeline.outcome import BatchReport
    from airflow_provider_safecopy.planning.plan import CopyPlan
    from airflow_provider_safecopy.postgres.endpoint import Endpoint
    from airflow_provider_safecopy.report import CopyReport
    from airflow_provider_safecopy.spec import CopySpec

_ROWS = 2


@dataclass(frozen=True)
class BatchMode:
    """The owner of a batch, and what to do with tables that are busy (`patience`: seconds to wait) or refused."""

    owner: str
    on_busy: OnBusy
    patience: float
    keep_going: bool


def copy(output: Output, specs: Sequence[CopySpec], source: Endpoint, target: Endpoint, *, manner: BatchMode) -> int:
    """Copy the tables; the exit code is that of the first that failed. Raises what no table is to blame for."""
    from airflow_provider_safecopy import pipeline
    from airflow_provider_safecopy.abort import AbortSwitch
    from airflow_provider_safecopy.cli.progress import open_count
    from airflow_provider_safecopy.cli.signals import throw_on_signals
    from airflow_provider_safecopy.cli.waiting import wait_for_lock
    from airflow_provider_safecopy.lock.model import Contender
    from airflow_provider_safecopy.lock.process import ProcessIdentity

    contender = replace(Contender.alone(manner.owner), process=ProcessIdentity.read_current(may_end=True))
    switch = AbortSwitch()

    def attempt() -> BatchReport:
        with open_count(sys.stderr, quiet=output.quiet) as progress:
            return pipeline.copy_tables(
                specs,
                source,
                target,
                contender=contender,
                abort=switch,
                progress=progress,
                keep_going=manner.keep_going,
                on_busy=manner.on_busy,
            )

    with throw_on_signals(switch):
        if manner.on_busy == "wait":
            done = wait_for_lock(attempt, target, switch, manner.patience, quiet=output.quiet)
        else:
            done = attempt()
        for failed in done.failed:
            write_message(failure.format_error(failed.error, subject=f"{failed.source} -> {failed.target}"))
        output.result(done.as_dict(), of_batch(done))
    return code_of(done)


def plan(output: Output, specs: Sequence[CopySpec], source: Endpoint, target: Endpoint) -> int:
    """Print the plans of all tables."""
    from airflow_provider_safecopy import pipeline

    plans = pipeline.plan_tables(specs, source, target)
    refused = any(each.refusals for each in plans)
    told = [{"status": _status(each), **each.as_dict()} for each in plans]
    text = "\n\n".join(map(str, plans))
    output.result({"status": "refused" if refused else "planned", "tables": told}, text)
    return exitcode.REFUSED if refused else exitcode.DONE


def rehearse(output: Output, specs: Sequence[CopySpec], source: Endpoint, target: Endpoint) -> int:
    """Print what copying them would report. Raises `PlanError` where any is refused."""
    from airflow_provider_safecopy import pipeline
    from airflow_provider_safecopy.pipeline.outcome import BatchReport

    plans = pipeline.plan_tables(specs, source, target)
    require_accepted(plans)
    done = BatchReport(tuple(each.as_report() for each in plans))
    output.result(done.as_dict(), "\n\n".join(map(str, plans)))
    return exitcode.DONE


def require_accepted(plans: Iterable[CopyPlan]) -> None:
    """Raise `PlanError` with the refusals of all, each once."""
    refusals: dict[Refusal, None] = {}
    for each in plans:
        refusals |= dict.fromkeys(each.refusals)
    if refusals:
        raise PlanError(tuple(refusals))


def code_of(done: BatchReport) -> int:
    """The exit code: that of the first table that failed; but who was stopped says so."""
    errors = [failed.error for failed in done.failed]
    stopped = [error for error in errors if isinstance(error, AbortedError)]
    return exitcode.find_code((stopped or errors)[0]) if errors else exitcode.DONE


def of_batch(done: BatchReport) -> str:
    """A line for each table that did not fail, and how many there are of each kind."""
    rows = [("table", "status", "rows", "written", "how"), *map(_row, done.tables)]
    published = sum(each.status == "published" for each in done.tables)
    head = f"{done.status}: {published} of {len(done.outcomes)} tables in {done.seconds:.1f} s"
    failed = f", {len(done.failed)} failed" if done.failed else ""
    return "\n".join(
        [head + failed, "", *align_columns(rows, right=frozenset({_ROWS}))] if done.tables else [head + failed]
    )


def _row(each: CopyReport) -> tuple[str, ...]:
    written = ", ".join(f"{count:,} {what}" for what, count in each.row_counts if count)
    rows = "-" if each.rows is None else f"{each.rows:,}"
    return escape(each.target.partition(" ")[2]), each.status, rows, written or "-", each.publish


def _status(each: CopyPlan) -> str:
    return "refused" if each.refusals else "planned"
