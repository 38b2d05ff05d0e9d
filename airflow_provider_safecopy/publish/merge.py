"""Writing what differs: row by row by key, and around unique values that rows exchange.

Rows that exchange unique values conflict while they are written one after the other.

Where writing them straight fails, they are deleted and inserted again in one statement; those that rows of other tables
refer to in a way that forbids it are first given another value for a moment, that only this transaction sees.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import psycopg
from psycopg.sql import Composed

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import StageError, VerifyError
from airflow_provider_safecopy.planning import row_checks
from airflow_provider_safecopy.planning.keys import ACTIONS, Reference, read_references
from airflow_provider_safecopy.postgres import statements
from airflow_provider_safecopy.postgres.diagnosis import describe
from airflow_provider_safecopy.publish import diff, diff_statements, target_lock
from airflow_provider_safecopy.publish import diff_statements as clashing
from airflow_provider_safecopy.publish.context import PublishContext
from airflow_provider_safecopy.publish.diff_statements import (
    CHANGED,
    MARKED,
    MOVED,
    NEW,
    PARKED,
    REWRITTEN,
    VANISHED,
    Comparison,
)
from airflow_provider_safecopy.report import WrittenRows

log = logging.getLogger(__name__)

_KEY = sql.load("key")


@dataclass(frozen=True)
class UniqueConflict:
    """A unique or exclusion index besides the key's, and its columns that a publish may change."""

    index: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class ConflictPlan:
    """The unique values that may conflict, and what refers to their rows."""

    clashes: tuple[UniqueConflict, ...]
    referring: tuple[Reference, ...]


def find(job: PublishContext, of: Comparison) -> tuple[UniqueConflict, ...]:
    """Return the unique indexes that may conflict when several rows are written."""
    asked = {"oid": job.plan.target_oid, "key": of.key.index_oid}
    found = (
        UniqueConflict(row["index"], _intersect(row["columns"], of.settable))
        for row in job.target.fetch_all(_KEY["clashes"], asked)
    )
    return tuple(each for each in found if each.columns)


def columns(clashes: Sequence[UniqueConflict]) -> frozenset[str]:
    """All columns that may clash."""
    return frozenset(name for each in clashes for name in each.columns)


def run(job: PublishContext, statement: Composed) -> Mapping[str, int]:
    """Write. Returns how many rows each part of `delta.write` wrote."""
    written = job.target.fetch_one(statement)
    assert written is not None  # noqa: S101 -- counts are one row
    return written


def write_conflicting_rows(job: PublishContext, of: Comparison, ways: ConflictPlan) -> Mapping[str, int]:
    """Write rows that clash. Raises `StageError` when that cannot be done, or the source itself is not unique."""
    try:
        with job.connection.transaction():
            _set_apart(job, of, ways.referring)
            if PARKED in diff.tally(job, of):
                _park(job, of, ways.clashes)
            return run(job, diff_statements.write(of, diff.tally(job, of)))
    except (psycopg.IntegrityError, psycopg.DataError) as error:
        raise StageError(
            f"publish into {of.target} failed: {describe(error)}; rows whose unique values change could be written in "
            "no other order either; nothing was changed",
            stage="publish",
            sqlstate=error.sqlstate,
            hint="make that constraint DEFERRABLE, if the source's rows obey it",
            retryable=False,
        ) from error


def _set_apart(job: PublishContext, of: Comparison, referring: Sequence[Reference]) -> None:
    """Which of the moved rows may be deleted and inserted again, and which have to make way."""
    forbidding = [each for each in referring if each.on_delete != "a"]
    relation = job.plan.target_relation
    assert relation is not None  # noqa: S101 -- else it is refused
    kept = [column for column in relation.columns if column.name in of.kept]
    may = relation.may_delete and all(column.may_select and column.may_insert for column in kept)
    if not may or not all(each.may_select for each in forbidding):
        job.connection.execute(diff_statements.relabel(of, MOVED, PARKED))
        return
    if any(each.on_delete in ACTIONS for each in forbidding):
        job.target.fetch_value(diff_statements.lock_rows(of, {MOVED}))
    if forbidding:
        job.connection.execute(diff_statements.protect(of, forbidding))
    job.connection.execute(diff_statements.relabel(of, MOVED, REWRITTEN))


def _park(job: PublishContext, of: Comparison, clashes: Sequence[UniqueConflict]) -> None:
    """Take them out of each other's way, as far as that goes: what is written then shows whether it was enough."""
    taken = {column.name: column for _, column in job.plan.pairs}
    for each in clashes:
        # First those that may be NULL, which equals nothing.
        for column in sorted((taken[name] for name in each.columns), key=lambda column: column.not_null):
            values = diff_statements.asides(of, column.name, column.type, nullable=not column.not_null)
            if any(_park_values(job, diff_statements.park(of, each.columns, column.name, value)) for value in values):
                break


def _park_values(job: PublishContext, statement: Composed) -> bool:
    try:
        with job.connection.transaction():
            job.connection.execute(statement)
    except (psycopg.IntegrityError, psycopg.DataError) as error:
        log.debug("not to be parked so: %s", describe(error))
        return False
    return True


def _intersect(names: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name in known)


_CATALOG = sql.load("catalog")
_ACTION_NAMES = {"c": "delete", "n": "set to NULL", "d": "set to the default"}


def merge_rows(job: PublishContext, comparison: Comparison) -> WrittenRows:
    """Lock, compare, and write what differs.

    Raises `PlanError`, worth a retry, when the table has changed since it was planned; `StageError` when rows of other
    tables would change, or unique values cannot be exchanged; `VerifyError` when triggers have other ideas.
    """
    found = diff.find(job, comparison)
    previous = _count_previous(job, comparison, found)
    # Before anything is written; marking rows does not make the table smaller.
    if comparison.missing != "keep":
        left = job.verification.rows - found.get(NEW, 0) + found.get(VANISHED, 0) + found.get(MARKED, 0)
        row_checks.require_size(job.plan, previous=left, held=job.verification.rows)
    was_empty = _was_target_empty(job, found)
    if not found:
        job.connection.execute(statements.drop_staging(comparison.difference))
        return WrittenRows(0, 0, 0, job.verification.rows, previous, previous, was_empty)
    referring = read_references(job.target, job.plan.target_oid)
    clashes = find(job, comparison)
    if clashes and CHANGED in found:
        job.connection.execute(clashing.move(comparison, columns(clashes)))
        found = diff.tally(job, comparison)
    _require_unreferenced(job, comparison, referring, found)
    watched = diff.is_watched(job)
    job.connection.execute(_CATALOG["as_the_role"])
    job.connection.execute(_KEY["all_deferred"])
    parts = _write_rows(job, comparison, ConflictPlan(clashes, referring), found)
    job.connection.execute(statements.drop_staging(comparison.difference))
    written = _check_counts(job, comparison, found, parts, previous)
    if watched or job.plan.spec.verify == "full":
        job.connection.execute(statements.set_local("search_path", "pg_catalog"))
        diff.require_no_difference(job, comparison)
    return replace(written, was_empty=was_empty)


def _write_rows(
    job: PublishContext, comparison: Comparison, conflicts: ConflictPlan, counts: Mapping[str, int]
) -> Mapping[str, int]:
    """Write it straight; where that clashes midway, around."""
    if MOVED not in counts:
        return run(job, diff_statements.write(comparison, counts))
    try:
        with job.connection.transaction():
            return run(job, diff_statements.write(comparison, counts))
    except (psycopg.errors.UniqueViolation, psycopg.errors.ExclusionViolation) as error:
        log.info(
            "%s: %s: rows may exchange unique values; writing them in another way", comparison.target, describe(error)
        )
        return write_conflicting_rows(job, comparison, conflicts)


def _was_target_empty(job: PublishContext, counts: Mapping[str, int]) -> bool:
    """Return whether the target held no row, which slices and watermarks depend on; asked only if no row was met."""
    met = job.verification.rows - counts.get(NEW, 0) + counts.get(VANISHED, 0) + counts.get(MARKED, 0)
    return job.plan.spec.write_mode != "replace" and not met and target_lock.is_empty(job)


def _count_previous(job: PublishContext, comparison: Comparison, counts: Mapping[str, int]) -> int | None:
    """Return how many rows the target held; None where only counting a table of any length would tell."""
    if comparison.missing == "delete":
        return job.verification.rows - counts.get(NEW, 0) + counts.get(VANISHED, 0)
    return target_lock.count(job) if comparison.missing == "mark" else None


def _check_counts(
    job: PublishContext,
    comparison: Comparison,
    counts: Mapping[str, int],
    parts: Mapping[str, int],
    previous: int | None,
) -> WrittenRows:
    """Return what was written, if it is what was to be. Raises `VerifyError`."""
    changed = sum(counts.get(kind, 0) for kind in (CHANGED, MOVED, REWRITTEN))
    wanted = {
        "new": counts.get(NEW, 0),
        "changed": changed,
        "gone": counts.get(VANISHED, 0),
        "marked": counts.get(MARKED, 0),
    }
    done = {**{name: parts[name] for name in wanted}, "changed": parts["changed"] + parts["rewritten"]}
    if done != wanted:
        raise VerifyError(
            f"{comparison.target}: {_format_counts(wanted)} rows were to be written, {_format_counts(done)} were; nothing was changed",
            proofs={"rows": {name: {"expected": wanted[name], "written": done[name]} for name in wanted}},
            hint=target_lock.find_suspects(job),
        )
    unchanged = job.verification.rows - done["new"] - done["changed"]
    held = None if previous is None else previous + done["new"] - done["gone"]
    if comparison.missing == "delete":
        held = target_lock.count(job)
        target_lock.require_rows(job, written=unchanged + done["new"] + done["changed"], held=held)
    return WrittenRows(done["new"], done["changed"], done["gone"] + done["marked"], unchanged, previous, held)


def _require_unreferenced(
    job: PublishContext, comparison: Comparison, referring: Sequence[Reference], counts: Mapping[str, int]
) -> None:
    """No row of another table would be changed by an action of its foreign key. Raises `StageError`.

    The rows are locked first: nothing can come to refer to them, and what was about to has been committed.
    """
    going, changing = {VANISHED, REWRITTEN} & counts.keys(), {CHANGED, MOVED} & counts.keys()
    deleting = [each for each in referring if not each.own and going and each.on_delete in ACTIONS]
    updating = [
        each
        for each in referring
        if not each.own
        and changing
        and each.on_update in ACTIONS
        and not set(comparison.settable).isdisjoint(each.columns)
    ]
    if deleting:
        job.target.fetch_value(clashing.lock_rows(comparison, going))
    for each in deleting:
        _require_no_reference(job, comparison, each, going, changed=False)
    for each in updating:
        job.target.fetch_value(
            clashing.lock_rows(comparison, changing, columns=set(each.columns) & set(comparison.settable))
        )
        _require_no_reference(job, comparison, each, changing, changed=True)


def _require_no_reference(
    job: PublishContext, comparison: Comparison, reference: Reference, kinds: Collection[str], *, changed: bool
) -> None:
    rows = job.target.fetch_value(clashing.referring(comparison, reference, kinds, changed=changed))
    if not rows:
        return
    event: Literal["UPDATE", "DELETE"] = "UPDATE" if changed else "DELETE"
    why = "changed in" if changed else "vanished from"
    action = reference.on_update if changed else reference.on_delete
    done = "change" if changed and action == "c" else _ACTION_NAMES[action]
    raise StageError(
        f"publish into {comparison.target} failed: {rows} rows of {reference.table} still refer by {reference.name} to rows that {why} the "
        f"source: its {reference.format_clause(event)} would {done} them; nothing was changed",
        stage="publish",
        sqlstate="23503",
        hint=f"copy {reference.table} first, or take these rows out of it",
        retryable=False,
    )


def _format_counts(rows: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in rows.items() if count) or "no"
