"""The rows of `sql/lock.sql` as values, and the values as its parameters.

A row may have been changed by hand, or restored from something else. Of what decides, `LockStoreError` is raised where it
cannot be read; what is only told of former holders is left out then.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from airflow_provider_safecopy.errors import LockStoreError
from airflow_provider_safecopy.lock import file_fact as fact
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.lock.model import Contender, Displaced, Event, Holder, Lease, Promise, Seen
from airflow_provider_safecopy.lock.process import Place

log = logging.getLogger(__name__)

_HOLDER: Mapping[str, fact.Kind] = {
    "token": fact.is_count,
    "owner": lambda value: value is None or fact.is_texts(value),
    # NULL where somebody holds it and nobody knows until when.
    "stale": fact.is_flag,
}
_HELD = ("owner_key", "granted_at", "alive_at", "due_at", "stale_after")
_MEMBER: Mapping[str, fact.Kind] = {"attempt": fact.is_uuid, **dict.fromkeys(("try", "phase", "count"), fact.is_count)}


def asked_by(contender: Contender) -> dict[str, Any]:
    return {
        "owner_key": contender.owner_key,
        "owner": Jsonb(dict(contender.owner)),
        "member_key": contender.member,
        "attempt": str(contender.attempt),
        "try": contender.try_number,
        "passing": contender.passing,
    }


def wanted_by(contender: Contender, promise: Promise, dead: Collection[str] = ()) -> dict[str, Any]:
    return asked_by(contender) | {
        "place": Jsonb(contender.place.as_dict()) if contender.place else None,
        "detached": contender.detached,
        "stale_after": interval(promise.stale_after),
        "crash_grace": interval(promise.crash_grace),
        "dead": list(dead),
    }


def held(lease: Lease) -> dict[str, Any]:
    return asked_by(lease.contender) | {"name": lease.name, "token": lease.token, "lease_id": lease.lease_id}


def interval(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.6f} s"


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Raise `LockStoreError` with the lock's name and the next step for whatever cannot be read."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        told = f"lock {name}: its row in safecopy.lock or safecopy.member cannot be read: {error}"
        raise LockStoreError(told, hint=schema.mending(name), retryable=False) from error


def remaining_of(name: str, row: DictRow) -> float:
    with reading(name):
        return float(row["remaining"])


def lease_of(name: str, contender: Contender, row: DictRow) -> Lease:
    kind: str = row["kind"]
    displaced = None
    if kind == "supersede":
        former = {contender.member: row["prev_members"][contender.member]}
        displaced = displaced_of(row, former, contender.owner_key, contender.owner)
    elif kind.startswith("takeover"):
        displaced = displaced_of(row, row["prev_members"], row["prev_owner_key"], row["prev_owner"])
    return Lease(name, row["token"], row["lease_id"], contender, kind, remaining_of(name, row), displaced)


def displaced_of(row: DictRow, members: object, owner_key: str | None, owner: object) -> Displaced:
    """The lock is theirs no more: of a garbled one nothing is told, and nothing of theirs can be ended."""
    known = members.values() if isinstance(members, Mapping) else ()
    attempts = tuple(member["id"] for member in known if isinstance(member, Mapping) and fact.is_uuid(member.get("id")))
    places = tuple(place for attempt in attempts if (place := Place.of(row["places"].get(attempt))) is not None)
    told: Any = owner if fact.is_texts(owner) else {}
    return Displaced(owner_key or "", told, row["prev_token"] or 0, attempts, places)


def member_of(data: Mapping[str, Any]) -> Seen:
    fact.demand_facts(data, _MEMBER)
    return Seen(
        member=data["key"],
        attempt=data["attempt"],
        try_number=data["try"],
        place=Place.of(data["place"]),
        phase=data["phase"],
        count=data["count"],
        progressed_at=datetime.fromisoformat(data["progressed_at"]),
    )


def event_of(row: DictRow) -> Event | None:
    """None for one that cannot be read: it decides nothing."""
    owner, detail = row["owner"] or {}, row["detail"] or {}
    try:
        fact.demand_facts(row | {"owner": owner, "detail": detail}, fact.EVENT)
    except ValueError as error:
        log.warning("lock %s: an event of its history is left out: %s", row["name"], error)
        return None
    return Event(
        at=datetime.fromisoformat(row["at"]),
        name=row["name"],
        token=row["token"],
        kind=row["kind"],
        owner_key=row["owner_key"],
        owner=owner,
        member=row["member_key"],
        attempt=row["attempt"],
        prev_owner_key=row["prev_owner_key"],
        detail=detail,
    )


def holder_of(row: DictRow) -> Holder:
    """A free lock has no times; it is told of only while nobody may have it yet. Raises `LockStoreError`."""
    with reading(row["name"]):
        fact.demand_facts(row, _HOLDER)
        missing = [name for name in _HELD if row["held"] and row[name] is None]
        if missing:
            raise ValueError(f"it is held, and {', '.join(missing)} is NULL")
        return _holder(row)


def _holder(row: DictRow) -> Holder:
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
        lease_id=row["lease_id"],
    )


def _time(told: str | None) -> datetime | None:
    if told is not None and not fact.is_instant(told):
        raise ValueError(f"{told} is no time that can be told")
    return None if told is None else datetime.fromisoformat(told)
