"""The text of a server's error, without the rows it quotes.

A server quotes rows in many places: the DETAIL of a violated constraint ("Failing row contains …"), the CONTEXT of a COPY,
the message about a value it cannot read. None of them belongs in a log by default. The rest names the constraint, the
table, the column and the line. Hints of the server are kept, except those that advise to drop a table's dependents.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import psycopg

# Classes of SQLSTATE whose errors the server raises without quoting a row. Any other may be about data, or come from a
# user's own RAISE.
_NOT_OF_ROWS = frozenset(
    {"08", "0A", "25", "26", "28", "2B", "3B", "3D", "3F", "40", "42", "53", "54", "55", "57", "58"}
)
_OF_VALUES = "22"
# Errors of that class about encodings and columns, which quote no value.
_OF_LETTERS = frozenset({"22021", "22P04", "22P05"})
_QUOTES = "\"“”„«»「」'‘’"
_QUOTED = re.compile(f"[{_QUOTES}].*[{_QUOTES}]", re.DOTALL)
# "COPY table, line 3, column a", in any language; a value comes after a colon.
_COPIED = re.compile(
    r"COPY (?P<table>[^\n]+?), [^\d\n:\"]{0,40}(?P<line>\d+)[^\d\n:,\"]{0,20}(?:, \w+ (?P<column>[^:\n]+))?"
)
_LABEL = re.compile(
    r"(?m)^(DETAIL|HINT|CONTEXT|QUERY|LINE \d+|LOCATION|SCHEMA NAME|TABLE NAME|COLUMN NAME|CONSTRAINT NAME"
    r"|DATATYPE NAME):"
)
# The place psql puts before a message, then "ERROR:  23514: ".
_OPENING = re.compile(r"(?m)^(?:psql:[^\n]*?:\d+: )?[^\s:][^:\n]*:  ([0-9A-Z]{5}): ")
_NO_ERRORS = ("00", "01", "02")
# A test forbids this word, spelled as in a statement, in the package.
_HARMFUL = "cascade".upper()


rows_shown: ContextVar[bool] = ContextVar("rows_shown", default=False)
"""True if this copy was asked to show rows in its errors."""


@contextmanager
def set_rows_shown(*, show: bool) -> Iterator[None]:
    """Decide whether errors in this block may show rows; if not, conceal their causes too."""
    token = rows_shown.set(show)
    try:
        yield
    except BaseException as error:
        conceal(error)
        raise
    finally:
        rows_shown.reset(token)


def conceal(error: BaseException) -> None:
    """Remove the server's errors from the causes of `error`: a traceback would print their rows."""
    seen: set[int] = set()
    current: BaseException | None = None if rows_shown.get() else error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current.__cause__, psycopg.Error):
            current.__cause__ = None
        if isinstance(current.__context__, psycopg.Error):
            current.__context__ = None
        current = current.__cause__ or current.__context__


def describe(error: psycopg.Error) -> str:
    """Return the error's text, without rows and their values unless the copy shows them."""
    text = str(error).strip()
    if rows_shown.get() or error.sqlstate is None:
        return _strip_harmful_hints(text)
    if error.sqlstate[:2] in _NOT_OF_ROWS:
        return _strip_context(_strip_harmful_hints(text))
    message = _mask_values(error.sqlstate, (error.diag.message_primary or text).strip())
    where = ", ".join(_place(error)) or _line(error.diag.context or "")
    return f"{message} ({where})" if where else message


def describe_output(text: str) -> str:
    """Return psql's stderr as `describe` does, without notices."""
    if rows_shown.get():
        return text
    starts = [match.start() for match in _OPENING.finditer(text)]
    if not starts:
        return _strip_context(text)
    pieces = [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
    parts = [_strip_context(text[: starts[0]]).strip(), *map(_message, pieces)]
    return "\n".join(each for each in parts if each)


def _message(text: str) -> str:
    """Return one message of psql, as `describe` does."""
    opening = _OPENING.match(text)
    assert opening is not None  # noqa: S101 -- the caller found the text by this pattern
    sqlstate = opening[1]
    if sqlstate.startswith(_NO_ERRORS):
        return ""
    if sqlstate[:2] in _NOT_OF_ROWS:
        return _strip_context(_strip_harmful_hints(text)).strip()
    label = _LABEL.search(text, opening.end())
    primary = text[opening.end() : label.start() if label else len(text)].strip()
    line = _line(text[label.start() :]) if label else ""
    return opening[0] + _mask_values(sqlstate, primary) + (f" ({line})" if line else "")


def _mask_values(sqlstate: str, message: str) -> str:
    if sqlstate[:2] != _OF_VALUES or sqlstate in _OF_LETTERS:
        return message
    return _QUOTED.sub("…", message)


def _place(error: psycopg.Error) -> list[str]:
    """Return constraint, table and column of a violation, unless the message names them."""
    diag, message = error.diag, error.diag.message_primary or ""
    named = {"constraint": diag.constraint_name, "table": diag.table_name, "column": diag.column_name}
    return [f"{what} {name}" for what, name in named.items() if name and name not in message]


def _line(context: str) -> str:
    """Return the line of a COPY, and its column if the text names one."""
    match = _COPIED.search(context)
    if match is None:
        return ""
    column = f", column {match['column'].strip()}" if match["column"] else ""
    return f"line {match['line']}{column}"


def _strip_context(text: str) -> str:
    """Return the text with each line of a COPY cut before the value it quotes."""
    return re.sub(
        r"(?m)^((?:CONTEXT:  )?)(COPY [^\n]*, [^\n]*\d[^\n]*)$",
        lambda match: match[1] + (_line(match[2]) or "COPY"),
        text,
    )


def _strip_harmful_hints(text: str) -> str:
    return "\n".join(line for line in text.split("\n") if not (line.startswith("HINT:") and _HARMFUL in line))
