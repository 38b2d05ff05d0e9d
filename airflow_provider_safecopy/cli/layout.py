"""Results as lines and tables for a person: holders, history, findings. Ages are by the store's clock, moments in local time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_safecopy.display import align_columns, align_facts, escape, format_seconds
from airflow_provider_safecopy.report import CopyReport

if TYPE_CHECKING:
    from airflow_provider_safecopy.doctor import Check
    from airflow_provider_safecopy.lock.model import Event
    from airflow_provider_safecopy.pipeline.reap import ReapReport

Told = Mapping[str, Any]
"""A holder as `Holder.as_dict` tells it, and errors and `--json` carry it."""

_HEAD = ("lock", "token", "held by", "since", "last progress", "due", "refused")
_NUMBERS = frozenset({1, 6})


def list_facts(holder: Told) -> Iterator[tuple[str, str]]:
    """Yield what a refused run is told of the holder, as pairs of a word and a text."""
    yield "held by", format_owner(holder)
    yield from (("member", _format_member(member)) for member in holder["members"])
    yield "since", f"{format_moment(holder['since'])} ({_format_age(holder, 'since')})"
    yield "last progress", _format_age(holder, "last_progress")
    yield (
        "will be taken",
        _format_due(holder) if holder["stale"] else f"{_format_due(holder)}, if nothing moves until then",
    )
    if holder["refused"]:
        yield "refused", f"{_format_count(holder['refused'], 'time')} since then"


def format_owner(holder: Told) -> str:
    """The owner in one line."""
    from airflow_provider_safecopy.lock.model import describe_owner

    return describe_owner(holder["owner"], holder["owner_key"] or "no holder")


def format_holders(holders: Sequence[Told]) -> list[str]:
    """Each lock that is held, its members in the lines below it."""
    return align_columns([_HEAD, *(row for holder in holders for row in _list_rows(holder))], right=_NUMBERS, indent="")


def format_reaped(report: ReapReport, target: str) -> str:
    """Return what was reaped, or in a dry run would be."""
    if not report.initialised:
        return f"nothing to reap: {escape(target)} has no schema safecopy"
    lines = []
    if report.reaped:
        head = ("lock", "token", "why", "held by", "last progress")
        rows = [
            (
                escape(each.name),
                f"{told['token']}",
                each.why,
                escape(format_owner(told)),
                _format_age(told, "last_progress"),
            )
            for each in report.reaped
            for told in [each.holder.as_dict()]
        ]
        lines += [*align_columns([head, *rows], right=frozenset({1}), indent=""), ""]
    lines += [f"staging table {escape(name)}" for name in report.staging]
    taken, dropped = _format_count(len(report.reaped), "lock"), _format_count(len(report.staging), "staging table")
    if report.dry_run:
        lines.append(f"would take {taken} and drop {dropped} in {escape(target)}; nothing was done")
    else:
        forgotten = _format_count(report.forgotten, "old row")
        lines.append(f"took {taken} and dropped {dropped} in {escape(target)}; forgot {forgotten} of history")
    return "\n".join(lines)


def format_history(events: Sequence[Event]) -> list[str]:
    """Return what happened, the newest first."""
    head = ("at", "lock", "token", "what", "who", "member", "")
    rows = [
        (
            format_moment(event.at.isoformat()),
            escape(event.name),
            f"{event.token}",
            event.kind,
            escape(_format_event_owner(event.owner, event.owner_key)),
            escape(event.member or "-"),
            escape(_format_detail(event)),
        )
        for event in events
    ]
    return align_columns([head, *rows], right=frozenset({2}), indent="")


def event_as_dict(event: Event) -> dict[str, Any]:
    """As plain JSON values."""
    return {
        "at": event.at.isoformat(),
        "name": event.name,
        "token": event.token,
        "kind": event.kind,
        "owner": dict(event.owner),
        "owner_key": event.owner_key,
        "member": event.member,
        "attempt": event.attempt,
        "prev_owner_key": event.prev_owner_key,
        "detail": dict(event.detail),
    }


def format_moment(iso: str) -> str:
    """A moment in the local time of the reader."""
    return datetime.fromisoformat(iso).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _list_rows(holder: Told) -> Iterator[tuple[str, ...]]:
    yield (
        escape(holder["name"]),
        f"{holder['token']}",
        escape(format_owner(holder)),
        format_moment(holder["since"]),
        _format_age(holder, "last_progress"),
        _format_due(holder),
        f"{holder['refused']}",
    )
    for member in holder["members"]:
        quiet = _count_seconds(holder["asked"], member["progressed_at"])
        yield "", "", f"  {escape(_format_member(member))}", "", f"{format_seconds(quiet)} ago", "", ""


def _format_member(member: Told) -> str:
    place = f", pid {member['pid']} on {member['host']}" if member["pid"] else ""
    return f"{member['member']}, try {member['try']}{place}"


def _format_age(holder: Told, moment: str) -> str:
    return f"{format_seconds(_count_seconds(holder['asked'], holder[moment]))} ago"


def _format_due(holder: Told) -> str:
    if holder["stale"]:
        return f"stale since {format_seconds(_count_seconds(holder['asked'], holder['due']))}"
    return f"in {format_seconds(holder['takeable_in'])}"


def _format_count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _count_seconds(later: str, earlier: str) -> float:
    return max(0.0, (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds())


def _format_event_owner(owner: Mapping[str, str], key: str | None) -> str:
    from airflow_provider_safecopy.lock.model import describe_owner

    return describe_owner(owner, key or "-")


def _format_detail(event: Event) -> str:
    told = [str(event.detail["reason"])] if event.detail.get("reason") else []
    if event.prev_owner_key:
        told.append(f"from {_format_event_owner(event.detail.get('from') or {}, event.prev_owner_key)}")
    return ", ".join(told)


def format_skip(report: CopyReport, told: Mapping[str, Any]) -> str:
    """Why nothing was copied, and who holds the lock."""
    held = list_facts(told) if told.get("owner_key") is not None else ()
    facts = [("from", report.source), ("to", report.target), ("lock", report.lock), *held]
    return "\n".join(["skipped: another run holds the lock; nothing was touched", *align_facts(facts)])


def format_checks(checks: Sequence[Check]) -> str:
    """Return what the doctor found, the next step below each finding that needs one."""
    rows = [(escape(check.outcome), escape(check.name), escape(check.detail).replace("\n", " ")) for check in checks]
    lines: list[str] = []
    for check, line in zip(checks, align_columns(rows, indent=""), strict=True):
        lines.append(line)
        if check.hint:
            lines.append(f"         next: {escape(check.hint)}")
    count = {outcome: sum(check.outcome == outcome for check in checks) for outcome in ("ok", "warning", "failed")}
    return "\n".join([*lines, "", ", ".join(f"{number} {outcome}" for outcome, number in count.items())])
