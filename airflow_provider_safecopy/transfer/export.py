"""The export stage: one psql writes the source's rows into a pipe, and proves how many they were."""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Sequence
from dataclasses import dataclass

import xxhash

from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.endpoint import Endpoint
from airflow_provider_safecopy.transfer import statements
from airflow_provider_safecopy.transfer.pages import Pages
from airflow_provider_safecopy.transfer.plan import CopyPlan
from airflow_provider_safecopy.transfer.psql import Psql, memory_file, new_nonce, pipe
from airflow_provider_safecopy.transfer.report import StageReport

log = logging.getLogger(__name__)

_SNAPSHOT_LOST = "22023"


@dataclass(frozen=True)
class Exported:
    """A proven export: exit code 0, and the server's own count. Only `prove` makes one."""

    rows: int
    bytes: int
    digest: str
    reports: tuple[StageReport, ...]

    @classmethod
    def together(cls, parts: Sequence[Exported]) -> Exported:
        """One proof of all lanes; the digest of several is that of their digests, in order."""
        if len(parts) == 1:
            return parts[0]
        digest = digest_of([part.digest for part in parts])
        reports = tuple(report for part in parts for report in part.reports)
        return cls(sum(part.rows for part in parts), sum(part.bytes for part in parts), digest, reports)


@dataclass
class Export:
    """A running export. `data` is the pipe's read end; whoever reads it closes it."""

    psql: Psql
    data: int


def digest_of(digests: Sequence[str]) -> str:
    """The digest of several lanes: of their digests, in order."""
    return xxhash.xxh3_128_hexdigest("".join(digests).encode())


def start(
    plan: CopyPlan, source: Endpoint, *, pages: Pages | None = None, snapshot: str, application_name: str
) -> Export:
    """Start the export psql on the rows of `snapshot`, all or those in `pages`. Raises `StageError`."""
    assert plan.psql is not None  # noqa: S101 -- a plan without psql is refused
    nonce, (data, into) = new_nonce(), pipe()
    script = memory_file(
        statements.export_script(
            plan.read(pages),
            format=plan.format,
            snapshot=snapshot,
            output=f"/proc/self/fd/{into}",
            nonce=nonce,
            seconds=plan.spec.timeouts.export,
            lock_wait=plan.spec.timeouts.lock_wait,
        )
    )
    try:
        psql = Psql.start(
            "export",
            plan.psql,
            source,
            nonce=nonce,
            arguments=["-f", "-"],
            stdin=script,
            inherit=[into],
            application_name=application_name,
            connect_timeout=plan.spec.timeouts.connect,
        )
    except BaseException:
        os.close(data)
        raise
    finally:
        os.close(into)
        os.close(script)
    log.info("export started (PID %d): %s", psql.pid, plan.source)
    return Export(psql, data)


def opened(export: Export, *, seconds: float, abort: AbortSwitch) -> None:
    """Wait until the export's psql has its session, has ended, or `seconds` are over: its stream tells which."""
    deadline = time.monotonic() + seconds
    poll = select.poll()
    poll.register(export.psql.stderr, select.POLLIN)
    poll.register(abort.fileno(), select.POLLIN)
    while not export.psql.transcript.values("backend") and (left := deadline - time.monotonic()) > 0:
        poll.poll(left * 1000)
        if abort.thrown or not export.psql.listen():
            return


def prove(export: Export, *, size: int, digest: str) -> Exported:
    """What the ended psql proves. Raises `StageError` unless everything it said fits together."""
    psql, transcript = export.psql, export.psql.transcript
    code = psql.process.returncode
    if code != 0:
        # Invalid snapshot: the control session that held it was lost, the next run has another.
        lost = True if transcript.sqlstate == _SNAPSHOT_LOST else None
        raise psql.failure(f"failed with exit code {code}", retryable=lost)
    rows = transcript.number("rows")
    if rows is None or transcript.values("end") != [""]:
        raise psql.failure("ended with exit code 0 but without the server's row count", retryable=True)
    if rows > 0 and size == 0:  # even a row without columns is a line, or two bytes
        raise psql.failure(f"reports {rows} rows, and not a single byte came", retryable=True)
    seconds = time.monotonic() - psql.started
    log.info("export done: %d rows, %d bytes, %.2f s (PID %d)", rows, size, seconds, psql.pid)
    return Exported(rows, size, digest, (StageReport("export", seconds, psql.pid, code, rows, size),))
