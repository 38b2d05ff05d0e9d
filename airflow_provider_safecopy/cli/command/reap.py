"""`safecopy reap`."""

from __future__ import annotations

import click

from airflow_provider_safecopy.cli import exitcode, guide, holder, option, parameter
from airflow_provider_safecopy.cli.output import Output
from airflow_provider_safecopy.cli.speaking import endpoints, with_output


@click.command(help=guide.REAP, short_help="Clear away what dead runs left.", epilog=guide.PASSWORDS)
@option.endpoint("target")
@click.option("--dry-run", is_flag=True, help="Only tell what would be done, and why.")
@click.option(
    "--overdue",
    metavar="TIME",
    callback=parameter.seconds_or_none,
    default="0",
    help="Leave stale holders alone until they are overdue by so much.  [default: 0 s]",
)
@click.option(
    "--keep",
    metavar="TIME",
    callback=parameter.seconds,
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
        holder.format_reaped(report, str(endpoint)),
    )
    return exitcode.DONE
