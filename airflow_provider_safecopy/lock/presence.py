"""Presence notes: what a process says about itself on its own machine.

Only a note lets a process be ended, never the row of a lock: any role that may use the lock can write a row that names
any process. So an attempt leaves a note in a directory that only its own user can write to: which process it is, which
locks it holds for whom, and until when its promise is good. A run that displaces the attempt reads the note; without one
it ends no process. A lost note does no harm: the process goes on, and finds at its next heartbeat that it lost its lock.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from airflow_provider_safecopy.lock.model import Contender, Displaced
from airflow_provider_safecopy.lock.process import Place
from airflow_provider_safecopy.lock.store import Store

log = logging.getLogger(__name__)

_MEMORY = Path("/dev/shm")  # noqa: S108 -- a directory of this user in it, checked before use


@dataclass(frozen=True)
class Presence:
    """The presence note of one attempt. `due` and `beaten` are seconds since boot, suspended or not."""

    attempt: str
    place: Place
    store: str
    names: tuple[str, ...]
    owner_key: str
    member: str
    due: float
    beaten: float
    crash_grace: float | None = None
    owner: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, attempt: str) -> Self | None:
        """Return the note of `attempt`; None if this user's process left none that can be trusted."""
        try:
            path = _note(attempt)
            return None if path is None else cls._parse(path)
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.debug("attempt %s has left no readable presence note: %s", attempt, error)
            return None

    @classmethod
    def _parse(cls, path: Path) -> Self | None:
        data: dict[str, Any] = json.loads(_content(path))
        place = Place.of(data.pop("place"))
        return None if place is None else cls(place=place, names=tuple(data.pop("names")), **data)

    def show(self) -> None:
        """Write the note, in place of an earlier one."""
        try:
            path = _note(self.attempt, make=True)
            if path is not None:
                beside = path.with_suffix(".new")
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
                with os.fdopen(os.open(beside, flags, 0o600), "wb") as file:
                    file.write(json.dumps(asdict(self)).encode("utf-8", "surrogatepass"))
                beside.rename(path)
        except OSError as error:
            log.debug("attempt %s cannot write its presence note: %s", self.attempt, error)

    @property
    def is_overdue(self) -> bool:
        """Whether its promise has ended by its own clock."""
        now = _boottime()
        return now > self.due or (self.crash_grace is not None and now > self.beaten + self.crash_grace)

    def agrees_with(self, by: Displacement) -> bool:
        """Whether the note agrees that its attempt was rightly displaced."""
        match by.kind:
            case "supersede":
                return (self.owner_key, self.member) == (by.owner_key, by.member)
            case "released":
                return self.owner_key == by.owner_key
            case "force-release":
                return self.store == by.store and by.name in self.names
            case "takeover-dead" | "finished" | "gone" if dict(self.owner) == dict(by.judged):
                return True
            case _:
                return self.is_overdue


@dataclass(frozen=True)
class Displacement:
    """Why a holder of the lock `name` in `store` was displaced.

    `kind` is that of the new lease, or why the lock was reaped: stale, gone, finished; released, by another member of its
    run; or force-release, by a person. `owner_key` and `member` are who displaced it, `judged` the run that a judge said
    was over.
    """

    kind: str
    store: str
    name: str
    owner_key: str = ""
    member: str = ""
    judged: Mapping[str, str] = field(default_factory=dict)


def show(contender: Contender, *, store: str, names: tuple[str, ...], left: float, crash_grace: float | None) -> None:
    """Write the note of this process, which holds `names` in `store` for `left` more seconds."""
    if contender.place is not None and contender.place.pid == os.getpid():
        now = _boottime()
        Presence(
            attempt=str(contender.attempt),
            place=contender.place,
            store=store,
            names=names,
            owner_key=contender.owner_key,
            member=contender.member,
            due=now + left,
            beaten=now,
            crash_grace=crash_grace,
            owner=contender.owner,
        ).show()


def withdraw(contender: Contender) -> None:
    """Remove the note, and those of processes that have ended. A forked child leaves its parent's alone."""
    if contender.place is None or contender.place.pid != os.getpid():
        return
    try:
        path = _note(str(contender.attempt))
        if path is not None:
            path.unlink(missing_ok=True)
            _sweep(path.parent)
    except OSError as error:
        log.debug("attempt %s cannot remove its presence note: %s", contender.attempt, error)


def lives(attempt: str) -> bool:
    """Whether a living process of this user has left the note of this attempt."""
    found = Presence.read(attempt)
    return found is not None and found.place.is_here and not found.place.gone


def end(displaced: Displaced, by: Displacement) -> tuple[int, ...]:
    """End the processes of a displaced holder whose notes agree. Return their pids."""
    found = [Presence.read(attempt) for attempt in displaced.attempts]
    return tuple(each.place.pid for each in found if each and each.agrees_with(by) and each.place.end())


def clear_away(store: Store, displaced: Displaced, by: Displacement) -> tuple[int, tuple[int, ...]]:
    """End a displaced holder's sessions and processes. Return how many sessions, and the pids."""
    sessions, killed = store.end_sessions(displaced), end(displaced, by)
    pids = f"processes {', '.join(map(str, killed))}" if killed else "no process"
    log.warning("lock %s: %s from %s; ended %d server sessions and %s", by.name, by.kind, displaced, sessions, pids)
    return sessions, killed


def _note(attempt: str, *, make: bool = False) -> Path | None:
    """Return the path of an attempt's note; None if its directory cannot be trusted."""
    base = _MEMORY if os.access(_MEMORY, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
    directory = base / f"safecopy-{os.geteuid()}"
    if make:
        directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        log.warning(
            "%s is open to other users, so presence notes are off and no displaced process is ended: remove the directory",
            directory,
        )
        return None
    return directory / f"{UUID(attempt)}.json"


def _content(path: Path) -> str:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as file:
        return file.read().decode("utf-8", "surrogatepass")


def _sweep(directory: Path) -> None:
    for path in directory.glob("*.json"):
        found = Presence.read(path.stem)
        if found is not None and found.place.gone:
            path.unlink(missing_ok=True)
            path.with_suffix(".new").unlink(missing_ok=True)


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
