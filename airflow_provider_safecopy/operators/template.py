"""What is a template, and hence known only when the task runs."""

from __future__ import annotations

import re
from collections.abc import Mapping

_TEMPLATE = re.compile(r"\{[{%#]")
# A query holds a blank, or a bracket; a file's name need not.
_SQL_FILE = re.compile(r"""[^\s{}()'"\\]+\.sql""")


def as_include(source_sql: str | None) -> str | None:
    """A template that includes the file, when `source_sql` names one: it is then found and rendered by Airflow."""
    if isinstance(source_sql, str) and _SQL_FILE.fullmatch(source_sql):
        return f'{{% include "{source_sql}" %}}'
    return source_sql


def is_plain(value: object) -> bool:
    """Whether a value is known when the DAG is parsed: neither a template nor another task's result."""
    if isinstance(value, str):
        return _TEMPLATE.search(value) is None
    if isinstance(value, Mapping):
        return all(map(is_plain, (*value, *value.values())))
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, int | float)
