"""Ask one question about many things at once: the server plans it once, and answers for all of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

from psycopg.sql import SQL, Composed, Identifier

from airflow_provider_safecopy.postgres.session import Session
from airflow_provider_safecopy.postgres.statements import verbatim

_PARAMETER = re.compile(r"%\((\w+)\)s")


def of_all(query: LiteralString, types: Mapping[str, LiteralString]) -> Composed:
    """Compose `query` for many sets of its parameters.

    Each parameter is given as an array of text under its name; `types` are the types that its texts are cast to. Rows
    come in the order of the sets, each with its set's number from 1 (``safecopy_place``), and in the query's own order
    within a set.
    """
    # A join does not promise to keep the order of the query's rows, so they are numbered inside it.
    once = _PARAMETER.sub(lambda match: f"asked.{match[1]}::{types[match[1]]}", query)
    return SQL(
        "SELECT asked.safecopy_place, answer.* FROM unnest({arrays}) WITH ORDINALITY AS asked({names}, safecopy_place) "
        "CROSS JOIN LATERAL (SELECT q.*, row_number() OVER () AS safecopy_line FROM (\n{once}\n) AS q) AS answer "
        "ORDER BY asked.safecopy_place, answer.safecopy_line"
    ).format(
        arrays=SQL(", ").join(SQL("%({})s::text[]").format(verbatim(name)) for name in types),
        names=SQL(", ").join(map(Identifier, types)),
        once=verbatim(once),
    )


Row = dict[str, Any]


def ask_all(
    session: Session, query: LiteralString, types: Mapping[str, LiteralString], asked: Sequence[Mapping[str, Any]]
) -> list[list[Row]]:
    """Return the rows of `query` for each set of parameters in `asked`, whose types are `types`."""
    if not asked:
        return []
    arrays = {name: [_text(each[name]) for each in asked] for name in types}
    answers: list[list[Row]] = [[] for _ in asked]
    for row in session.fetch_all(of_all(query, types), arrays):
        del row["safecopy_line"]
        answers[row.pop("safecopy_place") - 1].append(row)
    return answers


def _text(value: Any) -> str:
    # The rows of an array of arrays must be equally long, so each list travels as the text of an array.
    return "{" + ",".join(map(str, value)) + "}" if isinstance(value, list) else str(value)
