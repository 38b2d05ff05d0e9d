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
from airflow_provider_safecopy.planning import copy_script
from airflow_provider_safecopy.planning.page_ranges import PageRange
from airflow_provider_safecopy.planning.plan import CopyPlan
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.postgres.psql import Psql, make_memory_file, make_nonce, open_pipe
from airflow_provider_safecopy.report import StageReport
from airflow_provider_safecopy.transfer.snapshot import READ_AGAIN, describe_replacement

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exported:
    """A proven export: exit code 0, and the server's own row count. Only a proof makes one."""

    rows: int
    bytes: int
    digest: str
    reports: tuple[StageReport, ...]

    @classmethod
    def together(cls, parts: Sequence[Exported]) -> Exported:
        """Return one proof for all pipes.

        The digest of several is that of their digests, in order.
        """
        if len(parts) == 1:
            return parts[0]
        digest = digest_of([part.digest for part in parts])
        reports = tuple(report for part in parts for report in part.reports)
        return cls(sum(part.rows for part in parts), sum(part.bytes for part in parts), digest, reports)


@dataclass
class Export:
    """A running export. `data` is the pipe's read end; its reader closes it."""

    psql: Psql
    data: int


def digest_of(digests: Sequence[str]) -> str:
    """Return the digest of several pipes: that of their digests, in order."""
    return xxhash.xxh3_128_hexdigest("".join(digests).encode())


def start(
    plan: CopyPlan, source: Endpoint, *, pages: PageRange | None = None, snapshot: str, application_name: str
) -> Export:
    """Start the export psql on the rows of `snapshot`: all, or those in `pages`.

    Raises `StageError`.
    """
    assert plan.psql is not None  # noqa: S101 -- a plan without psql is refused
    nonce, (data, into) = make_nonce(), open_pipe()
    scripts, words = _split_scripts(plan, pages, snapshot=snapshot, output=f"/proc/self/fd/{into}", nonce=nonce)
    try:
        psql = Psql.start(
            "export",
            plan.psql,
            source,
            nonce=nonce,
            arguments=words,
            stdin=scripts[-1],
            inherit=[into, *scripts[:-1]],
            application_name=application_name,
            connect_timeout=plan.spec.timeouts.connect,
        )
    except BaseException:
        os.close(data)
        raise
    finally:
        # psql has copies of its own. With the write end open in this process, the data would never end.
        for descriptor in (into, *scripts):
            os.close(descriptor)
    log.info("export started (PID %d): %s", psql.pid, plan.source)
    return Export(psql, data)


def wait_for_session(export: Export, *, seconds: float, abort: AbortSwitch) -> None:
    """Wait until the export's psql has its session, has ended, or `seconds` are over.

    Its transcript tells which.
    """
    deadline = time.monotonic() + seconds
    poll = select.poll()
    poll.register(export.psql.stderr, select.POLLIN)
    poll.register(abort.fileno(), select.POLLIN)
    while not export.psql.transcript.values("backend") and (left := deadline - time.monotonic()) > 0:
        poll.poll(left * 1000)
        if abort.is_thrown or not export.psql.read_stderr():
            return


def prove(export: Export, *, size: int, digest: str) -> Exported:
    """Return the proof of an export whose psql has ended.

    Raises `StageError` unless everything it reported fits together.
    """
    psql, transcript = export.psql, export.psql.transcript
    code = psql.process.returncode
    if code != 0:
        raise psql.build_error(f"failed with exit code {code}")
    require_meaning(psql)
    require_snapshot(psql)
    rows = transcript.number("rows")
    if rows is None or transcript.values("end") != [""]:
        raise psql.build_error("ended with exit code 0 but without the server's row count", retryable=True)
    # Even a row without columns is a line, or two bytes.
    if rows > 0 and size == 0:
        raise psql.build_error(f"reports {rows} rows, and not a single byte came", retryable=True)
    seconds = time.monotonic() - psql.started
    log.info("export done: %d rows, %d bytes, %.2f s (PID %d)", rows, size, seconds, psql.pid)
    return Exported(rows, size, digest, (StageReport("export", seconds, psql.pid, code, rows, size),))


def require_meaning(psql: Psql) -> None:
    """Raise `StageError` if a COPY changed settings that decide what rows mean, or did not report them."""
    said = psql.transcript.values("changed")
    # One answer, and an empty one: none, or two, would prove nothing.
    if said == [""]:
        return
    names = [each for each in said if each]
    if not names:
        raise psql.build_error("did not say once which settings are in force", retryable=True)
    raise psql.build_error(
        f"ran a function that changed {', '.join(names)}: such settings decide what rows mean",
        hint="give that function a SET clause of its own: then the change ends with the function",
        retryable=False,
    )


def require_snapshot(psql: Psql) -> None:
    """Raise a retryable `StageError` unless the export gave its source proof."""
    replaced, keeper = psql.transcript.values("replaced"), psql.transcript.values("keeper")
    if keeper == ["t"] and replaced == [""]:
        return
    if len(replaced) == 1 and replaced[0]:
        names = bytes.fromhex(replaced[0]).decode("utf-8", "replace")
        raise psql.build_error(
            f"did not read what the snapshot saw; {describe_replacement(names)}", hint=READ_AGAIN, retryable=True
        )
    if keeper == ["f"]:
        message = "cannot prove that it read the snapshot's rows: the control session that holds the snapshot was lost"
        raise psql.build_error(message, hint=READ_AGAIN, retryable=True)
    raise psql.build_error("did not say once whether it read the snapshot's rows", retryable=True)


def _split_scripts(
    plan: CopyPlan, pages: PageRange | None, *, snapshot: str, output: str, nonce: str
) -> tuple[list[int], list[str]]:
    """Return memory files of scripts, the last for stdin, and psql's arguments.

    No script contains SQL that is not plain.
    """
    read, seconds, lock_wait = plan.build_copy_source(pages), plan.spec.timeouts.export, plan.spec.timeouts.lock_wait
    copy = copy_script.export_copy(read, format=plan.format)
    if copy_script.is_plain(copy):
        script = copy_script.export_script(
            read,
            format=plan.format,
            snapshot=snapshot,
            output=output,
            nonce=nonce,
            seconds=seconds,
            lock_wait=lock_wait,
            schemas=plan.source_schemas,
        )
        return [make_memory_file(script)], ["-f", "-"]
    opening = copy_script.export_opening(
        snapshot=snapshot, nonce=nonce, seconds=seconds, lock_wait=lock_wait, schemas=plan.source_schemas
    )
    # psql sends what `-c` gives it to the server unread.
    first = make_memory_file(opening)
    words = ["-f", f"/proc/self/fd/{first}", "-c", copy_script.export_output(output), "-c", copy.as_string(None)]
    end = copy_script.export_end(nonce, snapshot=snapshot, schemas=plan.source_schemas)
    return [first, make_memory_file(end)], [*words, "-f", "-"]
