"""Flags of the command, made from the declarations of options."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click

from airflow_provider_safecopy.cli import columns, parameter, spelling
from airflow_provider_safecopy.display import format_seconds
from airflow_provider_safecopy.transfer.kind import Kind
from airflow_provider_safecopy.transfer.option import Alias, Option

_Command = Callable[..., Any]
_Decorator = Callable[[_Command], _Command]


def _columns(context: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str] | None:
    return columns.parse(parameter.texts(context, param, values))


def _names(context: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...] | None:
    return columns.names(param.opts[0], parameter.texts(context, param, values))


_READ: dict[str, dict[str, Any]] = {
    "text": {"callback": parameter.text},
    "sql": {"callback": parameter.sql},
    "columns": {"callback": _columns, "multiple": True},
    "names": {"callback": _names, "multiple": True},
    "shares": {"callback": parameter.shares, "multiple": True},
    "count": {"type": click.IntRange(min=0)},
    "percent": {"type": click.FloatRange(0, 100)},
    "seconds": {"callback": parameter.seconds},
    "bytes": {"callback": parameter.size},
    "path": {"callback": parameter.path},
    "streams": {"callback": parameter.streams},
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
