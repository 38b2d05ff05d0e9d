"""Loading the suite into a database. Most of its files provoke errors on purpose: errors are counted, not feared."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from tests.exam.suite import Suite

FILE_SECONDS = 120.0
_RECOVERY_SECONDS = 60.0
_KEEP = Path(__file__).with_name("keep.sql").read_text("utf-8")
# A statement that begins a line, with plain names: those inside of functions' bodies are let alone.
_DROP = re.compile(
    r"^[ \t]*drop\s+(?P<kind>table|view|materialized\s+view|schema)\s+(?:if\s+exists\s+)?"
    r"(?P<names>[^;'$]+?)(?P<cascade>\s+cascade)?(?:\s+restrict)?\s*;",
    re.IGNORECASE | re.MULTILINE,
)
_NAME = re.compile(r'(?:"(?:[^"]|"")*"|[^,"])+')
_CATALOGS = "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND oid < 16384"
_ANALYZED = "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p', 'm') AND oid >= 16384"
# As pg_regress has it: what is left of its times and dates depends on these.
_SETTINGS = {"PGTZ": "America/Los_Angeles", "PGDATESTYLE": "Postgres, MDY", "LC_ALL": "C"}


@dataclass(frozen=True)
class Loaded:
    """What became of a load: how many files, and how many errors they met, as the suite means it or not."""

    files: int
    errors: int
    crashed: tuple[str, ...]
    late: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        told = f"{self.files} files, {self.errors} errors, {self.seconds:.0f} s"
        told += f"; cut at {FILE_SECONDS:.0f} s: {', '.join(self.late)}" if self.late else ""
        return told + (f"; the server crashed in: {', '.join(self.crashed)}" if self.crashed else "")


def load(suite: Suite, conninfo: str, psql: Path, *, keep: bool) -> Loaded:
    """Load the suite into an empty database, as its superuser. `keep` also what it drops."""
    started = time.monotonic()
    with psycopg.connect(conninfo, autocommit=True) as session:
        session.execute(_KEEP.encode())
    errors, crashed, late = 0, [], []
    files = suite.files()
    for path in files:
        text = path.read_text("utf-8", errors="surrogateescape")
        try:
            done = _run(kept(text) if keep else text, conninfo, psql, suite.directory)
        except subprocess.TimeoutExpired:
            late.append(path.stem)
            _end_others(conninfo)
            continue
        errors += done.stderr.count(b"ERROR:")
        if done.returncode == 2:  # the connection was lost, or could not be made
            crashed.append(path.stem)
            _recovered(conninfo)
    _settle(conninfo)
    return Loaded(len(files), errors, tuple(crashed), tuple(late), time.monotonic() - started)


def kept(text: str) -> str:
    """The same SQL, with its relations moved out of the way where they were dropped."""
    return _DROP.sub(_instead, text)


def _instead(drop: re.Match[str]) -> str:
    array = _array([name.strip() for name in _NAME.findall(drop["names"])])
    if drop["kind"].lower() == "schema":
        return f"SELECT exam.keep_schemas({array});" if drop["cascade"] else drop[0]
    return f"SELECT exam.keep({array}, {'true' if drop['cascade'] else 'false'});"


def _array(names: Sequence[str]) -> str:
    return "ARRAY[" + ", ".join("'" + name.replace("'", "''") + "'" for name in names) + "]"


def _run(text: str, conninfo: str, psql: Path, regress: Path) -> subprocess.CompletedProcess[bytes]:
    given = conninfo_to_dict(conninfo)
    known = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    environment = {variable: str(given[name]) for name, variable in known.items()} | _SETTINGS
    environment |= {"PATH": os.defpath, "PG_ABS_SRCDIR": str(regress), "PG_ABS_BUILDDIR": str(regress)}
    environment |= {"PG_LIBDIR": str(regress), "PG_DLSUFFIX": ".so"}
    command: list[str | Path] = [psql, "-X", "-q", "-v", "HIDE_TABLEAM=on", "-v", "HIDE_TOAST_COMPRESSION=on"]
    return subprocess.run(
        command,
        input=text.encode("utf-8", errors="surrogateescape"),
        env=environment,
        capture_output=True,
        timeout=FILE_SECONDS,
        check=False,
    )


def _recovered(conninfo: str) -> None:
    """Wait until a crashed server answers again."""
    deadline = time.monotonic() + _RECOVERY_SECONDS
    while True:
        try:
            psycopg.connect(conninfo).close()
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def _settle(conninfo: str) -> None:
    """Rows for what is empty, and nothing left that would act on its own while the exam goes on."""
    _end_others(conninfo)
    with psycopg.connect(conninfo, autocommit=True) as session:
        for (name,) in session.execute("SELECT quote_ident(evtname) FROM pg_event_trigger").fetchall():
            session.execute(f"ALTER EVENT TRIGGER {name} DISABLE".encode())
        for _ in range(2):
            session.execute("CALL exam.fill()")
        for (name,) in session.execute(_CATALOGS).fetchall():
            session.execute(f"VACUUM (ANALYZE) {name}".encode())
        for (name,) in session.execute(_ANALYZED).fetchall():
            with suppress(psycopg.Error):  # an index upon a function that fails, or itself says ANALYZE
                session.execute(f"ANALYZE {name}".encode())


def _end_others(conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as session:
        session.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
