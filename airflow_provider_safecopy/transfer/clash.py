"""Clash: rows that exchange what must be unique stand in each other's way while they are written one after the other.

Where writing them straight fails, they are deleted and inserted again in one statement; those that rows of other tables
refer to in a way that forbids it are first given another value for a moment, that nobody but this transaction sees.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg.sql import Composed

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.diagnosis import describe
from airflow_provider_safecopy.errors import StageError
from airflow_provider_safecopy.transfer import difference
from airflow_provider_safecopy.transfer.job import PublishContext
from airflow_provider_safecopy.transfer.reference import ACTIONS, Reference
from airflow_provider_safecopy.transfer.statements import clash, delta
from airflow_provider_safecopy.transfer.statements.difference import MOVED, PARKED, REWRITTEN, Comparison

log = logging.getLogger(__name__)

_KEY = sql.load("key")


@dataclass(frozen=True)
class UniqueConflict:
    """A unique or exclusion index besides the key's, and its columns that a publish may change."""

    index: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class ConflictPlan:
    """What may clash, and what refers to the rows that do."""

    clashes: tuple[UniqueConflict, ...]
    referring: tuple[Reference, ...]


def find(job: PublishContext, of: Comparison) -> tuple[UniqueConflict, ...]:
    """What may clash when several rows are written."""
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
            if PARKED in difference.tally(job, of):
                _park(job, of, ways.clashes)
            return run(job, delta.write(of, difference.tally(job, of)))
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
        job.connection.execute(clash.relabel(of, MOVED, PARKED))
        return
    if any(each.on_delete in ACTIONS for each in forbidding):
        job.target.fetch_value(clash.lock_rows(of, {MOVED}))
    if forbidding:
        job.connection.execute(clash.protect(of, forbidding))
    job.connection.execute(clash.relabel(of, MOVED, REWRITTEN))


def _park(job: PublishContext, of: Comparison, clashes: Sequence[UniqueConflict]) -> None:
    """Take them out of each other's way, as far as that goes: what is written then shows whether it was enough."""
    taken = {column.name: column for _, column in job.plan.pairs}
    for each in clashes:
        # First those that may be NULL, which equals nothing.
        for column in sorted((taken[name] for name in each.columns), key=lambda column: column.not_null):
            values = clash.asides(of, column.name, column.type, nullable=not column.not_null)
            if any(_park_values(job, clash.park(of, each.columns, column.name, value)) for value in values):
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
