"""Where the command begins: streams, signals, the words of the command line, and the exit code."""

from __future__ import annotations

from collections.abc import Sequence

import click

from airflow_provider_safecopy import __version__
from airflow_provider_safecopy.cli import encoding, exitcode, help_text
from airflow_provider_safecopy.cli.commands.copy import copy
from airflow_provider_safecopy.cli.commands.demo import demo
from airflow_provider_safecopy.cli.commands.doctor import doctor
from airflow_provider_safecopy.cli.commands.init import init
from airflow_provider_safecopy.cli.commands.locks import locks
from airflow_provider_safecopy.cli.commands.plan import plan
from airflow_provider_safecopy.cli.commands.reap import reap
from airflow_provider_safecopy.cli.commands.run import run
from airflow_provider_safecopy.cli.output import Output, drop_unwritten
from airflow_provider_safecopy.cli.signals import raise_on_signals, reset_sigchld
from airflow_provider_safecopy.errors import AbortedError, ConfigError, SafeCopyError


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    commands=[copy, plan, init, doctor, locks, reap, run, demo],
    epilog=help_text.EXIT_CODES,
)
@click.version_option(__version__, "--version", message="safecopy %(version)s")
@click.pass_context
def safecopy(context: click.Context) -> int:
    """Copy PostgreSQL tables between databases: the target holds the old rows or the new ones, never a part."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        return exitcode.REFUSED
    return exitcode.DONE


_OPEN_HINT = "give it a file, a pipe or /dev/null, or leave out --json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `safecopy` with `arguments` (default: the command line's); the exit code. Main thread only."""
    closed = encoding.settle_streams()
    reset_sigchld()
    words = encoding.arguments() if arguments is None else list(arguments)
    # For errors met before a command knows its options.
    asked = Output(as_json="--json" in words, verbose=2 * ("-vv" in words) + words.count("-v"))
    try:
        with raise_on_signals(for_good=arguments is None):
            if asked.as_json and "stdout" in closed:
                return asked.fail(ConfigError("--json writes to stdout, which is closed", hint=_OPEN_HINT))
            return _run(words, asked)
    except (KeyboardInterrupt, click.Abort) as interrupt:
        return asked.fail(AbortedError(str(interrupt) or "SIGINT"))
    finally:
        drop_unwritten()


def _run(words: Sequence[str], asked: Output) -> int:
    try:
        code = safecopy.main(args=list(words), prog_name="safecopy", standalone_mode=False)
    except click.ClickException as error:
        return asked.fail(_bad_request(error))
    except SafeCopyError as error:
        return asked.fail(error)
    except Exception as error:  # noqa: BLE001 -- met before a command began, which reports its own
        return asked.fail_unexpectedly(error)
    return code if isinstance(code, int) else exitcode.DONE


def _bad_request(error: click.ClickException) -> ConfigError:
    context = error.ctx if isinstance(error, click.UsageError) else None
    command = context.command_path if context else "safecopy"
    return ConfigError(error.format_message(), hint=f"see {command} --help")
