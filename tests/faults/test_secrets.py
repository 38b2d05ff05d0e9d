"""A planted password is searched for in all that a copy says, writes, starts and raises: in a good run and under faults."""

from __future__ import annotations

import json
import logging
import os
import pickle
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import psutil
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.cli import exitcode
from airflow_provider_safecopy.errors import ConfigError, SafeCopyError
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.postgres.session import open_session
from airflow_provider_safecopy.report import CopyReport
from airflow_provider_safecopy.spec import Progress, Timeouts
from tests.conftest import MakePsql, MakeRole
from tests.faults.conftest import ROWS, TABLE, Ground
from tests.faults.invariant import Invariant, said
from tests.faults.secret import LEFT, PASSWORD, RIGHT, exposed, hidden_from
from tests.support.database import Database
from tests.support.fake_psql import Behaviour
from tests.support.proxy import Proxy

NAME = "영업.주문_내역"
# All the rows, and then nothing more until nobody holds that lock.
HELD = (
    f"SELECT * FROM {TABLE} UNION ALL SELECT t.* FROM {TABLE} t, "
    "(SELECT pg_advisory_lock_shared(4711)::text AS done OFFSET 0) AS held WHERE held.done IS NULL"
)


@pytest.mark.parametrize(
    "told",
    [
        make_conninfo(password=PASSWORD),
        quote(PASSWORD),
        quote_plus(PASSWORD),
        repr(PASSWORD),
        json.dumps([PASSWORD]),
        PASSWORD.encode(),
        pickle.dumps({"a": PASSWORD}),
        f"host={RIGHT}",
    ],
)
def test_the_search_bites(told: str | bytes) -> None:
    assert not hidden_from(told)


@dataclass(frozen=True)
class Planted:
    """The ground, as two roles see it that have the password."""

    ground: Ground
    source: Database
    target: Database

    def conninfos(self) -> dict[str, str]:
        """One as a URI, the other in words."""
        server = f"127.0.0.1:{self.source.server.port}/{quote(self.source.name)}"
        uri = f"postgresql://{quote(str(self.source.role))}:{quote(PASSWORD, safe='')}@{server}"
        return {"SAFECOPY_SOURCE": uri, "SAFECOPY_TARGET": self.target.conninfo}

    def invariant(self) -> Invariant:
        return Invariant.before(self.ground.source, self.ground.target, ("영업", "주문_내역"), self.ground.spool)


@pytest.fixture
def planted(ground: Ground, role: MakeRole) -> Planted:
    return Planted(
        ground,
        _with_the_password(role(ground.source, "LOGIN SUPERUSER")),
        _with_the_password(role(ground.target, "LOGIN SUPERUSER")),
    )


def _with_the_password(database: Database) -> Database:
    given = sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(str(database.role)), sql.Literal(PASSWORD))
    with database.connect() as session:
        session.execute(given)
    return database.as_role(str(database.role), PASSWORD)


# The command, and what it starts


@contextmanager
def started(
    planted: Planted, *words: str, cores: bool = False, variables: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """`safecopy copy` with all it has to say. `cores`: whether a crash may leave a core file, as far as its parent knows."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "SAFECOPY_PSQL") if name in os.environ}
    given = ("--target-table", NAME, "--spool-dir", str(planted.ground.spool), "-vv", "--json")
    with subprocess.Popen(
        [sys.executable, "-m", "airflow_provider_safecopy.cli", "copy", *given, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=planted.ground.spool.parent,
        env={**environment, **planted.conninfos(), **(variables or {})},
        preexec_fn=_allow_cores if cores else None,  # noqa: PLW1509 -- one system call
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _allow_cores() -> None:
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))


def both_psql(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The psql of either side, once both are there and are psql indeed."""
    deadline = time.monotonic() + 30
    while True:
        assert process.poll() is None, process.communicate()
        found = [each for each in psutil.Process(process.pid).children(recursive=True) if _is_psql(each)]
        if len(found) == 2:
            return found
        assert time.monotonic() < deadline


def _is_psql(process: psutil.Process) -> bool:
    try:
        return process.name() == "psql" and "-X" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def demand_hidden_on_servers(planted: Planted) -> None:
    """In no row of the schema safecopy, nor in what the servers show of their sessions."""
    for database in (planted.source, planted.target):
        owner = Database(database.server, database.name)
        with owner.connect() as session:
            assert hidden_from(str(session.execute("SELECT a::text FROM pg_stat_activity a").fetchall()))
            ours = (
                "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relkind = 'r' "
                "AND c.relnamespace = to_regnamespace('safecopy') AND strpos(c.relname, '__safecopy_') = 0"
            )
            for (table,) in session.execute(ours).fetchall():
                assert hidden_from(str(session.execute(f"SELECT t::text FROM {table} t".encode()).fetchall())), table


def test_it_is_nowhere_in_a_good_run(planted: Planted) -> None:
    invariant = planted.invariant()
    with planted.ground.source.connect() as holder:
        holder.execute("SELECT pg_advisory_lock(4711)")
        with started(planted, "--source-sql", HELD, "--transfer", "chunked") as process:
            for each in both_psql(process):
                assert hidden_from(" ".join(each.cmdline()))
                assert hidden_from(Path(f"/proc/{each.pid}/environ").read_bytes())
            assert hidden_from(Path(f"/proc/{process.pid}/cmdline").read_bytes())
            assert not hidden_from(Path(f"/proc/{process.pid}/environ").read_bytes()), "where its user has put it"
            demand_hidden_on_servers(planted)
            holder.execute("SELECT pg_advisory_unlock(4711)")
            out, err = process.communicate(timeout=100)
    assert process.returncode == exitcode.DONE, err
    assert json.loads(out)["rows"] == ROWS
    assert hidden_from(out)
    assert hidden_from(err)
    demand_hidden_on_servers(planted)
    assert invariant.hold(said(process.returncode)) == "new"
    invariant.recovered(planted.ground.copy)


def test_no_core_file_is_left_that_would_hold_it(planted: Planted) -> None:
    """Even where its parent allows any: a core file of psql, or of the command, would hold rows and passwords."""
    invariant = planted.invariant()
    with planted.ground.source.connect() as holder:
        holder.execute("SELECT pg_advisory_lock(4711)")
        with started(planted, "--source-sql", HELD, "--transfer", "chunked", cores=True) as process:
            for pid in (process.pid, *(each.pid for each in both_psql(process))):
                assert _core_limit(pid) in {"0", "1"}, "one byte is none, and keeps it from a collector of cores too"
            process.send_signal(signal.SIGQUIT)
            ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            assert ended is not None
            assert (ended.si_status, ended.si_code) == (signal.SIGQUIT, os.CLD_KILLED)
    assert invariant.hold("nothing") == "old"
    invariant.recovered(planted.ground.copy)


def _core_limit(pid: int) -> str:
    (line,) = [line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if line.startswith("Max core")]
    return line.split()[4]


@pytest.mark.parametrize("fault", ["wrong password", "a URI that was not encoded", "a killed psql", "a stage timeout"])
def test_no_word_of_a_command_that_fails_holds_it(planted: Planted, fake_psql: MakePsql, fault: str) -> None:
    invariant = planted.invariant()
    user, port = quote(str(planted.source.role)), planted.source.server.port
    faults: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
        "wrong password": ((), {"SAFECOPY_TARGET": make_conninfo(planted.target.conninfo, password=PASSWORD + "!")}),
        "a URI that was not encoded": ((), {"SAFECOPY_SOURCE": f"postgresql://{user}:{PASSWORD}@127.0.0.1:{port}/erp"}),
        "a killed psql": (("--psql", fake_psql(Behaviour("import", die_after=0))), {}),
        "a stage timeout": (("--psql", fake_psql(Behaviour("export", hang_at="eof")), "--export-timeout", "1s"), {}),
    }
    words, variables = faults[fault]
    with started(planted, "--source-table", NAME, *words, variables=variables) as process:
        out, err = process.communicate(timeout=100)
    assert process.returncode in {2, 5}, err
    assert json.loads(out)["status"] == "error"
    assert b"Traceback" in err
    assert hidden_from(out)
    assert hidden_from(err)
    demand_hidden_on_servers(planted)
    assert invariant.hold(said(process.returncode)) == "old"
    invariant.recovered(planted.ground.copy)


# Errors, with all that a debugger or a collector of errors would take down


def unstartable(directory: Path, psql: str) -> str:
    """A psql that answers when it is asked for its version, and cannot be started after that."""
    path = directory / "psql-once"
    path.write_text(f'#!/bin/sh\nchmod a-x "$0"\nexec {shlex.quote(psql)} "$@"\n')
    path.chmod(0o755)
    return str(path)


@dataclass(frozen=True)
class Stage:
    """Where a copy is to fail, and what it may fail by."""

    planted: Planted
    fake_psql: MakePsql
    wire: Proxy
    unstartable: str

    def copy(self, *, source: Database | None = None, target: Database | None = None, **options: Any) -> CopyReport:
        ends = (source or self.planted.source, target or self.planted.target)
        return pipeline.copy(self.planted.ground.spec(**options), *(end.endpoint for end in ends))

    def cut(self) -> CopyReport:
        return pipeline.copy(
            self.planted.ground.spec(),
            self.planted.source.endpoint,
            self.planted.target.through(self.wire.port).endpoint,
            progress=lambda at: self.wire.cut() if at.stage == "import" else None,
        )


@pytest.fixture
def stage(
    planted: Planted, fake_psql: MakePsql, proxy: Callable[[Database], Proxy], tmp_path: Path, psql: str
) -> Stage:
    return Stage(planted, fake_psql, proxy(planted.target), unstartable(tmp_path, psql))


FAULTS: dict[str, Callable[[Stage], CopyReport]] = {
    "wrong password": lambda stage: stage.copy(
        target=stage.planted.target.as_role(str(stage.planted.target.role), PASSWORD + "!")
    ),
    "a source that is not there": lambda stage: stage.copy(source=stage.planted.source.through(1)),
    "a table that is not there": lambda stage: stage.copy(source_table="영업.없음"),
    "a killed psql": lambda stage: stage.copy(psql=stage.fake_psql(Behaviour("export", die_after=0))),
    "a psql that cannot be started": lambda stage: stage.copy(psql=stage.unstartable),
    "a stage timeout": lambda stage: stage.copy(
        psql=stage.fake_psql(Behaviour("export", hang_at="eof")), timeouts=Timeouts(export=1)
    ),
    "a cut wire": Stage.cut,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_no_error_exposes_it(stage: Stage, caplog: pytest.LogCaptureFixture, fault: str) -> None:
    caplog.set_level(logging.DEBUG)
    planted = stage.planted
    invariant = planted.invariant()
    with pytest.raises(SafeCopyError) as caught:
        FAULTS[fault](stage)
    for told in exposed(caught.value):
        assert hidden_from(told), told
    assert hidden_from(caplog.text)
    assert invariant.hold(said(caught.value)) == "old"
    invariant.recovered(planted.ground.copy)


def test_nothing_that_stands_for_a_copy_exposes_it(planted: Planted, caplog: pytest.LogCaptureFixture) -> None:
    """The plan, the report, the sessions, the endpoints: printed, and where somebody may keep them, pickled."""
    caplog.set_level(logging.DEBUG)
    told: list[str] = []

    def look(at: Progress) -> None:
        told.append(repr(at))

    source, target = planted.source.endpoint, planted.target.endpoint
    plan = pipeline.plan(planted.ground.spec(), source, target)
    report = pipeline.copy(planted.ground.spec(), source, target, progress=look)
    with open_session(source, application_name="safecopy:test", connect_timeout=10) as session:
        told += [repr(session), repr(session.endpoint), repr(session.connection), session.endpoint.psql_conninfo()]
    for each in (plan, report):
        told += [repr(each), pickle.dumps(each).decode("utf-8", "backslashreplace")]
    told += [repr(source), str(target), str(plan.as_report().as_dict()), str(report.as_dict()), caplog.text]
    assert hidden_from(told)


# Connection strings


@pytest.mark.parametrize("between", list("@/?#:%&= '\"\\[]+"))
@pytest.mark.parametrize(
    "written",
    [
        "postgresql://u:{}@db.example:5432/erp",
        "postgres://u:{}@db.example/erp?sslmode=disable",
        "postgresql://u:{}@db.example:5432,other.example:5433/erp",
        "host=db.example user=u password={} dbname=erp",
        "host=db.example user=u password='{}' dbname=erp",
    ],
)
def test_a_password_that_was_not_encoded_is_not_taken_for_a_host_and_told(written: str, between: str) -> None:
    """libpq takes what follows a stray sign of it for the host, the port or the database: which are shown."""
    try:
        endpoint = Endpoint.from_conninfo(written.format(f"{LEFT}{between}{RIGHT}"))
    except ConfigError as error:
        told = list(exposed(error))
    else:
        told = [str(endpoint), repr(endpoint), endpoint.psql_conninfo()]
    assert hidden_from(told), told
