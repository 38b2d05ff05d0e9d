"""One question asked of many things at once: planned once, and answered for all of them in one go."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import LiteralString

from psycopg.sql import SQL, Composed, Identifier

from airflow_provider_safecopy.transfer.statements.rows import verbatim

_PARAMETER = re.compile(r"%\((\w+)\)s")


def of_all(query: LiteralString, types: Mapping[str, LiteralString]) -> Composed:
    """`query` for each of many sets of its parameters, given as arrays of text, by the name of the parameter.

    `types` are what each is taken for. Rows come in the order of the sets, each with its set's number from 1
    (``safecopy_place``), and in the query's own order within a set.
    """
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
