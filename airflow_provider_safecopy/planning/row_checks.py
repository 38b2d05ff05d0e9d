"""Row checks: what is refused though every proof agrees, because it cannot be meant; and how much the source will give."""

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
    """The guards that are up, in one sentence for the plan; none where none is."""
    guards = [f"at least {spec.fewest_rows} from the source (min_rows)"] if spec.fewest_rows else []
    if spec.max_shrink is not None:
        guards.append(f"at most {spec.max_shrink:g} % fewer than the target holds (max_shrink)")
    for column, share in (spec.max_null_share or {}).items():
        guards.append(f"at most {share:g} % of them without {spell(column)} (max_null_share)")
    return (f"guards on rows: {', '.join(guards)}",) if guards else ()


def check(spec: CopySpec, label: str | None, copied: Sequence[str]) -> Finding[None]:
    """Return the guards that are up, and refuse those on columns that are not `copied` into the target `label`, if known."""
    reasons = describe_checks(spec)
    return Finding(None, tuple(refusals(spec, label, copied)) if label is not None else (), reasons)


def refusals(spec: CopySpec, label: str, copied: Sequence[str]) -> Iterator[Refusal]:
    """Guarded columns of the target `label` that are not among the `copied` ones."""
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
    """No rows to copy from `label`, known before anything is copied."""
    if spec.min_rows is None:
        message = f"{label} has no rows to copy: publishing would empty the target"
    else:
        message = f"{label} has no rows to copy, and min_rows asks for {spec.min_rows}"
    return Refusal("empty_source", message, table=label, hint=_hint(spec))


def require_rows(plan: CopyPlan, rows: int) -> None:
    """The source gave as many as it must. Raises `VerifyError`."""
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
    """The target loses no greater share of its rows than it may; None is not known. Raises `VerifyError`."""
    allowed = plan.spec.max_shrink
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
    """No guarded column, `filled` in so many of the `rows`, has more NULLs than it may. Raises `VerifyError`."""
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
    # As it is written: 2.3 * 100 is less than 230 to a float.
    return whole > 0 and part * 100 > Fraction(str(percent)) * whole


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 3)


@dataclass(frozen=True)
class Estimate:
    """The expected rows and bytes; None where they are not known."""

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
        node, is_empty = _ask(session, query, where, counts=given.kind in "rpm" and spec.fewest_rows > 0)
    except SettingsChangedError as error:
        return Finding(UNKNOWN, (preflight.refuse_changed_settings(option, session, error.names),))
    except psycopg.Error as error:
        return Finding(UNKNOWN, (preflight.refuse_bad_sql(option, session, error),))
    # Text is wider than the planner's idea of it by separators and escapes; this is a guess for a progress bar.
    expected = Estimate(node["Plan Rows"], node["Plan Rows"] * (node["Plan Width"] + len(columns)))
    return Finding(expected, (empty(spec, given.label),) if is_empty else ())


def _ask(session: Session, query: Composed, where: Composed | None, *, counts: bool) -> tuple[dict[str, Any], bool]:
    """Return the planner's expectation of `query`; and, if that `counts`, whether it has no row."""
    with session.run_user_sql():
        # It must be a complete condition, and not only fit between our parentheses.
        if where is not None:
            session.fetch_one(statements.explain(where))
        node: dict[str, Any] = session.fetch_value(statements.explain(query))[0]["Plan"]
        return node, counts and not session.fetch_value(statements.any_row(query))
