"""Row checks: refusals of rows that cannot be meant, though every proof agrees.

Also the estimate of how much the source will give.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import psycopg
from psycopg.sql import Composed

from airflow_provider_safecopy.errors import Refusal, VerifyError
from airflow_provider_safecopy.planning import preflight
from airflow_provider_safecopy.planning.catalog import Relation
from airflow_provider_safecopy.planning.column_match import ColumnPair
from airflow_provider_safecopy.planning.finding import Finding
from airflow_provider_safecopy.planning.incremental import ReadRange
from airflow_provider_safecopy.planning.plan import CopyPlan
from airflow_provider_safecopy.postgres import statements
from airflow_provider_safecopy.postgres.names import spell
from airflow_provider_safecopy.postgres.session import Session, SettingsChangedError
from airflow_provider_safecopy.spec import CopySpec

_EMPTY_HINT = "set min_rows=0 if that is meant"


def describe_checks(spec: CopySpec) -> tuple[str, ...]:
    """Return the row checks in one sentence for the plan; empty without any."""
    guards = [f"at least {spec.fewest_rows} from the source (min_rows)"] if spec.fewest_rows else []
    if spec.max_shrink is not None:
        guards.append(f"at most {spec.max_shrink:g} % fewer than the target holds (max_shrink)")
    for column, share in (spec.max_null_share or {}).items():
        guards.append(f"at most {share:g} % of them without {spell(column)} (max_null_share)")
    return (f"guards on rows: {', '.join(guards)}",) if guards else ()


def check(spec: CopySpec, label: str | None, copied: Sequence[str]) -> Finding[None]:
    """Return the row checks for the plan; refuse those on columns that are not `copied`.

    `label` is that of the target; None if it is not known, and then no column is refused.
    """
    reasons = describe_checks(spec)
    return Finding(None, tuple(refusals(spec, label, copied)) if label is not None else (), reasons)


def refusals(spec: CopySpec, label: str, copied: Sequence[str]) -> Iterator[Refusal]:
    """Yield a refusal for each checked column of the target `label` that is not `copied`."""
    for column in spec.max_null_share or {}:
        if column not in copied:
            yield Refusal(
                "guard_column",
                f"max_null_share names {spell(column)}, which is not among the columns copied into {label}",
                table=label,
                column=spell(column),
                hint=f"name columns of the target that are copied: {', '.join(map(spell, copied)) or 'there is none'}",
            )


def empty(spec: CopySpec, label: str) -> Refusal:
    """Return the refusal of a source without rows, known before anything is copied."""
    if spec.min_rows is None:
        message = f"{label} has no rows to copy: publishing would empty the target"
    else:
        message = f"{label} has no rows to copy, and min_rows asks for {spec.min_rows}"
    return Refusal("empty_source", message, table=label, hint=_hint(spec))


def require_rows(plan: CopyPlan, rows: int) -> None:
    """Raise `VerifyError` if the source gave fewer rows than it must."""
    fewest = plan.spec.fewest_rows
    if rows >= fewest:
        return
    if plan.spec.min_rows is None:
        told = f"{plan.source} gave no rows: publishing would empty {plan.target_name}; nothing was changed"
    else:
        told = (
            f"{plan.source} gave {rows} rows for {plan.target_name}, fewer than min_rows={fewest}; nothing was changed"
        )
    raise VerifyError(told, proofs={"rows": {"exported": rows, "min_rows": fewest}}, hint=_hint(plan.spec))


def require_size(plan: CopyPlan, *, previous: int | None, held: int | None) -> None:
    """Raise `VerifyError` if the target would lose a greater share of its rows than `max_shrink`.

    `previous` and `held` are its rows before and after; None if not known.
    """
    allowed = plan.spec.max_shrink
    # A target that is locked now is not counted: the publish counts it under its own lock.
    if allowed is None or previous is None or held is None or not _exceeds(previous - held, previous, allowed):
        return
    lost = previous - held
    share = _percent(lost, previous)
    raise VerifyError(
        f"{plan.target_name} would lose {lost} of its {previous} rows ({share:g} %) and hold {held}, where "
        f"max_shrink={allowed:g} % is allowed; nothing was changed",
        proofs={"shrink": {"previous": previous, "new": held, "percent": share, "max_shrink": allowed}},
        hint="raise max_shrink or leave it out if that is meant",
    )


def require_values(plan: CopyPlan, *, rows: int, filled: Sequence[int]) -> None:
    """Raise `VerifyError` if a checked column has more NULLs than `max_null_share` allows.

    `filled` are the values that are not NULL among the `rows`, in the order of `max_null_share`.
    """
    guarded = zip((plan.spec.max_null_share or {}).items(), filled, strict=True)
    wrong = {column: (rows - count, share) for (column, share), count in guarded if _exceeds(rows - count, rows, share)}
    if not wrong:
        return
    columns = "; ".join(
        f"column {spell(column)} is NULL in {nulls} of {rows} rows ({_percent(nulls, rows):g} %), where {share:g} % is allowed"
        for column, (nulls, share) in wrong.items()
    )
    raise VerifyError(
        f"{plan.target_name}: {columns}; nothing was changed",
        proofs={
            f"NULLs in {spell(column)}": {
                "NULLs": nulls,
                "rows": rows,
                "percent": _percent(nulls, rows),
                "max_null_share": share,
            }
            for column, (nulls, share) in wrong.items()
        },
        hint="look at the source, or raise max_null_share of these columns if that is meant",
    )


def _hint(spec: CopySpec) -> str:
    return _EMPTY_HINT if spec.min_rows is None else "lower min_rows if that is meant"


def _exceeds(part: int, whole: int, percent: float) -> bool:
    # Exactly as the person wrote it: for a float, 2.3 * 100 is less than 230.
    return whole > 0 and part * 100 > Fraction(str(percent)) * whole


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 3)


@dataclass(frozen=True)
class Estimate:
    """The expected rows and bytes; None if they are not known."""

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
    """Return how much the copy is expected to read, by the planner of the source.

    An `earlier` plan of the same query is not estimated again. Refuses SQL that the source cannot run, and a source
    that is known to be empty.
    """
    readable = given and given.may_enter and given.may_select and not given.filtered
    if given is None or not readable or not all(column.may_select for column, _ in pairs):
        # Refused already, for a better reason than the server would give.
        return Finding(UNKNOWN)
    columns = [column.name for column, _ in pairs]
    read_from, option = given.name or spec.source_sql or "", "where" if spec.where else given.label
    query = statements.select(columns, read_from, spec.where, bounds.condition() if bounds else None)
    if earlier is not None and earlier.expected_rows is not None and earlier.build_query() == query:
        known = tuple(each for each in earlier.refusals if each.code == "empty_source")
        return Finding(Estimate(earlier.expected_rows, earlier.expected_bytes), known)
    where = None if spec.where is None else statements.check_where(read_from, spec.where)
    try:
        # Only rows that are stored: a view or a query may compute for long before it gives its first row.
        counts = given.kind in "rpm" and spec.fewest_rows > 0
        node, is_empty = _ask(session, query, where, given.schemas, counts=counts)
    except SettingsChangedError as error:
        return Finding(UNKNOWN, (preflight.refuse_changed_settings(option, session, error.names),))
    except psycopg.Error as error:
        return Finding(UNKNOWN, (preflight.refuse_bad_sql(option, session, error),))
    # Text is wider than the planner's idea of it by separators and escapes: one byte a column is near enough for a
    # progress bar.
    expected = Estimate(node["Plan Rows"], node["Plan Rows"] * (node["Plan Width"] + len(columns)))
    return Finding(expected, (empty(spec, given.label),) if is_empty else ())


def _ask(
    session: Session, query: Composed, where: Composed | None, schemas: Sequence[str], *, counts: bool
) -> tuple[dict[str, Any], bool]:
    """Return the planner's expectation of `query`; and, if `counts`, whether it has no row."""
    with session.run_user_sql(schemas):
        # It must be a complete condition: `true) OR (true` would fit between our parentheses too.
        if where is not None:
            session.fetch_one(statements.explain(where))
        node: dict[str, Any] = session.fetch_value(statements.explain(query))[0]["Plan"]
        return node, counts and not session.fetch_value(statements.any_row(query))
