"""Drift: source and target have come to differ in their columns; what becomes of that is `drift`'s to say.

``fail``: every difference is a refusal. ``ignore_extra``: columns only the source has are left out, and told.
``add_columns``: they are added to the target, with the source's type and comment, and may be NULL. Columns only the
target has are refused in any case, unless `columns` says what is copied: new rows would have their defaults, silently.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from psycopg.sql import Composed

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.planning import catalog, column_match, table_statements
from airflow_provider_safecopy.planning.catalog import Column, Relation
from airflow_provider_safecopy.planning.column_match import ColumnMatch
from airflow_provider_safecopy.planning.create_table import Blueprint, plan_target_column, read_blueprint
from airflow_provider_safecopy.planning.finding import Finding, join, refuse
from airflow_provider_safecopy.planning.plan import STAGING, CopyPlan, PlannedStep
from airflow_provider_safecopy.planning.preflight import refuse_privilege
from airflow_provider_safecopy.planning.table_definition import Definition, NewColumn
from airflow_provider_safecopy.postgres import statements
from airflow_provider_safecopy.postgres.names import TableName, spell
from airflow_provider_safecopy.postgres.session import Session
from airflow_provider_safecopy.publish import target_lock
from airflow_provider_safecopy.publish.context import PublishContext
from airflow_provider_safecopy.publish.lock_waits import Blockers
from airflow_provider_safecopy.spec import CopySpec

log = logging.getLogger(__name__)

_DEFINE = sql.load("define")
_LOCK = "ACCESS EXCLUSIVE"

Failure = TypeVar("Failure", bound=BaseException)


@dataclass(frozen=True)
class _WiderTable:
    """The target table with the columns of `definition`, as it will be."""

    relation: Relation
    definition: Definition | None = None


def match(
    spec: CopySpec,
    source: Session,
    target: Session,
    relations: tuple[Relation, Relation],
    known: Blueprint | None = None,
) -> Finding[ColumnMatch]:
    """Pair the columns of two tables that are there; what cannot be paired is refused.

    `known` is what a batch has read of the source's definition; without, it is asked for where columns are added.
    """
    given, taken = relations
    wanted, left_out = _choose_columns(spec, given, taken)
    new = [(one, name) for each, name in wanted.items() if not taken.column(name) and (one := given.column(each))]
    wider: Finding[_WiderTable] = Finding(_WiderTable(taken))
    if spec.drift == "add_columns" and new:
        names = [column.name for column, _ in new]
        wider = _add_columns(target, taken, new, known or read_blueprint(source, target, given, names, defaults=False))
    lost = {each.column for each in wider.refusals}
    chosen = {name: wanted for name, wanted in wanted.items() if spell(wanted) not in lost}
    named, paired = (
        column_match.check_names(given, wanted),
        column_match.check_columns(given, wider.value.relation, chosen, spec),
    )
    said = join(refuse(named), wider, refuse(paired))
    pairs = ((given.column(name), wider.value.relation.column(wanted)) for name, wanted in chosen.items())
    found = ColumnMatch(tuple((one, other) for one, other in pairs if one and other), taken, wider.value.definition)
    return Finding(found, said.refusals, warnings=(*left_out, *said.warnings))


def steps(plan: CopyPlan) -> tuple[PlannedStep, ...]:
    """Return the steps that add columns: to the table itself, or to the one that is to take its place alone."""
    if not adds_columns(plan):
        return ()
    swapped = plan.publish == "swap"
    name, lock = (STAGING, "none on your tables") if swapped else (plan.target_name, _LOCK)
    return tuple(PlannedStep("publish", "target", each.as_string(None), lock) for each in _statements(plan, name))


def widen(job: PublishContext) -> PublishContext:
    """Add the columns of the plan, in a short transaction of its own. Returns the job with the table as it is then.

    In the publishing transaction the lock that this takes would keep readers waiting for the whole write. If the
    publish fails afterwards, the columns stay, empty, and the next run finds them. Raises `PlanError`, worth a retry,
    when the table has changed since it was planned, `FencedOutError`, `StageTimeoutError` that names who holds the table,
    and psycopg.Error.
    """
    if not adds_columns(job.plan) or job.plan.publish == "swap":
        return job

    def add(trying: PublishContext) -> PublishContext:
        with trying.target.cancel_on_abort(trying.abort), trying.connection.transaction():
            return dataclasses.replace(_widen_target(trying, vacuumed=blockers.vacuumed), lock_step=job.lock_step)

    with Blockers(job) as blockers:
        return blockers.outlast(add)


def adds_columns(plan: CopyPlan) -> bool:
    """Return whether the plan adds columns to a table that is there."""
    return plan.definition is not None and plan.publish != "create"


def note_added_columns(job: PublishContext, error: Failure) -> Failure:
    """The error of a publish, with a word about what is left of it: columns that were added stay."""
    table, definition = job.plan.target_relation, job.plan.definition
    new = definition.columns if definition is not None and adds_columns(job.plan) else ()
    if table is not None and (stay := [spell(each.name) for each in new if table.column(each.name)]):
        error.add_note(f"{table.label} has been given the column {', '.join(stay)} before that, and keeps it, empty")
    return error


def add_columns(plan: CopyPlan, staging: TableName) -> tuple[Composed, ...]:
    """Compose the statements that add the columns to a table that is to take the target's place."""
    return _statements(plan, staging) if adds_columns(plan) else ()


def _choose_columns(spec: CopySpec, given: Relation, taken: Relation) -> tuple[dict[str, str], tuple[str, ...]]:
    """Source column by target column, before anything is added; and what is left out."""
    if spec.columns is not None:
        return dict(spec.columns), ()
    computed = {column.name for column in taken.columns if column.generated}
    chosen = [column for column in given.columns if column.name not in computed]
    extra = [column for column in chosen if spec.drift == "ignore_extra" and not taken.column(column.name)]
    told = tuple(f"{taken.label}: column {spell(each.name)} {each.type} of the source is left out" for each in extra)
    return {column.name: column.name for column in chosen if column not in extra}, told


def _add_columns(
    target: Session, taken: Relation, new: Sequence[tuple[Column, str]], blueprint: Blueprint
) -> Finding[_WiderTable]:
    """Return the target as it will be with the `new` columns, and what cannot be like the source's."""
    original, vocabulary = blueprint.source_definition, blueprint.vocabulary
    columns, made, refusals = list[Column](), list[Finding[NewColumn]](), list[Refusal]()
    for column, wanted in new:
        found = plan_target_column(target, vocabulary, column, wanted, taken.label)
        if isinstance(found, Refusal):
            refusals.append(found)
        elif vocabulary.types[column.type].is_constrained:
            message = f"column {spell(wanted)}: the domain {column.type} has rules, which rows that are there may break"
            refusals.append(Refusal("column_unaddable", message, taken.label, spell(wanted), "add it yourself"))
        else:
            columns.append(found)
            made.append(original.build_added_column(vocabulary, column, wanted))
    definition = Definition(tuple(each.value for each in made))
    announced: Finding[None] = Finding(None, warnings=tuple(_describe_columns(taken, definition)))
    said = join(refuse(refusals), *made, announced, _extensible(target, taken))
    wider = _WiderTable(dataclasses.replace(taken, columns=(*taken.columns, *columns)), definition)
    return Finding(wider, said.refusals, warnings=said.warnings)


def _describe_columns(taken: Relation, definition: Definition) -> Iterator[str]:
    for column in definition.columns:
        yield f"{taken.label}: column {spell(column.name)} {column.type} is added, and stays even if the publish fails"


def _extensible(target: Session, taken: Relation) -> Finding[None]:
    """Check that this role can give the table a column; warn of subscribers, who need the column too."""
    found = target.fetch_one(_DEFINE["extensible"], {"oid": taken.oid})
    if found is None:
        return Finding(None)
    refusals = []
    if not found["owned"]:
        right = f"ownership, which adding a column takes: membership in {spell(taken.owner)}"
        refusals.append(refuse_privilege(taken.label, target.server.role, right))
    if found["bound"]:
        message = f"{taken.label} is a partition, or of a composite type: it has the columns that one has"
        refusals.append(Refusal("column_unaddable", message, taken.label, hint="add the column there yourself"))
    published = f"{taken.label} is published: subscribers stop until they have the new columns too"
    return Finding(None, tuple(refusals), warnings=(published,) if found["published"] else ())


def _statements(plan: CopyPlan, name: TableName) -> tuple[Composed, ...]:
    assert plan.definition is not None  # noqa: S101 -- see `adds_columns`
    return (
        table_statements.add_columns(name, plan.definition.columns),
        *table_statements.comments(name, plan.definition),
    )


def _widen_target(job: PublishContext, *, vacuumed: bool) -> PublishContext:
    """Fence, lock, and add. The lock's holder is asked for nothing that takes time."""
    plan, then = job.plan, job.plan.target_relation
    job.connection.execute(statements.set_timeout("statement_timeout", job.seconds_left))
    job.connection.execute(statements.set_timeout("lock_timeout", job.lock_step))
    job.fence(job.connection)
    if vacuumed:
        target_lock.stop_autovacuum(job)
    with job.target.limit_lock_wait(job.lock_step):
        job.connection.execute(statements.lock(plan.target_name, _LOCK))
    target_lock.require_same_table(job)
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
