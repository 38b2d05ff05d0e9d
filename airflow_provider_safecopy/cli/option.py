"""The options of the commands, each declared once, in groups a command takes whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from airflow_provider_safecopy.cli import columns as column_list
from airflow_provider_safecopy.cli import encoding, parameter
from airflow_provider_safecopy.cli.declare import choice, in_order
from airflow_provider_safecopy.display import show_seconds
from airflow_provider_safecopy.transfer.model import Format, Transfer, Verify
from airflow_provider_safecopy.transfer.spec import CopySpec
from airflow_provider_safecopy.transfer.timeouts import Timeouts

if TYPE_CHECKING:
    from airflow_provider_safecopy.endpoint import Endpoint

_Command = Callable[..., Any]
_Decorator = Callable[[_Command], _Command]

_TIMEOUTS = {
    "connect": "to open one session",
    "export": "for the whole export",
    "import": "for the whole import",
    "stall": "without a single byte moving while it could",
    "verify": "to compare both sides",
    "publish": "to write the rows, waiting for locks included",
    "lock_wait": "to wait for a lock of another session, in any stage",
}


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


def table(*, required: bool) -> _Decorator:
    """What is copied, and where to."""
    query = "A query instead, or @file with one, @- for standard input. Names in it carry their schema."
    return in_order(
        click.option(
            "--source-table", metavar="NAME", callback=parameter.text, help="Table, view or the like to read."
        ),
        click.option("--source-sql", metavar="SQL|@FILE", callback=parameter.sql, help=query),
        click.option(
            "--target-table", metavar="NAME", callback=parameter.text, required=required, help="Table to publish into."
        ),
        click.option(
            "--columns",
            metavar="LIST",
            multiple=True,
            callback=parameter.texts,
            help="Columns to copy: a,b or source=target. See below.  [default: all, by name]",
        ),
        click.option("--where", metavar="SQL", callback=parameter.text, help="Copy only the rows this is true for."),
    )


def manner(function: _Command) -> _Command:
    """How it is copied."""
    return in_order(
        choice("transfer", Transfer, "Finish the export before the import starts, or let them overlap."),
        choice("format", Format, "COPY format. auto: binary only where it is safe."),
        choice("verify", Verify, "Compare counts and digest, or the content of both sides as well."),
        *(_timeout(name, purpose) for name, purpose in _TIMEOUTS.items()),
        click.option(
            "--parallel",
            metavar="N|auto",
            callback=parameter.streams,
            default="1",
            show_default=True,
            help="Streams that read and load one table at once.",
        ),
        click.option(
            "--rate-limit",
            metavar="BYTES",
            callback=parameter.size,
            help="Bytes a second at most from the source, such as 20MB.  [default: as fast as it goes]",
        ),
        click.option("--spool-dir", metavar="DIR", callback=parameter.path, help="Temporary files.  [default: TMPDIR]"),
        click.option(
            "--spool-limit",
            metavar="BYTES",
            callback=parameter.size,
            help="Most temporary disk to use, such as 512MiB.  [default: 1GiB chunked, no bound sequential]",
        ),
        click.option(
            "--lock", metavar="NAME", callback=parameter.text, help="Lock to hold beside the target table's own."
        ),
        click.option(
            "--stale-after",
            metavar="TIME",
            callback=parameter.seconds,
            help="Without progress for so long, others may take the locks over.  [default: 10 min, or twice the stall]",
        ),
        click.option(
            "--launch-interval",
            metavar="TIME",
            callback=parameter.seconds,
            help="Open connections to the source one after the other, so far apart.  [default: no gate]",
        ),
        click.option(
            "--show-rows",
            is_flag=True,
            help="Let errors show the rows they are about.  [default: only constraint, column and line]",
        ),
        psql,
    )(function)


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


def psql(function: _Command) -> _Command:
    """``--psql``."""
    return click.option(
        "--psql", metavar="PATH", callback=parameter.path, help="psql to use.  [env: SAFECOPY_PSQL; default: found]"
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
    """``--connect-timeout`` alone."""
    return _timeout("connect", _TIMEOUTS["connect"])(function)


def endpoint_of(which: str, conninfo: str | None) -> Endpoint:
    """The endpoint that was given. Raises click's usage error when none was, `ConfigError` for nonsense."""
    from airflow_provider_safecopy.endpoint import Endpoint

    if not conninfo or not conninfo.strip():
        raise click.UsageError(f"Missing option '--{which}' (or set SAFECOPY_{which.upper()}).")
    return Endpoint.from_conninfo(conninfo)


def betrayed(which: str, endpoint: Endpoint) -> bool:
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


def specs_of(options: dict[str, Any], tables_from: str) -> tuple[CopySpec, ...]:
    """A spec for each table of a list. Raises `ConfigError`."""
    from airflow_provider_safecopy.cli.tables import read
    from airflow_provider_safecopy.transfer import roster

    return roster.specs_of(read(tables_from), _asked(options))


def spec_of(options: dict[str, Any]) -> CopySpec:
    """The spec meant by the options of `table`, `writing` and `manner`. Raises `ConfigError`."""
    if options["target_table"] is None:
        raise click.UsageError("Missing option '--target-table', or --tables-from with a list of tables.")
    return CopySpec.of(**_asked(options))


def _asked(options: dict[str, Any]) -> dict[str, Any]:
    timeouts = Timeouts(**{field.name: options[f"{field.name.rstrip('_')}_timeout"] for field in fields(Timeouts)})
    asked = {field.name: options[field.name] for field in fields(CopySpec) if field.name in options}
    parsed = {
        "columns": column_list.parse(options["columns"]),
        "key_columns": column_list.names("--key", options["key_columns"]),
        "timeouts": timeouts,
    }
    return asked | parsed


def _user_at_host() -> str:
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in many containers
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _timeout(name: str, purpose: str) -> _Decorator:
    default: float = getattr(Timeouts, name if hasattr(Timeouts, name) else f"{name}_")
    return click.option(
        f"--{name.replace('_', '-')}-timeout",
        metavar="TIME",
        callback=parameter.seconds,
        default=str(default),
        help=f"Longest time {purpose}.  [default: {show_seconds(default)}]",
    )
