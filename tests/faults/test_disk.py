"""The disk under the spool fills up, goes away, or gives back what was never written: old or new, and told where."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest
from pytest_mock import MockerFixture

from airflow_provider_safecopy.errors import StageError
from airflow_provider_safecopy.pipeline import copy_table
from airflow_provider_safecopy.postgres import psql as starting
from airflow_provider_safecopy.report import CopyReport
from airflow_provider_safecopy.spec import Progress
from airflow_provider_safecopy.transfer import spool as spooling
from airflow_provider_safecopy.transfer.spool import Spool
from tests.faults.invariant import Invariant, said
from tests.faults.trial import QUICK, ROWS, Trial
from tests.support.customers import TABLE

COPIES = ["sequential", "chunked"]
_MOUNTED = 'mount -t tmpfs -o size=17m,mode=777 safecopy-test "$0" && exec "$@"'


@pytest.fixture(autouse=True)
def _small(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits in memory, and little in pipes, so that a few rows go to disk as gigabytes would."""
    monkeypatch.setattr(copy_table, "WINDOW_BYTES", 0)
    monkeypatch.setattr(starting, "PIPE_BYTES", 4096)
    trial.reset()


class Holding:
    """Called with a copy's progress: an import that has started is stopped, and goes on once all is exported.

    By then the whole stream is in the spool. `early` is done at the beginning, `late` at that moment.
    """

    def __init__(
        self, *, early: Callable[[], object] = lambda: None, late: Callable[[], object] = lambda: None
    ) -> None:
        self._do = {"export": early, "import": late}
        self._seen: set[str] = set()

    def __call__(self, at: Progress) -> None:
        if at.stage in self._seen or at.stage not in self._do:
            return
        self._seen.add(at.stage)
        if at.stage == "export":
            for process in imports():
                process.send_signal(signal.SIGSTOP)
        self._do[at.stage]()
        if at.stage == "import":
            for process in imports():
                process.send_signal(signal.SIGCONT)


def imports() -> list[psutil.Process]:
    """The import psqls of this process."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if any(word.startswith("COPY ") for word in child.cmdline()):
                found.append(child)
    return found


def chunks(directory: Path) -> list[Path]:
    """The chunk files this process has open: they have no name but these."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the listing's own descriptor
            name = str(descriptor.readlink())
            if name.startswith(f"{directory}/") and name.endswith("(deleted)"):
                found.append(descriptor)
    return found


def flip_a_digit(chunk: Path) -> None:
    """Of the first key: what arrives is a row as good as the one that was sent."""
    with chunk.open("r+b", buffering=0) as file:
        assert file.read(1) == b"1"
        os.pwrite(file.fileno(), b"2", 0)


def flip_in_the_middle(chunk: Path) -> None:
    """The highest bit of one byte: no server takes that for text."""
    with chunk.open("r+b", buffering=0) as file:
        middle = os.fstat(file.fileno()).st_size // 2
        os.pwrite(file.fileno(), bytes([os.pread(file.fileno(), 1, middle)[0] ^ 128]), middle)


def halve(chunk: Path) -> None:
    os.truncate(chunk, chunk.stat().st_size // 2)


def empty(chunk: Path) -> None:
    os.truncate(chunk, 0)


def lose_a_page(chunk: Path) -> None:
    """The second half is read as zeros, as where a crashed file system has forgotten what was in it."""
    size = chunk.stat().st_size
    halve(chunk)
    os.truncate(chunk, size)


@pytest.mark.parametrize(
    ("transfer", "harm"),
    [
        *((each, flip_in_the_middle) for each in COPIES),
        ("sequential", flip_a_digit),
        ("chunked", lose_a_page),
        ("sequential", halve),
        ("chunked", empty),
    ],
)
def test_a_spool_that_does_not_hold_what_was_written_is_told_as_that(
    trial: Trial, transfer: str, harm: Callable[[Path], None]
) -> None:
    """Found: a file cut short was an OSError, and one flipped byte blamed the source's data, not to be retried."""
    harmed = []

    def spoil() -> None:
        for chunk in chunks(trial.spool):
            harm(chunk)
            harmed.append(chunk)

    held, end = trial.judged(lambda: trial.copy(transfer=transfer, timeouts=QUICK, progress=Holding(late=spoil)))
    assert harmed
    assert isinstance(end, StageError), end
    assert (held, end.stage, end.retryable) == ("old", "import", True)
    assert str(trial.spool) in end.message
    assert "spool_dir" in end.hint


@pytest.mark.parametrize("transfer", COPIES)
def test_a_file_that_may_not_grow_fails_the_export(trial: Trial, transfer: str) -> None:
    """As by a limit of the process, which any machine can set; a full disk is below."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited() -> CopyReport:
        try:
            return trial.copy(transfer=transfer, timeouts=QUICK, progress=Holding(early=limit))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))

    held, end = trial.judged(limited)
    told_of_the_disk(end, trial.spool, errno.EFBIG)
    assert held == "old"


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EIO, errno.EROFS], ids=errno.errorcode.get)
def test_a_disk_that_refuses_a_write_fails_the_export(trial: Trial, mocker: MockerFixture, number: int) -> None:
    """A quota, a broken disk, one that was mounted anew for reading only: not to be had without rights on the machine."""
    refusing = mocker.patch.object(spooling, "_write_all", side_effect=OSError(number, os.strerror(number)))

    held, end = trial.judged(
        lambda: trial.copy(transfer="sequential", timeouts=QUICK), heal=lambda: mocker.stop(refusing)
    )
    told_of_the_disk(end, trial.spool, number)
    assert held == "old"


def told_of_the_disk(end: Any, directory: Path, number: int) -> None:
    """The export's failure names the directory, what the system said, and what can be done."""
    assert isinstance(end, StageError), end
    assert (end.stage, end.retryable) == ("export", True)
    assert str(directory) in end.message
    assert os.strerror(number) in end.message
    assert "spool_dir" in end.hint


def removed(directory: Path) -> None:
    directory.rmdir()


def taken_by_a_file(directory: Path) -> None:
    directory.rmdir()
    directory.touch()


def closed_to_everybody(directory: Path) -> None:
    """Permission bits do not bind root; in /proc nobody makes a file."""
    directory.rmdir()
    directory.symlink_to("/proc")


def put_back(directory: Path) -> None:
    if directory.is_symlink() or directory.is_file():
        directory.unlink()
    directory.mkdir(exist_ok=True)


@pytest.mark.parametrize("gone", [removed, taken_by_a_file, closed_to_everybody])
def test_a_spool_directory_that_goes_away_fails_the_export(trial: Trial, gone: Callable[[Path], None]) -> None:
    held, end = trial.judged(
        lambda: trial.copy(transfer="sequential", timeouts=QUICK, progress=Holding(early=lambda: gone(trial.spool))),
        heal=lambda: put_back(trial.spool),
    )
    assert isinstance(end, StageError), end
    assert (held, end.stage, end.retryable) == ("old", "export", True)
    assert str(trial.spool) in end.message


def test_a_spool_directory_that_goes_away_is_no_loss_once_all_is_spooled(trial: Trial) -> None:
    """What is open stays, though nobody finds it any more."""
    _, end = trial.judged(
        lambda: trial.copy(transfer="sequential", timeouts=QUICK, progress=Holding(late=lambda: removed(trial.spool))),
        heal=lambda: put_back(trial.spool),
    )
    assert isinstance(end, CopyReport)
    assert end.rows == ROWS


def test_a_large_spool_is_not_a_file_for_every_16_mib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found: a process may have about a thousand open files, so that no sequential copy of 16 GiB could succeed."""
    monkeypatch.setattr(spooling, "CHUNK_BYTES", 1024)
    spool, pieces = Spool(str(tmp_path), limit=1 << 40, memory=0), [b"%04d" % number * 256 for number in range(4096)]
    for piece in pieces:
        spool.append(piece)
    assert len(chunks(tmp_path)) < 400
    taken = bytearray()
    while spool:
        taken += (head := bytes(spool.read_head()))
        spool.advance(len(head))
    assert taken == b"".join(pieces)
    assert chunks(tmp_path) == []


@cache
def own_mounts() -> tuple[str, ...]:
    """What lets a command mount a file system that it alone sees; skips the test where nothing does."""
    for words in (("unshare", "--map-root-user", "--mount"), ("unshare", "--mount"), ("sudo", "-nE", "unshare", "-m")):
        with suppress(FileNotFoundError):
            trying = [*words, "mount", "-t", "tmpfs", "safecopy-test", "/mnt"]
            if subprocess.run(trying, capture_output=True, check=False).returncode == 0:
                return words
    return ()


def test_a_full_disk_fails_the_export_and_is_told_as_that(trial: Trial) -> None:
    """A real file system of 17 MiB, and a stream of 25."""
    if not own_mounts():
        pytest.skip("this machine lets nobody mount a file system of its own")
    invariant = Invariant.before(trial.source, trial.target, ("영업", "고객"), trial.spool)
    many = f"SELECT * FROM {TABLE} CROSS JOIN (SELECT FROM generate_series(1, 1500))"
    words = ["--source-sql", many, "--target-table", "영업.고객", "--spool-dir", str(trial.spool), "--json"]
    command = [sys.executable, "-m", "airflow_provider_safecopy.cli", "copy", *words, "--transfer", "sequential"]
    done = subprocess.run(
        [*own_mounts(), "sh", "-c", _MOUNTED, str(trial.spool), *command],
        env=os.environ | {"SAFECOPY_SOURCE": trial.source.conninfo, "SAFECOPY_TARGET": trial.target.conninfo},
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert invariant.hold(said(done.returncode)) == "old"
    invariant.recovered(trial.copy)
    assert done.returncode == 5, done.stderr.decode()
    error = json.loads(done.stdout)["error"]
    assert (error["type"], error["stage"], error["retryable"]) == ("StageError", "export", True)
    assert os.strerror(errno.ENOSPC) in error["message"]
    assert str(trial.spool) in error["message"]
