"""Values of options, read from what a person types. Each function is a click callback."""

from __future__ import annotations

import errno
import os
import re
import sys
from pathlib import Path

import click

from airflow_provider_safecopy.cli import quantity

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
    """What is in the file at `path`; on standard input where that is ``-``. Raises OSError."""
    if path == "-":
        if sys.stdin is None:  # closed by whoever started us
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
    if number := quantity.parse_seconds(value):
        return number
    raise click.BadParameter(f"{value!r} is no time above zero, such as 90, 90s, 15min or 4h", ctx, param)


def seconds_or_none(ctx: click.Context, param: click.Parameter, value: str) -> float:
    """As `seconds`, but ``0`` will do."""
    number = quantity.parse_seconds(value)
    if number is None:
        raise click.BadParameter(f"{value!r} is no time, such as 0, 90s, 15min or 4h", ctx, param)
    return number


def size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """A number of bytes above zero: ``1000000``, ``512MiB`` (of 1024), ``2GB`` (of 1000)."""
    if value is None:
        return None
    if number := quantity.parse_bytes(value):
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
            found[name] = float(number.removesuffix("%"))
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
