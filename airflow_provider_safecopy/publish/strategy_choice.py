"""The choice of the publish strategy: what is fast among what is safe, and when a waiting swap gives way.

Swap takes ACCESS EXCLUSIVE, which waits even for an idle transaction that once read the table. The rows in staging
are proven; delta and delete_insert write the same rows from there, beside any reader. This holds only for
``publish="auto"``: with ``publish="swap"`` the publish swaps or fails.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import Refusal, StageError
from airflow_provider_safecopy.planning.finding import Finding
from airflow_provider_safecopy.planning.own_path import NOT_FOUND
from airflow_provider_safecopy.planning.target_table import TargetTable, find_pairing_key
from airflow_provider_safecopy.postgres.lookout import Blocker, list_blockers
from airflow_provider_safecopy.publish import schema_drift
from airflow_provider_safecopy.publish.context import PublishContext
from airflow_provider_safecopy.publish.lock_waits import Blockers
from airflow_provider_safecopy.publish.strategies import STRATEGIES
from airflow_provider_safecopy.spec import CopySpec, SizeClass, Strategy

# What ``auto`` may choose for ``replace``, the fastest first. None of them shows any reader anything but old or new.
_SAFE: tuple[Strategy, ...] = tuple(way for way in ("swap", "delta", "delete_insert") if way in STRATEGIES)
# For a small table among many. A swap asks more of the catalog than such a table has rows, and what it spares, bloat, is
# none worth naming; of a tiny one, whose changes nothing listens to, all rows are written anew sooner than compared.
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


log = logging.getLogger(__name__)

_BLOCKERS = sql.load("blockers")


class LeaveSwapError(Exception):
    """Raised to go on with `job` instead of the swap. Internal: it never leaves the publish."""

    def __init__(self, job: PublishContext) -> None:
        super().__init__(job.plan.publish)
        self.job = job


class SwapPatience:
    """Decides when a waiting swap gives way. Called after each step without a lock."""

    def __init__(self, job: PublishContext) -> None:
        self._job = job
        self._seconds = job.plan.spec.swap_patience
        self._due = self._seconds if can_leave_swap(job) else float("inf")

    def check(self, seconds: float, found: tuple[Blocker, ...] | str) -> None:
        """Raise `LeaveSwapError` if `seconds` of waiting are enough and another way need not wait."""
        if seconds < self._due:
            return
        blockers = found if isinstance(found, str) else list_blockers(found)
        if (job := _replan(self._job, blockers, self._seconds)) is not None:
            raise LeaveSwapError(job)
        self._due = seconds + self._seconds

    def check_blockers(self, blockers: Blockers) -> None:
        """Call `check` for the wait that `blockers` watches."""
        if blockers.seconds >= self._due:
            self.check(blockers.seconds, blockers.read_latest())


def can_leave_swap(job: PublishContext) -> bool:
    """Return whether `auto` chose the swap, and another way needs no lock that waits for readers."""
    return job.plan.publish == "swap" and job.plan.spec.publish == "auto" and not schema_drift.adds_columns(job.plan)


def replace_unbuildable(job: PublishContext, error: StageError) -> PublishContext:
    """Return the job with another way if `auto` chose a swap whose table cannot be built; else raise `error`.

    A function written in another language than SQL shows only when it runs that it names things without a schema.
    """
    if error.stage != "prepare" or error.sqlstate not in NOT_FOUND or not can_leave_swap(job):
        raise error
    why = f"the new table cannot be built: {error.message}"
    if (found := _plan_instead(job, why)) is None:
        raise error
    return found


def _replan(job: PublishContext, blockers: str, seconds: float) -> PublishContext | None:
    """Return the job with the best way that waits for no reader; None if it would wait as well."""
    plan, relation = job.plan, job.plan.target_relation
    asked = {"target": plan.target_oid, "exclusive": False}
    if relation is None or job.target.fetch_all(_BLOCKERS["holders"], asked):
        # A writer holds the table: any other strategy would wait for it too.
        return None
    return _plan_instead(job, f"it waits for no reader; swap had waited {seconds:g} s for {blockers}")


def _plan_instead(job: PublishContext, because: str) -> PublishContext | None:
    """Return the job with another way than swap; None if there is none, or staging may have changed since it was proven."""
    plan, relation, staging = job.plan, job.plan.target_relation, job.verification.staging
    if relation is None:
        return None
    if job.target.fetch_value(_BLOCKERS["rows_may_change"], {"schema": staging.schema, "name": staging.name}):
        # Rows in staging may have changed since they were proven.
        return None
    table = TargetTable(job.target, relation)
    way = choose_instead_of_swap(plan.spec, table)
    if way is None:
        return None
    why = f"publish {way} instead of swap: {because}"
    log.warning("%s: %s", plan.target_name, why)
    found = find_pairing_key(plan.spec, table, way)
    return replace(job, plan=replace(plan, publish=way, key=found, reasons=(*plan.reasons, why)))
