"""Asking one question for many things at once: the server plans it once, and answers for all of them in one go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

from airflow_provider_safecopy.transfer.session import Session
from airflow_provider_safecopy.transfer.statements import bulk

Row = dict[str, Any]


def ask_all(
    session: Session, query: LiteralString, types: Mapping[str, LiteralString], asked: Sequence[Mapping[str, Any]]
) -> list[list[Row]]:
    """Return the rows of `query` for each of the sets of parameters `asked`, whose types are `types`."""
    if not asked:
        return []
    arrays = {name: [_text(each[name]) for each in asked] for name in types}
    answers: list[list[Row]] = [[] for _ in asked]
    for row in session.fetch_all(bulk.of_all(query, types), arrays):
        del row["safecopy_line"]
        answers[row.pop("safecopy_place") - 1].append(row)
    return answers


def _text(value: Any) -> str:
    return "{" + ",".join(map(str, value)) + "}" if isinstance(value, list) else str(value)
