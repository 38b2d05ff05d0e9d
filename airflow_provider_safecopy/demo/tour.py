"""The demo itself: two servers, one filled; the example DAG copies; both sides are compared; runs overlap; all is gone.

Every process and directory hangs on the `Setting`: leaving it, however that happens, ends and removes all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from queue import Empty
from threading import Event
from typing import Protocol

from airflow_provider_safecopy.demo import child, scenes, tables
from airflow_provider_safecopy.demo.airflow_home import DAG, AirflowHome, failure
from airflow_provider_safecopy.demo.run import DagLog
from airflow_provider_safecopy.demo.scenes import Scene
from airflow_provider_safecopy.demo.servers import Installation, Server, installations
from airflow_provider_safecopy.demo.tables import Content, Database, Position
from airflow_provider_safecopy.errors import ConfigError, VerifyError

_POLL_SECONDS = 0.2
_SOURCE_MAJOR = 16
_CONNECTIONS = ("erp", "dw")


class Screen(Protocol):
    """The display of the demo for a person."""

    def say(self, text: str) -> None:
        """A step was taken, or a copy logged something."""

    def detail(self, text: str) -> None:
        """Show what Airflow said, which hardly a reader needs."""

    def move(self, positions: Mapping[str, Position]) -> None:
        """So far are the copies that go on at the moment."""


@dataclass(frozen=True)
class Setting:
    """The demo's stage set: both databases filled, and an Airflow that knows them."""

    source: Database
    target: Database
    home: AirflowHome


@dataclass(frozen=True)
class Comparison:
    """One table on both sides, and how many rows the target held before."""

    table: str
    before: int
    source: Content
    target: Content

    @property
    def same(self) -> bool:
        """True if both sides hold the same rows."""
        return self.source == self.target


@contextmanager
def setting(screen: Screen) -> Iterator[Setting]:
    """Set the stage; on leaving, servers, processes and directories are gone.

    Raises `ConfigError` when PostgreSQL or Airflow is missing, `SafeCopyError` when one of them fails.
    """
    origin, destination = _pair()
    with ExitStack() as stack:
        home = stack.enter_context(AirflowHome.open())
        screen.say("starting two servers; making Airflow's metadata database (SQLite)")
        with home.migrating() as migration:
            source, target = _databases(origin, destination, stack, screen)
            migration.wait()
        screen.say(f"Airflow {version('apache-airflow')} is ready")
        conninfos = dict(zip(_CONNECTIONS, (source.conninfo, target.conninfo), strict=True))
        yield Setting(source, target, home.connect(conninfos))


def copy(stage: Setting, screen: Screen) -> tuple[Comparison, ...]:
    """Run the example DAG, and compare. Raises `SafeCopyError` if it fails, `VerifyError` if a table differs."""
    before = tables.counts(stage.target)
    screen.say(f"airflow dags test {DAG}")
    _run_dag(stage, screen)
    screen.say("comparing both sides, by SQL that is not SafeCopy's")
    return compare(stage, before)


def overlap(stage: Setting, screen: Screen) -> tuple[Scene, ...]:
    """Run copies that overlap, are killed and are paused. Raises `VerifyError` if one was not kept in its place."""
    return scenes.play(stage.source, stage.target, screen, psql=stage.home.environment.get("SAFECOPY_PSQL"))


def compare(stage: Setting, before: Mapping[str, int]) -> tuple[Comparison, ...]:
    """Both sides, table by table. Raises `VerifyError`, naming the tables, where they differ."""
    source, target = tables.contents(stage.source), tables.contents(stage.target)
    compared = tuple(Comparison(name, before[name], source[name], target[name]) for name in source)
    if differing := {each.table: f"{each.source} and {each.target}" for each in compared if not each.same}:
        raise VerifyError(f"source and target differ: {', '.join(differing)}", proofs=differing)
    return compared


def _pair() -> tuple[Installation, Installation]:
    """The installations to copy from and to: of two majors, where there are two."""
    found = installations()
    if not found:
        raise ConfigError(
            "the demo needs a PostgreSQL server, and found none to start",
            hint="pip install 'airflow-provider-safecopy[airflow,demo]'",
        )
    older = [each for each in found if each.major == _SOURCE_MAJOR] or list(found[1:]) or list(found)
    return older[0], found[0]


def _databases(
    origin: Installation, destination: Installation, stack: ExitStack, screen: Screen
) -> tuple[Database, Database]:
    """Start and fill both at once. When one fails, or we are interrupted, the other stops filling."""
    stop = Event()

    def make(installation: Installation, name: str, schema: str, fill: Callable[[Database, Event], None]) -> Database:
        database = Database(stack.enter_context(Server.start(installation)), name, schema)
        try:
            fill(database, stop)
        except BaseException:
            stop.set()
            raise
        return database

    with ThreadPoolExecutor() as pool:
        try:
            # Interrupted in between, the pool would forget a thread, and its server.
            with child.signals_held():
                source = pool.submit(make, origin, "erp", "영업", tables.fill_source)
                target = pool.submit(make, destination, "dw", "분석", tables.fill_target)
            for role, made in (("target", target.result()), ("source", source.result())):
                rows = sum(tables.counts(made).values())
                screen.say(f"{role}: PostgreSQL {made.server.major}, port {made.server.port}, {rows:,} rows")
        except BaseException:
            stop.set()
            raise
    return source.result(), target.result()


def _run_dag(stage: Setting, screen: Screen) -> None:
    log, said, looked, rows = DagLog(), list[str](), 0.0, tables.counts(stage.source)
    with stage.home.testing_dag() as run, stage.source.session() as source, stage.target.session() as target:
        while True:
            if time.monotonic() - looked >= _POLL_SECONDS:
                screen.move(tables.positions(source, target, rows))
                looked = time.monotonic()
            with suppress(Empty):
                line = run.next_line(_POLL_SECONDS)
                if line is None:
                    break
                told = log.read(line)
                said.append(told.text)
                (screen.say if told.telling else screen.detail)(told.text)
        code = run.process.wait()
    if code != 0:
        raise failure(f"airflow dags test {DAG}", code, said)
