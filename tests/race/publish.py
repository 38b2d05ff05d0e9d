"""One publish of the race: BEGIN, fence, ledger, content, COMMIT; and the ways of making sure that it may."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID, uuid4

import psycopg
from psycopg import pq, sql

from airflow_provider_safecopy.lock.living_lock import LivingLock
from airflow_provider_safecopy.lock.model import Lease
from tests.race.course import ROWS, table

Session = psycopg.Connection[Any]


class Point(Protocol):
    """Called at each of the worst moments to be stopped or killed at, by its name."""

    def __call__(self, name: str, *, mark: UUID | None = None) -> None: ...


@dataclass(frozen=True)
class Way:
    """How a publish makes sure that it may: before its transaction begins, and inside it."""

    name: str
    beforehand: Callable[[LivingLock], None]
    inside: Callable[[LivingLock, Session], None]


def nothing(*_: object) -> None:
    """What a way leaves out."""


REAL = Way("race", beforehand=nothing, inside=LivingLock.fence)
"""The package's own: `LivingLock.fence`, which locks the rows until COMMIT."""


def publish(lock: LivingLock, session: Session, way: Way, point: Point, lingers: float) -> UUID:
    """Replace one's part of every table locked. The publish's mark, once the server said that it is committed."""
    mark = uuid4()
    way.beforehand(lock)
    point("before BEGIN")
    session.execute("BEGIN")
    way.inside(lock, session)
    point("fenced")
    for lease in lock.leases:
        entry = (mark, lease.name, lease.token, lease.contender.member, lease.attempt, lingers)
        session.execute("INSERT INTO race.ledger VALUES (%s, %s, %s, %s, %s, %s)", entry)
    for lease in lock.leases:
        write(session, lease, mark, point)
    point("before COMMIT")
    commit(session, mark, point)
    return mark


def write(session: Session, lease: Lease, mark: UUID, point: Point) -> None:
    """The content, row by row: time enough for others to come in between, if they could."""
    part = lease.contender.member
    session.execute(sql.SQL("DELETE FROM {} WHERE part = %s").format(table(lease.name)), (part,))
    insert = sql.SQL("INSERT INTO {} VALUES (%s, %s, %s, %s)").format(table(lease.name))
    for n in range(ROWS):
        session.execute(insert, (part, n, lease.token, mark))
        if n == ROWS // 2:
            point("half written")


def commit(session: Session, mark: UUID, point: Point) -> None:
    """COMMIT, with a point between question and answer. Raises `psycopg.Error` unless the server says that it is done."""
    session.pgconn.send_query(b"COMMIT")
    session.pgconn.flush()
    point("COMMIT sent", mark=mark)
    if (result := session.pgconn.get_result()) is None:
        raise psycopg.OperationalError("COMMIT was not answered")
    if state := result.error_field(pq.DiagnosticField.SQLSTATE):
        raise psycopg.errors.lookup(state.decode())(result.get_error_message())
    if result.command_status != b"COMMIT":
        # libpq's own word on a connection that is no more comes without a SQLSTATE.
        kind = psycopg.OperationalError if session.pgconn.status == pq.ConnStatus.BAD else psycopg.InternalError
        raise kind(f"COMMIT was answered by {result.command_status!r}: {result.get_error_message()}")
    while session.pgconn.get_result() is not None:
        pass
