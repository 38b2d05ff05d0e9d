"""A lane: one export, the spool behind it, and the import it feeds. A copy has one, or several side by side.

Bytes that the import takes at once are passed on while they are warm; what it does not take waits in the spool, and
while anything waits no more is read, unless the source is to be read ahead: see `pace`.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Callable
from dataclasses import dataclass

import xxhash

from airflow_provider_safecopy.errors import StageError
from airflow_provider_safecopy.transfer.export import Export
from airflow_provider_safecopy.transfer.load import Load
from airflow_provider_safecopy.transfer.model import MiB
from airflow_provider_safecopy.transfer.pace import RateLimit, ReadAhead
from airflow_provider_safecopy.transfer.psql import PIPE_BYTES, Psql
from airflow_provider_safecopy.transfer.spool import READ_BYTES, Spool, SpoolFullError
from airflow_provider_safecopy.transfer.timeouts import Timeouts

# psql writes 4 KiB at a time. Reading each at once costs a wake-up apiece: after a small piece the pipe is given
# the time to fill, or to empty, by half.
_SMALL_BYTES = 64 * 1024
_REST_SECONDS = (0.001, 0.003)
_IDLE_SECONDS = 0.01
_LIMIT_HINT = "raise spool_limit, or use transfer=chunked, which waits for the import instead"
_DISK_HINT = "mend that, name another spool_dir, or bound by spool_limit what transfer=chunked may take of it"
# How much is moved before the other descriptors are looked at again.
_MOVE_BYTES = 4 * MiB


@dataclass
class PipeEnd:
    """One end of the lane: what went through it, and when a byte last moved while it could."""

    digest: xxhash.xxh3_128
    rested_at: float
    size: int = 0
    moved_at: float = 0.0
    resting_until: float = 0.0
    _rested_size: int = 0

    def add(self, data: memoryview) -> None:
        """Count and digest."""
        self.digest.update(data)
        self.size += len(data)

    def rest(self, now: float) -> None:
        """Let what psql moves gather, for as long as half a pipe took since the last rest.

        Not at all where that is shorter than the shortest of rests: psql would find the pipe full, and stand still.
        """
        half = PIPE_BYTES / 2 * (now - self.rested_at) / max(1, self.size - self._rested_size)
        self.rested_at, self._rested_size = now, self.size
        if half >= _REST_SECONDS[0]:
            self.resting_until = now + min(half, _REST_SECONDS[1])


class Pipe:
    """Moves the bytes of one export into one import. What it waits for is the stream's to poll."""

    def __init__(
        self, export: Export, begin_load: Callable[[], Load], *, spool: Spool, rate_limit: RateLimit, timeouts: Timeouts
    ) -> None:
        now = time.monotonic()
        self.export = export
        self.load: Load | None = None
        self.spool = spool
        self.source_end = PipeEnd(xxhash.xxh3_128(), now, moved_at=now)
        self.target_end = PipeEnd(xxhash.xxh3_128(), now)
        self.export_ended = False
        self._heard = now
        self._begin_load = begin_load
        self._throttle = rate_limit
        self._timeouts = timeouts
        self._pace = ReadAhead()
        self._buffer = memoryview(bytearray(READ_BYTES))
        os.set_blocking(export.data, False)

    @property
    def children(self) -> list[Psql]:
        """The psqls that run, or ran."""
        return [self.export.psql, *([self.load.psql] if self.load else [])]

    def start_load(self) -> None:
        """Start the import, unless it is there."""
        if self.load is None:
            self.load = self._begin_load()
            self.target_end.rested_at = self.target_end.moved_at = time.monotonic()

    def can_read(self, now: float) -> bool:
        """Whether the export is to be read, as soon as there is something to read."""
        if self.export_ended or self.source_end.resting_until > now:
            return False
        behind = self.load is not None and bool(self.spool)
        if behind and (
            self.spool.is_full or not self._pace.can_read_ahead(self.source_end.size, self.target_end.size, now)
        ):
            self.source_end.moved_at = now  # it is we who do not read: no stall of the export's
            return False
        if not self._throttle.count_allowed(READ_BYTES, now):
            self.source_end.moved_at = now  # likewise
            return False
        return True

    def can_write(self, now: float) -> bool:
        """Whether the import is to be fed, as soon as it takes something."""
        if not self.spool:
            self.target_end.moved_at = (
                self.target_end.moved_at if self.export_ended else max(self.target_end.moved_at, now)
            )
            return False
        return self.load is not None and self.load.data_pipe is not None and self.target_end.resting_until <= now

    def compute_rest(self, now: float) -> float:
        """Seconds until there is something to do again; 0 where nobody knows."""
        throttled = not self.export_ended and not self._throttle.count_allowed(READ_BYTES, now)
        waits = [side.resting_until - now for side in (self.source_end, self.target_end) if side.resting_until > now]
        return min([*waits, *([_IDLE_SECONDS] if throttled else [])], default=0.0)

    def read(self) -> None:
        """Take what the export has, and pass it on at once where nothing waits."""
        now, left = time.monotonic(), _MOVE_BYTES
        while left > 0 and (allowed := self._throttle.count_allowed(READ_BYTES, now)):
            try:
                count = os.readv(self.export.data, [self._buffer[:allowed]])
            except BlockingIOError:
                self.source_end.rest(now)
                return
            if count == 0:
                self.close_export_data()
                return
            self._throttle.consume(count)
            data, left = self._buffer[:count], left - count
            self.source_end.add(data)
            self.source_end.moved_at = self._heard = now
            rest = data[self._feed_import(data, now) :] if self.load and not self.spool else data
            if rest:
                self._add_to_spool(rest)
                return
            if count < _SMALL_BYTES:
                self.source_end.rest(now)
                return

    def write(self) -> None:
        """Feed the import from the spool, as much as it takes."""
        now, left = time.monotonic(), _MOVE_BYTES
        while self.spool and left > 0:
            head = memoryview(self._read_spool())
            written = self._feed_import(head, now)
            self.spool.advance(written)
            left -= written
            if written < len(head):
                return

    def close_export_data(self) -> None:
        """Nothing (more) is read."""
        if not self.export_ended:
            os.close(self.export.data)
            self.export_ended = True

    def has_export_ended(self) -> bool:
        """Whether the export's psql has ended, and all it wrote is read."""
        if not self.export_ended or self.export.psql.process.poll() is None:
            return False
        self.export.psql.read_stderr()
        return True

    def find_silent_backend(self, since: float) -> int:
        """Return the export's backend if it has sent no byte since `since` and has not ended; else 0.

        It has sent some if there are bytes that nothing reads for now, behind the import or by `rate_limit`.
        """
        if self.export_ended or self._heard > since or _has_bytes(self.export.data):
            return 0
        return self.export.psql.transcript.number("backend") or 0

    def check_limits(self) -> None:
        """Raise once a stage has outlived its timeout, stalled, or died before its time."""
        load, limits = self.load, self._timeouts
        if load is not None and load.commit_pipe is not None and load.psql.process.poll() is not None:
            load.psql.read_stderr()
            raise load.psql.build_error(f"failed with exit code {load.psql.process.returncode}")
        if not self.has_export_ended():
            self._require_life(self.export.psql, self.source_end.moved_at, limits.export)
        if load is not None:
            self._require_life(load.psql, self.target_end.moved_at, limits.import_)

    def _require_life(self, psql: Psql, moved: float, timeout: float) -> None:
        psql.require_life(began=psql.started, moved=moved, timeout=timeout, stall=self._timeouts.stall)

    def read_idle_seconds(self, now: float) -> tuple[float, float]:
        """Return how long nothing has moved in export and import; 0 where nothing has to move."""
        importing = self.load is not None and self.load.psql.process.returncode is None
        return (
            0.0 if self.export_ended else now - self.source_end.moved_at,
            now - self.target_end.moved_at if importing else 0.0,
        )

    def close(self) -> None:
        """Give back all descriptors, once the import has ended and before the export is asked to.

        Blocked in writing, it would not hear.
        """
        if self.load is not None:
            self.load.close_data_pipe()
            self.load.close_commit_pipe()
        self.close_export_data()
        self.spool.close()

    def _feed_import(self, data: memoryview, now: float) -> int:
        """How many bytes the import took just now."""
        assert self.load is not None  # noqa: S101 -- there is one where bytes are given
        assert self.load.data_pipe is not None  # noqa: S101 -- it is ended only once all is given
        try:
            written = os.write(self.load.data_pipe, data)
        except BlockingIOError:
            self.target_end.rest(now)
            return 0
        except BrokenPipeError:
            self.target_end.resting_until = now + _IDLE_SECONDS  # it is dying: `check_limits` will find its exit code
            return 0
        self.target_end.add(data[:written])
        self.target_end.moved_at = now
        if written < len(data):
            self.target_end.rest(now)
        return written

    def _read_spool(self) -> bytes | memoryview:
        try:
            return self.spool.read_head()
        except OSError as error:
            raise StageError(
                f"import: the spool directory {self.spool.directory} does not give back what was written to it: "
                f"{error.strerror or error}; nothing was committed",
                stage="import",
                hint="see what ails that disk, or name another spool_dir",
            ) from error

    def _add_to_spool(self, data: memoryview) -> None:
        try:
            self.spool.append(data)
        except (SpoolFullError, OSError) as error:
            why = (
                "spool_limit is reached" if isinstance(error, SpoolFullError) else os.strerror(error.errno or errno.EIO)
            )
            raise StageError(
                f"export: no room for the stream in the spool directory {self.spool.directory}: {why}",
                stage="export",
                hint=_LIMIT_HINT if isinstance(error, SpoolFullError) else _DISK_HINT,
            ) from error


def _has_bytes(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
