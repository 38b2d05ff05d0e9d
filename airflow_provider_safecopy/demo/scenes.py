"""Three scenes of the living lock, after the copy: an overlapping run refused, a killed run taken over, a paused run
fenced out.

Each run is a process of its own, and copies the customers. So that it is certain to be at work when it is overlapped,
killed or paused, a report of another user locks the table meanwhile: the run has staged and verified all rows, and waits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from threading import Event

from airflow_provider_safecopy import sql
from airflow_provider_safecopy.demo.run import COMMAND, PROGRAM, Run, Screen
from airflow_provider_safecopy.demo.tables import Database
from airflow_provider_safecopy.errors import SafeCopyError, VerifyError
from airflow_provider_safecopy.lock.model import Holder
from airflow_provider_safecopy.lock.postgres import PostgresStore
from airflow_provider_safecopy.postgres.endpoint import Endpoint

SOURCE, TARGET = "영업.고객", "분석.고객"
STALE_AFTER = 3.0
"""The promise of the run that is paused, in seconds: long enough for one that is not."""

_DUE_WITHIN = 30.0
_BUSY, _LOST = 3, 4


@dataclass(frozen=True)
class Check:
    """One thing that was seen, and what it had to be."""

    what: str
    seen: str
    expected: str

    @property
    def holds(self) -> bool:
        """True if it was as it had to be."""
        return self.seen == self.expected


@dataclass(frozen=True)
class Scene:
    """One scene, and what was seen in it."""

    title: str
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Stage:
    """The databases, the lock in the target, and what a run needs to find them."""

    source: Database
    target: Database
    store: PostgresStore
    screen: Screen
    psql: str | None

    def run(self, name: str) -> AbstractContextManager[Run]:
        """``safecopy copy``."""
        told = ("--owner", name, "--source-table", SOURCE, "--target-table", TARGET)
        return Run.start(name, [*COMMAND, *told], self._environment(), self.screen)

    def program(self, name: str) -> AbstractContextManager[Run]:
        """The same copy by a user's own program, with a promise of few seconds."""
        told = (name, SOURCE, TARGET, str(STALE_AFTER))
        return Run.start(name, [*PROGRAM, *told], self._environment(), self.screen)

    def publish_edition(self, number: int) -> str:
        """The source has news."""
        edition = f"제{number}판"
        with self.source.session() as session:
            session.execute(sql.load("demo")["new_edition"], {"edition": edition})
        return edition

    @property
    def edition(self) -> str:
        """Which edition the target holds."""
        with self.target.session() as session:
            return str(session.execute(sql.load("demo")["edition"]).fetchall()[0][0])

    @contextmanager
    def report(self) -> Iterator[None]:
        """Inside, a report reads the target's table, and no publish into it is possible."""
        with self.target.session() as session, session.transaction():
            session.execute(sql.load("demo")["reading"])
            yield

    def holder(self) -> Holder:
        """Return the holder of the table's lock. Raises `SafeCopyError` if it is free."""
        if (holder := self.store.read_holder(TARGET)) is None:
            raise SafeCopyError(f"the lock {TARGET} is free")
        return holder

    def remains(self, holder: Holder) -> str:
        """Return what is left of a run in the target."""
        names = [f"safecopy:{seen.attempt}" for seen in holder.members]
        with self.target.session() as session:
            staging, sessions = session.execute(sql.load("demo")["remains"], {"names": names}).fetchall()[0]
        return f"{staging} staging tables, {sessions} sessions"

    def until_due(self) -> None:
        """Until the lock may be taken, by the server's clock."""
        deadline = time.monotonic() + _DUE_WITHIN
        while not (holder := self.holder()).is_stale:
            if time.monotonic() > deadline:
                raise SafeCopyError(f"the lock {TARGET} does not fall due, though its holder is paused")
            Event().wait(min(holder.seconds_to_takeover, 0.5) + 0.01)

    def describe_takeover(self) -> str:
        """Return how the lock was taken from its last holder."""
        kinds = (event.kind for event in self.store.read_history(TARGET))
        return next((kind for kind in kinds if kind.startswith("takeover")), "never")

    def _environment(self) -> dict[str, str]:
        told = {"SAFECOPY_SOURCE": self.source.conninfo, "SAFECOPY_TARGET": self.target.conninfo}
        psql = {"SAFECOPY_PSQL": self.psql} if self.psql else {}
        return told | psql | {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}


def play(source: Database, target: Database, screen: Screen, *, psql: str | None) -> tuple[Scene, ...]:
    """All three. Raises `VerifyError` if something seen was not as it had to be, `SafeCopyError` if a run hangs."""
    endpoint = Endpoint.from_conninfo(target.conninfo)
    with closing(PostgresStore(endpoint)) as store:
        stage = Stage(source, target, store, screen, psql)
        scenes = (play_overlap(stage), play_kill(stage), play_pause(stage))
    if wrong := {check.what: check.seen for scene in scenes for check in scene.checks if not check.holds}:
        raise VerifyError(f"not as it had to be: {', '.join(wrong)}", proofs=wrong)
    return scenes


def play_overlap(stage: Stage) -> Scene:
    """A run is at work when the next one starts, which is refused at once; the first goes on and publishes."""
    stage.screen.say("scene: an overlapping run is refused")
    before, new = stage.edition, stage.publish_edition(1)
    with stage.run("first run") as first:
        with stage.report():
            first.wait_for("verify done")
            pid = first.process.pid
            with stage.run("second run") as second:
                refused = second.ends()
            between = stage.edition
        published = first.ends()
    answer = "\n".join(second.said)
    told = ("held by", first.name, f"pid {pid}", "since", "last progress", "will be taken")
    return Scene(
        "an overlapping run refused",
        (
            Check("second run's exit code", str(refused), str(_BUSY)),
            Check("its answer tells", ", ".join(word for word in told if word in answer), ", ".join(told)),
            Check("target meanwhile", between, before),
            Check("first run's exit code", str(published), "0"),
            Check("target afterwards", stage.edition, new),
        ),
    )


def play_kill(stage: Stage) -> Scene:
    """A run is killed in the midst of its work; the next takes its lock at once, and what it has left."""
    stage.screen.say("scene: a killed run is taken over")
    before, new = stage.edition, stage.publish_edition(2)
    with stage.run("killed run") as victim, stage.report():
        victim.wait_for("verify done")
        holder = stage.holder()
        victim.kill()
        stage.screen.say(
            f"killed run: kill -9 {victim.process.pid}; its lock would fall due in {holder.seconds_to_takeover:.0f} s"
        )
    between = stage.edition
    with stage.run("next run") as after:
        published = after.ends()
    return Scene(
        "a killed run taken over",
        (
            Check("target after the kill", between, before),
            Check("next run took the lock by", stage.describe_takeover(), "takeover-dead"),
            Check("next run's exit code", str(published), "0"),
            Check("left of the killed run", stage.remains(holder), "0 staging tables, 0 sessions"),
            Check("target afterwards", stage.edition, new),
        ),
    )


def play_pause(stage: Stage) -> Scene:
    """A run is paused, and its lock taken when due; when it goes on it cannot publish over its successor's rows."""
    stage.screen.say("scene: a paused run is fenced out")
    stage.publish_edition(3)
    with stage.program("paused run") as sleeper:
        with stage.report():
            sleeper.wait_for("verify done")
            sleeper.pause()
            stage.screen.say(f"paused run: kill -STOP {sleeper.process.pid}; its promise is {STALE_AFTER:g} s")
        new = stage.publish_edition(4)
        stage.until_due()
        with stage.run("next run") as after:
            published = after.ends()
        between = stage.edition
        stage.screen.say(f"paused run: kill -CONT {sleeper.process.pid}")
        sleeper.resume()
        fenced = sleeper.ends()
    return Scene(
        "a paused run fenced out",
        (
            Check("next run took the lock by", stage.describe_takeover(), "takeover-stale"),
            Check("next run's exit code", str(published), "0"),
            Check("target before it goes on", between, new),
            Check("paused run's exit code", str(fenced), str(_LOST)),
            Check("target afterwards", stage.edition, new),
        ),
    )
