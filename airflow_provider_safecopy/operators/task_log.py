"""The task's log of a copy: groups that Airflow folds, progress now and then, and the report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import timedelta
from inspect import cleandoc
from typing import TYPE_CHECKING, Any, Protocol

from airflow_provider_safecopy.display import format_bytes, format_count

if TYPE_CHECKING:
    from airflow_provider_safecopy.pipeline.outcome import BatchProgress, BatchReport
    from airflow_provider_safecopy.planning.plan import CopyPlan
    from airflow_provider_safecopy.report import CopyReport
    from airflow_provider_safecopy.spec import CopySpec, Progress, Stage


_PUBLISH = "Verify and publish"
_TRANSFER = "Transfer"
_YEAR = 366 * 86400.0
# Export and import overlap, so they share a group: Airflow cannot nest them.
_GROUPS: Mapping[Stage, str] = {"verify": _PUBLISH, "publish": _PUBLISH}


class Logger(Protocol):
    """The part that the loggers of Airflow 2 and 3 have in common."""

    def info(self, message: str, /, *values: Any) -> Any:
        """Write one line."""


class TaskLog:
    """Tells the log of one task how a copy goes. `every`: seconds between two lines of progress, at least."""

    def __init__(self, log: Logger, *, every: float = 10, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._every = every
        self._clock = clock
        self._group: str | None = None
        self._stage: Stage | None = None
        self._started = self._told = 0.0

    def log_options(self, spec: CopySpec) -> None:
        """Log the options that were given, with templates rendered; defaults are left out."""
        self._open("Asked for")
        self._lines(_list_options(spec))
        self._open(None)

    def log_options_of_all(self, specs: Sequence[CopySpec]) -> None:
        """Log how many tables were asked for, and the options of the first."""
        self._open("Asked for")
        self._log.info("%d tables; of the first:", len(specs))
        self._lines(_list_options(specs[0]))
        self._open(None)

    def log_count(self, progress: BatchProgress) -> None:
        """Called for each table; writes a line when `every` seconds have passed, and with the last."""
        now = self._clock()
        if now - self._told >= self._every or progress.done == progress.total:
            self._told = now
            failed = f", {progress.failed} failed" if progress.failed else ""
            self._log.info("%d of %d tables%s; at %s", progress.done, progress.total, failed, progress.at)

    def log_report_of_all(self, done: BatchReport) -> None:
        """Log a line for each table of a batch, those that failed first."""
        self._log.info(
            "%s: %d tables in %.1f s, %d failed", done.status, len(done.outcomes), done.seconds, len(done.failed)
        )
        self._lines(f"  failed    {each.source} → {each.target}: {each.error}" for each in done.failed)
        self._open("Tables")
        self._lines(_format_table_line(report) for report in done.tables)
        self._open(None)

    @contextmanager
    def open_copy(self) -> Iterator[Callable[[Progress], None]]:
        """Around the copy: groups its lines, and gives what it is to call with its progress."""
        self._open(_TRANSFER)
        try:
            yield self.log_progress
        finally:
            self._open(None)

    def log_progress(self, progress: Progress) -> None:
        """Called often; writes a line when `every` seconds have passed."""
        now = self._clock()
        if progress.stage != self._stage:
            self._stage, self._started, self._told = progress.stage, now, now
            self._open(_GROUPS.get(progress.stage, _TRANSFER))
        elif now - self._told >= self._every:
            self._told = now
            self._log.info("%s: %s", progress.stage, ", ".join(_describe_progress(progress, now - self._started)))

    def log_plan(self, plan: CopyPlan) -> None:
        """Log what would be done and why, what would be refused, and the exact SQL in its order."""
        self._log.info("planned: %s → %s", plan.source, plan.target)
        self._log.info("  how       %s, %s, %s", plan.format, plan.transfer, plan.publish)
        self._lines(f"  refused   {refusal}" for refusal in plan.refusals)
        self._lines(_list_reasons(plan))
        self._open("Exact SQL")
        for step in plan.steps():
            self._log.info("%s, in the %s, lock %s:", step.stage, step.database, step.lock)
            self._lines(f"  {line}" for line in step.sql.splitlines())
        self._open(None)

    def log_report(self, report: CopyReport) -> None:
        """Write what came of the copy, as the command prints it."""
        self._lines(iter(str(report).splitlines()))

    def _lines(self, lines: Iterator[str]) -> None:
        for line in lines:
            self._log.info("%s", line)

    def _open(self, group: str | None) -> None:
        if group == self._group:
            return
        if self._group is not None:
            self._log.info("::endgroup::")
        if group is not None:
            self._log.info("::group::%s", group)
        self._group = group


def _list_options(spec: CopySpec) -> Iterator[str]:
    for option in fields(spec):
        value = getattr(spec, option.name)
        if value != option.default and option.name != "timeouts":
            first, *more = cleandoc(_format_value(value)).splitlines()
            yield f"{option.name:<12} {first}"
            yield from (f"{'':<12} {line}" for line in more)


def _format_value(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(name if name == to else f"{name} → {to}" for name, to in value.items())
    return str(value)


def _describe_progress(progress: Progress, seconds: float) -> Iterator[str]:
    done, expected = progress.bytes, progress.expected_bytes
    if progress.rows is not None:
        yield f"{progress.rows:,} rows"
    yield format_bytes(done)
    if expected and done <= expected:
        yield f"about {100 * done // expected} %"
    if seconds > 0 and done:
        yield f"{format_bytes(done / seconds)}/s"
        if expected and done < expected:
            left = seconds * (expected - done) / done
            # A planner's guess may be beyond any calendar.
            if left < _YEAR:
                yield f"about {timedelta(seconds=round(left))} left"


def _format_table_line(report: CopyReport) -> str:
    written = ", ".join(f"{count:,} {what}" for what, count in report.row_counts if count) or "nothing written"
    return f"  {report.status}: {report.target}, {format_count(report.rows)} rows, {written}, {report.publish}, token {report.token}"


def _list_reasons(decided: CopyPlan | CopyReport) -> Iterator[str]:
    yield from (f"  because   {reason}" for reason in decided.reasons)
    yield from (f"  warning   {warning}" for warning in decided.warnings)
