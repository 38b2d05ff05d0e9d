"""Section `release`: how long a copy keeps the source, when the target is five times slower than the source.

A source that has to wait for a slow target holds its snapshot, and with it all that VACUUM may not remove. The target is
slowed down by a proxy before it, which passes a fifth of the bytes a second that a bare export comes to. How long the
source's transaction is open is asked of the source itself.
"""

from __future__ import annotations

import threading
import time
from typing import Self

import psycopg
from psycopg.conninfo import make_conninfo

from benchmarks import data
from benchmarks.contestant import CHUNKED, Task, bare_export, ours
from benchmarks.measure import Command, measure
from benchmarks.pair import Pair, environment
from benchmarks.results import Run
from benchmarks.rounds import kept, once
from benchmarks.session import Session
from benchmarks.throttle import Throttle

SECTION = "release"
SLOWER = 5
TABLES = ("korean", "like-lineitem")
MOST_ROUNDS = 3
_EXPORT = bare_export()
_COPY = ours(CHUNKED, "--transfer", "chunked", "--spool-limit", "64GB")


class Watch:
    """Asks the source, fifty times a second, since when safecopy has a transaction there; `held` is the seconds it had one."""

    def __init__(self, conninfo: str) -> None:
        self.held = 0.0
        self._over = threading.Event()
        self._session = psycopg.connect(conninfo, autocommit=True)
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._session.close()

    def _look(self) -> None:
        first = None
        while not self._over.wait(0.02):
            ((began, now),) = self._session.execute("""
                SELECT min(xact_start), clock_timestamp() FROM pg_stat_activity
                WHERE application_name LIKE 'safecopy%' AND datname = current_database()""").fetchall()
            if began is not None:
                first = first or began
                self.held = (now - first).total_seconds()


def run(session: Session) -> None:
    """On wide rows, whose export is quick, and on narrower ones."""
    for key in TABLES:
        session.progress.say(f"{SECTION}: making {key}, {session.options.size / 1e6:.0f} MB")
        made = data.make(session.pair, key, session.options.size)
        size = stream_bytes(session.pair, made)
        runs: list[Run] = []
        rounds = min(MOST_ROUNDS, session.options.rounds)
        for number in range(1, rounds + 1):
            began = time.monotonic()
            runs += _round(session.pair, made, size, number)
            session.progress.round(runs[-2:], rounds=rounds, seconds=time.monotonic() - began)
        session.results.put(runs)
        session.save()
        data.drop(session.pair, made)


def _round(pair: Pair, made: data.Data, size: int, number: int) -> tuple[Run, Run]:
    """A bare export, and a copy to a target that takes five times as long for the same bytes."""
    task = Task(*pair.conninfos(), made.name, pair.psql)
    pair.settle(made.quoted)
    bare = measure(_EXPORT.pipelines(task), environment())
    with Throttle(pair.target.port, size / (SLOWER * bare.wall)) as slow, Watch(task.source) as watch:
        through = Task(task.source, make_conninfo(task.target, port=slow.port), task.name, task.psql)
        copied = once(pair, made, _COPY, through)
    known = {**_COPY.said(copied.said), "held": watch.held}
    return (
        kept(bare, made, {"stream_bytes": size}, SECTION, name=_EXPORT.name, number=number),
        kept(copied, made, known, SECTION, name=CHUNKED, number=number),
    )


def stream_bytes(pair: Pair, made: data.Data) -> int:
    """How long the table's export is; counted, which warms it up as well."""
    task = Task(*pair.conninfos(), made.name, pair.psql)
    ((export,),) = _EXPORT.pipelines(task)
    return int(measure([(export, Command(("wc", "-c")))], environment()).said)
