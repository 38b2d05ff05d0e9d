"""The estimate: how much there is to copy, as the source's planner expects it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.sql import Composed

from airflow_provider_safecopy.transfer import guard, refusal, statements
from airflow_provider_safecopy.transfer.bounds import ReadRange
from airflow_provider_safecopy.transfer.catalog import Relation
from airflow_provider_safecopy.transfer.finding import Finding
from airflow_provider_safecopy.transfer.match import ColumnPair
from airflow_provider_safecopy.transfer.plan import CopyPlan
from airflow_provider_safecopy.transfer.session import Session, SettingsChangedError
from airflow_provider_safecopy.transfer.spec import CopySpec


@dataclass(frozen=True)
class Estimate:
    """How many rows and bytes are expected; None where they are not known."""

    rows: int | None = None
    size: int | None = None


UNKNOWN = Estimate()


def estimate(
    spec: CopySpec,
    session: Session,
    given: Relation | None,
    pairs: Sequence[ColumnPair],
    bounds: ReadRange | None,
    *,
    earlier: CopyPlan | None = None,
) -> Finding[Estimate]:
    """Return how much the copy will read; an `earlier` plan of the same query knows it."""
    readable = given and given.may_enter and given.may_select and not given.filtered
    if given is None or not readable or not all(column.may_select for column, _ in pairs):
        return Finding(UNKNOWN)  # refused already, for a better reason than the server would give
    columns = [column.name for column, _ in pairs]
    read_from, option = given.name or spec.source_sql or "", "where" if spec.where else given.label
    query = statements.select(columns, read_from, spec.where, bounds.condition() if bounds else None)
    if earlier is not None and earlier.expected_rows is not None and earlier.build_query() == query:
        known = tuple(each for each in earlier.refusals if each.code == "empty_source")
        return Finding(Estimate(earlier.expected_rows, earlier.expected_bytes), known)
    where = None if spec.where is None else statements.check_where(read_from, spec.where)
    try:
        node, empty = _ask(session, query, where, counts=given.kind in "rpm" and spec.fewest_rows > 0)
    except SettingsChangedError as error:
        return Finding(UNKNOWN, (refusal.refuse_changed_settings(option, session, error.names),))
    except psycopg.Error as error:
        return Finding(UNKNOWN, (refusal.refuse_bad_sql(option, session, error),))
    # Text is wider than the planner's idea of it by separators and escapes; this is a guess for a progress bar.
    expected = Estimate(node["Plan Rows"], node["Plan Rows"] * (node["Plan Width"] + len(columns)))
    return Finding(expected, (guard.empty(spec, given.label),) if empty else ())


def _ask(session: Session, query: Composed, where: Composed | None, *, counts: bool) -> tuple[dict[str, Any], bool]:
    """Return the planner's expectation of `query`; and, if that `counts`, whether it has no row."""
    with session.run_user_sql():
        if where is not None:  # it must be a complete condition, and not only fit between our parentheses
            session.fetch_one(statements.explain(where))
        node: dict[str, Any] = session.fetch_value(statements.explain(query))[0]["Plan"]
        return node, counts and not session.fetch_value(statements.any_row(query))
