"""Memory files: made in several ways, never on a disk; without any, a copy is refused with a hint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_safecopy import doctor, pipeline
from airflow_provider_safecopy.errors import ConfigError, PlanError
from airflow_provider_safecopy.lock.process import ProcessIdentity
from airflow_provider_safecopy.postgres import memory
from airflow_provider_safecopy.spec import CopySpec
from tests.conftest import MakeRole
from tests.support.database import Database

# What a sandbox of a Python lacks: each is a way to be without memfd_create.
NO_CALL = ["python"]
FORBIDDEN = ["python", "library"]
NOTHING = ["python", "library", "directories"]


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    """Remove ways to make a memory file, as another Python or a seccomp profile does."""

    def refuse(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    def take(ways: list[str]) -> None:
        if "python" in ways:
            monkeypatch.delattr(os, "memfd_create")
        if "library" in ways:
            monkeypatch.setattr(memory, "_open_by_library", refuse)
        if "directories" in ways:
            monkeypatch.setattr(memory, "_directories", lambda: (str(Path(__file__).parent), "/없음"))

    return take


@pytest.mark.parametrize("ways", [[], NO_CALL, FORBIDDEN], ids=str)
def test_a_file_in_memory_is_had_in_several_ways(without: Callable[[list[str]], None], ways: list[str]) -> None:
    """A Python built against old headers lacks memfd_create, and a sandbox may forbid it: neither is the end."""
    without(ways)
    descriptor = memory.memory_file(b"secret" * 100_000)
    try:
        assert os.read(descriptor, 6) == b"secret"
        assert os.fstat(descriptor).st_nlink == 0
        assert os.fstat(descriptor).st_mode & 0o777 == 0o600
        assert not os.get_inheritable(descriptor)
        assert memory._is_in_memory(descriptor) or ways != FORBIDDEN
        assert Path(f"/proc/self/fd/{descriptor}").read_bytes().startswith(b"secret")
    finally:
        os.close(descriptor)


def test_a_file_on_a_disk_is_none_in_memory(tmp_path: Path) -> None:
    with (tmp_path / "x").open("w") as file:
        expected = {
            line.split()[2] for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - tmpfs " in line
        }
        device = os.fstat(file.fileno()).st_dev
        assert memory._is_in_memory(file.fileno()) is (f"{os.major(device)}:{os.minor(device)}" in expected)


@pytest.mark.parametrize("ways", [NO_CALL, FORBIDDEN], ids=str)
@pytest.mark.parametrize("many", [False, True], ids=["one table", "a batch"])
def test_a_copy_with_a_password_goes_on_without_memfd_create(
    source: Database,
    target: Database,
    role: MakeRole,
    without: Callable[[list[str]], None],
    ways: list[str],
    *,
    many: bool,
) -> None:
    for database in (source, target):
        database.execute("CREATE TABLE public.고객 (번호 int PRIMARY KEY)")
    source.execute("INSERT INTO public.고객 VALUES (1), (2)")
    loader = role(target)
    target.execute(
        f'GRANT ALL ON public.고객 TO "{loader.role}"; GRANT CREATE ON DATABASE "{target.name}" TO "{loader.role}"'
    )
    without(ways)
    spec = CopySpec.of(source_table="public.고객", target_table="public.고객", publish="delete_insert")
    if many:
        assert not pipeline.copy_tables([spec], source.endpoint, loader.endpoint).failed
    else:
        pipeline.copy(spec, source.endpoint, loader.endpoint)
    assert target.rows("SELECT 번호 FROM public.고객 ORDER BY 1") == [(1,), (2,)]


def test_where_there_is_none_plan_copy_and_doctor_say_so_and_what_to_do(
    source: Database, target: Database, without: Callable[[list[str]], None]
) -> None:
    """Never a file on a disk in its place, nor a password in an environment."""
    for database in (source, target):
        database.execute("CREATE TABLE public.고객 (번호 int PRIMARY KEY); INSERT INTO public.고객 VALUES (1)")
    without(NOTHING)
    spec = CopySpec.of(source_table="public.고객", target_table="public.고객")
    found = {refused.code: refused for refused in pipeline.plan(spec, source.endpoint, target.endpoint).refusals}
    refused = found["no_memory_file"]
    assert "/dev/shm" in refused.hint
    with pytest.raises(PlanError, match="no memory file"):
        pipeline.copy(spec, source.endpoint, target.endpoint)
    with pytest.raises(PlanError, match="no memory file"):
        pipeline.copy_tables([spec], source.endpoint, target.endpoint)
    with pytest.raises(ConfigError):
        memory.memory_file(b"")
    checks = {check.name: check for check in doctor.examine(None, None)}
    assert checks["memory files"].outcome == "failed"
    assert "seccomp" in checks["memory files"].hint


# Ending a process without a pidfd


@pytest.mark.parametrize("lacking", ["no call", "ENOSYS", "EPERM", "EPERM to send"])
def test_a_process_is_ended_without_a_pidfd_as_well(monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    """An old kernel, an old Python or a sandbox has none: then pid and start time are compared before each signal."""

    def refuse(*_: object) -> int:
        raise OSError(38 if lacking == "ENOSYS" else 1, lacking)

    if lacking == "no call":
        monkeypatch.delattr(os, "pidfd_open")
    elif lacking == "EPERM to send":
        monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
    else:
        monkeypatch.setattr(os, "pidfd_open", refuse)
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as process:
        started = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19])
        here = ProcessIdentity.read_current(may_end=True).as_dict() | {"pid": process.pid}
        assert not ProcessIdentity(**here | {"started": started - 1}).end()
        assert process.poll() is None
        assert ProcessIdentity(**here | {"started": started}).end()
        assert process.wait(100) == -signal.SIGTERM
