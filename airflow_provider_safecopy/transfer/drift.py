"""Drift: source and target have come to differ in their columns; what becomes of that is `drift`'s to say.

``fail``: every difference is a refusal. ``ignore_extra``: columns only the source has are left out, and told.
``add_columns``: they are added to the target, with the source's type and comment, and may be NULL. Columns only the
target has are refused in any case, unless `columns` says what is copied: new rows would have their defaults, silently.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import TypeVar

from psycopg.sql import Composed

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.transfer import catalog, inplace, mismatch, statements
from airflow_provider_safecopy.transfer.blockers import Blockers
from airflow_provider_safecopy.transfer.catalog import Column, Relation
from airflow_provider_safecopy.transfer.definition import Definition, NewColumn
from airflow_provider_safecopy.transfer.job import Job
from airflow_provider_safecopy.transfer.match import Match
from airflow_provider_safecopy.transfer.name import TableName, spell
from airflow_provider_safecopy.transfer.original import Original, obeys_rules, there
from airflow_provider_safecopy.transfer.plan import STAGING, CopyPlan, PlannedStep
from airflow_provider_safecopy.transfer.refusal import lacks
from airflow_provider_safecopy.transfer.session import Session
from airflow_provider_safecopy.transfer.spec import CopySpec
from airflow_provider_safecopy.transfer.statements import define

log = logging.getLogger(__name__)

_DEFINE = sql.load("define")
_LOCK = "ACCESS EXCLUSIVE"

Failure = TypeVar("Failure", bound=BaseException)


def match(
    spec: CopySpec, source: Session, target: Session, relations: tuple[Relation, Relation], refusals: list[Refusal]
) -> Match:
    """Pair the columns of two tables that are there. Reads only; what cannot be paired is added to `refusals`."""
    given, taken = relations
    chosen, told = _chosen(spec, given, taken)
    refusals += mismatch.of_names(given, chosen)
    new = [(one, wanted) for name, wanted in chosen.items() if not taken.column(wanted) and (one := given.column(name))]
    definition, wider = None, taken
    if spec.drift == "add_columns" and new:
        known = len(refusals)
        definition, wider, left = _added((source, target), relations, new, refusals)
        told += [*left, *_told(taken, definition), *_extensible(target, taken, refusals)]
        refused = {each.column for each in refusals[known:]}
        chosen = {name: wanted for name, wanted in chosen.items() if spell(wanted) not in refused}
    refusals += mismatch.of_columns(given, wider, chosen, spec)
    pairs = ((given.column(name), wider.column(wanted)) for name, wanted in chosen.items())
    return Match(tuple((one, other) for one, other in pairs if one and other), taken, definition, tuple(told))


def steps(plan: CopyPlan) -> tuple[PlannedStep, ...]:
    """How columns are added: to the table itself, or where another is to take its place, to that one alone."""
    if not adds_columns(plan):
        return ()
    swapped = plan.publish == "swap"
    name, lock = (STAGING, "none on your tables") if swapped else (plan.target_name, _LOCK)
    return tuple(PlannedStep("publish", "target", each.as_string(None), lock) for each in _statements(plan, name))


def widen(job: Job) -> Job:
    """Add the columns of the plan, in a short transaction of its own. Returns the job with the table as it is then.

    In the publishing transaction the lock that this takes would keep readers waiting for the whole write. If the
    publish fails afterwards, the columns stay, empty, and the next run finds them. Raises `PlanError`, worth a retry,
    when the table has changed since it was planned, `FencedOutError`, `StageTimeoutError` that names who holds the table,
    and psycopg.Error.
    """
    if not adds_columns(job.plan) or job.plan.publish == "swap":
        return job

    def add(trying: Job) -> Job:
        with trying.target.obeys(trying.abort), trying.connection.transaction():
            return dataclasses.replace(_widened(trying, vacuumed=blockers.vacuumed), lock_step=job.lock_step)

    with Blockers(job) as blockers:
        return blockers.outlast(add)


def adds_columns(plan: CopyPlan) -> bool:
    """Whether the plan adds columns to a table that is there."""
    return plan.definition is not None and plan.publish != "create"


def noted(job: Job, error: Failure) -> Failure:
    """The error of a publish, with a word about what is left of it: columns that were added stay."""
    table, definition = job.plan.target_relation, job.plan.definition
    new = definition.columns if definition is not None and adds_columns(job.plan) else ()
    if table is not None and (stay := [spell(each.name) for each in new if table.column(each.name)]):
        error.add_note(f"{table.label} has been given the column {', '.join(stay)} before that, and keeps it, empty")
    return error


def added_to(plan: CopyPlan, staging: TableName) -> tuple[Composed, ...]:
    """What gives the columns to a table that is to take the target's place."""
    return _statements(plan, staging) if adds_columns(plan) else ()


def _chosen(spec: CopySpec, given: Relation, taken: Relation) -> tuple[dict[str, str], list[str]]:
    """Source column by target column, before anything is added; and what is left out."""
    if spec.columns is not None:
        return dict(spec.columns), []
    computed = {column.name for column in taken.columns if column.generated}
    chosen = [column for column in given.columns if column.name not in computed]
    extra = [column for column in chosen if spec.drift == "ignore_extra" and not taken.column(column.name)]
    told = [f"{taken.label}: column {spell(each.name)} {each.type} of the source is left out" for each in extra]
    return {column.name: column.name for column in chosen if column not in extra}, told


def _added(
    sessions: tuple[Session, Session],
    relations: tuple[Relation, Relation],
    new: Sequence[tuple[Column, str]],
    refusals: list[Refusal],
) -> tuple[Definition, Relation, list[str]]:
    """What is to be added, the target as it will be, and what cannot be like the source's."""
    (source, target), (given, taken) = sessions, relations
    original, told, columns, made = Original.of(source, given), list[str](), list[Column](), list[NewColumn]()
    for column, wanted in new:
        found = there(target, column, wanted, taken.label)
        if isinstance(found, Refusal):
            refusals.append(found)
        elif obeys_rules(target, column.type):
            message = f"column {spell(wanted)}: the domain {column.type} has rules, which rows that are there may break"
            refusals.append(Refusal("column_unaddable", message, taken.label, spell(wanted), "add it yourself"))
        else:
            columns.append(found)
            made.append(original.added(target, column, wanted, told))
    return Definition(tuple(made)), dataclasses.replace(taken, columns=(*taken.columns, *columns)), told


def _told(taken: Relation, definition: Definition) -> Iterator[str]:
    for column in definition.columns:
        yield f"{taken.label}: column {spell(column.name)} {column.type} is added, and stays even if the publish fails"


def _extensible(target: Session, taken: Relation, refusals: list[Refusal]) -> Iterator[str]:
    """Whether this table can be given a column by this role; and who else will have to be given it."""
    found = target.one(_DEFINE["extensible"], {"oid": taken.oid})
    if found is None:
        return
    if not found["owned"]:
        right = f"ownership, which adding a column takes: membership in {spell(taken.owner)}"
        refusals.append(lacks(taken.label, target.server.role, right))
    if found["bound"]:
        message = f"{taken.label} is a partition, or of a composite type: it has the columns that one has"
        refusals.append(Refusal("column_unaddable", message, taken.label, hint="add the column there yourself"))
    if found["published"]:
        yield f"{taken.label} is published: subscribers stop until they have the new columns too"


def _statements(plan: CopyPlan, name: TableName) -> tuple[Composed, ...]:
    assert plan.definition is not None  # noqa: S101 -- see `adds_columns`
    return (define.add_columns(name, plan.definition.columns), *define.comments(name, plan.definition))


def _widened(job: Job, *, vacuumed: bool) -> Job:
    """Fence, lock, and add. The lock's holder is asked for nothing that takes time."""
    plan, then = job.plan, job.plan.target_relation
    job.connection.execute(statements.set_timeout("statement_timeout", job.seconds_left))
    job.connection.execute(statements.set_timeout("lock_timeout", job.lock_step))
    job.fence(job.connection)
    if vacuumed:
        inplace.stop_autovacuum(job)
    with job.target.waiting(job.lock_step):
        job.connection.execute(statements.lock(plan.target_name, _LOCK))
    inplace.demand_same_table(job)
    for statement in _statements(plan, plan.target_name):
        job.connection.execute(statement)
    now = catalog.describe(job.target, plan.target_name)
    assert now is not None and then is not None  # noqa: S101, PT018 -- it is locked
    log.info(
        "publish: added to %s: %s",
        plan.target_name,
        ", ".join(spell(each.name) for each in now.columns[len(then.columns) :]),
    )
    pairs = tuple((given, now.column(taken.name) or taken) for given, taken in plan.pairs)
    return dataclasses.replace(job, plan=dataclasses.replace(plan, target_relation=now, pairs=pairs))
