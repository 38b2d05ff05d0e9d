"""`safecopy reap`."""

from __future__ import annotations

import click

from airflow_provider_safecopy.cli import exitcode, help_text, layout, option, param_types
from airflow_provider_safecopy.cli.option import endpoints, with_output
from airflow_provider_safecopy.cli.output import Output


@click.command(help=help_text.REAP, short_help="Clear away what dead runs left.", epilog=help_text.PASSWORDS)
@option.endpoint("target")
@click.option("--dry-run", is_flag=True, help="Only tell what would be done, and why.")
@click.option(
    "--overdue",
    metavar="TIME",
    callback=param_types.seconds_or_none,
    default="0",
    help="Leave stale holders alone until they are overdue by so much.  [default: 0 s]",
)
@click.option(
    "--keep",
    metavar="TIME",
    callback=param_types.seconds,
    default="90d",
    help="Forget history older than this.  [default: 90 days]",
)
@option.connect_timeout
@option.output
@with_output
def reap(
    output: Output, *, target: str | None, dry_run: bool, overdue: float, keep: float, connect_timeout: float
) -> int:
    """Reap, or only tell."""
    from airflow_provider_safecopy.pipeline.reap import reap as do

    (endpoint,) = endpoints(output, target=target)
    report = do(endpoint, dry_run=dry_run, overdue=overdue, keep=keep, connect_timeout=connect_timeout)
    output.result(
        {"status": "planned" if dry_run else "reaped", "target": str(endpoint), **report.as_dict()},
        layout.format_reaped(report, str(endpoint)),
    )
    return exitcode.DONE
