"""`safecopy copy`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from airflow_provider_safecopy.cli import exitcode, guide, option
from airflow_provider_safecopy.cli.output import Output
from airflow_provider_safecopy.cli.speaking import endpoints, speaking
from airflow_provider_safecopy.cli.writing import writing
from airflow_provider_safecopy.errors import LockBusyError

if TYPE_CHECKING:
    from airflow_provider_safecopy.abort import AbortSwitch
    from airflow_provider_safecopy.endpoint import Endpoint
    from airflow_provider_safecopy.transfer.report import CopyReport
    from airflow_provider_safecopy.transfer.spec import CopySpec


@click.command(
    help=guide.COPY,
    short_help="Copy one table, view or query into a table.",
    epilog=guide.NAMES + guide.PASSWORDS + guide.EXIT_CODES,
)
@option.endpoint("source")
@option.endpoint("target")
@option.table(required=True)
@writing
@option.manner
@option.overlap
@click.option("--dry-run", is_flag=True, help="Only plan, as safecopy plan does; touch nothing.")
@option.output
@speaking
def copy(
    output: Output,
    *,
    source: str | None,
    target: str | None,
    owner: str,
    on_busy: str,
    wait_timeout: float,
    dry_run: bool,
    **options: Any,
) -> int:
    """Copy, or only plan."""
    both, spec = endpoints(output, source=source, target=target), option.spec_of(options)
    if dry_run:
        return _plan(output, spec, *both)
    try:
        return _copy(output, spec, *both, owner=owner, patience=wait_timeout if on_busy == "wait" else None)
    except LockBusyError as error:
        if on_busy != "skip":
            raise
        return _skip(output, spec, *both, error=error)


def _copy(
    output: Output, spec: CopySpec, source: Endpoint, target: Endpoint, *, owner: str, patience: float | None
) -> int:
    from airflow_provider_safecopy import pipeline
    from airflow_provider_safecopy.abort import AbortSwitch
    from airflow_provider_safecopy.cli import report
    from airflow_provider_safecopy.cli.progress import open_progress
    from airflow_provider_safecopy.cli.signals import throwing
    from airflow_provider_safecopy.lock.model import Contender
    from airflow_provider_safecopy.lock.process import Place

    # This process does nothing else: whoever takes its lock over may end it.
    contender = replace(Contender.alone(owner), place=Place.here(may_end=True))
    switch = AbortSwitch()

    def attempt() -> CopyReport:
        with open_progress(sys.stderr, quiet=output.quiet) as progress:
            return pipeline.copy(spec, source, target, contender=contender, abort=switch, progress=progress)

    with throwing(switch):
        done = attempt() if patience is None else _patiently(output, attempt, target, switch, patience)
        output.result(done.as_dict(), report.of_copy(done))
    return exitcode.DONE


def _patiently(
    output: Output, attempt: Callable[[], CopyReport], target: Endpoint, switch: AbortSwitch, patience: float
) -> CopyReport:
    """Copy as soon as the lock is free."""
    from airflow_provider_safecopy.cli.progress import open_line
    from airflow_provider_safecopy.cli.waiting import Patience
    from airflow_provider_safecopy.lock.postgres import PostgresStore

    store = PostgresStore(target)
    telling = partial(open_line, sys.stderr, quiet=output.quiet)
    try:
        return Patience(store, seconds=patience, abort=switch, telling=telling).until_free(attempt)
    finally:
        store.close()


def _skip(output: Output, spec: CopySpec, source: Endpoint, target: Endpoint, *, error: LockBusyError) -> int:
    from airflow_provider_safecopy.cli import report
    from airflow_provider_safecopy.transfer.report import CopyReport

    skipped = CopyReport.skipped(spec, source, target, error)
    output.result(skipped.as_dict(), report.of_skip(skipped, error.holder))
    return exitcode.DONE


def _plan(output: Output, spec: CopySpec, source: Endpoint, target: Endpoint) -> int:
    from airflow_provider_safecopy import pipeline
    from airflow_provider_safecopy.cli import report

    plan = pipeline.plan(spec, source, target)
    plan.require()
    output.result(plan.as_report().as_dict(), report.of_plan(plan))
    return exitcode.DONE
