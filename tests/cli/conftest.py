"""The command as a person runs it: a process of its own, two real databases, what it says and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import pytest

from airflow_provider_safecopy.cli import main
from tests.support.content import rows_of
from tests.support.database import Database

COMMAND = (sys.executable, "-m", "airflow_provider_safecopy.cli")
SOURCE_TABLE, TARGET_TABLE = "영업.고객", "분석.고객"
ROWS = 5_000
_SHAPE = '("고객번호" bigint PRIMARY KEY, "이름" text NOT NULL, "잔액" numeric(12,2))'
SOURCE = (
    f'CREATE SCHEMA "영업"; CREATE TABLE "영업"."고객" {_SHAPE}; INSERT INTO "영업"."고객" '
    f'SELECT g, \'고객 \' || md5(g::text), g FROM generate_series(1, {ROWS}) g; ANALYZE "영업"."고객"'
)
TARGET = (
    f'CREATE SCHEMA "분석"; CREATE TABLE "분석"."고객" {_SHAPE}; INSERT INTO "분석"."고객" VALUES (-1, \'옛 고객\', 1)'
)

Word = str | bytes


@dataclass(frozen=True)
class Ran:
    """What a command said, and how it ended."""

    code: int
    raw_out: bytes
    raw_err: bytes

    @property
    def out(self) -> str:
        return self.raw_out.decode()

    @property
    def err(self) -> str:
        return self.raw_err.decode()

    @property
    def json(self) -> Any:
        """The one object on stdout; anything beside it fails."""
        return json.loads(self.raw_out)


@dataclass(frozen=True)
class Command:
    """`safecopy` between two databases, with an environment that names them."""

    source: Database
    target: Database
    environment: Mapping[str, str] = field(repr=False)
    command: Sequence[Word] = COMMAND

    def run(self, *words: Word, **variables: str | None) -> Ran:
        """Run it to its end. A variable of None is taken away."""
        return self._run(words, b"", variables)

    def fed(self, stdin: bytes, *words: Word) -> Ran:
        """Run it to its end, with something on its standard input."""
        return self._run(words, stdin, {})

    def copy(self, *words: Word, **variables: str | None) -> Ran:
        """Copy the customers."""
        return self.run("copy", *self.tables, *words, **variables)

    @property
    def tables(self) -> tuple[str, ...]:
        return ("--source-table", SOURCE_TABLE, "--target-table", TARGET_TABLE)

    @contextmanager
    def started(self, *words: Word, **variables: str | None) -> Iterator[subprocess.Popen[bytes]]:
        """Start it, and be sure that it has ended when the test has."""
        process = subprocess.Popen(
            [*self.command, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,  # nothing is read ahead of `wait_for_line`, and so lost to `ended`
            env=self._environment(variables),
        )
        with process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    def instead(self, *command: Word) -> Command:
        """The same, started in another way."""
        return replace(self, command=command)

    def holds(self) -> str:
        """Whether the target holds its old row or exactly the source's; anything else fails."""
        held = rows_of(self.target, 'SELECT * FROM "분석"."고객"')
        if held == rows_of(self.source, 'SELECT * FROM "영업"."고객"'):
            return "new"
        assert held == ['(-1,"옛 고객",1.00)']
        return "old"

    def _run(self, words: Sequence[Word], stdin: bytes, variables: Mapping[str, str | None]) -> Ran:
        done = subprocess.run(
            [*self.command, *words],
            input=stdin,
            capture_output=True,
            check=False,
            timeout=100,
            env=self._environment(variables),
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def _environment(self, variables: Mapping[str, str | None]) -> dict[str, str]:
        chosen = {**self.environment, **variables}
        return {name: value for name, value in chosen.items() if value is not None}


def wait_for_line(process: subprocess.Popen[bytes], words: bytes) -> bytes:
    """Read stderr up to the line that holds `words`; all that was read. Fails if the process ends before."""
    assert process.stderr is not None
    said = b""
    for line in process.stderr:
        said += line
        if words in line:
            return said
    pytest.fail(f"never said {words!r}, but: {said.decode()}")


def ended(process: subprocess.Popen[bytes], said: bytes = b"") -> Ran:
    """The end of a started command; `said` is what was read of its stderr before."""
    out, err = process.communicate(timeout=100)
    return Ran(process.returncode, out, said + err)


@pytest.fixture
def environment(psql: str) -> dict[str, str]:
    """A person's own environment, without what would decide something here."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH", "TMPDIR") if name in os.environ}
    return {**kept, "LC_ALL": "C.UTF-8", "SAFECOPY_PSQL": psql}


@pytest.fixture
def safecopy(source: Database, target: Database, environment: dict[str, str]) -> Command:
    """The command, and customers to copy: the source has many, the target one of old."""
    source.execute(SOURCE)
    target.execute(TARGET)
    endpoints = {"SAFECOPY_SOURCE": source.conninfo, "SAFECOPY_TARGET": target.conninfo}
    return Command(source, target, {**environment, **endpoints})


@pytest.fixture
def bare(environment: dict[str, str]) -> Callable[..., Ran]:
    """The command without any database: ``bare("copy", "--help")``."""

    def run(*words: Word, **variables: str) -> Ran:
        done = subprocess.run(
            [*COMMAND, *words], capture_output=True, check=False, timeout=100, env={**environment, **variables}
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


class Said(Protocol):
    """The type of the fixture `said`."""

    def __call__(self, *words: str, **variables: str) -> Ran: ...


@pytest.fixture
def said(safecopy: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Said:
    """The command within this process, which is much quicker: not for copies, whose process others may end."""

    def run(*words: str, **variables: str) -> Ran:
        assert "copy" not in words
        with monkeypatch.context() as patch:
            for name, value in {**safecopy.environment, **variables}.items():
                patch.setenv(name, value)
            capfd.readouterr()
            code = main(list(words))
            told = capfd.readouterr()
        return Ran(code, told.out.encode(), told.err.encode())

    return run


@pytest.fixture(autouse=True)
def _signals_as_they_were() -> Iterator[None]:
    """A test that runs `main` in this process gets its signals back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.fixture
def query(tmp_path: Path) -> Path:
    """A file with a query, as people keep them: UTF-8 with a byte order mark."""
    path = tmp_path / "고객.sql"
    path.write_text('SELECT "고객번호", "이름", "잔액" FROM "영업"."고객"', encoding="utf-8-sig")
    return path
