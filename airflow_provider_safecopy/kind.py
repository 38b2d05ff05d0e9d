"""The kinds of values that options take: how each is read and checked, and how a command line writes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

from airflow_provider_safecopy import validation

Check = Callable[[str, Any], None]
Read = Callable[[str, Any], Any]


def _as_it_is(_option: str, value: object) -> object:
    return value


@dataclass(frozen=True)
class Kind:
    """A kind of value.

    `check` raises `ConfigError` for a value that makes no sense. `read` makes a value of what people write in Python.
    `written` is the type that Python accepts, `metavar` stands for a value in the help of the command, and `in_command`
    says there what the command accepts besides. `words` are the allowed ones of a choice.
    """

    name: str
    check: Check
    written: str
    metavar: str = ""
    in_command: str = ""
    read: Read = _as_it_is
    words: tuple[str, ...] = ()


def _require_flag(option: str, value: object) -> None:
    validation.require_kind(option, value, bool)


def choice(literal: Any, *, metavar: str = "") -> Kind:
    """Return the kind whose values are the words of a `Literal`."""
    words = get_args(literal)

    def check(option: str, value: object) -> None:
        validation.require_choice(option, value, words)

    return Kind("choice", check, f"Literal[{', '.join(map(repr, words))}]", metavar, words=words)


# Servers count their own timeouts in milliseconds, in 31 bits.
_MOST_TIMEOUT = 24 * 86400

TABLE = Kind("text", validation.require_table, "str | Sequence[str]", "NAME", read=validation.as_table)
SQL = Kind(
    "sql",
    validation.require_text,
    "str",
    "SQL|@FILE",
    in_command="@file reads it from a file, @- from standard input.",
    read=validation.as_fragment,
)
CONDITION = Kind("text", validation.require_text, "str", "SQL", read=validation.as_fragment)
TEXT = Kind("text", validation.require_text, "str", "TEXT")
NAME = Kind("text", validation.require_text, "str", "NAME")
VALUE = Kind("text", validation.require_text, "str", "VALUE")
KEY = Kind("text", validation.require_short_text, "str", "TEXT")
DISTANCE = Kind("text", validation.require_text, "str | float", "N|INTERVAL", read=validation.as_text)
COLUMN = Kind("column", validation.require_column, "str", "NAME")
COLUMNS = Kind(
    "columns",
    validation.require_columns,
    "Sequence[str] | Mapping[str, str]",
    "LIST",
    in_command="Written a,b or source=target: see below.",
    read=validation.as_mapping,
)
NAMES = Kind(
    "names", validation.require_key, "Sequence[str]", "LIST", in_command="Written a,b.", read=validation.as_names
)
SHARES = Kind("shares", validation.require_shares, "Mapping[str, float]", "NAME=PCT", in_command="May be repeated.")
COUNT = Kind("count", validation.require_count, "int", "N")
PERCENT = Kind("percent", validation.require_percent, "float", "PCT")
SECONDS = Kind("seconds", validation.require_seconds, "float", "TIME")
TIMEOUT = Kind("seconds", partial(validation.require_seconds, most=_MOST_TIMEOUT), "float", "TIME")
BYTES = Kind("bytes", validation.require_positive, "int", "BYTES")
PATH = Kind("path", validation.require_path, "str", "PATH")
STREAMS = Kind("streams", validation.require_streams, "int | Literal['auto']", "N|auto")
FLAG = Kind("flag", _require_flag, "bool")
