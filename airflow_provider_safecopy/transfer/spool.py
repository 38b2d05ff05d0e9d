"""The bounded window between export and import: memory first, then chunk files on disk, first in first out.

The chunk files have no name (they are unlinked while open), so that nothing is left even by SIGKILL, and
each is given back to the disk as soon as it has been read.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections import deque
from dataclasses import dataclass, field
from typing import IO

import xxhash

from airflow_provider_safecopy import shortage
from airflow_provider_safecopy.errors import Refusal

CHUNK_BYTES = 16 * 1024 * 1024
MANY_CHUNKS = 64
"""With this many chunk files on disk, new ones grow with what is on disk.

Each is an open file, and a process may have only so many.
"""

READ_BYTES = 256 * 1024
"""The most that is moved at once, in bytes.

It is small enough to be still warm in the processor when it is written.
"""


_WRITABLE_HINT = "name a writable directory with spool_dir, such as a mounted volume"
_FREE_HINT = "free space in {}, or name another directory with spool_dir, and run the copy again"


class SpoolFullError(Exception):
    """The spool's limit is reached. Internal: the stages turn it into an error for users."""


@dataclass
class _ChunkFile:
    """A chunk file, which has no name.

    `pieces` are the digests and sizes of what was written and is not read yet; the last may still grow.
    """

    file: IO[bytes]
    written: int = 0
    read: int = 0
    pieces: deque[tuple[int, int]] = field(default_factory=deque)
    growing: xxhash.xxh3_64 = field(default_factory=xxhash.xxh3_64)

    def add(self, data: bytes | memoryview) -> None:
        """Write `data` at the end."""
        _write_all(self.file.fileno(), data)
        self.written += len(data)
        # Small writes share one piece: it is read at once, against one digest.
        size = self.pieces[-1][1] if self.pieces else 0
        if not self.pieces or size + len(data) > READ_BYTES:
            self.growing, size = xxhash.xxh3_64(), 0
        else:
            self.pieces.pop()
        self.growing.update(data)
        self.pieces.append((self.growing.intdigest(), size + len(data)))

    def read_piece(self) -> bytes:
        """Return the next piece.

        Raises OSError if it is not what was written.
        """
        digest, size = self.pieces.popleft()
        data = os.pread(self.file.fileno(), size, self.read)
        if len(data) < size:
            raise OSError(errno.EIO, "a spool file is shorter than what was written to it")
        if xxhash.xxh3_64_intdigest(data) != digest:
            raise OSError(errno.EIO, "a spool file does not hold what was written to it")
        self.read += size
        return data


@dataclass
class Spool:
    """A queue of bytes. `memory` and `limit` bound what it holds in memory and on disk, in bytes.

    `peak_disk_bytes` is the most that was on disk so far.
    """

    directory: str
    limit: int
    memory: int
    peak_disk_bytes: int = 0
    _queue: deque[bytes | memoryview | _ChunkFile] = field(default_factory=deque)
    _in_memory: int = 0
    _on_disk: int = 0

    def __bool__(self) -> bool:
        return bool(self._queue)

    @property
    def is_full(self) -> bool:
        """True if one more read would not fit."""
        return self._goes_to_disk() and self._on_disk + READ_BYTES > self.limit

    def append(self, data: bytes | memoryview) -> None:
        """Append `data`, which may change afterwards.

        Raises `SpoolFullError` if the limit is reached, OSError if the disk refuses.
        """
        if not self._goes_to_disk():
            # A copy, because the relay reads into one buffer again and again.
            self._queue.append(bytes(data))
            self._in_memory += len(data)
            return
        if self._on_disk + len(data) > self.limit:
            raise SpoolFullError
        self._open_tail().add(data)
        self._on_disk += len(data)
        self.peak_disk_bytes = max(self.peak_disk_bytes, self._on_disk)

    def read_head(self) -> bytes | memoryview:
        """Return the next bytes, at most `READ_BYTES`, and leave them in place until `advance`.

        Raises IndexError if the spool is empty, OSError if the disk does not give back what was written.
        """
        first = self._queue[0]
        if not isinstance(first, _ChunkFile):
            return first
        data = first.read_piece()
        self._in_memory += len(data)
        if first.read == first.written:
            self._queue.popleft()
            self._close_chunk(first)
        self._queue.appendleft(data)
        return data

    def advance(self, count: int) -> None:
        """Forget the first `count` bytes of `read_head()`."""
        first = self._queue.popleft()
        assert not isinstance(first, _ChunkFile)  # noqa: S101 -- head() has turned it into bytes
        self._in_memory -= count
        if count < len(first):
            self._queue.appendleft(memoryview(first)[count:])

    def close(self) -> None:
        """Release memory and disk. A second call is harmless."""
        for item in self._queue:
            if isinstance(item, _ChunkFile):
                self._close_chunk(item)
        self._queue.clear()

    def _goes_to_disk(self) -> bool:
        # Once anything is on disk everything goes there, until the disk part is empty again: order is kept, and chunk
        # files are filled rather than sprinkled.
        return self._on_disk > 0 or self._in_memory + READ_BYTES > self.memory

    def _close_chunk(self, chunk: _ChunkFile) -> None:
        chunk.file.close()
        self._on_disk -= chunk.written

    def _open_tail(self) -> _ChunkFile:
        last = self._queue[-1] if self._queue else None
        if isinstance(last, _ChunkFile) and last.written < max(CHUNK_BYTES, self._on_disk // MANY_CHUNKS):
            return last
        chunk = _ChunkFile(tempfile.TemporaryFile(prefix="safecopy-", dir=self.directory, buffering=0))  # noqa: SIM115
        self._queue.append(chunk)
        return chunk


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        # A write may take only a part, such as the last bytes of a disk.
        view = view[os.write(descriptor, view) :]


def choose_directory(spool_dir: str | None) -> str:
    """Return the directory of chunk files.

    It is `spool_dir`, or the system's temporary directory (`TMPDIR`). Raises OSError if it has none.
    """
    return spool_dir or tempfile.gettempdir()


def find_refusals(spool_dir: str | None, *, needed: int, limit: int | None) -> list[Refusal]:
    """Return why the spool directory cannot be used.

    It is not there, not writable, or without room for `needed` bytes; by default there must be room for one chunk file.
    """
    try:
        directory = choose_directory(spool_dir)
    except OSError as error:
        message = f"spool directory: this user may write to no temporary directory ({error.strerror})"
        return [Refusal("spool_dir", message, hint=_WRITABLE_HINT)]
    try:
        # Only a write shows a directory that is read-only or full, whatever its permissions say.
        with tempfile.TemporaryFile(prefix="safecopy-", dir=directory) as probe:
            probe.write(b"?")
            probe.flush()
        free = shutil.disk_usage(directory).free
    except OSError as error:
        return [shortage.find(error) or _describe(directory, error)]
    least = needed or CHUNK_BYTES
    if free < least:
        message = f"spool directory {directory}: {free:,} bytes are free, about {least:,} are needed"
        return [Refusal("spool_full", message, hint=_FREE_HINT.format(directory))]
    if limit is not None and needed > limit:
        message = f"spool_limit is {limit:,} bytes, and a sequential copy needs about {needed:,}"
        return [Refusal("spool_limit", message, hint="raise spool_limit, or ask for transfer=chunked")]
    return []


def _describe(directory: str, error: OSError) -> Refusal:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        message = f"spool directory {directory}: no room for one file: {error.strerror}"
        return Refusal("spool_full", message, hint=_FREE_HINT.format(directory))
    return Refusal("spool_dir", f"spool directory {directory}: {error.strerror or error}", hint=_WRITABLE_HINT)
