"""Choosing the way to publish: what is fast among what is safe, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from airflow_provider_safecopy.errors import Refusal
from airflow_provider_safecopy.transfer.finding import Finding
from airflow_provider_safecopy.transfer.model import SizeClass, Strategy
from airflow_provider_safecopy.transfer.spec import CopySpec
from airflow_provider_safecopy.transfer.target_table import TargetTable
from airflow_provider_safecopy.transfer.ways import STRATEGIES

# What ``auto`` may choose for ``replace``, the fastest first. None of them shows any reader anything but old or new.
_SAFE: tuple[Strategy, ...] = tuple(way for way in ("swap", "delta", "delete_insert") if way in STRATEGIES)
# For a small table among many. A swap asks more of the catalog than such a table has rows, and what it spares, bloat, is
# none worth naming; of a tiny one, whose changes nobody listens to, all rows are written anew sooner than compared.
# Neither of the first two stops a reader for a moment.
_ORDERS: Mapping[SizeClass, tuple[Strategy, ...]] = {
    "any": _SAFE,
    "small": ("delta", "delete_insert", "swap"),
    "tiny": ("delete_insert", "delta", "swap"),
}
_ONE_OF_MANY: Mapping[SizeClass, str] = {
    "small": "small, and one of many tables: a swap would cost more than it spares",
    "tiny": "tiny, and one of many tables: all rows are written anew sooner than they are compared",
}
_MODES: dict[str, Strategy] = {"append": "insert", "upsert": "upsert", "incremental": "upsert"}
_CREATE = "publish create: there is no such table yet; every reader sees none, or the whole one"
_WHY: dict[str, str] = {
    "swap": "the new table is built beforehand and renamed in; every reader sees the old rows or the new ones",
    "delta": "only rows that differ are written; every reader sees the old rows or the new ones",
    "delete_insert": "every reader, with an old snapshot too, sees the old rows or the new ones",
}


def choose(spec: CopySpec, table: TargetTable | None, extent: SizeClass = "any") -> Finding[Strategy]:
    """Return how to publish into `table`, why, and what speaks against it.

    `extent`: how large the table is, where it is one of many.
    """
    if table is None:
        return Finding("create", reasons=(_CREATE,)) if spec.create_target else Finding("delete_insert")
    if spec.write_mode != "replace":
        way = _MODES[spec.write_mode]
        refusals = tuple(STRATEGIES[way].find_refusals(table, spec))
        return Finding(way, refusals, (f"publish {way}: write_mode is {spec.write_mode}",))
    if spec.publish != "auto":
        return _check_requested(spec, spec.publish, table)
    order = _ORDERS[extent]
    found = _best(spec, table, order)
    if extent in _ONE_OF_MANY and found.value == order[0]:
        return replace(found, reasons=(*found.reasons, _ONE_OF_MANY[extent]))
    return found


def choose_instead_of_swap(spec: CopySpec, table: TargetTable) -> Strategy | None:
    """Return the first way that waits for no reader and has no drawback; None if there is none."""
    for way in _SAFE:
        if way == "swap" or any(STRATEGIES[way].find_refusals(table, spec)):
            continue
        if not STRATEGIES[way].find_drawback(table, spec):
            return way
    return None


def _check_requested(spec: CopySpec, way: Strategy, table: TargetTable) -> Finding[Strategy]:
    refusals = tuple(STRATEGIES[way].find_refusals(table, spec))
    but = STRATEGIES[way].find_drawback(table, spec)
    return Finding(way, refusals, (f"publish {way}: asked for" + (f"; {but}" if but else ""),))


def _best(spec: CopySpec, table: TargetTable, order: Sequence[Strategy]) -> Finding[Strategy]:
    """Return the first that is neither refused nor chosen with reluctance; else the first that is not refused."""
    against: dict[Strategy, tuple[Refusal, ...]] = {}
    reluctant: list[tuple[Strategy, str]] = []
    told: list[str] = []
    for way in order:
        against[way] = tuple(STRATEGIES[way].find_refusals(table, spec))
        if against[way]:
            told.append(f"not {way}: {against[way][0].message}")
        elif but := STRATEGIES[way].find_drawback(table, spec):
            told.append(f"not {way}: {but}")
            reluctant.append((way, but))
        else:
            return Finding(way, reasons=(f"publish {way}: {_WHY[way]}", *told))
    if reluctant:
        way, but = reluctant[0]
        return Finding(way, reasons=(f"publish {way}: nothing better can be done, though {but}", *told))
    return Finding(_SAFE[-1], against[_SAFE[-1]], (f"publish {_SAFE[-1]}", *told))
