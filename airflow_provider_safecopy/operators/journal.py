"""What a copy says in the task's log: groups that Airflow folds, progress now and then, and the report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from logging import Logger
from types import TracebackType
from typing import Self

from airflow_provider_safecopy.transfer.model import CopyReport, Progress, Stage, StageReport
from airflow_provider_safecopy.transfer.plan import CopyPlan

# Stages that overlap share a group: Airflow cannot nest them.
_GROUPS: dict[Stage, str] = {
    "connect": "Plan",
    "plan": "Plan",
    "export": "Transfer",
    "import": "Transfer",
    "verify": "Verify and publish",
    "publish": "Verify and publish",
}


class Journal:
    """Tells the log of one task how a copy goes. As a context manager it closes the last group.

    `every` is the number of seconds between two lines of progress.
    """

    def __init__(self, log: Logger, *, every: float = 10, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._every = every
        self._clock = clock
        self._group: str | None = None
        self._stage: Stage | None = None
        self._started = self._told = 0.0

    def __enter__(self) -> Self:
        self._open("Plan")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open(None)

    def progress(self, progress: Progress) -> None:
        """Called often; writes a line when `every` seconds have passed."""
        now = self._clock()
        if progress.stage != self._stage:
            self._stage, self._started, self._told = progress.stage, now, now
            self._open(_GROUPS[progress.stage])
        elif now - self._told >= self._every:
            self._told = now
            self._log.info("%s: %s", progress.stage, ", ".join(_progress(progress, now - self._started)))

    def plan(self, plan: CopyPlan) -> None:
        """What would be done and why, what would be refused, and the exact SQL in its order."""
        self._log.info("planned: format %s, transfer %s, publish %s", plan.format, plan.transfer, plan.publish)
        for kind, lines in (("because", plan.reasons), ("warning", plan.warnings), ("refused", plan.refusals)):
            for line in lines:
                self._log.info("%s: %s", kind, line)
        self._open("Exact SQL")
        for step in plan.steps():
            self._log.info("%s, in the %s%s:\n%s", step.stage, step.database, step.lock and f" ({step.lock})", step.sql)
        self._open(None)

    def report(self, report: CopyReport) -> None:
        """What came of it, for a person."""
        self._log.info("%s", "\n".join(_report(report)))

    def _open(self, group: str | None) -> None:
        if group == self._group:
            return
        if self._group is not None:
            self._log.info("::endgroup::")
        if group is not None:
            self._log.info("::group::%s", group)
        self._group = group


def _progress(progress: Progress, seconds: float) -> Iterator[str]:
    done, expected = progress.bytes, progress.expected_bytes
    if progress.rows is not None:
        yield f"{progress.rows:,} rows"
    yield _size(done)
    if expected and done <= expected:
        yield f"about {100 * done // expected} %"
    if seconds > 0 and done:
        yield f"{_size(done / seconds)}/s"
        if expected and done < expected:
            yield f"about {timedelta(seconds=round(seconds * (expected - done) / done))} left"


def _report(report: CopyReport) -> Iterator[str]:
    yield f"{report.status}: {report.source} → {report.target}"
    yield f"  rows      {_count(report.rows)} (before: {_count(report.previous_rows)})"
    yield f"  stream    {_size(report.bytes or 0)}, {report.format}, {report.transfer}; xxh3 {report.digest}"
    if report.content_hash:
        yield f"  content   {report.content_hash} on both sides"
    yield f"  published by {report.publish}; receipt: token {report.token}, attempt {report.attempt}"
    yield from map(_stage, report.stages)
    yield f"  in all    {report.seconds:.1f} s, {_size(report.spool_bytes)} of temporary disk"
    yield from (f"  because   {reason}" for reason in report.reasons)
    yield from (f"  warning   {warning}" for warning in report.warnings)


def _stage(stage: StageReport) -> str:
    parts = [f"{stage.seconds:.1f} s"]
    if stage.rows is not None:
        parts.append(f"{stage.rows:,} rows")
    if stage.bytes is not None:
        parts.append(_size(stage.bytes))
    if stage.pid is not None:
        parts.append(f"PID {stage.pid}, exit code {stage.exit_code}")
    return f"  {stage.stage:<9} {', '.join(parts)}"


def _count(rows: int | None) -> str:
    return "not known" if rows is None else f"{rows:,}"


def _size(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"
