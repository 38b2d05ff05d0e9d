"""The spool: first in, first out, within its limits, and without a trace."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import StageError
from airflow_provider_safecopy.spec import CopySpec, MiB, Timeouts
from airflow_provider_safecopy.transfer import spool as module
from airflow_provider_safecopy.transfer.spool import CHUNK_BYTES, READ_BYTES, Spool, SpoolFullError, find_refusals
from tests.conftest import NothingLeft
from tests.support.database import Database
from tests.support.selection import number_of_examples

SMALL_READ = 16
SMALL_CHUNK = 50  # no multiple of a read, so that a chunk file ends in the midst of one


def on_disk(spool: Spool) -> list[int]:
    """The real sizes of the chunk files it holds open."""
    chunks = [item for item in spool._queue if isinstance(item, module._ChunkFile)]
    return [os.fstat(chunk.file.fileno()).st_size for chunk in chunks]


class Machine(RuleBasedStateMachine):
    """Any order of puts and advances against a plain bytearray, with small pieces so that borders are met."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(module, "READ_BYTES", SMALL_READ)
        self.patch.setattr(module, "CHUNK_BYTES", SMALL_CHUNK)
        self.directory = Path(tempfile.mkdtemp(prefix="safecopy-test-"))
        self.model = bytearray()
        self.put_so_far = 0

    @initialize(limit=st.integers(1, 300), memory=st.integers(0, 100))
    def begin(self, limit: int, memory: int) -> None:
        self.spool = Spool(str(self.directory), limit=limit, memory=memory)

    @rule(size=st.integers(1, SMALL_READ))
    def put(self, size: int) -> None:
        data = bytes((self.put_so_far + place) % 251 for place in range(size))
        full = self.spool.is_full
        try:
            self.spool.append(data)
        except SpoolFullError:
            assert full, "who asks first is never surprised"
            return
        self.put_so_far += size
        self.model += data

    @precondition(lambda self: self.model)
    @rule(share=st.floats(0, 1), look_again=st.booleans())
    def advance(self, share: float, look_again: bool) -> None:
        head = bytes(self.spool.read_head())
        assert 0 < len(head) <= SMALL_READ
        assert self.model.startswith(head)
        if look_again:
            assert bytes(self.spool.read_head()) == head
        count = max(1, round(share * len(head)))
        self.spool.advance(count)
        del self.model[:count]

    @rule()
    def drain(self) -> None:
        while self.spool:
            head = bytes(self.spool.read_head())
            self.spool.advance(len(head))
            assert self.model.startswith(head)
            del self.model[: len(head)]
        assert not self.model
        assert on_disk(self.spool) == []

    @invariant()
    def nothing_is_lost(self) -> None:
        assert bool(self.spool) == bool(self.model)

    @invariant()
    def limits_hold(self) -> None:
        real = sum(on_disk(self.spool))
        assert real == self.spool._on_disk
        assert real <= self.spool.peak_disk_bytes <= self.spool.limit
        # Beyond `memory` there is at most the one piece that was read back from disk.
        assert self.spool._in_memory <= max(self.spool.memory, SMALL_READ)

    @invariant()
    def no_file_has_a_name(self) -> None:
        assert list(self.directory.iterdir()) == []

    def teardown(self) -> None:
        self.spool.close()
        self.spool.close()
        assert on_disk(self.spool) == []
        assert not self.spool
        self.patch.undo()
        self.directory.rmdir()


TestAnyOrder = Machine.TestCase
TestAnyOrder.settings = settings(max_examples=number_of_examples(100), stateful_step_count=40, deadline=None)


def test_with_its_real_sizes_it_spills_in_chunks_and_gives_each_back(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path), limit=64 * MiB, memory=2 * MiB)
    piece, pieces = os.urandom(READ_BYTES), 40 * MiB // READ_BYTES
    for _ in range(pieces):
        spool.append(piece)
    assert on_disk(spool) == [CHUNK_BYTES, CHUNK_BYTES, 6 * MiB]
    assert spool.peak_disk_bytes == 38 * MiB
    left = []
    for _ in range(pieces):
        assert bytes(spool.read_head()) == piece
        spool.advance(READ_BYTES)
        left.append(sum(on_disk(spool)) // MiB)
    # Two MiB were in memory; a chunk goes when its last piece has been read.
    each = MiB // READ_BYTES
    assert left == [38] * (18 * each - 1) + [22] * (16 * each) + [6] * (6 * each) + [0]
    assert spool.peak_disk_bytes == 38 * MiB


def test_what_comes_after_a_spill_waits_behind_it(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path), limit=64 * MiB, memory=2 * READ_BYTES)
    for letter in (b"a", b"b", b"c"):
        spool.append(letter * READ_BYTES)
    spool.advance(READ_BYTES)
    spool.append(b"d" * READ_BYTES)  # there is room in memory again, but "c" is on disk
    assert on_disk(spool) == [2 * READ_BYTES]
    order = b""
    while spool:
        order += bytes(spool.read_head()[:1])
        spool.advance(READ_BYTES)
    assert order == b"bcd"


def test_what_is_put_may_be_written_over_afterwards(tmp_path: Path) -> None:
    spool, buffer = Spool(str(tmp_path), limit=MiB, memory=MiB), bytearray(b"first")
    spool.append(memoryview(buffer))
    buffer[:] = b"other"
    assert bytes(spool.read_head()) == b"first"


def test_full_is_said_before_the_limit_is_broken(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path), limit=3 * READ_BYTES, memory=0)
    for _ in range(3):
        assert not spool.is_full
        spool.append(b"x" * READ_BYTES)
    assert spool.is_full
    with pytest.raises(SpoolFullError):
        spool.append(b"x")
    assert on_disk(spool) == [3 * READ_BYTES]
    spool.close()


def test_an_empty_spool_has_no_head(tmp_path: Path) -> None:
    with pytest.raises(IndexError):
        Spool(str(tmp_path), limit=MiB, memory=MiB).read_head()


@pytest.fixture
def files_end_at() -> Iterator[int]:
    """No file of this process may grow beyond so many bytes: what a full disk says, without filling one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (READ_BYTES + 100, hard))
    yield READ_BYTES + 100
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_takes_no_more_is_an_os_error_and_leaves_nothing(tmp_path: Path, files_end_at: int) -> None:
    spool = Spool(str(tmp_path), limit=64 * MiB, memory=0)
    spool.append(b"x" * READ_BYTES)
    with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        spool.append(b"y" * READ_BYTES)
    assert on_disk(spool) == [files_end_at]
    spool.close()
    assert on_disk(spool) == []


def test_a_directory_that_vanished_is_an_os_error(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    spool = Spool(str(gone), limit=64 * MiB, memory=0)
    gone.rmdir()
    with pytest.raises(FileNotFoundError):
        spool.append(b"x")


def test_a_file_cut_short_by_somebody_is_noticed(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path), limit=64 * MiB, memory=0)
    spool.append(b"x" * 100)
    chunk = spool._queue[0]
    assert isinstance(chunk, module._ChunkFile)
    chunk.file.truncate(0)
    with pytest.raises(OSError, match="shorter than what was written"):
        spool.read_head()
    spool.close()


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with 4 MiB free: a real file system where root may mount one, else one that says so."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "safecopy-test", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4 * MiB))
    yield tmp_path
    if mounted.returncode == 0:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_directory_with_room_is_not_refused_and_left_as_it_was(tmp_path: Path) -> None:
    assert find_refusals(str(tmp_path), needed=CHUNK_BYTES, limit=None) == []
    assert find_refusals(None, needed=0, limit=None) == []
    assert list(tmp_path.iterdir()) == []


def test_a_full_directory_is_refused_with_what_is_free_and_needed(tiny: Path) -> None:
    (found,) = find_refusals(str(tiny), needed=100 * MiB, limit=None)
    assert found.code == "spool_full"
    assert str(tiny) in found.message
    assert f"{4 * MiB:,} bytes are free" in found.message
    assert f"{100 * MiB:,} are needed" in found.message
    assert found.hint.startswith("free space in ")
    # Even a copy that may need no disk at all wants room for one chunk.
    (found,) = find_refusals(str(tiny), needed=0, limit=None)
    assert f"{CHUNK_BYTES:,} are needed" in found.message


@pytest.mark.parametrize("place", ["missing", "under a file", "closed to everybody"])
def test_a_directory_that_cannot_be_written_to_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    # Permission bits do not bind root; in /proc nobody makes a file.
    directory = {"missing": tmp_path / "없음", "under a file": tmp_path / "file" / "x", "closed to everybody": "/proc"}
    (found,) = find_refusals(str(directory[place]), needed=0, limit=None)
    assert found.code == "spool_dir"
    assert str(directory[place]) in found.message
    assert "spool_dir" in found.hint


def test_a_limit_below_what_is_needed_is_refused(tmp_path: Path) -> None:
    (found,) = find_refusals(str(tmp_path), needed=2 * MiB, limit=MiB)
    assert found.code == "spool_limit"
    assert f"{MiB:,}" in found.message
    assert f"{2 * MiB:,}" in found.message
    assert "raise spool_limit" in found.hint


@pytest.mark.parametrize("limit", [1000, 2 * MiB])
def test_a_sequential_copy_that_outgrows_its_limit_fails_at_once(
    source: Database, target: Database, nothing_left: NothingLeft, tmp_path: Path, limit: int
) -> None:
    source.execute("CREATE TABLE public.고객 AS SELECT repeat('고객', 300) AS 이름 FROM generate_series(1, 3000)")
    target.execute("CREATE TABLE public.고객 (이름 text); INSERT INTO public.고객 VALUES ('옛 고객')")
    spec = CopySpec.of(
        source_table="public.고객",
        target_table="public.고객",
        where="true",  # with a condition the size is unknown beforehand
        transfer="sequential",
        spool_dir=str(tmp_path),
        spool_limit=limit,
        timeouts=Timeouts(export=30),
    )
    with pytest.raises(StageError, match="spool_limit is reached") as caught:
        pipeline.copy(spec, source.endpoint, target.endpoint)
    assert "raise spool_limit" in caught.value.hint
    assert caught.value.stage == "export"
    assert target.rows("TABLE public.고객") == [("옛 고객",)]
    nothing_left(source, target, spool=tmp_path)


@pytest.mark.parametrize("limit", [1000, 2 * MiB])
def test_a_chunked_copy_waits_within_its_limit(
    source: Database, target: Database, nothing_left: NothingLeft, tmp_path: Path, limit: int
) -> None:
    source.execute("CREATE TABLE public.고객 AS SELECT repeat('고객', 300) AS 이름 FROM generate_series(1, 10000)")
    target.execute("CREATE TABLE public.고객 (이름 text)")
    spec = CopySpec.of(
        source_table="public.고객",
        target_table="public.고객",
        transfer="chunked",
        spool_dir=str(tmp_path),
        spool_limit=limit,
    )
    report = pipeline.copy(spec, source.endpoint, target.endpoint)
    assert (report.rows, report.bytes) == (10_000, 10_000 * 1801)
    assert report.spool_bytes <= limit
    nothing_left(source, target, spool=tmp_path)
