"""What an option's value must be, demanded before anything is touched."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from airflow_provider_safecopy.errors import ConfigError
from airflow_provider_safecopy.transfer.name import is_text

_SHORT_BYTES = 2000
_CENTURY = 100 * 366 * 86400
_BEYOND = 1 << 80


def demand_choice(option: str, value: object, allowed: tuple[str, ...]) -> None:
    """One of the words `allowed`."""
    if value not in allowed:
        raise ConfigError(f"{option}={value!r} is not one of {', '.join(allowed)}")


def demand_kind(option: str, value: object, kind: type) -> None:
    """The thing itself. Not every word for false is false in Python, and a template may give any."""
    if not isinstance(value, kind):
        raise ConfigError(f"{option}={value!r} must be {kind.__name__}")


def demand_text(option: str, text: object) -> None:
    """A text that says something, or None."""
    if text is None:
        return
    if not isinstance(text, str) or not is_text(text):
        raise ConfigError(f"{option} must be a text, and spelled in its encoding")
    if not text.strip() or "\0" in text:
        raise ConfigError(f"{option} may be neither blank nor hold a NUL")


def demand_short(option: str, text: str) -> None:
    """A text an index of the server's can hold."""
    if len(text.encode()) > _SHORT_BYTES:
        raise ConfigError(f"{option} is longer than {_SHORT_BYTES} bytes")


def demand_positive(option: str, value: object) -> None:
    """A number above zero, and no larger than can be reckoned with."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _BEYOND:
        raise ConfigError(f"{option}={value!r} must be a positive number, and less than 2 to the 80th")


def demand_seconds(option: str, value: object, *, most: float = _CENTURY) -> None:
    """A time that clocks and calendars can be asked for."""
    if isinstance(value, int | float) and value > most:
        raise ConfigError(f"{option}={value!r} must be a number of seconds, {most} at most")
    demand_positive(option, value)


def demand_path(option: str, value: object) -> None:
    """What can name a file, or None."""
    if value is None:
        return
    if isinstance(value, str | os.PathLike):
        with suppress(UnicodeError):
            if b"\0" not in os.fsencode(value):
                return
    raise ConfigError(f"{option}={value!r} must be a path")


def demand_count(option: str, value: object) -> None:
    """A whole number, zero included."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"{option}={value!r} must be a whole number, 0 or more")


def demand_percent(option: str, value: object) -> None:
    """A share of a hundred."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise ConfigError(f"{option}={value!r} must be a percentage, from 0 to 100")


def demand_columns(columns: Mapping[str, str] | None) -> None:
    """A mapping of source column to target column, or None."""
    if columns is None:
        return
    if not columns:
        raise ConfigError("columns is empty", hint="leave it out to copy all columns")
    demand_column_names("columns", (*columns, *columns.values()))
    if len(set(columns.values())) != len(columns):
        raise ConfigError("columns sends two source columns to one target column")


def demand_column_names(option: str, names: Iterable[object]) -> None:
    """What may be a column's name."""
    for name in names:
        if not isinstance(name, str) or not name or "\0" in name or not is_text(name):
            raise ConfigError(f"{option} holds {name!r}, which is no column name")


def as_mapping(columns: object) -> Mapping[str, str] | None:
    """Columns as people write them, as source column to target column."""
    if columns is None or isinstance(columns, Mapping):
        return columns
    names = as_names("columns", columns)
    return {column: column for column in names or ()}


def as_names(option: str, names: object) -> tuple[str, ...] | None:
    """A list of column names, each once."""
    if names is None:
        return None
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise ConfigError(f"{option} must be a list{' or a mapping' if option == 'columns' else ''}, not {names!r}")
    demand_column_names(option, names)
    if len(set(names)) != len(names):
        raise ConfigError(f"{option} names a column twice")
    return tuple(names)
