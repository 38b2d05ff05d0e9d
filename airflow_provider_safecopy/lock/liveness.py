"""Signs of life of a holder's attempts, from this process and from the presence notes of this machine.

A presence note is a file in which a process describes itself on its own machine.

Only a note lets a process be ended, never the row of a lock: any role that may use the lock can write a row that names
any process. So an attempt leaves a note in a directory that only its own user can write to: which process it is, which
locks it holds for which owner, and until when its promise is good. A run that displaces the attempt reads the note;
without one it ends no process. A lost note does no harm: the process goes on, and finds at its next heartbeat that it
lost its lock.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from airflow_provider_safecopy.lock.model import Contender, DisplacedHolder, Holder
from airflow_provider_safecopy.lock.process import ProcessIdentity
from airflow_provider_safecopy.lock.store import Store

log = logging.getLogger(__name__)

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 -- a directory of this user in it, checked before use


@dataclass(frozen=True)
class PresenceNote:
    """The presence note of one attempt. `due` and `beaten` are seconds since boot, suspended or not."""

    attempt: str
    place: ProcessIdentity
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
            path = _note_path(attempt)
            return None if path is None else cls._parse(path)
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.debug("attempt %s has left no readable presence note: %s", attempt, error)
            return None

    @classmethod
    def _parse(cls, path: Path) -> Self | None:
        data: dict[str, Any] = json.loads(_read_own_text(path))
        place = ProcessIdentity.from_dict(data.pop("place"))
        return None if place is None else cls(place=place, names=tuple(data.pop("names")), **data)

    def write(self) -> None:
        """Write the note, in place of an earlier one."""
        try:
            path = _note_path(self.attempt, create=True)
            if path is not None:
                beside = path.with_suffix(".new")
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
                with os.fdopen(os.open(beside, flags, 0o600), "wb") as file:
                    file.write(json.dumps(asdict(self)).encode("utf-8", "surrogatepass"))
                # Renamed, because a run that reads the note meanwhile must not find half of it.
                beside.rename(path)
        except OSError as error:
            log.debug("attempt %s cannot write its presence note: %s", self.attempt, error)

    @property
    def is_overdue(self) -> bool:
        """True if its promise has ended by its own clock."""
        now = _read_boot_clock()
        return now > self.due or (self.crash_grace is not None and now > self.beaten + self.crash_grace)

    def confirms(self, displacement: Displacement) -> bool:
        """Return whether the note agrees that its attempt was rightly displaced."""
        # A row may be forged, so the displacement is checked against facts that only this user could write.
        match displacement.kind:
            case "supersede":
                return (self.owner_key, self.member) == (displacement.owner_key, displacement.member)
            case "released":
                return self.owner_key == displacement.owner_key
            case "force-release":
                return self.store == displacement.store and displacement.name in self.names
            case "takeover-dead" | "finished" | "gone" if dict(self.owner) == dict(displacement.gone_owner):
                return True
            case _:
                return self.is_overdue


@dataclass(frozen=True)
class Displacement:
    """The reason why a holder of the lock `name` in `store` was displaced.

    `kind` is that of the new lease, or the reason to reap the lock: stale, gone, finished; released, by another member
    of its run; or force-release, by a person. `owner_key` and `member` name the contender that displaced it, `gone_owner`
    the run that a liveness check found finished.
    """

    kind: str
    store: str
    name: str
    owner_key: str = ""
    member: str = ""
    gone_owner: Mapping[str, str] = field(default_factory=dict)


def write_note(
    contender: Contender, *, store: str, names: tuple[str, ...], seconds_left: float, crash_grace: float | None
) -> None:
    """Write the note of this process, which holds `names` in `store` for `seconds_left` more seconds."""
    # A forked child holds none of its parent's locks.
    if contender.process is not None and contender.process.pid == os.getpid():
        now = _read_boot_clock()
        PresenceNote(
            attempt=str(contender.attempt),
            place=contender.process,
            store=store,
            names=names,
            owner_key=contender.owner_key,
            member=contender.member,
            due=now + seconds_left,
            beaten=now,
            crash_grace=crash_grace,
            owner=contender.owner,
        ).write()


def remove_note(contender: Contender) -> None:
    """Remove the note, and those of processes that have ended. A forked child leaves its parent's alone."""
    if contender.process is None or contender.process.pid != os.getpid():
        return
    try:
        path = _note_path(str(contender.attempt))
        if path is not None:
            path.unlink(missing_ok=True)
            _remove_stale_notes(path.parent)
    except OSError as error:
        log.debug("attempt %s cannot remove its presence note: %s", contender.attempt, error)


def is_alive(attempt: str) -> bool:
    """Return whether a living process of this user has left the note of this attempt."""
    found = PresenceNote.read(attempt)
    return found is not None and found.place.is_local and not found.place.is_gone


def end_processes(displaced: DisplacedHolder, displacement: Displacement) -> tuple[int, ...]:
    """End the processes of a displaced holder whose notes agree. Return their pids."""
    found = [PresenceNote.read(attempt) for attempt in displaced.attempts]
    return tuple(each.place.pid for each in found if each and each.confirms(displacement) and each.place.end())


def end_displaced(store: Store, displaced: DisplacedHolder, displacement: Displacement) -> tuple[int, tuple[int, ...]]:
    """End a displaced holder's sessions and processes. Return how many sessions, and the pids."""
    sessions, killed = store.end_sessions(displaced), end_processes(displaced, displacement)
    pids = f"processes {', '.join(map(str, killed))}" if killed else "no process"
    log.warning(
        "lock %s: %s from %s; ended %d server sessions and %s",
        displacement.name,
        displacement.kind,
        displaced,
        sessions,
        pids,
    )
    return sessions, killed


def _note_path(attempt: str, *, create: bool = False) -> Path | None:
    """Return the path of an attempt's note; None if its directory cannot be trusted."""
    base = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
    directory = base / f"safecopy-{os.geteuid()}"
    if create:
        directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        log.warning(
            "%s is open to other users, so presence notes are off and no displaced process is ended: remove the directory",
            directory,
        )
        return None
    # The attempt may come from the row of a lock, and any other text could name a file elsewhere.
    return directory / f"{UUID(attempt)}.json"


def _read_own_text(path: Path) -> str:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as file:
        return file.read().decode("utf-8", "surrogatepass")


def _remove_stale_notes(directory: Path) -> None:
    for path in directory.glob("*.json"):
        found = PresenceNote.read(path.stem)
        if found is not None and found.place.is_gone:
            path.unlink(missing_ok=True)
            path.with_suffix(".new").unlink(missing_ok=True)


def _read_boot_clock() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


_FINISHED: set[str] = set()


def mark_finished(attempt: UUID) -> None:
    """Note that this process is done with the attempt, whatever the store still grants it."""
    _FINISHED.add(str(attempt))


@contextmanager
def track_request(attempt: UUID) -> Iterator[None]:
    """Mark the attempt as finished if the block, which asks a store for a lock, gets no answer."""
    # The store may have granted the lock all the same, or may yet do so.
    try:
        yield
    except BaseException:
        mark_finished(attempt)
        raise
    _FINISHED.discard(str(attempt))


def find_gone(holder: Holder) -> set[str]:
    """Return the attempts of `holder` that this machine knows to be gone.

    Their process lived here and has ended for certain, or is this one and is done with them.
    """
    return {
        seen.attempt
        for seen in holder.members
        if seen.attempt in _FINISHED
        # A row may name a process that never existed: the presence note of the attempt comes first.
        or (seen.process is not None and seen.process.is_gone and not is_alive(seen.attempt))
    }


def is_gone(holder: Holder) -> bool:
    """Return whether all attempts of `holder` are gone, as far as this machine can tell; False for one without any."""
    attempts = {seen.attempt for seen in holder.members}
    return bool(attempts) and attempts <= find_gone(holder)
