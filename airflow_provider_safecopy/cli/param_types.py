"""Values of options, read from what a person types: times, sizes, columns. Each function is a click callback.

Columns as written on a command line: ``고객번호,이름`` or ``고객번호=cust_no,이름=name``.

The option may be repeated; all of it is one list, in order. Blanks around a name do not count. A name that
holds a comma, an equals sign, a double quote or blanks at its ends is written in double quotes, a double
quote inside it twice: ``"금액,원"=amount``. (Most shells need single quotes around the whole.)
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import click

from airflow_provider_safecopy.errors import ConfigError
from airflow_provider_safecopy.validation import CENTURY

_QUANTITY = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*(?P<unit>[A-Za-z]*)")
_MOST_BYTES = 1 << 60
_SECONDS = {"": 1, "ms": 0.001, "s": 1, "min": 60, "h": 3600, "d": 86400}
_BYTES = {"": 1, "b": 1} | {
    unit.lower(): base**power
    for base, units in ((1000, ("kB", "MB", "GB", "TB")), (1024, ("KiB", "MiB", "GiB", "TiB")))
    for power, unit in enumerate(units, start=1)
}


def parse_seconds(text: str) -> float | None:
    """The seconds in ``90``, ``90s``, ``15min``, ``4h``, ``1d`` or ``500ms``; None where `text` is no time, or more than a century."""
    return _parse(text, _SECONDS, CENTURY)


def parse_bytes(text: str) -> int | None:
    """The bytes in ``1000000``, ``2GB`` (of 1000) or ``512MiB`` (of 1024); None where `text` is no size.

    More than an exbibyte is none either. ``512M`` is none: half the world means 512,000,000 by it and half 536,870,912.
    """
    number = _parse(text, _BYTES, _MOST_BYTES)
    return None if number is None else int(number)


def _parse(text: str, units: Mapping[str, float], most: int) -> float | None:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or match["unit"].lower() not in units:
        return None
    number = float(match["number"]) * units[match["unit"].lower()]
    return number if number <= most else None


_NAME = re.compile(r'\s*(?:"(?P<quoted>(?:[^"]++|"")++)"|(?P<plain>[^",=]+))\s*')
_EXAMPLE = 'write name, name=target or "a,b"=target, separated by commas'


def parse(options: Iterable[str]) -> dict[str, str] | None:
    """Source column to target column, in order; None where no option was given. Raises `ConfigError`."""
    columns: dict[str, str] = {}
    given = False
    for option in options:
        given = True
        for source, target in _pairs(option):
            if source in columns:
                raise ConfigError(f"--columns names {source!r} twice")
            columns[source] = target
    return columns if given else None


def unquote_name(word: str) -> str:
    """Return the one name that `word` is, without the double quotes around it."""
    match = _NAME.fullmatch(word)
    return match["quoted"].replace('""', '"') if match and match["quoted"] else word


def names(word: str, options: Iterable[str]) -> tuple[str, ...] | None:
    """A list of names alone, such as ``--key`` takes; None where no option was given. Raises `ConfigError`."""
    found: list[str] = []
    for option in options:
        for name, target in _pairs(option, word):
            if name != target:
                raise ConfigError(f"{word} {option!r}: it takes names alone", hint="separate them by commas")
            found.append(name)
    return tuple(found) or None


def _pairs(option: str, word: str = "--columns") -> Iterator[tuple[str, str]]:
    position = 0
    while True:
        source, position = _name(option, position, word)
        target = source
        if option[position : position + 1] == "=":
            target, position = _name(option, position + 1, word)
        yield source, target
        if position == len(option):
            return
        if option[position] != ",":
            raise _unreadable(option, word)
        position += 1


def _name(option: str, position: int, word: str) -> tuple[str, int]:
    match = _NAME.match(option, position)
    name = match and (match["quoted"].replace('""', '"') if match["quoted"] else match["plain"].strip())
    if match is None or not name:
        raise _unreadable(option, word)
    return name, match.end()


def _unreadable(option: str, word: str) -> ConfigError:
    return ConfigError(f"{word} {option!r} cannot be read", hint=_EXAMPLE)


_STREAMS = re.compile(r"[0-9]{1,9}")


def text(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Text in UTF-8 or the locale's encoding; bytes that are neither are refused, not guessed at."""
    if value is not None and any(0xD800 <= ord(character) < 0xE000 for character in value):
        encoding = sys.getfilesystemencoding()
        choices = "UTF-8" if encoding == "utf-8" else f"UTF-8 or {encoding}"
        raise click.BadParameter(f"the text is not valid {choices}", ctx, param)
    return value


def texts(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """As `text`, for an option that may be repeated."""
    for value in values:
        text(ctx, param, value)
    return values


def words(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """As `text`, and never blank."""
    if value is not None and not value.strip():
        raise click.BadParameter("it may not be blank", ctx, param)
    return text(ctx, param, value)


def sql(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """SQL text, or ``@file`` for the text in a file (UTF-8), ``@-`` for standard input."""
    text(ctx, param, value)
    if value is None or not value.startswith("@"):
        return value
    try:
        return content("-" if value == "@-" else value[1:]).decode("utf-8-sig")
    except OSError as error:
        raise click.BadParameter(
            f"cannot read {_name_source(value[1:])}: {error.strerror or error}", ctx, param
        ) from None
    except UnicodeDecodeError as error:
        raise click.BadParameter(
            f"{_name_source(value[1:])} is not UTF-8 (byte {error.start + 1})", ctx, param
        ) from None


def content(path: str) -> bytes:
    """Return what is in the file at `path`; on standard input where that is ``-``. Raises OSError."""
    if path == "-":
        # Closed by our parent.
        if sys.stdin is None:
            raise OSError(errno.EBADF, "it is closed")
        return sys.stdin.buffer.read()
    try:
        return Path(existing(path)).read_bytes()
    except ValueError:  # it holds what no name of a file can hold in this locale
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None


def _name_source(path: str) -> str:
    return "standard input" if path == "-" else path


def seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """A time above zero: ``90``, ``90s``, ``15min``, ``4h``, ``1d``, ``500ms``."""
    if value is None:
        return None
    if number := parse_seconds(value):
        return number
    raise click.BadParameter(f"{value!r} is no time above zero, such as 90, 90s, 15min or 4h", ctx, param)


def seconds_or_none(ctx: click.Context, param: click.Parameter, value: str) -> float:
    """As `seconds`, but ``0`` will do."""
    number = parse_seconds(value)
    if number is None:
        raise click.BadParameter(f"{value!r} is no time, such as 0, 90s, 15min or 4h", ctx, param)
    return number


def size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """A number of bytes above zero: ``1000000``, ``512MiB`` (of 1024), ``2GB`` (of 1000)."""
    if value is None:
        return None
    if number := parse_bytes(value):
        return number
    raise click.BadParameter(f"{value!r} is no size above zero, such as 1000000, 512MiB or 2GB", ctx, param)


def streams(ctx: click.Context, param: click.Parameter, value: str | None) -> int | str | None:
    """A number of streams above zero, or ``auto``."""
    if value is None or value == "auto":
        return value
    if _STREAMS.fullmatch(value) and int(value) > 0:
        return int(value)
    raise click.BadParameter(f"{value!r} is no number of streams above zero, nor auto", ctx, param)


def shares(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, float] | None:
    """Percentages by column: ``이메일=5``. The last equals sign counts; a name may hold others."""
    found = {}
    for value in texts(ctx, param, values):
        name, _, number = value.rpartition("=")
        try:
            found[unquote_name(name)] = float(number.removesuffix("%"))
        except ValueError:
            raise click.BadParameter(f"{value!r} is no column and percentage, such as 이메일=5", ctx, param) from None
        if not name:
            raise click.BadParameter(f"{value!r} names no column", ctx, param)
    return found or None


def path(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A path. Typed in UTF-8 or in the locale's encoding, it means the one that exists."""
    found = None if value is None else existing(value)
    if found is not None and _encoded_by_locale(found) is None:
        raise click.BadParameter(f"no file can have the name {value!r} in this locale", ctx, param)
    return found


def existing(path: str) -> str:
    """`path` under the spelling, the locale's or UTF-8, that exists; as it is where neither does."""
    for spelling in (_encoded_by_locale(path), _encode_path(path, "utf-8")):
        if spelling is not None and os.path.lexists(spelling):
            return os.fsdecode(spelling)
    return path


def _encoded_by_locale(path: str) -> bytes | None:
    return _encode_path(path, sys.getfilesystemencoding())


def _encode_path(path: str, encoding: str) -> bytes | None:
    try:
        return path.encode(encoding, "surrogateescape")
    except UnicodeEncodeError:
        return None
