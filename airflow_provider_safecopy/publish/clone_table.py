"""Building a table like the target, all of it, unseen by others: the statements are the server's own, made from its catalog.

What belongs to the table itself is built here: columns, indexes, constraints, foreign keys, statistics. What others
have hung on it (grants, triggers, policies, views, …) is carried over in the publish: see `carry`.
"""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, LiteralString

import psycopg

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import Refusal, StageError, StageTimeoutError, may_pass
from airflow_provider_safecopy.planning.catalog import Relation
from airflow_provider_safecopy.planning.own_path import NOT_FOUND
from airflow_provider_safecopy.postgres import statements
from airflow_provider_safecopy.postgres.diagnosis import describe
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.postgres.session import Session
from airflow_provider_safecopy.postgres.statements import together
from airflow_provider_safecopy.publish.context import PublishContext
from airflow_provider_safecopy.publish.lock_waits import Blockers

log = logging.getLogger(__name__)

Phase = Literal["create", "build", "refer", "hold", "rename", "finish", "drop"]
"""An empty table · all that can be added to unseen rows · in the publish: foreign keys to other tables · under the
lock: preparation, the exchange, and the steps after the new table has its owner · the end of the old one."""

_BUILD = sql.load("build")
_PARTS: tuple[LiteralString, ...] = (
    *(
        "table",
        "storage",
        "identity",
        "indexes",
        "index_options",
        "keys",
        "index_targets",
        "tried",
        "checks",
        "foreign_keys",
    ),
    *("statistics", "targets", "analyze", "released", "held", "left", "entered", "renamed"),
    *("renamed_statistics", "renamed_foreign_keys", "owned", "commented", "granted", "pinned", "dropped"),
)
_STATEMENTS = "\n".join(
    (_BUILD["given"], "\nUNION ALL\n".join([_BUILD[part] for part in _PARTS]), "ORDER BY rank, ord, statement")
)
# The names that parts have until the exchange: they contain the number of the old table's part.
_TEMPORARY = re.compile(r"safecopy_[0-9a-f]{32}_[0-9]+")
_INSTEAD = "ask for publish=delta or publish=delete_insert"


@dataclass(frozen=True)
class Step:
    """One statement. `kind` and `name` say what it is about, by its final name; `space` is an index's tablespace."""

    phase: Phase
    kind: str
    name: str
    statement: str
    space: str | None


@dataclass(frozen=True)
class ClonePlan:
    """All statements that make a table like the target and put it into its place. Equal as long as the target is the same."""

    steps: tuple[Step, ...]

    def phase(self, phase: Phase) -> tuple[Step, ...]:
        """Those of one phase, in order."""
        return tuple(step for step in self.steps if step.phase == phase)

    @property
    def likeness(self) -> Mapping[tuple[str, str, str], int]:
        """The table's definition, in words that are equal for another table of its name made alike."""
        return Counter(
            (step.kind, step.name, _TEMPORARY.sub("…", step.statement))
            for step in self.steps
            if step.phase in {"create", "build", "refer"}
        )

    @property
    def drop_server_names(self) -> ClonePlan:
        """Return the build without renames of server-named constraints, which `refer` adds."""
        return ClonePlan(tuple(step for step in self.steps if (step.phase, step.kind) != ("rename", "constraint")))

    @property
    def table_statement(self) -> str:
        """The statement that makes the empty table."""
        return "\n".join(step.statement for step in self.phase("create"))


def refusals(session: Session, relation: Relation, copied: frozenset[str]) -> Iterator[Refusal]:
    """Why a table like `relation`, of which the columns `copied` are loaded, cannot be built by this role. Reads only."""
    label, role = relation.label, session.server.role
    if relation.kind != "r":
        # Refused by `carry`.
        return
    for found in session.fetch_all(_BUILD["obstacles"], {"oid": relation.oid}):
        yield _build_refusal(label, role, found["why"], found["told"])
    for column in relation.columns:
        if not column.may_use and column.name not in copied:
            yield _build_refusal(
                label, role, "right", f"USAGE on type {column.type} of column {column.name}, or on its schema"
            )
    for step in statements_of(session, relation, TableName("safecopy", "…"), copied).steps:
        if step.statement is None:
            yield Refusal(
                "not_built",
                f"{label}: the server's definition of the {step.kind} {step.name} is not understood",
                table=label,
                hint=_INSTEAD,
            )


def statements_of(session: Session, relation: Relation, staging: TableName, copied: frozenset[str]) -> ClonePlan:
    """The statements, as the target is now.

    They bear the target's name: of a table that has lost its name to another, or is gone, they are others.
    """
    asked = {"oid": relation.oid, "staging": staging.name, "copied": sorted(copied)}
    rows = session.fetch_all(_STATEMENTS, asked)
    return ClonePlan(
        tuple(Step(*(row[key] for key in ("phase", "kind", "name", "statement", "space"))) for row in rows)
    )


def create(session: Session, relation: Relation, staging: TableName, copied: frozenset[str]) -> None:
    """Make the empty table, without indexes and constraints, and note on it what it was made as. Raises psycopg.Error."""
    build = statements_of(session, relation, staging, copied)
    with session.connection.transaction():
        session.connection.execute(together(step.statement for step in build.phase("create")))
        asked = {"staging": staging.name, "made": build.table_statement}
        session.connection.execute(together(row["statement"] for row in session.fetch_all(_BUILD["noted"], asked)))


def is_current(session: Session, staging: TableName, build: ClonePlan) -> bool:
    """Return whether `create` would make the same table today."""
    return bool(session.fetch_value(_BUILD["stamped"], {"staging": staging.name, "made": build.table_statement}))


def finish(job: PublishContext, build: ClonePlan) -> None:
    """Add everything to the loaded table, each statement on its own: as long as it takes, and no session is kept waiting.

    Raises `StageError` that names the target's index or constraint where the rows violate it, `StageTimeoutError` past
    `publish_timeout`.
    """
    for step in build.phase("build"):
        started = time.monotonic()
        try:
            _run_with_retries(job, step)
        except psycopg.Error as error:
            if step.kind != "analysis" or isinstance(error, psycopg.errors.QueryCanceled):
                raise _build_error(job, step, error) from error
            log.warning("prepare: %s was not analyzed: %s", job.plan.target_name, describe(error))
        log.info("prepare: %s %s of %s, %.2f s", step.kind, step.name, job.plan.target_name, time.monotonic() - started)


def refer(job: PublishContext, build: ClonePlan, *, within: float) -> None:
    """Give the new table its foreign keys to other tables, inside the publishing transaction.

    Writers of those tables wait from here until COMMIT; readers do not. Raises `StageError` if rows refer to missing
    rows, and `LockNotAvailable` if a table cannot be locked `within` these seconds.
    """
    for step in build.phase("refer"):
        job.connection.execute(statements.set_timeout("lock_timeout", within))
        try:
            job.connection.execute(step.statement.encode())
        except (psycopg.IntegrityError, psycopg.DataError) as error:
            raise _build_error(job, step, error) from error


def _run_with_retries(job: PublishContext, step: Step) -> None:
    """Again and again where the table that a foreign key refers to is locked: waiting would queue its writers."""

    def work(trying: PublishContext) -> None:
        with trying.connection.transaction():
            trying.connection.execute(statements.set_timeout("statement_timeout", trying.seconds_left))
            trying.connection.execute(statements.set_timeout("lock_timeout", trying.lock_step))
            if step.kind != "analysis":
                trying.connection.execute(_BUILD["with_memory"])
            if step.space is not None:
                trying.connection.execute(_BUILD["in_space"], {"space": step.space})
            trying.connection.execute(step.statement.encode())

    what = f"what {step.kind} {step.name} of {job.plan.target_name} refers to"
    with Blockers(job, stage="prepare", what=what) as blockers:
        blockers.outlast(work)


def _build_error(job: PublishContext, step: Step, error: psycopg.Error) -> StageError:
    late = isinstance(error, psycopg.errors.QueryCanceled | psycopg.errors.LockNotAvailable)
    violated = isinstance(error, psycopg.IntegrityError | psycopg.DataError)
    name = (error.diag.constraint_name if step.kind == "constraint" else None) or step.name
    hint = ""
    if late:
        hint = "raise publish_timeout, or see what holds it up"
    elif violated:
        hint = "the rows of the source do not fit the target: mend them, or leave them out with where"
    elif error.sqlstate in NOT_FOUND:
        hint = "give names in your functions their schema, or ask for publish=auto or publish=delete_insert"
    detail = describe(error) if violated or not late else f"not done within {job.plan.spec.timeouts.publish:g} s"
    return (StageTimeoutError if late else StageError)(
        f"prepare: {step.kind} {name} of {job.plan.target_name} cannot be built: {detail}; nothing was changed",
        stage="prepare",
        sqlstate=error.sqlstate,
        hint=hint,
        retryable=may_pass(error.sqlstate),
    )


def _build_refusal(label: str, role: str, why: str, told: str) -> Refusal:
    if why == "right":
        return Refusal("privilege", f"{label}: role {role} lacks {told}", label, hint=f"grant it, or {_INSTEAD}")
    code, message, hint = _OBSTACLES[why]
    return Refusal(code, f"{label} {message.format(told)}", label, hint=hint)


_OBSTACLES: dict[str, tuple[str, str, str]] = {
    "invalid index": ("invalid_index", "has an index that is invalid, or not yet built: {}", "REINDEX or drop it"),
    "whole row": ("not_built", "has an expression that takes the whole row: {}", _INSTEAD),
    "sequence used": (
        "sequence_used",
        "has an identity column whose sequence other objects use, but a swap must drop it: {}",
        "ask for publish=delta or publish=delete_insert, or give those objects a sequence of their own",
    ),
    "granted by another": ("not_built", "has a sequence with grants by others than its owner: {}", _INSTEAD),
}
