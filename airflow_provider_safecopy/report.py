"""The report of a copy: one frozen value for people, logs and machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from airflow_provider_safecopy.display import (
    align_columns,
    align_facts,
    format_bytes,
    format_count,
    format_size,
    reason_facts,
)
from airflow_provider_safecopy.errors import LockBusyError
from airflow_provider_safecopy.spec import CopySpec, Format, Publish, Stage, Status, Strategy, Transfer, WriteMode


@dataclass(frozen=True)
class WrittenRows:
    """Rows by their outcome, and how many the target held before (`previous_rows`) and holds now (`current_rows`).

    `was_empty`: the target held no row before. The two counts, and `deleted`, are None if counting would mean reading a
    table of any length for nothing else. `deleted` counts rows that the source no longer has, not those that a
    publish strategy deletes and writes again.
    """

    inserted: int
    updated: int
    deleted: int | None
    unchanged: int
    previous_rows: int | None
    current_rows: int | None
    was_empty: bool = False

    def __str__(self) -> str:
        holds = "" if self.current_rows is None else f"holds {self.current_rows} rows"
        before = "" if self.previous_rows is None else f" (before: {self.previous_rows})"
        changes = (
            f"{self.inserted} inserted, {self.updated} updated, "
            f"{'all others' if self.deleted is None else self.deleted} deleted, {self.unchanged} unchanged"
        )
        return f"{holds}{before}: {changes}" if holds else changes


_NUMBERS = frozenset(range(1, 6))


@dataclass(frozen=True)
class StageReport:
    """The report of a stage: seconds of wall time, psql's pid and exit code, the server's own row count."""

    stage: Stage
    seconds: float
    pid: int | None = None
    exit_code: int | None = None
    rows: int | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class CopyReport:
    """The report of a copy. `as_dict` is the object `--json` prints; `docs/report.md` has its schema.

    `bytes` and `digest` (xxh3, 128 bit, hex) are of the stream. `content_hash` is given for
    ``verify="full"``. `shape` is the fingerprint of the columns that were read. `holder` is the holder of the lock, if
    the copy was skipped. `rows` are the target's after the publish, `previous_rows` those before it; `inserted`,
    `updated`, `deleted` and `unchanged` count them by their outcome. `slice` is the append key, or the interval of an
    incremental copy, whose `watermark` says what was read (``start``, ``end``) and where the watermark was (``old``) and
    is (``new``). `published_at` is the target's own time. `spool_bytes` is the most temporary disk used at once,
    `peak_rss_bytes` the most memory that this process ever used, the interpreter included.
    """

    status: Status
    lock: str
    source: str
    target: str
    format: Format
    transfer: Transfer
    publish: Publish | Strategy
    write_mode: WriteMode = "replace"
    token: int | None = None
    attempt: str | None = None
    rows: int | None = None
    previous_rows: int | None = None
    inserted: int | None = None
    updated: int | None = None
    deleted: int | None = None
    unchanged: int | None = None
    slice: str | None = None
    watermark: Mapping[str, Any] | None = None
    published_at: str | None = None
    bytes: int | None = None
    digest: str | None = None
    content_hash: str | None = None
    shape: str | None = None
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    stages: tuple[StageReport, ...] = ()
    seconds: float = 0.0
    spool_bytes: int = 0
    peak_rss_bytes: int = 0
    holder: Mapping[str, Any] | None = None

    @classmethod
    def from_busy_error(cls, spec: CopySpec, source: object, target: object, error: LockBusyError) -> CopyReport:
        """Return the report of a copy that was skipped because its lock was busy; nothing was touched."""
        return cls(
            status="skipped",
            lock=error.lock,
            source=f"{source} {spec.source_table or 'a query'}",
            target=f"{target} {spec.target_table}",
            format=spec.format,
            transfer=spec.transfer,
            publish=spec.publish,
            write_mode=spec.write_mode,
            slice=spec.append_key,
            reasons=(error.message,),
            holder=error.holder,
        )

    @property
    def row_counts(self) -> tuple[tuple[str, int], ...]:
        """The counts of rows by outcome, for people; empty if nothing is known."""
        words = ("inserted", "updated", "deleted", "unchanged")
        return tuple((word, count) for word in words if (count := getattr(self, word)) is not None)

    def __str__(self) -> str:
        """Return the report as people read it, in the terminal and in a task's log."""
        match self.status:
            case "published":
                return _published_text(self)
            case "already_published":
                return _earlier_text(self)
            case _:
                facts = [("from", self.source), ("to", self.target), *reason_facts(self.reasons, self.warnings)]
                return "\n".join([f"{self.status}: nothing was touched", *align_facts(facts)])

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        data = {option.name: getattr(self, option.name) for option in fields(self)}
        # Only a skipped copy has a holder to report; the schema of all others has no such field.
        if self.holder is None:
            del data["holder"]
        data["stages"] = [vars(stage).copy() for stage in self.stages]
        return data | {"reasons": list(self.reasons), "warnings": list(self.warnings)}


def _published_text(report: CopyReport) -> str:
    facts = [
        ("from", report.source),
        ("to", report.target),
        *([] if report.rows is None else [("rows", _row_text(report))]),
        ("written", ", ".join(f"{count:,} {what}" for what, count in report.row_counts)),
        *([("slice", report.slice)] if report.slice else []),
        *(
            [("watermark", f"{_plain_text(mark['old'])} -> {_plain_text(mark['new'])}")]
            if (mark := report.watermark)
            else []
        ),
        ("bytes", format_size(report.bytes)),
        ("digest", f"{report.digest} (xxh3, 128 bit)" if report.digest else "-"),
        *([("content", f"{report.content_hash} (the same on both sides)")] if report.content_hash else []),
        ("how", f"{report.transfer}, {report.format}, {report.publish}"),
        ("token", f"{report.token} of lock {report.lock}, attempt {report.attempt}"),
        (
            "memory",
            f"{format_bytes(report.peak_rss_bytes)} at most, {format_bytes(report.spool_bytes)} of temporary disk",
        ),
        *reason_facts(report.reasons, report.warnings),
    ]
    return "\n".join([f"published in {report.seconds:.1f} s", *align_facts(facts), "", *_stage_table(report)])


def _earlier_text(report: CopyReport) -> str:
    facts = [
        ("from", report.source),
        ("to", report.target),
        ("slice", report.slice or "-"),
        ("rows", format_count(report.inserted)),
        ("digest", f"{report.digest} (xxh3, 128 bit)" if report.digest else "-"),
        ("token", f"{report.token} of lock {report.lock}, attempt {report.attempt}"),
    ]
    return "\n".join([f"already published at {report.published_at}: nothing was copied", *align_facts(facts)])


def _stage_table(report: CopyReport) -> list[str]:
    head = ("stage", "seconds", "rows", "bytes", "PID", "exit code")
    body = [
        (
            stage.stage,
            f"{stage.seconds:.2f}",
            format_count(stage.rows),
            format_size(stage.bytes),
            _plain_text(stage.pid),
            _plain_text(stage.exit_code),
        )
        for stage in report.stages
    ]
    return align_columns([head, *body], right=_NUMBERS)


def _row_text(report: CopyReport) -> str:
    """Return the rows before, where they were counted, and the rows now."""
    before = "" if report.previous_rows is None else f"{report.previous_rows:,} -> "
    return before + format_count(report.rows)


def _plain_text(value: object) -> str:
    return "-" if value is None else str(value)
