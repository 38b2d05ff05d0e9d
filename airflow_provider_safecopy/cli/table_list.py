"""The list of tables of ``--tables-from``: a line for each, or JSON.

A line is a source and a target, a tab or blanks between them, or one name for both. Names are written as everywhere;
those with blanks, tabs, line breaks or ``#`` in them stand in double quotes. What follows a ``#`` is a comment. A file
whose name ends in ``.json`` holds a list of names and of objects, which may carry options of that table alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from airflow_provider_safecopy.cli.param_types import content
from airflow_provider_safecopy.errors import ConfigError
from airflow_provider_safecopy.table_list import TableEntry, parse_entries

_WORD = re.compile(r'(?P<blank>[^\S\n]+|#[^\n]*)|(?P<end>\n)|(?P<name>(?:"(?:[^"]++|"")*+"|[^\s"#]++)++)')
_EXAMPLE = 'write 영업.고객, or 영업.고객 분석.고객; a name with blanks in it stands in double quotes: 영업."큰 고객"'


def read(path: str) -> tuple[TableEntry, ...]:
    """The entries of the file at `path`; of standard input where that is ``-``. Raises `ConfigError`."""
    name = "standard input" if path == "-" else path
    text = _text(path, name)
    if path.endswith(".json") or (path == "-" and text.lstrip().startswith("[")):
        return _of_json(text, name)
    return tuple(_of_lines(text, name))


def _text(path: str, name: str) -> str:
    try:
        return content(path).decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read {name}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} is not UTF-8 (byte {error.start + 1})") from None


def _of_json(text: str, name: str) -> tuple[TableEntry, ...]:
    try:
        listed = json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, name))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{name} is no JSON: {error}") from None
    return parse_entries(listed, name)


def _once(pairs: list[tuple[str, Any]], name: str) -> dict[str, Any]:
    """Of what is said twice JSON keeps the last; a person who forgot the braces between two tables meant neither."""
    said: dict[str, Any] = {}
    for word, value in pairs:
        if word in said:
            raise ConfigError(f"{name} says {word!r} of one table twice", hint="put each table in braces of its own")
        said[word] = value
    return said


def _of_lines(text: str, name: str) -> Iterator[TableEntry]:
    position, line, names, began = 0, 1, list[str](), 1
    while position < len(text):
        match = _WORD.match(text, position)
        if match is None:
            raise ConfigError(f"line {line} of {name}: a double quote is left open", hint=_EXAMPLE)
        position = match.end()
        if match["name"]:
            began = began if names else line
            names.append(match["name"])
        elif match["end"] and names:
            yield _entry(names, f"line {began} of {name}")
            names = []
        line += match[0].count("\n")
    if names:
        yield _entry(names, f"line {began} of {name}")


def _entry(names: list[str], place: str) -> TableEntry:
    if len(names) > 2:
        raise ConfigError(f"{place} has {len(names)} names", hint=_EXAMPLE)
    return TableEntry(place, {"source_table": names[0], "target_table": names[-1]})
