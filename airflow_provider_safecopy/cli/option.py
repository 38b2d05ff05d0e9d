"""The options of the commands, each declared once, in groups a command takes whole."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from airflow_provider_safecopy.cli import encoding, parameter, spelling
from airflow_provider_safecopy.cli.declare import flags, help_of, in_order
from airflow_provider_safecopy.cli.output import Output
from airflow_provider_safecopy.transfer.option import read_options, with_current_names
from airflow_provider_safecopy.transfer.spec import ROWS, CopySpec
from airflow_provider_safecopy.transfer.timeouts import Timeouts

if TYPE_CHECKING:
    from airflow_provider_safecopy.endpoint import Endpoint

_Command = Callable[..., Any]
_Decorator = Callable[[_Command], _Command]


def _environment(name: str) -> Callable[[], str | None]:
    return lambda: encoding.read(os.environ[name]) if os.environ.get(name) else None


def endpoint(which: str) -> _Decorator:
    """``--source`` or ``--target``."""
    variable = f"SAFECOPY_{which.upper()}"
    return click.option(
        f"--{which}",
        metavar="CONNINFO",
        callback=parameter.text,
        default=_environment(variable),
        help=f"The {which} database: any libpq conninfo or URI.  [env: {variable}]",
    )


def table(function: _Command) -> _Command:
    """What is copied, and where to."""
    return flags(each for each in CopySpec.options() if each.group == ROWS)(function)


def manner(function: _Command) -> _Command:
    """How it is copied."""
    return flags(each for each in CopySpec.options() if each.group != ROWS)(function)


def overlap(function: _Command) -> _Command:
    """Who runs it, and what becomes of it when another run holds the lock."""
    return in_order(
        click.option(
            "--on-busy",
            type=click.Choice(("fail", "skip", "wait")),
            default="fail",
            show_default=True,
            help="When another run holds the lock: exit code 3, exit code 0 without a copy, or wait for it.",
        ),
        click.option(
            "--wait-timeout",
            metavar="TIME",
            callback=parameter.seconds,
            default="3600.0",
            help="Longest time to wait for a busy lock; then exit code 3.  [default: 1 h]",
        ),
        click.option(
            "--owner",
            metavar="TEXT",
            callback=parameter.text,
            default=_user_at_host,
            help="Who runs this, for people; kept in lock and receipt.  [default: user@host]",
        ),
    )(function)


def output(function: _Command) -> _Command:
    """How much is said, and to whom."""
    return in_order(
        click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, UTF-8; all else on stderr."),
        verbose,
        click.option("-q", "--quiet", is_flag=True, help="Nothing but warnings, errors and --json."),
    )(function)


def verbose(function: _Command) -> _Command:
    """``-v``."""
    return click.option("-v", "--verbose", count=True, help="Log lines; twice: details and tracebacks.")(function)


def connect_timeout(function: _Command) -> _Command:
    """``--connect-timeout`` alone, with its default."""
    (limit,) = (each for each in read_options(Timeouts) if each.name == "connect_timeout")
    return click.option(
        limit.flag, metavar="TIME", callback=parameter.seconds, default=str(limit.default), help=help_of(limit)
    )(function)


def endpoint_of(which: str, conninfo: str | None) -> Endpoint:
    """The endpoint that was given. Raises click's usage error when none was, `ConfigError` for nonsense."""
    from airflow_provider_safecopy.endpoint import Endpoint

    if not conninfo or not conninfo.strip():
        raise click.UsageError(f"Missing option '--{which}' (or set SAFECOPY_{which.upper()}).")
    return Endpoint.from_conninfo(conninfo)


def shows_password(which: str, endpoint: Endpoint) -> bool:
    """Whether the password of `endpoint` stands on the command line, for all users of the host to read."""
    source = click.get_current_context().get_parameter_source(which)
    return source is ParameterSource.COMMANDLINE and "password" in endpoint.parameters


def tables(function: _Command) -> _Command:
    """Many tables instead of one."""
    purpose = "Many tables instead: a line 'source target' for each, or JSON; - is standard input. See below."
    return click.option("--tables-from", metavar="FILE", callback=parameter.path, help=purpose)(function)


def keep_going(function: _Command) -> _Command:
    """What becomes of the others when some of many tables are refused."""
    purpose = "With --tables-from: copy the other tables though some are refused."
    return click.option("--keep-going", is_flag=True, help=purpose)(function)


def specs_of(output: Output, options: dict[str, Any], tables_from: str) -> tuple[CopySpec, ...]:
    """A spec for each table of a list. Raises `ConfigError`."""
    from airflow_provider_safecopy.cli.tables import read
    from airflow_provider_safecopy.transfer import roster

    shared = _read_typed(output, options)
    with _warnings_shown(output):
        return roster.build_specs(read(tables_from), shared)


def spec_of(output: Output, options: dict[str, Any]) -> CopySpec:
    """The spec meant by the options of `table` and `manner`. Raises `ConfigError`."""
    if options["target_table"] is None:
        raise click.UsageError("Missing option '--target-table', or --tables-from with a list of tables.")
    return CopySpec.of(**_read_typed(output, options))


def _read_typed(output: Output, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were typed, under their current names: the spec has the defaults of the others."""

    def warn(message: str) -> None:
        name, _, rest = message.partition(" ")
        output.warn(f"{spelling.flag(name)} {spelling.spell_options(rest)}")

    typed = {name: value for name, value in options.items() if value is not None and value is not False}
    return with_current_names(typed, CopySpec.options(), warn=warn)


@contextmanager
def _warnings_shown(output: Output) -> Iterator[None]:
    """Show what a list of tables is warned of, such as old names, which it spells as Python does."""
    with warnings.catch_warnings(record=True) as met:
        warnings.simplefilter("always", DeprecationWarning)
        try:
            yield
        finally:
            for message in dict.fromkeys(str(each.message) for each in met):
                output.warn(message)


def _user_at_host() -> str:
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in many containers
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
