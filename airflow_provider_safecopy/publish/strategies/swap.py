"""Swap: the new table is built beforehand, and in a few milliseconds takes the old one's place, name and all.

Rows are loaded frozen: visible to every snapshot, so that a reader whose snapshot is older sees the new rows, and
never none. A transaction that is open and has touched the table is waited for.

Until the publishing transaction the new table has no foreign key to another table: such a key acts from the moment
it exists, on the rows of both. And before COMMIT the new table is compared with the old one: what an event trigger of the
database has made of it, or a GRANT that came in between, is not published, or not lost.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import psycopg
from psycopg.sql import SQL, Composed

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import PlanError, Refusal
from airflow_provider_safecopy.planning import own_path
from airflow_provider_safecopy.planning.catalog import Relation
from airflow_provider_safecopy.planning.plan import STAGING, CopyPlan, PlannedStep
from airflow_provider_safecopy.planning.target_table import TargetTable
from airflow_provider_safecopy.postgres import statements
from airflow_provider_safecopy.postgres.session import Session
from airflow_provider_safecopy.postgres.statements import together
from airflow_provider_safecopy.publish import clone_table, schema_drift, target_lock
from airflow_provider_safecopy.publish import dependents as publish_dependents
from airflow_provider_safecopy.publish.clone_table import ClonePlan
from airflow_provider_safecopy.publish.context import PublishContext
from airflow_provider_safecopy.publish.dependents import DependentStatements
from airflow_provider_safecopy.report import WrittenRows
from airflow_provider_safecopy.spec import CopySpec, MiB

COUNTED_BYTES = 16 * MiB
"""The old rows of a table up to this size are counted, for the report; of a larger one only where `max_shrink` asks."""

_LOCK = "ACCESS EXCLUSIVE"
_REFER_LOCK = "SHARE ROW EXCLUSIVE on the tables it refers to"
_DEADLOCK_SHARE = 0.8
"""A share of the server's deadlock_timeout: a shorter wait never ends another session's statement as a deadlock."""

_CONCURRENT_UPDATE = "XX000"
"""The server's error when another session changed the same catalog row, as a GRANT does, which locks no table."""

Thing = TypeVar("Thing")

_SIZE = sql.load("catalog")["size"]
_OID = sql.load("build")["numbered"]


@dataclass(frozen=True)
class PreparedSwap:
    """A table ready to take the target's place, and the target's dependents, as they were seen.

    `new_oid` is the OID of that table, which it keeps.
    """

    build: ClonePlan
    dependents: DependentStatements
    previous: int | None
    new_oid: int


def find_refusals(table: TargetTable, spec: CopySpec) -> Iterator[Refusal]:
    """Yield what cannot be built anew or kept; for ``auto`` also subscribers that would get no rows."""
    session, relation = table.session, table.relation
    if (
        spec.publish == "auto"
        and (wrong_to_others := publish_dependents.check_publications(session, relation)) is not None
    ):
        yield wrong_to_others
    yield from own_path.check_building(session, relation)
    wrong = tuple(clone_table.refusals(session, relation, list_copied_columns(relation, spec)))
    yield from wrong
    known = {(refusal.code, refusal.message) for refusal in wrong}
    yield from (
        refusal
        for refusal in publish_dependents.refusals(session, relation)
        if (refusal.code, refusal.message) not in known
    )


def find_drawback(table: TargetTable, spec: CopySpec) -> str | None:
    """Return what is lost for a while after a swap, although the swap is correct."""
    return publish_dependents.find_drawback(table.session, table.relation)


def list_copied_columns(relation: Relation, spec: CopySpec) -> frozenset[str]:
    """The columns of the target that the source fills; the others get their defaults."""
    wanted = None if spec.columns is None else set(spec.columns.values())
    return frozenset(
        column.name for column in relation.columns if not column.generated and (wanted is None or column.name in wanted)
    )


def list_steps(plan: CopyPlan, session: Session) -> tuple[PlannedStep, ...]:
    """All of it, as the target is now; names that hang on the token are other ones then."""
    relation = plan.target_relation
    assert relation is not None  # noqa: S101 -- a plan without a target is refused
    made = clone_table.statements_of(session, relation, STAGING, frozenset(plan.target_columns))
    carried = publish_dependents.read_statements(session, relation, STAGING)
    lock = statements.lock(plan.target_name, _LOCK).as_string(None)
    exchange = [
        *carried.first,
        lock,
        *_list_statements(made, "hold"),
        *carried.before,
        *_list_statements(made, "rename"),
    ]
    exchange += [*carried.after, *_list_statements(made, "finish"), *_list_statements(made, "drop")]
    return (
        *(PlannedStep("import", "target", text, "none on your tables") for text in _list_statements(made, "create")),
        *(PlannedStep("prepare", "target", text, "none on the target") for text in _list_statements(made, "build")),
        *(PlannedStep("publish", "target", text, _REFER_LOCK) for text in _list_statements(made, "refer")),
        *(PlannedStep("publish", "target", text, _LOCK) for text in exchange),
    )


def prepare(job: PublishContext) -> PreparedSwap:
    """Build indexes, constraints and statistics, and see what hangs on the target. No session waits meanwhile."""
    relation, staging = _require_relation(job), job.verification.staging
    if wrong := tuple(find_refusals(TargetTable(job.target, relation), job.plan.spec)):
        raise PlanError(wrong, retryable=True)
    planned = _read_build(job)
    if not clone_table.is_current(job.target, staging, planned):
        raise _changed_error(job)
    clone_table.finish(job, planned)
    previous = _count_previous(job)
    new: int = job.target.fetch_value(_OID, {"schema": staging.schema, "name": staging.name})
    # Planned here: there is no time for it under the lock.
    _compare_rights(job, new, new)
    # Once more: what the server gave the new sequences by itself is known only now.
    return PreparedSwap(_read_build(job), _read_dependents(job), previous, new)


def _count_previous(job: PublishContext) -> int | None:
    """Return how many rows will go. To know it for a large table would cost a twentieth of its copy: only where a guard asks."""
    size: int | None = job.target.fetch_value(_SIZE, {"oid": job.plan.target_oid})
    # It has been dropped.
    if size is None:
        raise _changed_error(job)
    if job.plan.spec.max_shrink is None and size > COUNTED_BYTES:
        return None
    with job.connection.transaction():
        job.connection.execute(statements.set_timeout("statement_timeout", job.seconds_left))
        return target_lock.count(job)


def write(job: PublishContext, prepared: PreparedSwap) -> WrittenRows:
    """Check that nothing has changed, lock, check again, exchange, and compare.

    `previous` was counted before: there is no time for it now.
    """
    target_lock.require_same_table(job)
    _require_unchanged(job, prepared)
    _probe(job, prepared)
    made = _add_references(job, prepared)
    began, step = time.monotonic(), _step_seconds(job)
    _run_in_step(job, began, step, prepared.dependents.first)
    _run_in_step(job, began, step, [statements.lock(job.plan.target_name, _LOCK)])
    if _read_build(job) != made or _read_dependents(job) != prepared.dependents:
        raise _changed_error(job)
    _run_in_step(job, began, step, _list_statements(made, "hold"))
    try:
        _exchange(job, prepared, made)
    except psycopg.errors.InternalError as error:
        if error.sqlstate != _CONCURRENT_UPDATE:
            raise
        raise _changed_error(job) from error
    rows = job.verification.rows
    return WrittenRows(rows, 0, prepared.previous, 0, prepared.previous, rows)


def _probe(job: PublishContext, prepared: PreparedSwap) -> None:
    """Take each lock by itself and release it again.

    Later steps hold some locks while they wait for others. A reader that stays in the table for long, and then reads
    one of its views or a referenced table, must not find those locked meanwhile.
    """
    first = prepared.dependents.first
    if not first and not prepared.build.phase("refer"):
        return
    locks: list[Composed | str] = [statements.lock(job.plan.target_name, _LOCK), *first]
    for statement in locks:
        within = statements.set_timeout("lock_timeout", job.lock_step)
        tried = together((SQL("SAVEPOINT probe"), within, statement, SQL("ROLLBACK TO SAVEPOINT probe")))
        with job.target.limit_lock_wait(job.lock_step):
            job.connection.execute(tried)


def _add_references(job: PublishContext, prepared: PreparedSwap) -> ClonePlan:
    """Add the foreign keys to other tables; only their writers wait. Return the build as it is then."""
    if not prepared.build.phase("refer"):
        return prepared.build
    clone_table.refer(job, prepared.build, within=job.lock_step)
    made = _read_build(job)
    if made.drop_server_names != prepared.build.drop_server_names:
        raise _changed_error(job)
    return made


def _exchange(job: PublishContext, prepared: PreparedSwap, new_build: ClonePlan) -> None:
    """Exchange the tables, and compare them before the old one is dropped; later changes find its rows locked."""
    exchange = (
        *prepared.dependents.before,
        *_list_statements(new_build, "rename"),
        *prepared.dependents.after,
        *_list_statements(new_build, "finish"),
    )
    *pins, drop = _list_statements(new_build, "drop")
    _run(job, (*exchange, *pins))
    if _compare_rights(job, job.plan.target_oid, prepared.new_oid):
        raise _changed_error(job)
    _require_same_definition(job, prepared)
    _run(job, [drop])


def _compare_rights(job: PublishContext, old: int, new: int) -> list[str]:
    return publish_dependents.compare_rights(job.target, old, new)


def _require_same_definition(job: PublishContext, prepared: PreparedSwap) -> None:
    """Raise `PlanError` if the new table is not made as the old one was."""
    new, added = replace(_require_relation(job), oid=prepared.new_oid), schema_drift.adds_columns(job.plan)
    columns = frozenset(job.plan.target_columns)
    now = clone_table.statements_of(job.target, new, job.verification.staging, columns).likeness
    differing = {f"{kind} {name}" for kind, name, _ in _diff(prepared.build.likeness, now)}
    hung = _diff(
        prepared.dependents.likeness,
        publish_dependents.read_statements(job.target, new, job.verification.staging).likeness,
    )
    # The table differs by the columns that this copy adds.
    if added:
        differing -= {f"table {prepared.build.phase('create')[0].name}"}
        hung = {statement for statement in hung if not statement.startswith("COMMENT ON COLUMN")}
    if found := sorted(differing | hung):
        raise _unlike_error(job, found)


def _diff(then: Mapping[Thing, int], now: Mapping[Thing, int]) -> set[Thing]:
    return {each for each in then.keys() | now.keys() if then.get(each) != now.get(each)}


def _step_seconds(job: PublishContext) -> float:
    return min(job.lock_step, _DEADLOCK_SHARE * job.target.server.deadlock_seconds)


def _require_unchanged(job: PublishContext, prepared: PreparedSwap) -> None:
    if _read_build(job) != prepared.build or _read_dependents(job) != prepared.dependents:
        raise _changed_error(job)


def _list_statements(new_build: ClonePlan, phase: clone_table.Phase) -> list[str]:
    return [step.statement for step in new_build.phase(phase)]


def _run_in_step(job: PublishContext, began: float, step: float, commands: Iterable[Composed | str]) -> None:
    """Run statements that may wait for locks, within one step for all: readers queue behind us from the first we wait for."""
    for statement in commands:
        left = began + step - time.monotonic()
        timed = together((statements.set_timeout("lock_timeout", max(0.001, left)), statement))
        with job.target.limit_lock_wait(step):
            job.connection.execute(timed)


def _run(job: PublishContext, commands: Sequence[str]) -> None:
    """In one message: readers do not wait for the way between us and the server."""
    job.connection.execute(together(commands))


def _read_build(job: PublishContext) -> ClonePlan:
    columns = frozenset(job.plan.target_columns)
    return clone_table.statements_of(job.target, _require_relation(job), job.verification.staging, columns)


def _read_dependents(job: PublishContext) -> DependentStatements:
    return publish_dependents.read_statements(job.target, _require_relation(job), job.verification.staging)


def _require_relation(job: PublishContext) -> Relation:
    relation = job.plan.target_relation
    assert relation is not None  # noqa: S101 -- a plan without a target is refused
    return relation


def _changed_error(job: PublishContext) -> PlanError:
    table = str(job.plan.target_name)
    message = f"{table} is not the table it was when the new one was built, or something else hangs on it"
    return PlanError((Refusal("target_changed", message, table, hint="run the copy again"),), retryable=True)


def _unlike_error(job: PublishContext, differences: Sequence[str]) -> PlanError:
    table, more = str(job.plan.target_name), f" and {len(differences) - 3} more" if len(differences) > 3 else ""
    message = f"{table}: the table built to replace it differs from it: {'; '.join(differences[:3])}{more}"
    hint = "exclude the schema safecopy in the event trigger that changes new tables, or ask for publish=delta or delete_insert"
    return PlanError((Refusal("swap_unlike", message, table, hint=hint),), retryable=False)
