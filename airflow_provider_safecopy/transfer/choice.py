"""Choosing the way to publish: what is fast among what is safe, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.transfer.catalog import Relation
from airflow_provider_safecopy.transfer.model import Extent, Way
from airflow_provider_safecopy.transfer.session import Session
from airflow_provider_safecopy.transfer.spec import CopySpec
from airflow_provider_safecopy.transfer.ways import WAYS

# What ``auto`` may choose for ``replace``, the fastest first. None of them shows any reader anything but old or new.
_SAFE: tuple[Way, ...] = tuple(way for way in ("swap", "delta", "delete_insert") if way in WAYS)
# For a small table among many. A swap asks more of the catalog than such a table has rows, and what it spares, bloat, is
# none worth naming; of a tiny one, whose changes nobody listens to, all rows are written anew sooner than compared.
# Neither of the first two stops a reader for a moment.
_ORDERS: Mapping[Extent, tuple[Way, ...]] = {
    "any": _SAFE,
    "small": ("delta", "delete_insert", "swap"),
    "tiny": ("delete_insert", "delta", "swap"),
}
_ONE_OF_MANY: Mapping[Extent, str] = {
    "small": "small, and one of many tables: a swap would cost more than it spares",
    "tiny": "tiny, and one of many tables: all rows are written anew sooner than they are compared",
}
_MODES: dict[str, Way] = {"append": "insert", "upsert": "upsert", "incremental": "upsert"}
_CREATE = "publish create: there is no such table yet; every reader sees none, or the whole one"
_WHY: dict[str, str] = {
    "swap": "the new table is built beforehand and renamed in; every reader sees the old rows or the new ones",
    "delta": "only rows that differ are written; every reader sees the old rows or the new ones",
    "delete_insert": "every reader, with an old snapshot too, sees the old rows or the new ones",
}


def choose(
    spec: CopySpec, session: Session, relation: Relation | None, refusals: list[Refusal], *, extent: Extent = "any"
) -> tuple[Way, tuple[str, ...]]:
    """The way to publish into `relation`, and the reasons; what speaks against it is added to `refusals`.

    `extent`: how large it is, where it is one of many tables.
    """
    if relation is None:
        return ("create", (_CREATE,)) if spec.create_target else ("delete_insert", ())
    if spec.write_mode != "replace":
        way = _MODES[spec.write_mode]
        refusals += WAYS[way].refusals(session, relation, spec)
        return way, (f"publish {way}: write_mode is {spec.write_mode}",)
    if spec.publish != "auto":
        return _asked(spec, spec.publish, session, relation, refusals)
    order = _ORDERS[extent]
    way, told = _best(spec, session, relation, refusals, order)
    return way, (*told, _ONE_OF_MANY[extent]) if extent in _ONE_OF_MANY and way == order[0] else told


def choose_instead_of_swap(spec: CopySpec, session: Session, relation: Relation) -> Way | None:
    """Return the first way that waits for no reader and has no drawback; None if there is none."""
    for way in _SAFE:
        if way == "swap" or any(WAYS[way].refusals(session, relation, spec)):
            continue
        if not WAYS[way].reluctance(session, relation, spec):
            return way
    return None


def _asked(
    spec: CopySpec, way: Way, session: Session, relation: Relation, refusals: list[Refusal]
) -> tuple[Way, tuple[str, ...]]:
    refusals += WAYS[way].refusals(session, relation, spec)
    but = WAYS[way].reluctance(session, relation, spec)
    return way, (f"publish {way}: asked for" + (f"; {but}" if but else ""),)


def _best(
    spec: CopySpec, session: Session, relation: Relation, refusals: list[Refusal], order: Sequence[Way]
) -> tuple[Way, tuple[str, ...]]:
    """The first that is neither refused nor chosen with reluctance; else the first that is not refused."""
    against: dict[Way, list[Refusal]] = {}
    reluctant: list[tuple[Way, str]] = []
    told: list[str] = []
    for way in order:
        against[way] = list(WAYS[way].refusals(session, relation, spec))
        if against[way]:
            told.append(f"not {way}: {against[way][0].message}")
        elif but := WAYS[way].reluctance(session, relation, spec):
            told.append(f"not {way}: {but}")
            reluctant.append((way, but))
        else:
            return way, (f"publish {way}: {_WHY[way]}", *told)
    if reluctant:
        way, but = reluctant[0]
        return way, (f"publish {way}: nothing better can be done, though {but}", *told)
    refusals += against[_SAFE[-1]]
    return _SAFE[-1], (f"publish {_SAFE[-1]}", *told)
