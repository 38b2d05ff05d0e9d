"""`safecopy copy`."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from airflow_provider_safecopy.cli import exitcode, help_text, option
from airflow_provider_safecopy.cli.option import endpoints, with_output
from airflow_provider_safecopy.cli.output import Output
from airflow_provider_safecopy.errors import ConfigError, LockBusyError

if TYPE_CHECKING:
    from airflow_provider_safecopy.pipeline.batch import OnBusy
    from airflow_provider_safecopy.postgres.endpoint import Endpoint
    from airflow_provider_safecopy.report import CopyReport
    from airflow_provider_safecopy.spec import CopySpec


@click.command(
    help=help_text.COPY,
    short_help="Copy one table, view or query into a table.",
    epilog=help_text.NAMES + help_text.PASSWORDS + help_text.EXIT_CODES,
)
@option.endpoint("source")
@option.endpoint("target")
@option.table
@option.tables
@option.keep_going
@option.manner
@option.overlap
@click.option("--dry-run", is_flag=True, help="Only plan, as safecopy plan does; touch nothing.")
@option.output
@with_output
def copy(
    output: Output,
    *,
    source: str | None,
    target: str | None,
    owner: str,
    on_busy: OnBusy,
    wait_timeout: float,
    dry_run: bool,
    tables_from: str | None,
    keep_going: bool,
    **options: Any,
) -> int:
    """Copy, or only plan."""
    if tables_from is not None:
        from airflow_provider_safecopy.cli import batch

        specs, both = option.specs_of(output, options, tables_from), endpoints(output, source=source, target=target)
        if dry_run:
            return batch.rehearse(output, specs, *both)
        manner = batch.BatchMode(owner, on_busy, wait_timeout, keep_going)
        return batch.copy(output, specs, *both, manner=manner)
    if keep_going:
        raise ConfigError("--keep-going means nothing without --tables-from")
    both, spec = endpoints(output, source=source, target=target), option.spec_of(output, options)
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
    from airflow_provider_safecopy.cli.progress import open_progress
    from airflow_provider_safecopy.cli.signals import throw_on_signals
    from airflow_provider_safecopy.cli.waiting import wait_for_lock
    from airflow_provider_safecopy.lock.model import Contender
    from airflow_provider_safecopy.lock.process import ProcessIdentity

    # This process does nothing else: a run that takes its lock over may end it.
    contender = replace(Contender.alone(owner), process=ProcessIdentity.read_current(may_end=True))
    switch = AbortSwitch()

    def attempt() -> CopyReport:
        with open_progress(sys.stderr, quiet=output.quiet) as progress:
            return pipeline.copy(spec, source, target, contender=contender, abort=switch, progress=progress)

    with throw_on_signals(switch):
        done = attempt() if patience is None else wait_for_lock(attempt, target, switch, patience, quiet=output.quiet)
        output.result(done.as_dict(), str(done))
    return exitcode.DONE


def _skip(output: Output, spec: CopySpec, source: Endpoint, target: Endpoint, *, error: LockBusyError) -> int:
    from airflow_provider_safecopy.cli import layout
    from airflow_provider_safecopy.report import CopyReport

    skipped = CopyReport.from_busy_error(spec, source, target, error)
    output.result(skipped.as_dict(), layout.format_skip(skipped, error.holder))
    return exitcode.DONE


def _plan(output: Output, spec: CopySpec, source: Endpoint, target: Endpoint) -> int:
    from airflow_provider_safecopy import pipeline

    plan = pipeline.plan(spec, source, target)
    plan.require_accepted()
    output.result(plan.as_report().as_dict(), str(plan))
    return exitcode.DONE
