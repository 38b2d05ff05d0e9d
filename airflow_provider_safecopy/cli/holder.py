"""Who holds a lock, and what happened to it, written for people. Ages are by the store's clock, moments in local time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_safecopy.display import aligned, show_seconds, shown

if TYPE_CHECKING:
    from airflow_provider_safecopy.lock.model import Event
    from airflow_provider_safecopy.pipeline.reap import ReapReport

Told = Mapping[str, Any]
"""A holder as `Holder.as_dict` tells it, and errors and `--json` carry it."""

_HEAD = ("lock", "token", "held by", "since", "last progress", "due", "refused")
_NUMBERS = frozenset({1, 6})


def facts(holder: Told) -> Iterator[tuple[str, str]]:
    """What whoever is refused is told, as pairs of a word and a text."""
    yield "held by", who(holder)
    yield from (("member", _member(member)) for member in holder["members"])
    yield "since", f"{moment(holder['since'])} ({_ago(holder, 'since')})"
    yield "last progress", _ago(holder, "last_progress")
    yield "will be taken", _due(holder) if holder["stale"] else f"{_due(holder)}, if nothing moves until then"
    if holder["refused"]:
        yield "refused", f"{_count(holder['refused'], 'time')} since then"


def who(holder: Told) -> str:
    """The owner in one line."""
    from airflow_provider_safecopy.lock.model import told_owner

    return told_owner(holder["owner"], holder["owner_key"] or "nobody")


def table(holders: Sequence[Told]) -> list[str]:
    """Each lock that is held, its members in the lines below it."""
    return aligned([_HEAD, *(row for holder in holders for row in _rows(holder))], right=_NUMBERS, indent="")


def reaped(report: ReapReport, target: str) -> str:
    """What was reaped, or in a dry run would be."""
    if not report.initialised:
        return f"nothing to reap: {shown(target)} has no schema safecopy"
    lines = []
    if report.reaped:
        head = ("lock", "token", "why", "held by", "last progress")
        rows = [
            (shown(each.name), f"{told['token']}", each.why, shown(who(told)), _ago(told, "last_progress"))
            for each in report.reaped
            for told in [each.holder.as_dict()]
        ]
        lines += [*aligned([head, *rows], right=frozenset({1}), indent=""), ""]
    lines += [f"staging table {shown(name)}" for name in report.staging]
    taken, dropped = _count(len(report.reaped), "lock"), _count(len(report.staging), "staging table")
    if report.dry_run:
        lines.append(f"would take {taken} and drop {dropped} in {shown(target)}; nothing was done")
    else:
        forgotten = _count(report.forgotten, "old row")
        lines.append(f"took {taken} and dropped {dropped} in {shown(target)}; forgot {forgotten} of history")
    return "\n".join(lines)


def history(events: Sequence[Event]) -> list[str]:
    """What happened, the newest first."""
    head = ("at", "lock", "token", "what", "who", "member", "")
    rows = [
        (
            moment(event.at.isoformat()),
            shown(event.name),
            f"{event.token}",
            event.kind,
            shown(_owner(event.owner, event.owner_key)),
            shown(event.member or "-"),
            shown(_detail(event)),
        )
        for event in events
    ]
    return aligned([head, *rows], right=frozenset({2}), indent="")


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


def moment(iso: str) -> str:
    """A moment in the local time of whoever reads it."""
    return datetime.fromisoformat(iso).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _rows(holder: Told) -> Iterator[tuple[str, ...]]:
    yield (
        shown(holder["name"]),
        f"{holder['token']}",
        shown(who(holder)),
        moment(holder["since"]),
        _ago(holder, "last_progress"),
        _due(holder),
        f"{holder['refused']}",
    )
    for member in holder["members"]:
        quiet = _seconds(holder["asked"], member["progressed_at"])
        yield "", "", f"  {shown(_member(member))}", "", f"{show_seconds(quiet)} ago", "", ""


def _member(member: Told) -> str:
    place = f", pid {member['pid']} on {member['host']}" if member["pid"] else ""
    return f"{member['member']}, try {member['try']}{place}"


def _ago(holder: Told, moment: str) -> str:
    return f"{show_seconds(_seconds(holder['asked'], holder[moment]))} ago"


def _due(holder: Told) -> str:
    if holder["stale"]:
        return f"stale since {show_seconds(_seconds(holder['asked'], holder['due']))}"
    return f"in {show_seconds(holder['takeable_in'])}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _seconds(later: str, earlier: str) -> float:
    return max(0.0, (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds())


def _owner(owner: Mapping[str, str], key: str | None) -> str:
    from airflow_provider_safecopy.lock.model import told_owner

    return told_owner(owner, key or "-")


def _detail(event: Event) -> str:
    told = [str(event.detail["reason"])] if event.detail.get("reason") else []
    if event.prev_owner_key:
        told.append(f"from {_owner(event.detail.get('from') or {}, event.prev_owner_key)}")
    return ", ".join(told)
