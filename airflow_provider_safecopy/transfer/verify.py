"""Verify: nothing is published unless every proof agrees."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

import psycopg

from airflow_provider_safecopy.errors import StageError, StageTimeoutError, VerifyError
from airflow_provider_safecopy.planning import row_checks
from airflow_provider_safecopy.planning.plan import CopyPlan
from airflow_provider_safecopy.postgres import statements
from airflow_provider_safecopy.postgres.diagnosis import describe
from airflow_provider_safecopy.postgres.lookout import lock_wait_error
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.postgres.session import SILENT_SECONDS, Session
from airflow_provider_safecopy.report import StageReport
from airflow_provider_safecopy.transfer import upkeep
from airflow_provider_safecopy.transfer.export import Exported
from airflow_provider_safecopy.transfer.load import Loaded

log = logging.getLogger(__name__)

# Not worth a long wait: the publish counts the target again, and under its own lock.
_LOCK_SECONDS = 1.0


@dataclass(frozen=True)
class Verification:
    """Proofs that agree. `publish` requires one, and only `verify` makes one."""

    staging: TableName
    rows: int
    proof: dict[str, Any]
    content_hash: str | None
    report: StageReport


def verify(plan: CopyPlan, exported: Exported, loaded: Loaded, *, source: Session, target: Session) -> Verification:
    """Compare what was exported, imported, and is in staging; with ``verify="full"`` the content too.

    The source is read in the snapshot it was exported from, which `source` still holds. Raises `VerifyError` if proofs
    differ or a row check refuses, `StageTimeoutError` after `verify_timeout`.
    """
    started = time.monotonic()
    # Before the content is read: a copy that is refused anyway should not wait for that.
    row_checks.require_rows(plan, exported.rows)
    row_checks.require_size(plan, previous=_count_previous(plan, target), held=exported.rows)
    columns, guarded = plan.target_columns, list(plan.spec.max_null_share or {})
    staged, filled, here, content_hash = 0, [], None, None
    if plan.spec.verify == "full":
        there = _hash_content(plan, target, columns, statements.select(columns, loaded.staging, None))
        here = _hash_content(plan, source, plan.source_columns, plan.build_query(), plan.source_schemas)
        staged, content_hash = there["rows"], there["hash"]
    if guarded or plan.spec.verify == "counts":
        counted = _read_row(plan, target, upkeep.count_filled(loaded.staging, guarded))
        staged, filled = counted["rows"], counted["filled"]
    proofs: dict[str, Any] = {
        "rows": {"exported": exported.rows, "imported": loaded.rows, "staging": staged},
        "bytes": {"exported": exported.bytes, "imported": loaded.bytes},
        "digest": {"exported": exported.digest, "imported": loaded.digest},
    }
    if here is not None:
        proofs["source rows"] = {"exported": exported.rows, "counted": here["rows"]}
        proofs["content hash"] = {"source": here["hash"], "staging": content_hash}
    _require_agreement(proofs, plan)
    row_checks.require_values(plan, rows=staged, filled=filled)
    seconds = time.monotonic() - started
    log.info("verify done: %d rows agree (%s), %.2f s", staged, plan.spec.verify, seconds)
    return Verification(loaded.staging, staged, proofs, content_hash, StageReport("verify", seconds, rows=staged))


def _count_previous(plan: CopyPlan, target: Session) -> int | None:
    """Return how many rows the target holds, if `max_shrink` needs it; otherwise None.

    None also if there is no table yet, if other sessions have it locked, or if rows may be marked as missing already.
    """
    if plan.spec.max_shrink is None or not plan.target_oid or plan.spec.missing == "mark":
        return None
    try:
        return int(_read_row(plan, target, statements.count(plan.target_name), lock_timeout=_LOCK_SECONDS)["count"])
    except psycopg.errors.LockNotAvailable:
        log.info("%s is locked: max_shrink is left to the publish", plan.target_name)
        return None


def _require_agreement(proofs: dict[str, Any], plan: CopyPlan) -> None:
    for proof, sides in proofs.items():
        if len(set(sides.values())) != 1:
            told = ", ".join(f"{side} {value}" for side, value in sides.items())
            raise VerifyError(
                f"{proof} differ ({told}); nothing was published into {plan.target_name}", proofs=proofs, retryable=True
            )


def _hash_content(
    plan: CopyPlan,
    session: Session,
    columns: tuple[str, ...],
    rows: psycopg.sql.Composed,
    schemas: tuple[str, ...] = (),
) -> dict[str, Any]:
    return _read_row(plan, session, statements.content_hash(columns, rows), schemas)


def _read_row(
    plan: CopyPlan,
    session: Session,
    query: psycopg.sql.Composed,
    schemas: tuple[str, ...] = (),
    *,
    lock_timeout: float | None = None,
) -> dict[str, Any]:
    """Return the one row of `query`, within `verify_timeout`.

    Raises `SettingsChangedError`, and psycopg's `LockNotAvailable` after `lock_timeout` seconds, if given.
    """
    began, limit = time.monotonic(), plan.spec.timeouts.verify
    try:
        # The server's own timeout comes first and has a message; the connection is cut only if no answer comes. A
        # savepoint keeps the source's snapshot as it is.
        with session.limit_answer(limit + SILENT_SECONDS), session.run_user_sql(schemas, keeps_locks=False):
            session.connection.execute(statements.set_timeout("statement_timeout", limit))
            if lock_timeout is not None:
                session.connection.execute(statements.set_timeout("lock_timeout", lock_timeout))
            row = session.fetch_one(query)
    except psycopg.errors.QueryCanceled as error:
        raise _cancelled_error(session, error, limit=limit, is_late=time.monotonic() - began >= limit) from error
    except psycopg.errors.LockNotAvailable as error:
        if lock_timeout is not None:
            raise
        raise lock_wait_error(
            error, "verify", str(plan.source if session.server.read_only else plan.target), session.lookout
        ) from error
    except psycopg.Error as error:
        raise StageError(
            f"verify on {session.endpoint} failed: {describe(error)}", stage="verify", sqlstate=error.sqlstate
        ) from error
    assert row is not None  # noqa: S101 -- an aggregate has one row
    return row


def _cancelled_error(session: Session, error: psycopg.Error, *, limit: float, is_late: bool) -> StageError:
    """Return the error of a cancelled query.

    If it `is_late`, its timeout ended it; otherwise a person did, or a server whose clock jumped.
    """
    if is_late:
        return StageTimeoutError(
            f"verify on {session.endpoint} took longer than its timeout of {limit:g} s",
            stage="verify",
            sqlstate=error.sqlstate,
            hint="raise verify_timeout, or use verify=counts",
        )
    return StageError(
        f"verify on {session.endpoint} was cancelled there, before its timeout: {describe(error)}",
        stage="verify",
        sqlstate=error.sqlstate,
    )
