"""The options of the commands, each declared once, in groups a command takes whole; and the commands' output and errors."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from airflow_provider_safecopy.cli import encoding, param_types, spelling
from airflow_provider_safecopy.cli.output import Output
from airflow_provider_safecopy.display import format_seconds
from airflow_provider_safecopy.errors import AbortedError, SafeCopyError
from airflow_provider_safecopy.kind import Kind
from airflow_provider_safecopy.option import Alias, Option, read_options, with_current_names
from airflow_provider_safecopy.spec import ROWS, CopySpec, Timeouts

if TYPE_CHECKING:
    from airflow_provider_safecopy.postgres.endpoint import Endpoint

_Command = Callable[..., Any]
_Decorator = Callable[[_Command], _Command]


def _column(context: click.Context, param: click.Parameter, value: str | None) -> str | None:
    text = param_types.text(context, param, value)
    return None if text is None else param_types.unquote_name(text)


def _columns(context: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str] | None:
    return param_types.parse(param_types.texts(context, param, values))


def _names(context: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...] | None:
    return param_types.names(param.opts[0], param_types.texts(context, param, values))


_READ: dict[str, dict[str, Any]] = {
    "text": {"callback": param_types.text},
    "sql": {"callback": param_types.sql},
    "column": {"callback": _column},
    "columns": {"callback": _columns, "multiple": True},
    "names": {"callback": _names, "multiple": True},
    "shares": {"callback": param_types.shares, "multiple": True},
    "count": {"type": click.IntRange(min=0)},
    "percent": {"type": click.FloatRange(0, 100)},
    "seconds": {"callback": param_types.seconds},
    "bytes": {"callback": param_types.size},
    "path": {"callback": param_types.path},
    "streams": {"callback": param_types.streams},
    "flag": {"is_flag": True},
}
"""How click reads a value, by the kind of the option."""


def flags(options: Iterable[Option]) -> _Decorator:
    """Return a decorator that adds the flags of all options, in this order, and their old names, hidden."""
    return in_order(*(flag for option in options for flag in (_flag(option), *_hide_aliases(option))))


def in_order(*options: Callable[[_Command], _Command]) -> _Decorator:
    """A decorator for all of them, shown in this order."""

    def decorate(function: _Command) -> _Command:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def _flag(option: Option) -> _Decorator:
    return click.option(option.flag, option.name, default=None, help=help_of(option), **_reading(option.kind))


def _hide_aliases(option: Option) -> Iterable[_Decorator]:
    return tuple(_alias(alias, alias.kind or option.kind) for alias in option.aliases)


def _alias(alias: Alias, kind: Kind) -> _Decorator:
    return click.option(spelling.flag(alias.name), alias.name, default=None, hidden=True, **_reading(kind))


def _reading(kind: Kind) -> dict[str, Any]:
    if kind.words:
        return {"type": click.Choice(kind.words)}
    metavar = {} if kind.name == "flag" else {"metavar": kind.metavar}
    return _READ[kind.name] | metavar


def help_of(option: Option) -> str:
    """Return the help of an option, with the spellings of the command line."""
    meaning = " ".join(filter(None, (option.meaning, option.kind.in_command)))
    default = option.default_text or _show_default(option)
    return spelling.plain(f"{meaning}  [default: {default}]" if default else meaning)


def _show_default(option: Option) -> str:
    if option.default is None or option.default is False:
        return ""
    return format_seconds(option.default) if option.kind.name == "seconds" else str(option.default)


def with_output(function: Callable[..., int]) -> Callable[..., int]:
    """Give a command an `Output` and its log, and make its errors words and exit codes."""

    @wraps(function)
    def callback(*, as_json: bool = False, verbose: int = 0, quiet: bool = False, **options: Any) -> int:
        output = Output(as_json=as_json, verbose=verbose, quiet=quiet)
        subject = _subject(**options)
        try:
            with output.logging():
                return output.code(function(output, **options))
        except SafeCopyError as error:
            return output.fail(error, subject=subject)
        except KeyboardInterrupt as interrupt:
            return output.fail(AbortedError(str(interrupt) or "SIGINT"), subject=subject)
        except click.ClickException:
            raise
        except Exception as error:  # noqa: BLE001 -- the last place where a mistake of ours can be reported whole
            return output.fail_unexpectedly(error)

    return callback


def endpoints(output: Output, **given: str | None) -> tuple[Endpoint, ...]:
    """The endpoints named, in order; a warning for each password that every user of the host can read. No core is left."""
    from airflow_provider_safecopy.postgres.endpoint import leave_no_core

    leave_no_core()
    found = {which: endpoint_of(which, conninfo) for which, conninfo in given.items()}
    for which, endpoint in found.items():
        if shows_password(which, endpoint):
            output.warn(
                f"the password in --{which} is visible to every user of this host, in the process list; "
                f"use a password file (PGPASSFILE), a service file, or the variable SAFECOPY_{which.upper()}"
            )
    return tuple(found.values())


def _subject(*, source_table: str | None = None, target_table: str | None = None, **_: object) -> str:
    """The copy meant, for a person; empty where the command makes none."""
    return f"{source_table or 'a query'} -> {target_table}" if target_table else ""


def _environment(name: str) -> Callable[[], str | None]:
    return lambda: encoding.read(os.environ[name]) if os.environ.get(name) else None


def endpoint(which: str) -> _Decorator:
    """``--source`` or ``--target``."""
    variable = f"SAFECOPY_{which.upper()}"
    return click.option(
        f"--{which}",
        metavar="CONNINFO",
        callback=param_types.text,
        default=_environment(variable),
        help=f"The {which} database: any libpq conninfo or URI.  [env: {variable}]",
    )


def table(function: _Command) -> _Command:
    """Add the options for what is copied, and where to."""
    return flags(each for each in CopySpec.options() if each.group == ROWS)(function)


def manner(function: _Command) -> _Command:
    """Add the options for how it is copied."""
    return flags(each for each in CopySpec.options() if each.group != ROWS)(function)


def overlap(function: _Command) -> _Command:
    """Add the options for who runs it, and what becomes of it when another run holds the lock."""
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
            callback=param_types.seconds,
            default="3600.0",
            help="Longest time to wait for a busy lock; then exit code 3.  [default: 1 h]",
        ),
        click.option(
            "--owner",
            metavar="TEXT",
            callback=param_types.text,
            default=_user_at_host,
            help="Who runs this, for people; kept in lock and receipt.  [default: user@host]",
        ),
    )(function)


def output(function: _Command) -> _Command:
    """Add the options for how much is said, and to whom."""
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
        limit.flag, metavar="TIME", callback=param_types.seconds, default=str(limit.default), help=help_of(limit)
    )(function)


def endpoint_of(which: str, conninfo: str | None) -> Endpoint:
    """The endpoint that was given. Raises click's usage error when none was, `ConfigError` for nonsense."""
    from airflow_provider_safecopy.postgres.endpoint import Endpoint

    if not conninfo or not conninfo.strip():
        raise click.UsageError(f"Missing option '--{which}' (or set SAFECOPY_{which.upper()}).")
    return Endpoint.from_conninfo(conninfo)


def shows_password(which: str, endpoint: Endpoint) -> bool:
    """Return whether the password of `endpoint` stands on the command line, for all users of the host to read."""
    source = click.get_current_context().get_parameter_source(which)
    return source is ParameterSource.COMMANDLINE and "password" in endpoint.parameters


def tables(function: _Command) -> _Command:
    """Many tables instead of one."""
    purpose = "Many tables instead: a line 'source target' for each, or JSON; - is standard input. See below."
    return click.option("--tables-from", metavar="FILE", callback=param_types.path, help=purpose)(function)


def keep_going(function: _Command) -> _Command:
    """Add the option for the other tables when some of many are refused."""
    purpose = "With --tables-from: copy the other tables though some are refused."
    return click.option("--keep-going", is_flag=True, help=purpose)(function)


def specs_of(output: Output, options: dict[str, Any], tables_from: str) -> tuple[CopySpec, ...]:
    """A spec for each table of a list. Raises `ConfigError`."""
    from airflow_provider_safecopy import table_list
    from airflow_provider_safecopy.cli.table_list import read

    shared = _read_typed(output, options)
    with _warnings_shown(output):
        return table_list.build_specs(read(tables_from), shared)


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
