"""Columns as written on a command line: ``고객번호,이름`` or ``고객번호=cust_no,이름=name``.

The option may be repeated; all of it is one list, in order. Blanks around a name do not count. A name that
holds a comma, an equals sign, a double quote or blanks at its ends is written in double quotes, a double
quote inside it twice: ``"금액,원"=amount``. (Most shells need single quotes around the whole.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from airflow_provider_safecopy.errors import ConfigError

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
