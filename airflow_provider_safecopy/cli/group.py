"""The command `safecopy` itself: what it is called with when no command of it is named."""

from __future__ import annotations

import click

from airflow_provider_safecopy import __version__
from airflow_provider_safecopy.cli import exitcode, guide
from airflow_provider_safecopy.cli.command.copy import copy
from airflow_provider_safecopy.cli.command.demo import demo
from airflow_provider_safecopy.cli.command.doctor import doctor
from airflow_provider_safecopy.cli.command.init import init
from airflow_provider_safecopy.cli.command.locks import locks
from airflow_provider_safecopy.cli.command.plan import plan
from airflow_provider_safecopy.cli.command.reap import reap
from airflow_provider_safecopy.cli.command.run import run


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    commands=[copy, plan, init, doctor, locks, reap, run, demo],
    epilog=guide.EXIT_CODES,
)
@click.version_option(__version__, "--version", message="safecopy %(version)s")
@click.pass_context
def safecopy(context: click.Context) -> int:
    """Copy PostgreSQL tables between databases: the target holds the old rows or the new ones, never a part."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        return exitcode.REFUSED
    return exitcode.DONE
