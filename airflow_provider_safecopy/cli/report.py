"""Results, written for a person: what a copy did, what the doctor found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_safecopy.cli import holder
from airflow_provider_safecopy.display import (
    align_columns,
    align_facts,
    escape,
)
from airflow_provider_safecopy.transfer.report import CopyReport

if TYPE_CHECKING:
    from airflow_provider_safecopy.doctor import Check


def format_skip(report: CopyReport, told: Mapping[str, Any]) -> str:
    """Why nothing was copied, and who holds the lock."""
    held = holder.list_facts(told) if told.get("owner_key") is not None else ()
    facts = [("from", report.source), ("to", report.target), ("lock", report.lock), *held]
    return "\n".join(["skipped: another run holds the lock; nothing was touched", *align_facts(facts)])


def format_checks(checks: Sequence[Check]) -> str:
    """What the doctor found, the next step below each finding that needs one."""
    rows = [(escape(check.outcome), escape(check.name), escape(check.detail).replace("\n", " ")) for check in checks]
    lines: list[str] = []
    for check, line in zip(checks, align_columns(rows, indent=""), strict=True):
        lines.append(line)
        if check.hint:
            lines.append(f"         next: {escape(check.hint)}")
    count = {outcome: sum(check.outcome == outcome for check in checks) for outcome in ("ok", "warning", "failed")}
    return "\n".join([*lines, "", ", ".join(f"{number} {outcome}" for outcome, number in count.items())])
