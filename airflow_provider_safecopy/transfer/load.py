"""The import stage: one psql loads the data into staging, and commits only on request.

Its COMMIT comes through a pipe of its own, written once the export is proven and both row counts agree. Whatever
happens before, the death of this process included, rolls back: the pipe then ends empty.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from airflow_provider_safecopy.errors import VerifyError
from airflow_provider_safecopy.planning import copy_script
from airflow_provider_safecopy.planning.plan import CopyPlan
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.postgres.psql import Psql, make_memory_file, make_nonce, open_pipe
from airflow_provider_safecopy.report import StageReport
from airflow_provider_safecopy.transfer.export import Exported, digest_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A committed staging table: exit code 0, and the server's own row count. Only a proof makes one."""

    staging: TableName
    rows: int
    bytes: int
    digest: str
    reports: tuple[StageReport, ...]

    @classmethod
    def from_parts(cls, parts: Sequence[Loaded]) -> Loaded:
        """Return one proof for all pipes, as `Exported.together` does."""
        if len(parts) == 1:
            return parts[0]
        digest = digest_of([part.digest for part in parts])
        reports = tuple(report for part in parts for report in part.reports)
        return cls(
            parts[0].staging, sum(part.rows for part in parts), sum(part.bytes for part in parts), digest, reports
        )


@dataclass
class Load:
    """A running import.

    `data_pipe` and `commit_pipe` are write ends: of the data, and of the pipe that COMMIT comes through.
    """

    psql: Psql
    staging: TableName
    data_pipe: int | None
    commit_pipe: int | None

    def close_data_pipe(self) -> None:
        """Let psql see the end of the data. Only after the export is proven."""
        if self.data_pipe is not None:
            os.close(self.data_pipe)
            self.data_pipe = None

    def commit(self) -> None:
        """Tell psql to commit. Only after the row counts agree."""
        assert self.commit_pipe is not None  # noqa: S101 -- told once
        # A psql that has died is found by its exit code, for which the caller waits anyway.
        with suppress(BrokenPipeError):
            os.write(self.commit_pipe, copy_script.load_commit(self.psql.transcript.nonce).encode())
        self.close_commit_pipe()

    def close_commit_pipe(self) -> None:
        """Close the pipe that COMMIT comes through: nothing more is sent."""
        if self.commit_pipe is not None:
            os.close(self.commit_pipe)
            self.commit_pipe = None


def start(plan: CopyPlan, target: Endpoint, staging: TableName, *, application_name: str) -> Load:
    """Start the import psql into `staging`. Raises `StageError`."""
    assert plan.psql is not None  # noqa: S101 -- a plan without psql is refused
    nonce, (stdin, data), (told, gate) = make_nonce(), open_pipe(), open_pipe()
    limits = plan.spec.timeouts
    prologue = make_memory_file(
        copy_script.load_prologue(nonce=nonce, seconds=limits.import_, lock_wait=limits.lock_wait)
    )
    epilogue = make_memory_file(copy_script.load_end(nonce, frozen=plan.is_frozen))
    copy = copy_script.load_copy(staging, plan.target_columns, format=plan.format, freeze=plan.is_frozen)
    try:
        psql = Psql.start(
            "import",
            plan.psql,
            target,
            nonce=nonce,
            arguments=[
                *("-f", f"/proc/self/fd/{prologue}"),
                *(("-c", copy_script.load_frozen(staging)) if plan.is_frozen else ()),
                *("-c", copy, "-f", f"/proc/self/fd/{epilogue}"),
                *("-f", f"/proc/self/fd/{told}"),
            ],
            stdin=stdin,
            inherit=[prologue, epilogue, told],
            application_name=application_name,
            connect_timeout=plan.spec.timeouts.connect,
        )
    except BaseException:
        os.close(data)
        os.close(gate)
        raise
    finally:
        # psql has copies of its own. With the read ends open in this process, a write to a dead psql would not fail.
        for descriptor in (stdin, told, prologue, epilogue):
            os.close(descriptor)
    os.set_blocking(data, False)
    log.info("import started (PID %d): %s", psql.pid, staging)
    return Load(psql, staging, data, gate)


def require_agreement(exported: Exported, *, rows: int | None, size: int, digest: str, prefix: str = "") -> None:
    """Raise a retryable `VerifyError` unless the import got what the export gave.

    It is called before COMMIT.
    """
    proofs: dict[str, dict[str, Any]] = {
        "rows": {"exported": exported.rows, "imported": rows},
        "bytes": {"exported": exported.bytes, "imported": size},
        "digest": {"exported": exported.digest, "imported": digest},
    }
    for proof, sides in proofs.items():
        if sides["exported"] != sides["imported"]:
            told = f"{sides['exported']} exported, {sides['imported']} imported"
            raise VerifyError(f"{prefix}{proof} differ: {told}; nothing was committed", proofs=proofs, retryable=True)


def prove(load: Load, *, rows: int, size: int, digest: str) -> Loaded:
    """Return the proof of an import whose psql has ended.

    Raises `StageError` unless it committed just these rows.
    """
    psql, transcript = load.psql, load.psql.transcript
    code = psql.process.returncode
    if code != 0:
        raise psql.build_error(f"failed with exit code {code}")
    # An exit code of 0 is not enough: psql must also have reported its COMMIT.
    if transcript.number("rows") != rows or transcript.values("committed") != [""]:
        raise psql.build_error("ended with exit code 0 but did not say that it committed", retryable=True)
    seconds = time.monotonic() - psql.started
    log.info("import done: %d rows, %d bytes, %.2f s (PID %d)", rows, size, seconds, psql.pid)
    return Loaded(load.staging, rows, size, digest, (StageReport("import", seconds, psql.pid, code, rows, size),))
