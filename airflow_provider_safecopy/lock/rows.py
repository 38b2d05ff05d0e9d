"""The rows of `sql/lock.sql` as values, and the values as its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from airflow_provider_safecopy.lock.model import Contender, Displaced, Event, Holder, Lease, Seen
from airflow_provider_safecopy.lock.process import Place


def asked_by(contender: Contender) -> dict[str, Any]:
    return {
        "owner_key": contender.owner_key,
        "owner": Jsonb(dict(contender.owner)),
        "member_key": contender.member,
        "attempt": str(contender.attempt),
        "try": contender.try_number,
        "passing": contender.passing,
    }


def held(lease: Lease) -> dict[str, Any]:
    return asked_by(lease.contender) | {"name": lease.name, "token": lease.token, "lease_id": lease.lease_id}


def interval(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.6f} s"


def lease_of(name: str, contender: Contender, row: DictRow) -> Lease:
    kind: str = row["kind"]
    displaced = None
    if kind == "supersede":
        former = {contender.member: row["prev_members"][contender.member]}
        displaced = displaced_of(row, former, contender.owner_key, contender.owner)
    elif kind.startswith("takeover"):
        displaced = displaced_of(row, row["prev_members"], row["prev_owner_key"], row["prev_owner"])
    return Lease(name, row["token"], row["lease_id"], contender, kind, float(row["remaining"]), displaced)


def displaced_of(
    row: DictRow, members: Mapping[str, Any], owner_key: str, owner: Mapping[str, str] | None
) -> Displaced:
    attempts = tuple(member["id"] for member in members.values())
    places = tuple(place for attempt in attempts if (place := Place.of(row["places"].get(attempt))) is not None)
    return Displaced(owner_key, owner or {}, row["prev_token"], attempts, places)


def member_of(data: Mapping[str, Any]) -> Seen:
    return Seen(
        member=data["key"],
        attempt=data["attempt"],
        try_number=data["try"],
        place=Place.of(data["place"]),
        phase=data["phase"],
        count=data["count"],
        progressed_at=datetime.fromisoformat(data["progressed_at"]),
    )


def event_of(row: DictRow) -> Event:
    return Event(
        at=datetime.fromisoformat(row["at"]),
        name=row["name"],
        token=row["token"],
        kind=row["kind"],
        owner_key=row["owner_key"],
        owner=row["owner"] or {},
        member=row["member_key"],
        attempt=row["attempt"],
        prev_owner_key=row["prev_owner_key"],
        detail=row["detail"] or {},
    )


def holder_of(row: DictRow) -> Holder:
    """A free lock has no times; it is told of only while nobody may have it yet."""
    now = datetime.fromisoformat(row["asked_at"])
    return Holder(
        name=row["name"],
        token=row["token"],
        owner_key=row["owner_key"],
        owner=row["owner"] or {},
        members=tuple(member_of(member) for member in row["members"]) if row["owner_key"] is not None else (),
        since=_time(row["granted_at"]) or now,
        alive_at=_time(row["alive_at"]) or now,
        progressed_at=_time(row["progressed_at"]) or now,
        due_at=_time(row["due_at"]) or now,
        asked_at=now,
        not_before=_time(row["not_before"]),
        stale_after=float(row["stale_after"] or 0),
        stale=row["stale"],
        refused=row["refused"],
    )


def _time(told: str | None) -> datetime | None:
    return None if told is None else datetime.fromisoformat(told)
