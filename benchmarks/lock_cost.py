"""What the living lock costs: each of its messages, and a copy that holds it.

    python -m benchmarks.lock_cost [ROUNDS]

Times the messages on an embedded server, first on one that does not wait for its disk, as the lock alone is to be
judged, then on a durable one. Then copies one table again and again, in turn with no heartbeat at all and with a
hundred times as many as by default. Ends with 1 when on the first server acquire and release take 3 ms or a heartbeat
1 ms at the median, or when those hundred times as many cost a copy a tenth of its time: then the default costs a thousandth.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from unittest import mock

import psycopg

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.demo.servers import Server, installations
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.lock.model import Contender, Lease, Promise
from airflow_provider_safecopy.lock.postgres import PostgresStore, check_fence
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.spec import CopySpec

ALLOWED = {"acquire + release": 3.0, "heartbeat": 1.0}
"""Milliseconds at the median."""

ALLOWED_OF_A_COPY = 1.05
_HEARTBEATS = {"none": 1e6, "100 x": 0.05}
"""Seconds between two; by default 5."""

_NAME = "분석.고객"
_TABLE = """
    CREATE TABLE 고객 (번호 bigint, 이름 text, 적요 text);
    INSERT INTO 고객 SELECT g, '고객 ' || g, md5(g::text) || md5((g + 1)::text) FROM generate_series(1, {}) g"""
_ROWS = 300_000


def messages(server: Server, rounds: int) -> dict[str, list[float]]:
    """The seconds each message took, in turn with the others."""
    conninfo = server.conninfo()
    with psycopg.connect(conninfo, autocommit=True) as session:
        schema.init(session)
    endpoint, mine, rivals = Endpoint.from_conninfo(conninfo), Contender.alone("주인"), Contender.alone("경쟁자")
    with (
        closing(PostgresStore(endpoint, attempt=mine.attempt)) as store,
        closing(PostgresStore(endpoint, attempt=rivals.attempt)) as rival,
        endpoint.connect(application_name="safecopy", connect_timeout=10) as session,
    ):
        other, progress = taken(store, f"{_NAME} 2", mine), count(1)

        def publish() -> None:
            with session.transaction():
                check_fence(session, other)

        timed: dict[str, Callable[[], object]] = {
            "acquire + release": lambda: store.release(taken(store, _NAME, mine)),
            "heartbeat": lambda: store.heartbeat(other, phase=1, count=next(progress)),
            "busy": lambda: rival.acquire(f"{_NAME} 2", rivals, Promise()),
            "fence + commit": publish,
        }
        return in_turn(timed, rounds)


def taken(store: PostgresStore, name: str, contender: Contender) -> Lease:
    """A lease. Raises `TypeError` when the lock is busy: here nobody else may have it."""
    lease = store.acquire(name, contender, Promise())
    if not isinstance(lease, Lease):
        raise TypeError(f"busy: {lease}")
    return lease


def copies(server: Server, rounds: int) -> dict[str, list[float]]:
    """The seconds each copy took, by how often its heart beat."""
    for database, rows in (("원천", _ROWS), ("목표", 1)):
        server.execute("postgres", f'CREATE DATABASE "{database}"')
        server.execute(database, _TABLE.format(rows))
    source, target = (Endpoint.from_conninfo(server.conninfo(database)) for database in ("원천", "목표"))
    spec = CopySpec.of(source_table="public.고객", target_table="public.고객", publish="truncate_insert")

    def copy(seconds: float) -> None:
        with beating(seconds):
            pipeline.copy(spec, source, target)

    return in_turn({told: lambda seconds=seconds: copy(seconds) for told, seconds in _HEARTBEATS.items()}, rounds)  # type: ignore[misc]


@contextmanager
def beating(seconds: float) -> Iterator[None]:
    """Copies inside beat their hearts so often."""
    with mock.patch.object(Promise, "interval", seconds):
        yield


def in_turn(timed: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """So many times each, in turn; the first is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in timed}
    for number in range(rounds + 1):
        for name, call in timed.items():
            began = time.perf_counter()
            call()
            if number:
                taken[name].append(time.perf_counter() - began)
    return taken


def told(title: str, found: dict[str, list[float]]) -> list[str]:
    """The figures, as lines to print."""
    lines = [title]
    for name, seconds in found.items():
        median, most = (1000 * each for each in (statistics.median(seconds), statistics.quantiles(seconds, n=20)[-1]))
        lines.append(f"  {name:20} median {median:8.2f} ms   95 % within {most:8.2f} ms")
    return lines


def main(rounds: int) -> int:
    """Measure, print, judge."""
    newest = installations()[0]
    os.environ["SAFECOPY_PSQL"] = str(newest.psql)
    with Server.start(newest, durable=False) as server:
        quick = messages(server, rounds)
        copied = copies(server, max(10, rounds // 30))
    with Server.start(newest) as server:
        durable = messages(server, rounds // 4)
    ratio = statistics.median(more / none for none, more in zip(*copied.values(), strict=True))
    lines = told("messages", quick) + told("messages, waiting for the disk", durable)
    lines += told(f"copies of {_ROWS:,} rows, by heartbeats", copied)
    lines.append(f"  a hundred times as many heartbeats as by default: {ratio:.3f} of the time (median of the pairs)")
    print("\n".join(lines))  # noqa: T201 -- its purpose
    slow = [name for name, most in ALLOWED.items() if 1000 * statistics.median(quick[name]) >= most]
    slow += ["copies"] if ratio > ALLOWED_OF_A_COPY else []
    print(f"too slow: {', '.join(slow)}" if slow else "within what is allowed")  # noqa: T201 -- as above
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
