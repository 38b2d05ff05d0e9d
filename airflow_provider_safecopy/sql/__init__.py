"""Static SQL, in files, each statement under a name.

A file holds statements separated by ``-- name: the_name`` lines; `load` returns them by name. SQL whose identifiers are
composed lives in the `statements` modules instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import LiteralString

_NAME = re.compile(r"^-- name: (\w+)[ \t]*$", re.MULTILINE)
# Only a reader of the file needs comments; a server would have to read them with every message.
_FOR_READERS = re.compile(r"^\s*--.*\n|^[ \t]+", re.MULTILINE)
_PARAMETER = re.compile(r"%\((\w+)\)s|%%")


@cache
def load(file: str) -> Mapping[str, LiteralString]:
    """Return the statements of `sql/<file>.sql` by name, without comments.

    An unknown name raises KeyError when it is looked up.
    """
    text = files(__package__).joinpath(f"{file}.sql").read_text(encoding="utf-8")
    _, *parts = _NAME.split(text)
    # The files are part of this package, hence as literal as a string in the code.
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return MappingProxyType({name: _FOR_READERS.sub("", body).strip() for name, body in pairs})


@cache
def number_parameters(query: LiteralString) -> tuple[LiteralString, tuple[str, ...]]:
    """Return the query as PREPARE wants it, and the names of its parameters, the first for ``$1``."""
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        if match[1] is None:
            return "%"
        if match[1] not in names:
            names.append(match[1])
        return f"${names.index(match[1]) + 1}"

    # What is put into it are numbers, so it is as literal as it was.
    return _PARAMETER.sub(number, query), tuple(names)
