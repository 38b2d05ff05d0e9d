"""`safecopy plan`."""

from __future__ import annotations

from typing import Any

import click

from airflow_provider_safecopy.cli import exitcode, help_text, option
from airflow_provider_safecopy.cli.option import endpoints, with_output
from airflow_provider_safecopy.cli.output import Output


@click.command(
    help=help_text.PLAN,
    short_help="Show what a copy would do, and why.",
    epilog=help_text.NAMES + help_text.PASSWORDS + help_text.EXIT_CODES,
)
@option.endpoint("source")
@option.endpoint("target")
@option.table
@option.tables
@option.manner
@option.output
@with_output
def plan(output: Output, *, source: str | None, target: str | None, tables_from: str | None, **options: Any) -> int:
    """Print the plan, or those of many tables."""
    from airflow_provider_safecopy import pipeline
    from airflow_provider_safecopy.cli import batch

    if tables_from is not None:
        specs = option.specs_of(output, options, tables_from)
        return batch.plan(output, specs, *endpoints(output, source=source, target=target))
    both, spec = endpoints(output, source=source, target=target), option.spec_of(output, options)
    planned = pipeline.plan(spec, *both)
    status = "refused" if planned.refusals else "planned"
    output.result({"status": status, **planned.as_dict()}, str(planned))
    return exitcode.REFUSED if planned.refusals else exitcode.DONE
