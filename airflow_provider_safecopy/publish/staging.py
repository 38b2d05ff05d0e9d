"""Staging: where rows wait, unseen, until they are proven. One table an attempt, in our own schema.

Unlogged and never replicated, unless it is to become the target; needs no right on the user's schema. Its name carries token and attempt, so
that no run writes into another's, and the next run knows which ones are not needed any more.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

import psycopg

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.errors import StageError
from airflow_provider_safecopy.planning.plan import CopyPlan
from airflow_provider_safecopy.postgres import statements
from airflow_provider_safecopy.postgres.diagnosis import describe
from airflow_provider_safecopy.postgres.lookout import lock_wait_error
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.postgres.session import Session
from airflow_provider_safecopy.postgres.statements import together
from airflow_provider_safecopy.publish import clone_table, schema_drift

log = logging.getLogger(__name__)

_CATALOG = sql.load("catalog")
_NAME_BYTES = 63
_DROP_SECONDS = 3.0
# An autovacuum gives way to a session that has waited for deadlock_timeout, which is a second.
_DROP_LOCK, _SWEEP_LOCK = "2s", "200ms"
_SCHEMA = "safecopy"
_PSQL_SIGNS = "\\;:"
# Names are counted in the server's encoding; where unsure in UTF-8, which no server encoding outgrows.
_CODECS = {"EUC_KR": "euc_kr"}


def build_name(target: TableName, *, token: int, attempt: UUID, encoding: str) -> TableName:
    """``<target>…__safecopy_<token>_<attempt>``, within 63 bytes of the server's encoding.

    The target's name is shortened at a letter's border and told apart by a hash when it does not fit, or
    when it holds control characters, or characters that psql interprets.
    """
    suffix = f"__safecopy_{token}_{attempt.hex[:8]}"
    room = _NAME_BYTES - len(suffix)
    codec = _CODECS.get(encoding, "utf-8")
    readable = all(map(_is_readable, target.name)) and _count_bytes(target.name, codec) <= room
    if readable:
        return TableName(_SCHEMA, target.name + suffix)
    digest = hashlib.sha256(str(target).encode()).hexdigest()[:6]
    kept = "".join(letter for letter in target.name if _is_readable(letter))
    while kept and _count_bytes(kept, codec) + len(digest) + 1 > room:
        kept = kept[:-1]
    return TableName(_SCHEMA, f"{kept}_{digest}{suffix}")


@contextmanager
def hold_staging(plan: CopyPlan, target: Session, *, token: int, attempt: UUID) -> Iterator[TableName]:
    """The attempt's staging table, for the time of the block. Raises `StageError` when it cannot be made."""
    name = build_name(plan.target_name, token=token, attempt=attempt, encoding=target.server.encoding)
    try:
        _create_table(plan, target, name)
    except psycopg.errors.LockNotAvailable as error:
        raise lock_wait_error(
            error, "import", f"a table that staging table {name} is made from", target.lookout
        ) from error
    except psycopg.Error as error:
        raise StageError(
            f"import: staging table {name} cannot be made: {describe(error)}",
            stage="import",
            sqlstate=error.sqlstate,
        ) from error
    try:
        yield name
    except BaseException:
        drop_after_failure(target, name)
        raise
    drop_tables(target, name)


def drop_after_failure(target: Session, name: TableName) -> None:
    """As `drop_tables`, of a copy that has failed: its end does not take long because of this."""
    with target.limit_answer(_DROP_SECONDS):
        drop_tables(target, name)


def drop_tables(target: Session, *names: TableName) -> None:
    """Drop our staging tables; where the session is lost, or another session reads them, the next run's sweep does it."""
    left: dict[TableName, psycopg.Error] = {}
    # A forked child may leave the block that its parent entered.
    if names and target.connection.is_own:
        try:
            _drop_now(target, names, lock_timeout=_DROP_LOCK)
        except psycopg.Error as error:
            left = {names[0]: error} if len(names) == 1 else _drop_each(target, names)
    for name, why in left.items():
        log.warning("left behind: %s: %s; the next run drops it", name, str(why).strip())


def _drop_each(target: Session, names: Iterable[TableName]) -> dict[TableName, psycopg.Error]:
    """Drop each by itself. Those that could not be, and why."""
    left = {}
    for name in names:
        try:
            _drop_now(target, [name], lock_timeout=_SWEEP_LOCK)
        except psycopg.Error as error:
            left[name] = error
    return left


def _drop_now(target: Session, names: Sequence[TableName], *, lock_timeout: str) -> None:
    with target.connection.transaction():
        target.connection.execute(statements.set_local("lock_timeout", lock_timeout))
        target.connection.execute(statements.drop_staging(*names))


def find_leftovers(target: Session, *, gone_attempts: Iterable[str] = ()) -> tuple[TableName, ...]:
    """The staging tables of runs that are gone; the attempts in `gone_attempts` count as such whatever session they have."""
    rows = target.fetch_all(_CATALOG["leftovers"], {"gone": [attempt[:8] for attempt in gone_attempts]})
    return tuple(TableName(_SCHEMA, row["relname"]) for row in rows)


def drop_leftovers(target: Session, *, gone_attempts: Iterable[str] = ()) -> tuple[str, ...]:
    """Drop the staging tables of runs that are gone, never those of a living one. Returns their names.

    The attempts in `gone_attempts` have lost their locks: one that comes back to find that out needs its table no more.
    """
    swept = []
    for name in find_leftovers(target, gone_attempts=gone_attempts):
        try:
            _drop_now(target, [name], lock_timeout=_SWEEP_LOCK)
        except psycopg.errors.LockNotAvailable:
            log.info("%s: left alone, another session is still using it", name)
            continue
        log.warning("%s: dropped, its run is gone", name)
        swept.append(str(name))
    return tuple(swept)


def _create_table(plan: CopyPlan, target: Session, name: TableName) -> None:
    """Of the columns that are copied; for a swap of all that the target has, whose place it is to take."""
    if plan.publish == "swap" and plan.target_relation is not None:
        clone_table.create(target, plan.target_relation, name, frozenset(plan.target_columns))
        for statement in schema_drift.add_columns(plan, name):
            target.connection.execute(statement)
        return
    columns = [(taken.name, taken.type) for _, taken in plan.pairs]
    made = statements.create_staging(name, columns)
    target.connection.execute(together((made, *statements.hide_staging(name, plan.hidden_from))))


def _is_readable(letter: str) -> bool:
    return letter.isprintable() and letter not in _PSQL_SIGNS


def _count_bytes(text: str, codec: str) -> int:
    return len(text.encode(codec, "replace"))
