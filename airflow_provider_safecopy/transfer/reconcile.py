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
from airflow_provider_safecopy.transfer.job import Job
from airflow_provider_safecopy.transfer.reference import ACTIONS, Reference, references
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
from airflow_provider_safecopy.transfer.written import Written

log = logging.getLogger(__name__)

_CATALOG = sql.load("catalog")
_KEY = sql.load("key")
_TOLD = {"c": "delete", "n": "set to NULL", "d": "set to the default"}


def write(job: Job, of: Comparison) -> Written:
    """Lock, compare, and write what differs.

    Raises `PlanError`, worth a retry, when the table has changed since it was planned; `StageError` when rows of other
    tables would change, or unique values cannot be exchanged; `VerifyError` when triggers have other ideas.
    """
    found = difference.find(job, of)
    previous = _previous(job, of, found)
    if of.missing != "keep":  # before anything is written; marking rows does not make the table smaller
        left = job.verification.rows - found.get(NEW, 0) + found.get(VANISHED, 0) + found.get(MARKED, 0)
        guard.demand_size(job.plan, previous=left, held=job.verification.rows)
    was_empty = _was_empty(job, found)
    if not found:
        job.connection.execute(statements.drop_staging(of.difference))
        return Written(0, 0, 0, job.verification.rows, previous, previous, was_empty)
    referring = references(job.target, job.plan.target_oid)
    clashes = clash.find(job, of)
    if clashes and CHANGED in found:
        job.connection.execute(clashing.move(of, clash.columns(clashes)))
        found = difference.tally(job, of)
    _demand_unreferred(job, of, referring, found)
    watched = difference.is_watched(job)
    job.connection.execute(_CATALOG["as_the_role"])
    job.connection.execute(_KEY["all_deferred"])
    parts = _written(job, of, clash.Ways(clashes, referring), found)
    job.connection.execute(statements.drop_staging(of.difference))
    written = _counted(job, of, found, parts, previous)
    if watched or job.plan.spec.verify == "full":
        job.connection.execute(statements.set_local("search_path", "pg_catalog"))
        difference.demand_none(job, of)
    return replace(written, was_empty=was_empty)


def _written(job: Job, of: Comparison, ways: clash.Ways, found: Mapping[str, int]) -> Mapping[str, int]:
    """Write it straight; where that clashes midway, around."""
    if MOVED not in found:
        return clash.run(job, delta.write(of, found))
    try:
        with job.connection.transaction():
            return clash.run(job, delta.write(of, found))
    except (psycopg.errors.UniqueViolation, psycopg.errors.ExclusionViolation) as error:
        log.info("%s: %s: rows may exchange unique values; writing them in another way", of.target, describe(error))
        return clash.around(job, of, ways)


def _was_empty(job: Job, found: Mapping[str, int]) -> bool:
    """Whether the target held no row, which slices and watermarks depend on; asked only if no row was met."""
    met = job.verification.rows - found.get(NEW, 0) + found.get(VANISHED, 0) + found.get(MARKED, 0)
    return job.plan.spec.write_mode != "replace" and not met and inplace.is_empty(job)


def _previous(job: Job, of: Comparison, found: Mapping[str, int]) -> int | None:
    """How many rows the target held; None where only counting a table of any length would tell."""
    if of.missing == "delete":
        return job.verification.rows - found.get(NEW, 0) + found.get(VANISHED, 0)
    return inplace.count(job) if of.missing == "mark" else None


def _counted(
    job: Job, of: Comparison, found: Mapping[str, int], parts: Mapping[str, int], previous: int | None
) -> Written:
    """What was written, if it is what was to be. Raises `VerifyError`."""
    changed = sum(found.get(kind, 0) for kind in (CHANGED, MOVED, REWRITTEN))
    wanted = {
        "new": found.get(NEW, 0),
        "changed": changed,
        "gone": found.get(VANISHED, 0),
        "marked": found.get(MARKED, 0),
    }
    done = {**{name: parts[name] for name in wanted}, "changed": parts["changed"] + parts["rewritten"]}
    if done != wanted:
        raise VerifyError(
            f"{of.target}: {_told(wanted)} rows were to be written, {_told(done)} were; nothing was changed",
            proofs={"rows": {name: {"expected": wanted[name], "written": done[name]} for name in wanted}},
            hint=inplace.find_suspects(job),
        )
    unchanged = job.verification.rows - done["new"] - done["changed"]
    held = None if previous is None else previous + done["new"] - done["gone"]
    if of.missing == "delete":
        held = inplace.count(job)
        inplace.demand_rows(job, written=unchanged + done["new"] + done["changed"], held=held)
    return Written(done["new"], done["changed"], done["gone"] + done["marked"], unchanged, previous, held)


def _demand_unreferred(job: Job, of: Comparison, by: Sequence[Reference], found: Mapping[str, int]) -> None:
    """No row of another table would be changed by an action of its foreign key. Raises `StageError`.

    The rows are locked first: nothing can come to refer to them, and what was about to has been committed.
    """
    going, changing = {VANISHED, REWRITTEN} & found.keys(), {CHANGED, MOVED} & found.keys()
    deleting = [each for each in by if not each.own and going and each.on_delete in ACTIONS]
    updating = [
        each
        for each in by
        if not each.own and changing and each.on_update in ACTIONS and not set(of.settable).isdisjoint(each.columns)
    ]
    if deleting:
        job.target.value(clashing.lock_rows(of, going))
    for each in deleting:
        _demand_none(job, of, each, going, changed=False)
    for each in updating:
        job.target.value(clashing.lock_rows(of, changing, columns=set(each.columns) & set(of.settable)))
        _demand_none(job, of, each, changing, changed=True)


def _demand_none(job: Job, of: Comparison, by: Reference, kinds: Collection[str], *, changed: bool) -> None:
    rows = job.target.value(clashing.referring(of, by, kinds, changed=changed))
    if not rows:
        return
    event: Literal["UPDATE", "DELETE"] = "UPDATE" if changed else "DELETE"
    why = "changed in" if changed else "vanished from"
    action = by.on_update if changed else by.on_delete
    done = "change" if changed and action == "c" else _TOLD[action]
    raise StageError(
        f"publish into {of.target} failed: {rows} rows of {by.table} still refer by {by.name} to rows that {why} the "
        f"source: its {by.clause(event)} would {done} them; nothing was changed",
        stage="publish",
        sqlstate="23503",
        hint=f"copy {by.table} first, or take these rows out of it",
        retryable=False,
    )


def _told(rows: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in rows.items() if count) or "no"
