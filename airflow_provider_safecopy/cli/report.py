"""Results, written for a person: what a copy did, what a plan would do, what the doctor found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_safecopy.cli import holder
from airflow_provider_safecopy.cli.encoding import shown
from airflow_provider_safecopy.cli.quantity import show_bytes
from airflow_provider_safecopy.cli.table import aligned
from airflow_provider_safecopy.transfer.report import CopyReport

if TYPE_CHECKING:
    from airflow_provider_safecopy.doctor import Check
    from airflow_provider_safecopy.transfer.plan import CopyPlan

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
        ("bytes", _size(report.bytes)),
        ("digest", f"{report.digest} (xxh3, 128 bit)" if report.digest else "-"),
        *([("content", f"{report.content_hash} (the same on both sides)")] if report.content_hash else []),
        ("how", f"{report.transfer}, {report.format}, {report.publish}"),
        ("token", f"{report.token} of lock {report.lock}, attempt {report.attempt}"),
        ("memory", f"{show_bytes(report.peak_rss_bytes)} at most, {show_bytes(report.spool_bytes)} of temporary disk"),
        *_because(report.reasons, report.warnings),
    ]
    return "\n".join([f"published in {report.seconds:.1f} s", *_facts(facts), "", *_stages(report)])


def _of_earlier(report: CopyReport) -> str:
    facts = [
        ("from", report.source),
        ("to", report.target),
        ("slice", report.slice or "-"),
        ("rows", _count(report.inserted)),
        ("digest", f"{report.digest} (xxh3, 128 bit)" if report.digest else "-"),
        ("token", f"{report.token} of lock {report.lock}, attempt {report.attempt}"),
    ]
    return "\n".join([f"already published at {report.published_at}: nothing was copied", *_facts(facts)])


def of_skip(report: CopyReport, told: Mapping[str, Any]) -> str:
    """Why nothing was copied, and who holds the lock."""
    held = holder.facts(told) if told.get("owner_key") is not None else ()
    facts = [("from", report.source), ("to", report.target), ("lock", report.lock), *held]
    return "\n".join(["skipped: another run holds the lock; nothing was touched", *_facts(facts)])


def of_plan(plan: CopyPlan) -> str:
    """What a copy would do, statement by statement, or why it is refused."""
    facts = [
        ("from", plan.source),
        ("to", plan.target),
        (
            "columns",
            ", ".join(_pair(a, b) for a, b in zip(plan.source_columns, plan.target_columns, strict=True)) or "-",
        ),
        ("how", f"{plan.transfer}, {plan.format}, {plan.publish}"),
        ("expected", f"about {_count(plan.expected_rows)} rows, {_size(plan.expected_bytes)}"),
        ("lock", plan.lock),
        *_because(plan.reasons, plan.warnings),
    ]
    if plan.refusals:
        told = [
            pair
            for refusal in plan.refusals
            for pair in (("refused", f"{refusal.message} [{refusal.code}]"), ("next", refusal.hint))
            if pair[1]
        ]
        return "\n".join(["refused: nothing was touched", *_facts([*facts, *told])])
    return "\n".join(["planned: nothing was touched", *_facts(facts), *_steps(plan)])


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


def _facts(facts: Sequence[tuple[str, str]]) -> list[str]:
    width = max((9, *(len(name) for name, _ in facts)))
    return [line for name, value in facts for line in _fact(name, width, shown(value).splitlines() or [""])]


def _fact(name: str, width: int, lines: Sequence[str]) -> list[str]:
    return [f"  {name if at == 0 else '':<{width}} {line}" for at, line in enumerate(lines)]


def _because(reasons: Sequence[str], warnings: Sequence[str]) -> list[tuple[str, str]]:
    return [*(("because", reason) for reason in reasons), *(("warning", warning) for warning in warnings)]


def _stages(report: CopyReport) -> list[str]:
    head = ("stage", "seconds", "rows", "bytes", "PID", "exit code")
    body = [
        (
            stage.stage,
            f"{stage.seconds:.2f}",
            _count(stage.rows),
            _size(stage.bytes),
            _plain(stage.pid),
            _plain(stage.exit_code),
        )
        for stage in report.stages
    ]
    return aligned([head, *body], right=_NUMBERS)


def _steps(plan: CopyPlan) -> list[str]:
    lines = ["", "  SQL, in order:"]
    for step in plan.steps():
        lines += ["", f"  -- {step.stage}, on the {step.database}; lock: {shown(step.lock)}"]
        lines += [f"  {line}" for line in f"{shown(step.sql)};".splitlines()]
    return lines


def _pair(source: str, target: str) -> str:
    return source if source == target else f"{source} -> {target}"


def _rows(report: CopyReport) -> str:
    """Those before, where they were counted, and those now."""
    before = "" if report.previous_rows is None else f"{report.previous_rows:,} -> "
    return before + _count(report.rows)


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _size(number: int | None) -> str:
    return "-" if number is None else show_bytes(number)


def _plain(value: object) -> str:
    return "-" if value is None else str(value)
