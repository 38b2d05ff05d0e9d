"""Results, written for a person: what a copy did, what the doctor found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_safecopy.cli import holder
from airflow_provider_safecopy.display import (
    align_facts,
    aligned,
    count_text,
    reason_facts,
    show_bytes,
    shown,
    size_text,
)
from airflow_provider_safecopy.transfer.report import CopyReport

if TYPE_CHECKING:
    from airflow_provider_safecopy.doctor import Check

_NUMBERS = frozenset(range(1, 6))


def of_copy(report: CopyReport) -> str:
    """What a copy did."""
    if report.status == "already_published":
        return _of_earlier(report)
    facts = [
        ("from", report.source),
        ("to", report.target),
        *([] if report.rows is None else [("rows", _rows(report))]),
        ("written", ", ".join(f"{count:,} {what}" for what, count in report.written)),
        *([("slice", report.slice)] if report.slice else []),
        *([("watermark", f"{_plain(mark['old'])} -> {_plain(mark['new'])}")] if (mark := report.watermark) else []),
        ("bytes", size_text(report.bytes)),
        ("digest", f"{report.digest} (xxh3, 128 bit)" if report.digest else "-"),
        *([("content", f"{report.content_hash} (the same on both sides)")] if report.content_hash else []),
        ("how", f"{report.transfer}, {report.format}, {report.publish}"),
        ("token", f"{report.token} of lock {report.lock}, attempt {report.attempt}"),
        ("memory", f"{show_bytes(report.peak_rss_bytes)} at most, {show_bytes(report.spool_bytes)} of temporary disk"),
        *reason_facts(report.reasons, report.warnings),
    ]
    return "\n".join([f"published in {report.seconds:.1f} s", *align_facts(facts), "", *_stages(report)])


def _of_earlier(report: CopyReport) -> str:
    facts = [
        ("from", report.source),
        ("to", report.target),
        ("slice", report.slice or "-"),
        ("rows", count_text(report.inserted)),
        ("digest", f"{report.digest} (xxh3, 128 bit)" if report.digest else "-"),
        ("token", f"{report.token} of lock {report.lock}, attempt {report.attempt}"),
    ]
    return "\n".join([f"already published at {report.published_at}: nothing was copied", *align_facts(facts)])


def of_skip(report: CopyReport, told: Mapping[str, Any]) -> str:
    """Why nothing was copied, and who holds the lock."""
    held = holder.facts(told) if told.get("owner_key") is not None else ()
    facts = [("from", report.source), ("to", report.target), ("lock", report.lock), *held]
    return "\n".join(["skipped: another run holds the lock; nothing was touched", *align_facts(facts)])


def of_checks(checks: Sequence[Check]) -> str:
    """What the doctor found, the next step below each finding that needs one."""
    rows = [(shown(check.outcome), shown(check.name), shown(check.detail).replace("\n", " ")) for check in checks]
    lines: list[str] = []
    for check, line in zip(checks, aligned(rows, indent=""), strict=True):
        lines.append(line)
        if check.hint:
            lines.append(f"         next: {shown(check.hint)}")
    count = {outcome: sum(check.outcome == outcome for check in checks) for outcome in ("ok", "warning", "failed")}
    return "\n".join([*lines, "", ", ".join(f"{number} {outcome}" for outcome, number in count.items())])


def _stages(report: CopyReport) -> list[str]:
    head = ("stage", "seconds", "rows", "bytes", "PID", "exit code")
    body = [
        (
            stage.stage,
            f"{stage.seconds:.2f}",
            count_text(stage.rows),
            size_text(stage.bytes),
            _plain(stage.pid),
            _plain(stage.exit_code),
        )
        for stage in report.stages
    ]
    return aligned([head, *body], right=_NUMBERS)


def _rows(report: CopyReport) -> str:
    """Those before, where they were counted, and those now."""
    before = "" if report.previous_rows is None else f"{report.previous_rows:,} -> "
    return before + count_text(report.rows)


def _plain(value: object) -> str:
    return "-" if value is None else str(value)
