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
from airflow_provider_safecopy.lock.model import Contender, DisplacedHolder, Event, Holder, Lease, Member, Promise
from airflow_provider_safecopy.lock.process import ProcessIdentity

log = logging.getLogger(__name__)

_HOLDER_FACTS: Mapping[str, fact.FactCheck] = {
    "token": fact.is_count,
    "owner": lambda value: value is None or fact.is_text_mapping(value),
    # NULL where somebody holds it and nobody knows until when.
    "stale": fact.is_flag,
}
_HELD_COLUMNS = ("owner_key", "granted_at", "alive_at", "due_at", "stale_after")
_MEMBER_FACTS: Mapping[str, fact.FactCheck] = {
    "attempt": fact.is_uuid,
    **dict.fromkeys(("try", "phase", "count"), fact.is_count),
}


def build_contender_parameters(contender: Contender) -> dict[str, Any]:
    return {
        "owner_key": contender.owner_key,
        "owner": Jsonb(dict(contender.owner)),
        "member_key": contender.member,
        "attempt": str(contender.attempt),
        "try": contender.try_number,
        "passing": contender.is_passing,
    }


def build_acquire_parameters(contender: Contender, terms: Promise, dead: Collection[str] = ()) -> dict[str, Any]:
    return build_contender_parameters(contender) | {
        "place": Jsonb(contender.process.as_dict()) if contender.process else None,
        "detached": contender.is_detached,
        "stale_after": format_interval(terms.stale_after),
        "crash_grace": format_interval(terms.crash_grace),
        "dead": list(dead),
    }


def build_lease_parameters(lease: Lease) -> dict[str, Any]:
    return build_contender_parameters(lease.contender) | {
        "name": lease.name,
        "token": lease.token,
        "lease_id": lease.lease_id,
    }


def format_interval(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.6f} s"


@contextmanager
def translate_row_errors(name: str) -> Iterator[None]:
    """Raise `LockStoreError` with the lock's name and the next step for whatever cannot be read."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        told = f"lock {name}: its row in safecopy.lock or safecopy.member cannot be read: {error}"
        raise LockStoreError(told, hint=schema.build_repair_hint(name), retryable=False) from error


def parse_remaining(name: str, row: DictRow) -> float:
    with translate_row_errors(name):
        return float(row["remaining"])


def parse_lease(name: str, contender: Contender, row: DictRow) -> Lease:
    kind: str = row["kind"]
    displaced = None
    if kind == "supersede":
        former = {contender.member: row["prev_members"][contender.member]}
        displaced = parse_displaced(row, former, contender.owner_key, contender.owner)
    elif kind.startswith("takeover"):
        displaced = parse_displaced(row, row["prev_members"], row["prev_owner_key"], row["prev_owner"])
    return Lease(name, row["token"], row["lease_id"], contender, kind, parse_remaining(name, row), displaced)


def parse_displaced(row: DictRow, members: object, owner_key: str | None, owner: object) -> DisplacedHolder:
    """The lock is theirs no more: of a garbled one nothing is told, and nothing of theirs can be ended."""
    known = members.values() if isinstance(members, Mapping) else ()
    attempts = tuple(member["id"] for member in known if isinstance(member, Mapping) and fact.is_uuid(member.get("id")))
    places = tuple(
        place for attempt in attempts if (place := ProcessIdentity.from_dict(row["places"].get(attempt))) is not None
    )
    told: Any = owner if fact.is_text_mapping(owner) else {}
    return DisplacedHolder(owner_key or "", told, row["prev_token"] or 0, attempts, places)


def parse_member(data: Mapping[str, Any]) -> Member:
    fact.require_facts(data, _MEMBER_FACTS)
    return Member(
        member=data["key"],
        attempt=data["attempt"],
        try_number=data["try"],
        process=ProcessIdentity.from_dict(data["place"]),
        phase=data["phase"],
        count=data["count"],
        progressed_at=datetime.fromisoformat(data["progressed_at"]),
    )


def parse_event(row: DictRow) -> Event | None:
    """None for one that cannot be read: it decides nothing."""
    owner, detail = row["owner"] or {}, row["detail"] or {}
    try:
        fact.require_facts(row | {"owner": owner, "detail": detail}, fact.EVENT_FACTS)
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


def parse_holder(row: DictRow) -> Holder:
    """A free lock has no times; it is told of only while nobody may have it yet. Raises `LockStoreError`."""
    with translate_row_errors(row["name"]):
        fact.require_facts(row, _HOLDER_FACTS)
        missing = [name for name in _HELD_COLUMNS if row["held"] and row[name] is None]
        if missing:
            raise ValueError(f"it is held, and {', '.join(missing)} is NULL")
        return _build_holder(row)


def _build_holder(row: DictRow) -> Holder:
    now = datetime.fromisoformat(row["asked_at"])
    return Holder(
        name=row["name"],
        token=row["token"],
        owner_key=row["owner_key"],
        owner=row["owner"] or {},
        members=tuple(parse_member(member) for member in row["members"]) if row["owner_key"] is not None else (),
        granted_at=_parse_time(row["granted_at"]) or now,
        alive_at=_parse_time(row["alive_at"]) or now,
        progressed_at=_parse_time(row["progressed_at"]) or now,
        due_at=_parse_time(row["due_at"]) or now,
        asked_at=now,
        not_before=_parse_time(row["not_before"]),
        stale_after=float(row["stale_after"] or 0),
        is_stale=row["stale"],
        refused_count=row["refused"],
        lease_id=row["lease_id"],
    )


def _parse_time(text: str | None) -> datetime | None:
    if text is not None and not fact.is_instant(text):
        raise ValueError(f"{text} is no time that can be told")
    return None if text is None else datetime.fromisoformat(text)
