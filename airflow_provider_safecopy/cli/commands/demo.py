"""`safecopy demo`."""

from __future__ import annotations

import shlex
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from airflow_provider_safecopy.cli import exitcode, help_text, option, param_types
from airflow_provider_safecopy.cli.option import with_output
from airflow_provider_safecopy.cli.output import Output

if TYPE_CHECKING:
    from airflow_provider_safecopy.demo.tour import Setting

_TASK = "airflow tasks test 영업_복사 고객_복사"


@click.command(help=help_text.DEMO, short_help="See it work: two servers, one Airflow run.")
@click.option(
    "--run", "line", metavar="COMMAND", callback=param_types.text, help="Run this instead of the example DAG."
)
@click.option("--keep", is_flag=True, help="Keep the servers afterwards, until Ctrl-C, and say how to reach them.")
@option.verbose
@with_output
def demo(output: Output, *, line: str | None, keep: bool) -> int:
    """Run the demo."""
    if line is not None and keep:
        raise click.UsageError("Give either --run or --keep.")
    return _tour(output, keep=keep) if line is None else _run(output, line)


def _tour(output: Output, *, keep: bool) -> int:
    from airflow_provider_safecopy.cli.demo_screen import comparison, open_screen, sights
    from airflow_provider_safecopy.demo import tour

    with open_screen(verbose=output.verbose > 0) as screen, tour.setting(screen) as stage:
        compared = tour.copy(stage, screen)
        scenes = tour.overlap(stage, screen)
        screen.close()
        rows = sum(each.target.rows for each in compared)
        click.echo(
            f"\n{comparison(compared)}\n\nThe target equals the source: {rows:,} rows in {len(compared)} tables."
        )
        click.echo(f"\n{sights(scenes)}\n\nNo run published beside another, and none that had lost its lock.")
        if keep:
            _keep(stage)
    click.echo("Servers, Airflow and files are gone again. To look further, paste one of these:")
    click.echo(f"  {_command()} demo --run '{_TASK}'")
    click.echo(f"  {_command()} demo --keep")
    return exitcode.DONE


def _run(output: Output, line: str) -> int:
    from airflow_provider_safecopy.cli.demo_screen import open_screen
    from airflow_provider_safecopy.demo import tour

    with open_screen(verbose=output.verbose > 0) as screen, tour.setting(screen) as stage:
        screen.close()
        click.echo(f"$ {line}")
        return stage.home.run(line)


def _keep(stage: Setting) -> None:
    """Say how to reach everything, and wait for a signal."""
    click.echo("Both servers and this Airflow stay until Ctrl-C. In another terminal, paste:")
    click.echo(f"  . {shlex.quote(str(stage.home.write_environment()))}")
    click.echo(f"  {_TASK}")
    with suppress(KeyboardInterrupt):
        signal.pause()


def _command() -> str:
    """Return how this command is called, from any directory."""
    called = Path(sys.argv[0])
    if called.name != "safecopy":
        return f"{shlex.quote(sys.executable)} -m airflow_provider_safecopy.cli"
    found = shutil.which("safecopy")
    return "safecopy" if found and Path(found).samefile(called) else shlex.quote(str(called.absolute()))
