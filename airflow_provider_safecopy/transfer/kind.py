"""The kinds of values that options take: how each is read and checked, and how a command line writes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

from airflow_provider_safecopy.transfer import demand

Check = Callable[[str, Any], None]
Read = Callable[[str, Any], Any]


def _as_it_is(_option: str, value: object) -> object:
    return value


@dataclass(frozen=True)
class Kind:
    """A kind of value.

    `check` raises `ConfigError` for a value that makes no sense, `read` makes one of what people write in Python.
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
    demand.require_kind(option, value, bool)


def choice(literal: Any, *, metavar: str = "") -> Kind:
    """Return the kind whose values are the words of a `Literal`."""
    words = get_args(literal)

    def check(option: str, value: object) -> None:
        demand.require_choice(option, value, words)

    return Kind("choice", check, f"Literal[{', '.join(map(repr, words))}]", metavar, words=words)


# Servers count their own timeouts in milliseconds, in 31 bits.
_MOST_TIMEOUT = 24 * 86400

TABLE = Kind("text", demand.require_table, "str | Sequence[str]", "NAME", read=demand.as_table)
SQL = Kind(
    "sql",
    demand.require_text,
    "str",
    "SQL|@FILE",
    in_command="@file reads it from a file, @- from standard input.",
    read=demand.as_fragment,
)
CONDITION = Kind("text", demand.require_text, "str", "SQL", read=demand.as_fragment)
TEXT = Kind("text", demand.require_text, "str", "TEXT")
NAME = Kind("text", demand.require_text, "str", "NAME")
VALUE = Kind("text", demand.require_text, "str", "VALUE")
KEY = Kind("text", demand.require_short_text, "str", "TEXT")
DISTANCE = Kind("text", demand.require_text, "str | float", "N|INTERVAL", read=demand.as_text)
COLUMN = Kind("text", demand.require_column, "str", "NAME")
COLUMNS = Kind(
    "columns",
    demand.require_columns,
    "Sequence[str] | Mapping[str, str]",
    "LIST",
    in_command="Written a,b or source=target: see below.",
    read=demand.as_mapping,
)
NAMES = Kind("names", demand.require_key, "Sequence[str]", "LIST", in_command="Written a,b.", read=demand.as_names)
SHARES = Kind("shares", demand.require_shares, "Mapping[str, float]", "NAME=PCT", in_command="May be repeated.")
COUNT = Kind("count", demand.require_count, "int", "N")
PERCENT = Kind("percent", demand.require_percent, "float", "PCT")
SECONDS = Kind("seconds", demand.require_seconds, "float", "TIME")
TIMEOUT = Kind("seconds", partial(demand.require_seconds, most=_MOST_TIMEOUT), "float", "TIME")
BYTES = Kind("bytes", demand.require_positive, "int", "BYTES")
PATH = Kind("path", demand.require_path, "str", "PATH")
STREAMS = Kind("streams", demand.require_streams, "int | Literal['auto']", "N|auto")
FLAG = Kind("flag", _require_flag, "bool")
