"""`safecopy copy`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from airflow_provider_safecopy.cli import exitcode, guide, option
from airflow_provider_safecopy.cli.output import Output
from airflow_provider_safecopy.cli.speaking import endpoints, speaking

if TYPE_CHECKING:
    from airflow_provider_safecopy.endpoint import Endpoint
    from airflow_provider_safecopy.transfer.model import CopySpec


@click.command(
    help=guide.COPY,
    short_help="Copy one table, view or query into a table.",
    epilog=guide.NAMES + guide.PASSWORDS + guide.EXIT_CODES,
)
@option.endpoint("source")
@option.endpoint("target")
@option.table(required=True)
@option.manner
@option.owner
@click.option("--dry-run", is_flag=True, help="Only plan, as safecopy plan does; touch nothing.")
@option.output
@speaking
def copy(output: Output, *, source: str | None, target: str | None, owner: str, dry_run: bool, **options: Any) -> int:
    """Copy, or only plan."""
    both, spec = endpoints(output, source=source, target=target), option.spec_of(options)
    return _plan(output, spec, *both) if dry_run else _copy(output, spec, *both, owner=owner)


def _copy(output: Output, spec: CopySpec, source: Endpoint, target: Endpoint, *, owner: str) -> int:
    from airflow_provider_safecopy import pipeline
    from airflow_provider_safecopy.abort import AbortSwitch
    from airflow_provider_safecopy.cli import report
    from airflow_provider_safecopy.cli.progress import open_progress
    from airflow_provider_safecopy.cli.signals import throwing

    switch = AbortSwitch()
    with throwing(switch):
        with open_progress(sys.stderr, quiet=output.quiet) as progress:
            done = pipeline.copy(spec, source, target, owner=owner, abort=switch, progress=progress)
        output.result(done.as_dict(), report.of_copy(done))
    return exitcode.DONE


def _plan(output: Output, spec: CopySpec, source: Endpoint, target: Endpoint) -> int:
    from airflow_provider_safecopy import pipeline
    from airflow_provider_safecopy.cli import report

    plan = pipeline.plan(spec, source, target)
    plan.require()
    output.result(plan.as_report().as_dict(), report.of_plan(plan))
    return exitcode.DONE
