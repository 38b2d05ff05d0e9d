"""The fake psql is what it claims: the real one, but for the one misdeed it is asked for."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import pytest
from psycopg.sql import SQL

from airflow_provider_safecopy.planning import copy_script
from airflow_provider_safecopy.postgres import statements
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.postgres.psql import Psql, PsqlBinary, make_memory_file, open_pipe
from tests.conftest import MakePsql
from tests.support.database import Database
from tests.support.fake_psql import Behaviour
from tests.support.remains import children
from tests.support.until import until

NONCE = "0123456789abcdef"
ROWS = 20_000
STREAM = b"".join(b"%d\t\xea\xb3\xa0\xea\xb0\x9d\n" % number for number in range(1, ROWS + 1))


@pytest.fixture
def filled(source: Database) -> Database:
    source.execute(f"CREATE TABLE public.고객 AS SELECT g AS 번호, '고객' AS 이름 FROM generate_series(1, {ROWS}) g")
    return source


@pytest.fixture
def empty(target: Database) -> Database:
    target.execute("CREATE TABLE public.고객 (번호 int, 이름 text)")
    return target


@pytest.fixture(autouse=True)
def _no_child_left() -> Iterator[None]:
    yield
    assert children() == []


@dataclass
class Outcome:
    """What the parent of a psql sees."""

    code: int
    data: bytes
    psql: Psql

    def mark(self, name: str) -> list[str]:
        return self.psql.transcript.values(name)


def start_export(path: str, database: Database, snapshot: str) -> tuple[Psql, int]:
    """As the export stage does it: the psql, and the read end of its pipe."""
    reading, writing = open_pipe()
    query = SQL("SELECT * FROM public.고객 ORDER BY 1")
    output = f"/proc/self/fd/{writing}"
    script = make_memory_file(
        copy_script.export_script(
            statements.subquery(query), format="text", snapshot=snapshot, output=output, nonce=NONCE, seconds=60
        )
    )
    psql = start(path, database, arguments=["-f", "-"], stdin=script, inherit=[writing])
    os.close(writing)
    os.close(script)
    return psql, reading


def start_import(path: str, database: Database) -> tuple[Psql, int, int]:
    """As the import stage does it: the psql, and the write ends of its data and of its gate."""
    stdin, data = open_pipe()
    told, gate = open_pipe()
    prologue = make_memory_file(copy_script.load_prologue(nonce=NONCE, seconds=60))
    epilogue = make_memory_file(copy_script.load_end(NONCE))
    copy = copy_script.load_copy(TableName("public", "고객"), ["번호", "이름"], format="text")
    arguments = [
        *("-f", f"/proc/self/fd/{prologue}", "-c", copy, "-f", f"/proc/self/fd/{epilogue}"),
        *("-f", f"/proc/self/fd/{told}"),
    ]
    psql = start(path, database, arguments=arguments, stdin=stdin, inherit=[prologue, epilogue, told])
    for descriptor in (stdin, told, prologue, epilogue):
        os.close(descriptor)
    return psql, data, gate


def start(path: str, database: Database, *, arguments: list[str], stdin: int, inherit: list[int]) -> Psql:
    return Psql.start(
        "export" if arguments[-1] == "-" else "import",
        PsqlBinary(path, 18),
        database.endpoint,
        nonce=NONCE,
        arguments=arguments,
        stdin=stdin,
        inherit=inherit,
        application_name="safecopy:test",
        connect_timeout=10,
    )


def ended(psql: Psql, data: bytes = b"") -> Outcome:
    """Hear psql out."""
    while psql.read_stderr():
        select.select([psql.stderr], [], [], 30)
    code = psql.process.wait(100)
    psql.close()
    return Outcome(code, data, psql)


def export(path: str, database: Database) -> Outcome:
    with database.connect() as session, session.transaction():
        session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        ((snapshot,),) = session.execute("SELECT pg_export_snapshot()").fetchall()
        psql, reading = start_export(path, database, snapshot)
        with os.fdopen(reading, "rb") as stream:
            return ended(psql, stream.read())


def load(path: str, database: Database, data: bytes = STREAM) -> Outcome:
    """Send all, end the data, and tell psql to commit as soon as it reports its rows."""
    psql, stdin, gate = start_import(path, database)
    sender = Thread(target=send, args=(stdin, data))
    sender.start()
    while psql.read_stderr() and not psql.transcript.values("rows"):
        select.select([psql.stderr], [], [], 30)
    send(gate, copy_script.load_commit(NONCE).encode())
    sender.join()
    return ended(psql)


def send(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb") as stream:
        try:
            stream.write(data)
            stream.flush()
        except BrokenPipeError:
            stream.raw.close()


def test_without_a_misdeed_it_is_the_real_one(fake_psql: MakePsql, filled: Database, empty: Database) -> None:
    out = export(fake_psql(Behaviour(stage="export")), filled)
    assert (out.code, out.data, out.mark("rows"), out.mark("end")) == (0, STREAM, [str(ROWS)], [""])
    into = load(fake_psql(Behaviour(stage="import")), empty)
    assert (into.code, into.mark("rows"), into.mark("committed")) == (0, [str(ROWS)], [""])
    assert empty.value("SELECT count(*) FROM public.고객") == ROWS


def test_the_other_stage_and_the_version_are_the_real_ones(
    fake_psql: MakePsql, psql: str, filled: Database, empty: Database
) -> None:
    told = [
        subprocess.check_output([each, "--version"]) for each in (psql, fake_psql(Behaviour("export", silent=True)))
    ]
    assert told[0] == told[1]
    assert export(fake_psql(Behaviour("import", silent=True)), filled).data == STREAM
    assert load(fake_psql(Behaviour("export", silent=True)), empty).mark("committed") == [""]


@pytest.mark.parametrize("after", [0, 1, 4096, 100_000, 10**9])
@pytest.mark.parametrize("exit_code", [-signal.SIGKILL, 0, 3])
def test_an_export_dies_after_so_many_bytes(fake_psql: MakePsql, filled: Database, after: int, exit_code: int) -> None:
    out = export(fake_psql(Behaviour("export", die_after=after, exit_code=exit_code)), filled)
    assert out.code == exit_code
    assert out.data == STREAM[:after]


@pytest.mark.parametrize("after", [0, 4096, 10**9])
def test_an_import_dies_after_so_many_bytes_and_nothing_is_committed(
    fake_psql: MakePsql, empty: Database, after: int
) -> None:
    out = load(fake_psql(Behaviour("import", die_after=after)), empty)
    assert out.code == -signal.SIGKILL
    assert out.mark("committed") == []
    assert empty.value("SELECT count(*) FROM public.고객") == 0


def _catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal: before that, a stubborn one ends of it as any other."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line for line in status.splitlines() if line.startswith("SigCgt:")).split()[1]
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour("export", hang_at="start"),
        Behaviour("export", hang_after=5000),
        Behaviour("export", hang_at="eof"),
        Behaviour("export", hang_at="exit"),
        Behaviour("export", hang_at="start", stubborn=True),
        Behaviour("export", hang_at="exit", stubborn=True),
    ],
    ids=lambda behaviour: f"{behaviour.hang_at or 'after'}{' stubborn' * behaviour.stubborn}",
)
def test_an_export_hangs_until_it_is_told_to_end(fake_psql: MakePsql, filled: Database, behaviour: Behaviour) -> None:
    passed = {"start": 0, "eof": len(STREAM), "exit": len(STREAM), None: 5000}[behaviour.hang_at]
    with filled.connect() as session, session.transaction():
        session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        ((snapshot,),) = session.execute("SELECT pg_export_snapshot()").fetchall()
        psql, reading = start_export(fake_psql(behaviour), filled, snapshot)
        with os.fdopen(reading, "rb") as stream:
            assert stream.read(passed) == STREAM[:passed]
            assert psql.process.poll() is None
            readable, _, _ = select.select([stream], [], [], 0.2)
            assert bool(readable) == (behaviour.hang_at == "exit")  # its end, and nothing more
            until(lambda: _catches(psql.pid, signal.SIGTERM))
            psql.interrupt()
            if behaviour.hang_after is not None:
                psql.send(signal.SIGTERM)  # it cannot hear SIGINT while it waits for somebody to read
            if behaviour.stubborn:
                psql.send(signal.SIGTERM)
                with pytest.raises(subprocess.TimeoutExpired):
                    psql.process.wait(0.5)
                psql.send(signal.SIGKILL)
            assert ended(psql).code != 0


def test_an_import_hangs_on_the_end_of_the_data(fake_psql: MakePsql, empty: Database) -> None:
    psql, stdin, gate = start_import(fake_psql(Behaviour("import", hang_at="eof")), empty)
    send(stdin, STREAM)
    with pytest.raises(subprocess.TimeoutExpired):
        psql.process.wait(0.5)
    psql.read_stderr()
    assert psql.transcript.values("rows") == []
    psql.send(signal.SIGTERM)
    os.close(gate)
    assert ended(psql).code == -signal.SIGTERM
    assert empty.value("SELECT count(*) FROM public.고객") == 0


def test_a_killed_fake_takes_the_real_one_with_it(fake_psql: MakePsql, empty: Database) -> None:
    psql, stdin, gate = start_import(fake_psql(Behaviour("import")), empty)
    while not psql.transcript.values("backend"):
        select.select([psql.stderr], [], [], 30)
        psql.read_stderr()
    assert len(children()) == 2
    psql.send(signal.SIGKILL)
    os.close(stdin)
    os.close(gate)
    assert ended(psql).code == -signal.SIGKILL


def test_garbling(fake_psql: MakePsql, filled: Database) -> None:
    flipped = export(fake_psql(Behaviour("export", flip_at=70_000)), filled)
    assert (flipped.code, len(flipped.data), flipped.mark("rows")) == (0, len(STREAM), [str(ROWS)])
    assert [at for at, pair in enumerate(zip(flipped.data, STREAM, strict=True)) if pair[0] != pair[1]] == [70_000]
    cut = export(fake_psql(Behaviour("export", truncate=100)), filled)
    assert (cut.code, cut.data, cut.mark("rows")) == (0, STREAM[:-100], [str(ROWS)])
    more = export(fake_psql(Behaviour("export", trailing="0\t유령\n")), filled)
    assert (more.code, more.data, more.mark("rows")) == (0, STREAM + "0\t유령\n".encode(), [str(ROWS)])


def test_lying(fake_psql: MakePsql, filled: Database) -> None:
    wrong = export(fake_psql(Behaviour("export", rows="7")), filled)
    assert (wrong.code, wrong.data, wrong.mark("rows"), wrong.mark("end")) == (0, STREAM, ["7"], [""])
    none = export(fake_psql(Behaviour("export", rows="")), filled)
    assert (none.code, none.data, none.mark("rows"), none.mark("end")) == (0, STREAM, [], [""])
    twice = export(fake_psql(Behaviour("export", twice=True)), filled)
    assert (twice.code, twice.mark("rows")) == (0, [str(ROWS)] * 2)
    silent = export(fake_psql(Behaviour("export", silent=True)), filled)
    assert (silent.code, silent.data, silent.psql.transcript.tail) == (0, b"", "")


def test_telling_what_is_true_at_the_wrong_time(fake_psql: MakePsql, filled: Database, empty: Database) -> None:
    early = export(fake_psql(Behaviour("export", first="end")), filled)
    assert [name for name, _ in early.psql.transcript._marks] == [
        "end",
        "backend",
        "rows",
        "changed",
        "replaced",
        "keeper",
    ]
    late = export(fake_psql(Behaviour("export", trailing="0\t유령\n", late=True)), filled)
    assert (late.code, late.data, late.mark("rows")) == (0, STREAM + "0\t유령\n".encode(), [str(ROWS)])
    strange = export(fake_psql(Behaviour("export", stranger=True)), filled)
    assert (strange.code, strange.data, strange.psql.transcript._marks) == (0, STREAM, [])
    dead = load(fake_psql(Behaviour("import", die_at_rows=True, exit_code=0)), empty)
    assert (dead.code, dead.mark("rows"), dead.mark("committed")) == (0, [str(ROWS)], [])
    assert empty.value("SELECT count(*) FROM public.고객") == 0


def test_forging_a_commit(fake_psql: MakePsql, empty: Database) -> None:
    out = load(fake_psql(Behaviour("import", forge=True)), empty)
    assert (out.code, out.mark("rows"), out.mark("committed")) == (0, [str(ROWS)], [""])
    assert empty.value("SELECT count(*) FROM public.고객") == 0


def test_flooding(fake_psql: MakePsql, filled: Database) -> None:
    with filled.connect() as session, session.transaction():
        session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        ((snapshot,),) = session.execute("SELECT pg_export_snapshot()").fetchall()
        psql, reading = start_export(fake_psql(Behaviour("export", flood=2_000_000)), filled, snapshot)
        readable, _, _ = select.select([reading], [], [], 0.5)
        assert readable == []  # nobody has read its stderr yet
        heard = Thread(target=lambda: ended(psql))
        heard.start()
        with os.fdopen(reading, "rb") as stream:
            assert stream.read() == STREAM
        heard.join(100)
    assert psql.process.returncode == 0
    assert psql.transcript.values("rows") == [str(ROWS)]
