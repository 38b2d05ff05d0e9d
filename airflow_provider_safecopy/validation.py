"""Requirements on the values of options, checked before anything is touched."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from airflow_provider_safecopy.errors import ConfigError
from airflow_provider_safecopy.postgres import fragment
from airflow_provider_safecopy.postgres.names import TableName, is_text

# An entry of a B-tree index has room for about 2,700 bytes, the columns beside this one included.
_SHORT_BYTES = 2000
CENTURY = 100 * 366 * 86400
"""The longest time, in seconds. A longer one is a typing error, and clocks and calendars cannot count it."""

_BEYOND = 1 << 80


def require_choice(option: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise `ConfigError` unless `value` is one of the words `allowed`."""
    if value not in allowed:
        raise ConfigError(f"{option}={value!r} is not one of {', '.join(allowed)}")


def require_kind(option: str, value: object, kind: type) -> None:
    """Raise `ConfigError` unless `value` is of this kind."""
    # A template may give the text "False", which Python takes for true.
    if not isinstance(value, kind):
        raise ConfigError(f"{option}={value!r} must be {kind.__name__}")


def require_text(option: str, text: object) -> None:
    """Raise `ConfigError` unless `text` is a text that is not blank, or None."""
    if text is None:
        return
    if not isinstance(text, str) or not is_text(text):
        raise ConfigError(f"{option} must be a text, and spelled in its encoding")
    if not text.strip() or "\0" in text:
        raise ConfigError(f"{option} may be neither blank nor hold a NUL")


def require_short_text(option: str, text: object) -> None:
    """Raise `ConfigError` unless the text fits into an index of the server."""
    require_text(option, text)
    if isinstance(text, str) and len(text.encode()) > _SHORT_BYTES:
        raise ConfigError(f"{option} is longer than {_SHORT_BYTES} bytes")


def require_positive(option: str, value: object) -> None:
    """Raise `ConfigError` unless `value` is a number above zero and below 2 to the 80th."""
    # In Python, True is an int.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _BEYOND:
        raise ConfigError(f"{option}={value!r} must be a positive number, and less than 2 to the 80th")


def require_seconds(option: str, value: object, *, most: float = CENTURY) -> None:
    """Raise `ConfigError` unless `value` is a time above zero, in seconds, and `most` at most."""
    if isinstance(value, int | float) and value > most:
        raise ConfigError(f"{option}={value!r} must be a number of seconds, {most} at most")
    require_positive(option, value)


def require_path(option: str, value: object) -> None:
    """Raise `ConfigError` unless `value` can name a file, or is None."""
    if value is None:
        return
    if isinstance(value, str | os.PathLike):
        with suppress(UnicodeError):
            if b"\0" not in os.fsencode(value):
                return
    raise ConfigError(f"{option}={value!r} must be a path")


def require_count(option: str, value: object) -> None:
    """Raise `ConfigError` unless `value` is a whole number, 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"{option}={value!r} must be a whole number, 0 or more")


def require_percent(option: str, value: object) -> None:
    """Raise `ConfigError` unless `value` is a percentage, from 0 to 100."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise ConfigError(f"{option}={value!r} must be a percentage, from 0 to 100")


def require_streams(option: str, value: object) -> None:
    """Raise `ConfigError` unless `value` is a number of streams, or ``auto``."""
    if value != "auto":
        require_count(option, value)
        require_positive(option, value)


def require_table(option: str, value: object) -> None:
    """Raise `ConfigError` unless `value` is the name of a table."""
    require_kind(option, value, TableName)


def require_columns(option: str, columns: object) -> None:
    """Raise `ConfigError` unless `columns` maps source columns to target columns, each once."""
    if not isinstance(columns, Mapping):
        raise ConfigError(f"{option} must be a list or a mapping, not {columns!r}")
    if not columns:
        raise ConfigError(f"{option} is empty", hint="leave it out to copy all columns")
    require_column_names(option, (*columns, *columns.values()))
    if len(set(columns.values())) != len(columns):
        raise ConfigError(f"{option} sends two source columns to one target column")


def require_column(option: str, name: object) -> None:
    """Raise `ConfigError` unless `name` can be the name of a column."""
    require_column_names(option, [name])


def require_key(option: str, names: object) -> None:
    """Raise `ConfigError` unless `names` lists columns, each once."""
    if not as_names(option, names):
        raise ConfigError(f"{option} is empty", hint="leave it out to use the primary key")


def require_shares(option: str, shares: object) -> None:
    """Raise `ConfigError` unless `shares` maps columns to percentages."""
    if not isinstance(shares, Mapping):
        raise ConfigError(f"{option}={shares!r} must be a mapping")
    for column, share in shares.items():
        require_column(option, column)
        require_percent(f"{option} of {column}", share)


def require_column_names(option: str, names: Iterable[object]) -> None:
    """Raise `ConfigError` unless `names` can be names of columns."""
    for name in names:
        if not isinstance(name, str) or not name or "\0" in name or not is_text(name):
            raise ConfigError(f"{option} holds {name!r}, which is no column name")


def as_mapping(option: str, columns: object) -> object:
    """Return columns as people write them, as source column to target column."""
    if columns is None or isinstance(columns, Mapping):
        return columns
    return {column: column for column in as_names(option, columns) or ()}


def as_table(_option: str, table: object) -> object:
    """Return the name of a table, read from a text or a pair."""
    return None if table is None else TableName.parse(table)  # type: ignore[arg-type]  # it refuses other types


def as_fragment(_option: str, text: object) -> object:
    """Return the SQL without the semicolon at its end, and comments after that."""
    return fragment.trim(text) if isinstance(text, str) else text


def as_text(_option: str, value: object) -> object:
    """Return a number as its text."""
    return str(value) if isinstance(value, int | float) else value


def as_names(option: str, names: object) -> tuple[str, ...] | None:
    """Return a list of column names, each once. Raises `ConfigError`."""
    if names is None:
        return None
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise ConfigError(f"{option} must be a list{' or a mapping' if option == 'columns' else ''}, not {names!r}")
    require_column_names(option, names)
    if len(set(names)) != len(names):
        raise ConfigError(f"{option} names a column twice")
    return tuple(names)
