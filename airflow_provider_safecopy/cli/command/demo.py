"""`safecopy demo`."""

from __future__ import annotations

import click

from airflow_provider_safecopy.cli import guide, option, parameter
from airflow_provider_safecopy.cli.output import Output
from airflow_provider_safecopy.cli.speaking import speaking


@click.command(help=guide.DEMO, short_help="See it work: two servers, one Airflow run.")
@click.option("--run", "line", metavar="COMMAND", callback=parameter.text, help="Run this instead of the example DAG.")
@click.option("--keep", is_flag=True, help="Keep the servers afterwards, until Ctrl-C, and say how to reach them.")
@option.verbose
@speaking
def demo(output: Output, *, line: str | None, keep: bool) -> int:
    """Run the demo."""
    from airflow_provider_safecopy.demo import show

    return show.run(line=line, keep=keep, verbose=output.verbose > 0)
