"""Differences between staging and target, found under the lock: the common ground of `delta` and `upsert`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

import psycopg

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import PlanError, Refusal, VerifyError
from airflow_provider_safecopy.planning import keys, own_path
from airflow_provider_safecopy.planning.catalog import Relation
from airflow_provider_safecopy.planning.keys import ACTIONS, Key, Reference, read_references
from airflow_provider_safecopy.planning.plan import STAGING, CopyPlan, PlannedStep
from airflow_provider_safecopy.planning.preflight import of_publications, refuse_privilege
from airflow_provider_safecopy.planning.target_table import TargetTable
from airflow_provider_safecopy.postgres import statements
from airflow_provider_safecopy.postgres.diagnosis import rows_shown
from airflow_provider_safecopy.postgres.names import TableName, spell
from airflow_provider_safecopy.publish import diff_statements, target_lock
from airflow_provider_safecopy.publish.context import PublishContext
from airflow_provider_safecopy.publish.diff_statements import Comparison, Mark
from airflow_provider_safecopy.spec import CopySpec, Missing

log = logging.getLogger(__name__)

_KEY = sql.load("key")

# Of so few on both sides the planner needs to know no more than it sees by itself: the size of their file.
_FEW_ROWS = 1000

LOCK = "SHARE ROW EXCLUSIVE"
"""No other writer; readers, and rows of other tables that come to refer to the target's, go on."""


def refusals(table: TargetTable, spec: CopySpec, missing: Missing) -> Iterator[Refusal]:
    """Yield reasons against finding and writing differences in `table`."""
    relation, facts = table.relation, table.facts
    label, found = relation.label, keys.choose(facts.candidates, relation, spec)
    if isinstance(found, Refusal):
        yield found
    else:
        yield from _of_rights(table, spec, found, missing)
    for name in facts.foreign_partitions:
        message = f"{label}: its partition {name} is a foreign table, whose rows have no place of their own"
        yield Refusal("foreign_partition", message, label, hint="ask for publish=delete_insert, or detach it")
    if relation.update_without_identity or (missing == "delete" and relation.published_without_identity):
        yield Refusal(
            "no_replica_identity",
            f"{label} is published to subscribers and has no replica identity: UPDATE or DELETE is refused",
            table=label,
            hint="make the key its REPLICA IDENTITY, or add a primary key",
        )
    yield from own_path.check_reading(table.session, relation, replaces=spec.write_mode == "replace")
    deletes = relation.deletes_refused_by if missing == "delete" else ()
    yield from of_publications(relation, (*relation.updates_refused_by, *deletes))


def comparison(plan: CopyPlan, missing: Missing, staging: TableName = STAGING) -> Comparison:
    """Return the comparison of a plan that has a key. Raises `PlanError`, worth a retry, when the key went meanwhile."""
    relation = plan.target_relation
    assert relation is not None  # noqa: S101 -- else it is refused
    # There was one when the plan was begun, else it is refused.
    if plan.key is None:
        raise _changed_key_error(plan)
    free = [taken for _, taken in plan.pairs if taken.name not in plan.key.exact]
    named = {*plan.target_columns, plan.spec.missing_column}
    return Comparison(
        target=plan.target_name,
        staging=staging,
        key=plan.key,
        columns=plan.target_columns,
        settable=tuple(taken.name for taken in free if not taken.always),
        always=tuple(taken.name for taken in free if taken.always),
        kept=tuple(each.name for each in relation.columns if each.name not in named and not each.generated),
        missing=missing,
        mark=_mark(relation, plan.spec.missing_column) if missing == "mark" else None,
    )


def steps(plan: CopyPlan, missing: Missing) -> tuple[PlannedStep, ...]:
    """The comparison, and the writing of all that it may find; parts for which it finds nothing are left out."""
    of = comparison(plan, missing)
    vanished = {"delete": {diff_statements.VANISHED}, "mark": {diff_statements.MARKED}, "keep": set[str]()}[missing]
    again = {diff_statements.REWRITTEN} if of.always else set[str]()
    changed = {diff_statements.CHANGED} if of.settable or of.mark else set[str]()
    kinds = {diff_statements.NEW, *vanished, *again, *changed}
    return (
        PlannedStep("prepare", "target", diff_statements.unique_keys(of).as_string(None), "none on your tables"),
        PlannedStep("publish", "target", diff_statements.compare(of).as_string(None), LOCK),
        PlannedStep("publish", "target", diff_statements.write(of, kinds).as_string(None), LOCK),
    )


def prepare(job: PublishContext, missing: Missing) -> Comparison:
    """Demand a key of its own of each row in staging, and let the planner know. Raises `VerifyError`."""
    of = comparison(job.plan, missing, job.verification.staging)
    job.target.fetch_value(_KEY["bound"], {"milliseconds": round(job.seconds_left * 1000)})
    _require_no_rows(job, of, job.target.fetch_value(diff_statements.keyless(of)), "have no key: it is NULL", "keyless")
    try:
        job.connection.execute(diff_statements.unique_keys(of))
    except psycopg.errors.UniqueViolation as error:
        example = (error.diag.message_detail or "").removesuffix(" is duplicated.")
        problem = f"repeat another's key ({example})" if rows_shown.get() else "repeat another's key"
        _require_no_rows(job, of, job.target.fetch_value(diff_statements.count_repeated_keys(of)), problem, "repeated")
        raise
    if not _are_few(job):
        job.connection.execute(diff_statements.analyze(of.staging, of.key.names))
    job.target.fetch_value(_KEY["bound"], {"milliseconds": 0})
    return of


def find(job: PublishContext, of: Comparison) -> Mapping[str, int]:
    """Lock the target, demand that it is the table of the plan, compare. Returns how many differences of each kind.

    Leaves the session with the search_path of our own questions.
    """
    target_lock.take(job, LOCK)
    job.connection.execute(statements.set_local("search_path", "pg_catalog"))
    require_same_key(job)
    job.connection.execute(_KEY["room"])
    job.connection.execute(diff_statements.compare(of))
    if not _are_few(job):
        job.connection.execute(diff_statements.analyze(of.difference))
    return tally(job, of)


def tally(job: PublishContext, of: Comparison) -> Mapping[str, int]:
    """Return how many differences there are of each kind."""
    return {row["kind"]: row["rows"] for row in job.target.fetch_all(diff_statements.tally(of))}


def require_same_key(job: PublishContext) -> None:
    """Raises `PlanError`, worth a retry, when the unique index is not what it was when this copy was planned."""
    plan = job.plan
    assert plan.target_relation is not None  # noqa: S101 -- else it is refused
    if keys.find(job.target, plan.target_relation, plan.spec) != plan.key:
        raise _changed_key_error(plan)


def _changed_key_error(plan: CopyPlan) -> PlanError:
    message = f"{plan.target_name} does not have the key it had when this copy was planned"
    refusal = Refusal("target_changed", message, str(plan.target_name), hint="run the copy again")
    return PlanError((refusal,), retryable=True)


def is_watched(job: PublishContext) -> bool:
    """Return whether what is written may become something else: by triggers, or by actions of the table's own foreign keys."""
    oid = job.plan.target_oid
    acting = (each.own_actions for each in read_references(job.target, oid))
    return bool(job.target.fetch_value(_KEY["has_triggers"], {"oid": oid})) or any(acting)


def require_no_difference(job: PublishContext, of: Comparison) -> None:
    """No row differs any more. Raises `VerifyError`."""
    if left := job.target.fetch_value(diff_statements.any_difference(of)):
        raise VerifyError(
            f"{of.target}: {left} rows were not what staging holds after they had been written; nothing was changed",
            proofs={"rows": {"differing": left, "expected": 0}},
            hint=target_lock.find_suspects(job),
        )


def _are_few(job: PublishContext) -> bool:
    """Return whether rows are known to be few on both sides. Few to be looked up in a long table is what a planner must know."""
    relation = job.plan.target_relation
    return job.verification.rows <= _FEW_ROWS and relation is not None and 0 < relation.estimated_rows <= _FEW_ROWS


def _require_no_rows(job: PublishContext, of: Comparison, rows: int, problem: str, proof: str) -> None:
    if rows:
        raise VerifyError(
            f"{rows} of {job.verification.rows} rows for {of.target} {problem}; nothing was changed",
            proofs={"key": {proof: rows, "expected": 0}},
            hint=f"its key is ({', '.join(map(spell, of.key.names))}): look at the source, or name another by key_columns",
        )


def _of_rights(table: TargetTable, spec: CopySpec, by: Key, missing: Missing) -> Iterator[Refusal]:
    relation, label, role = table.relation, table.relation.label, table.session.server.role
    copied = keys.copied_columns(relation, spec) - by.exact
    changing = [each for each in relation.columns if each.name in copied and not each.generated]
    if missing == "mark":
        changing += [each for each in relation.columns if each.name == spec.missing_column]
    deleting = missing == "delete" or any(column.always for column in changing)
    acting = [each for each in table.facts.references if _acts(each, deleting=deleting)]
    # Rows that others refer to are locked, which takes the right to change something about them.
    if (changing or acting) and not relation.may_update:
        yield refuse_privilege(label, role, "UPDATE")
    elif changing:
        for column in changing:
            if not column.may_update and not column.always:
                yield refuse_privilege(label, role, f"UPDATE on column {spell(column.name)}", column.name)
    if relation.may_select and not relation.may_select_whole:
        yield refuse_privilege(label, role, "SELECT on the whole table, by which rows are compared,")
    if deleting and not relation.may_delete:
        yield refuse_privilege(label, role, "DELETE")
    elif not table.facts.may_lock:
        yield refuse_privilege(label, role, "UPDATE on the whole table, which LOCK TABLE asks for,")
    for each in acting:
        if not each.may_select:
            yield refuse_privilege(str(each.table), role, f"SELECT on what refers to {label} by {spell(each.name)}")


def _acts(by: Reference, *, deleting: bool) -> bool:
    return not by.own and (by.on_update in ACTIONS or (deleting and by.on_delete in ACTIONS))


def _mark(relation: Relation, name: str | None) -> Mark | None:
    column = relation.column(name) if name else None
    return None if column is None else Mark(column.name, moment=column.type != "boolean")
