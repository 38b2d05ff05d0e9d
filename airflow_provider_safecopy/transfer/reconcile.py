"""Reconcile: bring the target to what staging holds, touching no row that is there already, and no other table's rows."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import psycopg

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.diagnosis import describe
from airflow_provider_safecopy.errors import StageError, VerifyError
from airflow_provider_safecopy.transfer import clash, difference, guard, inplace, statements
from airflow_provider_safecopy.transfer.job import PublishContext
from airflow_provider_safecopy.transfer.reference import ACTIONS, Reference, read_references
from airflow_provider_safecopy.transfer.statements import clash as clashing
from airflow_provider_safecopy.transfer.statements import delta
from airflow_provider_safecopy.transfer.statements.difference import (
    CHANGED,
    MARKED,
    MOVED,
    NEW,
    REWRITTEN,
    VANISHED,
    Comparison,
)
from airflow_provider_safecopy.transfer.written import WrittenRows

log = logging.getLogger(__name__)

_CATALOG = sql.load("catalog")
_KEY = sql.load("key")
_ACTION_NAMES = {"c": "delete", "n": "set to NULL", "d": "set to the default"}


def merge_rows(job: PublishContext, comparison: Comparison) -> WrittenRows:
    """Lock, compare, and write what differs.

    Raises `PlanError`, worth a retry, when the table has changed since it was planned; `StageError` when rows of other
    tables would change, or unique values cannot be exchanged; `VerifyError` when triggers have other ideas.
    """
    found = difference.find(job, comparison)
    previous = _count_previous(job, comparison, found)
    if comparison.missing != "keep":  # before anything is written; marking rows does not make the table smaller
        left = job.verification.rows - found.get(NEW, 0) + found.get(VANISHED, 0) + found.get(MARKED, 0)
        guard.require_size(job.plan, previous=left, held=job.verification.rows)
    was_empty = _was_target_empty(job, found)
    if not found:
        job.connection.execute(statements.drop_staging(comparison.difference))
        return WrittenRows(0, 0, 0, job.verification.rows, previous, previous, was_empty)
    referring = read_references(job.target, job.plan.target_oid)
    clashes = clash.find(job, comparison)
    if clashes and CHANGED in found:
        job.connection.execute(clashing.move(comparison, clash.columns(clashes)))
        found = difference.tally(job, comparison)
    _require_unreferenced(job, comparison, referring, found)
    watched = difference.is_watched(job)
    job.connection.execute(_CATALOG["as_the_role"])
    job.connection.execute(_KEY["all_deferred"])
    parts = _write_rows(job, comparison, clash.ConflictPlan(clashes, referring), found)
    job.connection.execute(statements.drop_staging(comparison.difference))
    written = _check_counts(job, comparison, found, parts, previous)
    if watched or job.plan.spec.verify == "full":
        job.connection.execute(statements.set_local("search_path", "pg_catalog"))
        difference.require_no_difference(job, comparison)
    return replace(written, was_empty=was_empty)


def _write_rows(
    job: PublishContext, comparison: Comparison, conflicts: clash.ConflictPlan, counts: Mapping[str, int]
) -> Mapping[str, int]:
    """Write it straight; where that clashes midway, around."""
    if MOVED not in counts:
        return clash.run(job, delta.write(comparison, counts))
    try:
        with job.connection.transaction():
            return clash.run(job, delta.write(comparison, counts))
    except (psycopg.errors.UniqueViolation, psycopg.errors.ExclusionViolation) as error:
        log.info(
            "%s: %s: rows may exchange unique values; writing them in another way", comparison.target, describe(error)
        )
        return clash.write_conflicting_rows(job, comparison, conflicts)


def _was_target_empty(job: PublishContext, counts: Mapping[str, int]) -> bool:
    """Whether the target held no row, which slices and watermarks depend on; asked only if no row was met."""
    met = job.verification.rows - counts.get(NEW, 0) + counts.get(VANISHED, 0) + counts.get(MARKED, 0)
    return job.plan.spec.write_mode != "replace" and not met and inplace.is_empty(job)


def _count_previous(job: PublishContext, comparison: Comparison, counts: Mapping[str, int]) -> int | None:
    """How many rows the target held; None where only counting a table of any length would tell."""
    if comparison.missing == "delete":
        return job.verification.rows - counts.get(NEW, 0) + counts.get(VANISHED, 0)
    return inplace.count(job) if comparison.missing == "mark" else None


def _check_counts(
    job: PublishContext,
    comparison: Comparison,
    counts: Mapping[str, int],
    parts: Mapping[str, int],
    previous: int | None,
) -> WrittenRows:
    """What was written, if it is what was to be. Raises `VerifyError`."""
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
            hint=inplace.find_suspects(job),
        )
    unchanged = job.verification.rows - done["new"] - done["changed"]
    held = None if previous is None else previous + done["new"] - done["gone"]
    if comparison.missing == "delete":
        held = inplace.count(job)
        inplace.require_rows(job, written=unchanged + done["new"] + done["changed"], held=held)
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
