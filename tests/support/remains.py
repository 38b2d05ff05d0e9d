"""Whether anything is left of a copy: sessions, staging tables, held locks, children, files."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import psutil

from tests.support.database import Database

_SESSIONS = "SELECT pid::text FROM pg_stat_activity WHERE starts_with(application_name, 'safecopy:') AND datname = %s"
_STAGING = "SELECT oid::regclass::text FROM pg_class WHERE strpos(relname, '__safecopy_') > 0 AND relkind IN ('r', 'p')"
_HAS_LOCKS = "SELECT to_regclass('safecopy.lock') IS NOT NULL AND has_schema_privilege('safecopy', 'USAGE')"
_LOCKS = "SELECT name FROM safecopy.lock WHERE lease_id IS NOT NULL"


class Remains:
    """What a copy might leave behind, measured against what was there when the test began."""

    def __init__(self) -> None:
        self._files = open_files()

    def check(self, *databases: Database, spool: Path | None = None, seconds: float = 20.0) -> None:
        """Fail unless all is gone within `seconds`: a killed session may need a moment to notice.

        `spool` is the directory the copy was given for its temporary files: it must be empty.
        """
        deadline = time.monotonic() + seconds
        while (left := self.left(*databases, spool=spool)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not left, f"left behind: {'; '.join(left)}"

    def left(self, *databases: Database, spool: Path | None = None) -> list[str]:
        """All that is left now, in words."""
        found = [f"open file {name}" for name in sorted(open_files() - self._files)]
        found += [f"psql {process.pid}" for process in children()]
        if spool is not None:
            found += [f"spool file {path.name}" for path in spool.iterdir()]
        for database in databases:
            found += [f"session {pid} in {database.name}" for (pid,) in database.rows(_SESSIONS, [database.name])]
            found += [f"staging table {name} in {database.name}" for (name,) in database.rows(_STAGING)]
            if database.value(_HAS_LOCKS):
                found += [f"lock {name} held in {database.name}" for (name,) in database.rows(_LOCKS)]
            found += [f"orphaned psql {pid} at {database.name}" for pid in orphans(database)]
        return found


def open_files() -> frozenset[str]:
    """The temporary files this process has open, deleted ones and those in memory included."""
    temporary = tuple({tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm", "/memfd:"})
    names = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            name = str(descriptor.readlink())
        except FileNotFoundError:  # the listing's own descriptor
            continue
        if name.startswith(temporary) and ("(deleted)" in name or "safecopy" in name):
            names.add(name)
    return frozenset(names)


def children() -> list[psutil.Process]:
    """The psql processes below this one, dead but unreaped ones included."""
    return [child for child in psutil.Process().children(recursive=True) if _is_psql(child)]


def orphans(database: Database) -> list[int]:
    """The psql processes anywhere that talk to a database, whoever their parent is."""
    ours = {child.pid for child in children()}
    return [
        process.pid
        for process in psutil.process_iter(["pid", "name", "cmdline"])
        if process.pid not in ours
        and _is_psql(process)
        and any(database.name in word for word in process.info["cmdline"] or ())
    ]


def _is_psql(process: psutil.Process) -> bool:
    try:
        return process.name() == "psql" or any(word.endswith("fake_psql.py") for word in process.cmdline())
    except psutil.NoSuchProcess:  # gone since it was listed, or a zombie by another name
        return False
