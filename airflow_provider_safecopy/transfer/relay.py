"""The relay of bytes from export to import: pipes side by side, and when each may end or commit.

Sequential and chunked differ in one thing: when the imports start. In both, the end of the data is withheld from every
import until every export is proven, and COMMIT from each until all row counts agree.

There is one thread and one poll loop: nothing here waits for anything it could not be woken from.

A pipe is one export, the spool behind it, and the import it feeds. A copy has one, or several side by side.

Bytes that the import takes at once are passed on while they are warm. What it does not take waits in the spool, and
while anything waits no more is read, unless the source is to be read ahead: see `flow_control`.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter

import xxhash

from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.errors import StageError
from airflow_provider_safecopy.postgres.psql import PIPE_BYTES, Psql, end_children
from airflow_provider_safecopy.spec import MiB, Progress, Stage, Timeouts
from airflow_provider_safecopy.transfer import export as exporting
from airflow_provider_safecopy.transfer import load as loading
from airflow_provider_safecopy.transfer.export import Export, Exported
from airflow_provider_safecopy.transfer.flow_control import RateLimit, ReadAhead
from airflow_provider_safecopy.transfer.load import Load, Loaded
from airflow_provider_safecopy.transfer.spool import READ_BYTES, Spool, SpoolFullError
from airflow_provider_safecopy.transfer.wal_flush import WalFlush

# psql writes 4 KiB at a time, and reading each at once costs a wake-up apiece: after a small piece the pipe gets time
# to fill, or to empty, by half.
_SMALL_BYTES = 64 * 1024
_REST_SECONDS = (0.001, 0.003)
_IDLE_SECONDS = 0.01
_LIMIT_HINT = "raise spool_limit, or use transfer=chunked, which waits for the import instead"
_DISK_HINT = "fix that, name another spool_dir, or limit with spool_limit what transfer=chunked may take of it"
# After so many bytes the other descriptors are looked at again: a fast pipe must not keep the others, or an abort,
# waiting.
_MOVE_BYTES = 4 * MiB


@dataclass
class PipeEnd:
    """One end of a pipe: what went through it, and when a byte last moved while it could.

    Times are of the monotonic clock.
    """

    digest: xxhash.xxh3_128
    rested_at: float
    size: int = 0
    moved_at: float = 0.0
    resting_until: float = 0.0
    _rested_size: int = 0

    def add(self, data: memoryview) -> None:
        """Count and digest `data`."""
        self.digest.update(data)
        self.size += len(data)

    def rest(self, now: float) -> None:
        """Let what psql moves gather, for as long as half a pipe took since the last rest."""
        half = PIPE_BYTES / 2 * (now - self.rested_at) / max(1, self.size - self._rested_size)
        self.rested_at, self._rested_size = now, self.size
        # No rest that is shorter than the shortest: psql would find the pipe full, and stand still.
        if half >= _REST_SECONDS[0]:
            self.resting_until = now + min(half, _REST_SECONDS[1])


class Pipe:
    """The bytes of one export on their way into one import.

    The relay polls for what a pipe waits for.
    """

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
        """Start the import, unless it has started."""
        if self.load is None:
            self.load = self._begin_load()
            self.target_end.rested_at = self.target_end.moved_at = time.monotonic()

    def can_read(self, now: float) -> bool:
        """Return whether the export may be read, as soon as there is something to read."""
        if self.export_ended or self.source_end.resting_until > now:
            return False
        behind = self.load is not None and bool(self.spool)
        if behind and (
            self.spool.is_full or not self._pace.can_read_ahead(self.source_end.size, self.target_end.size, now)
        ):
            # This process does not read: that is no stall of the export.
            self.source_end.moved_at = now
            return False
        if not self._throttle.count_allowed(READ_BYTES, now):
            # Nor is it one that `rate_limit` holds the reading back.
            self.source_end.moved_at = now
            return False
        return True

    def can_write(self, now: float) -> bool:
        """Return whether the import may be fed, as soon as it takes something."""
        if not self.spool:
            self.target_end.moved_at = (
                self.target_end.moved_at if self.export_ended else max(self.target_end.moved_at, now)
            )
            return False
        return self.load is not None and self.load.data_pipe is not None and self.target_end.resting_until <= now

    def compute_rest(self, now: float) -> float:
        """Return the seconds until there is something to do again; 0 if that is not known."""
        throttled = not self.export_ended and not self._throttle.count_allowed(READ_BYTES, now)
        waits = [side.resting_until - now for side in (self.source_end, self.target_end) if side.resting_until > now]
        return min([*waits, *([_IDLE_SECONDS] if throttled else [])], default=0.0)

    def read(self) -> None:
        """Take what the export has, and pass it on at once if nothing waits."""
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
            # Passed on at once, while it is still warm in the processor.
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
        """Close the export's data: no more of it is read."""
        if not self.export_ended:
            os.close(self.export.data)
            self.export_ended = True

    def has_export_ended(self) -> bool:
        """Return whether the export's psql has ended, and all it wrote is read."""
        if not self.export_ended or self.export.psql.process.poll() is None:
            return False
        self.export.psql.read_stderr()
        return True

    def find_silent_backend(self, since: float) -> int:
        """Return the export's backend if it has sent no byte since `since` and has not ended; else 0.

        Unread bytes count as sent: the import or `rate_limit` may keep them waiting.
        """
        if self.export_ended or self._heard > since or _has_bytes(self.export.data):
            return 0
        return self.export.psql.transcript.number("backend") or 0

    def check_limits(self) -> None:
        """Raise if a stage has outlived its timeout, stalled, or ended before its time."""
        load, limits = self.load, self._timeouts
        if load is not None and load.commit_pipe is not None and load.psql.process.poll() is not None:
            load.psql.read_stderr()
            raise load.psql.build_error(f"failed with exit code {load.psql.process.returncode}")
        working = [] if self.has_export_ended() else [(self.source_end.moved_at, self.export.psql, limits.export)]
        if load is not None:
            working.append((self.target_end.moved_at, load.psql, limits.import_))
        # One that stands still soon stops the other: the first of them is to blame, however late we look.
        for moved, psql, timeout in sorted(working, key=itemgetter(0)):
            psql.require_life(began=psql.started, moved=moved, timeout=timeout, stall=limits.stall)

    def read_idle_seconds(self, now: float) -> tuple[float, float]:
        """Return for how long nothing has moved in export and import; 0 where nothing has to move."""
        importing = self.load is not None and self.load.psql.process.returncode is None
        return (
            0.0 if self.export_ended else now - self.source_end.moved_at,
            now - self.target_end.moved_at if importing else 0.0,
        )

    def close(self) -> None:
        """Close all descriptors, once the import has ended and before the export is asked to end."""
        if self.load is not None:
            self.load.close_data_pipe()
            self.load.close_commit_pipe()
        # An export that is blocked in writing would not notice that it is asked to end.
        self.close_export_data()
        self.spool.close()

    def _feed_import(self, data: memoryview, now: float) -> int:
        """Write to the import what it takes now; return how many bytes it took."""
        assert self.load is not None  # noqa: S101 -- there is one where bytes are given
        assert self.load.data_pipe is not None  # noqa: S101 -- it is ended only once all is given
        try:
            written = os.write(self.load.data_pipe, data)
        except BlockingIOError:
            self.target_end.rest(now)
            return 0
        except BrokenPipeError:
            # It is dying: `check_limits` will find its exit code.
            self.target_end.resting_until = now + _IDLE_SECONDS
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
                hint="check that disk, or name another spool_dir",
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


_TICK_SECONDS = 0.1
_REPORT_SECONDS = 0.2
_ASK_SECONDS = 1.0
# A child whose stderr has ended is gone in a moment, and no descriptor would tell.
_DYING_SECONDS = 0.001


class Relay:
    """The pipes of one copy. Call `run` once, and `close` always.

    `on_export` is called once the source may be let go. `on_move` gets, all the time, how many bytes have passed at
    both ends together. `on_silence` gets the backends of exports that send nothing, once a second. `on_idle`, of source
    and target, gets for how many seconds no byte has moved there. After `close`, `wal` waits for no answer.
    """

    def __init__(
        self,
        pipes: Sequence[Pipe],
        *,
        overlaps: bool,
        abort: AbortSwitch,
        wal: WalFlush,
        on_progress: Callable[[Progress], None],
        on_export: Callable[[], None] = lambda: None,
        on_move: Callable[[int], None] = lambda _: None,
        on_silence: Callable[[Sequence[int]], None] = lambda _: None,
        on_idle: tuple[Callable[[float], None], Callable[[float], None]] = (lambda _: None, lambda _: None),
    ) -> None:
        self._lanes = pipes
        self._overlapping = overlaps
        self._abort = abort
        self._wal = wal
        self._report = on_progress
        self._on_export = on_export
        self._moved = on_move
        self._waiting = on_silence
        self._waited = time.monotonic()
        self._look = on_idle
        self._told: tuple[Stage | None, float] = None, 0.0
        self._proven = False
        self._silent: set[int] = set()

    def run(self) -> tuple[Exported, Loaded]:
        """Move everything from the exports into committed staging, and return the proofs.

        Raises `StageError` and its kinds, `VerifyError`, `AbortedError`.
        """
        with self._abort.hang(self._interrupt):
            if self._overlapping:
                self._start_loads()
            self._report_progress()
            self._pump(lambda: all(lane.has_export_ended() for lane in self._lanes))
            exported = [
                exporting.prove(lane.export, size=lane.source_end.size, digest=lane.source_end.digest.hexdigest())
                for lane in self._lanes
            ]
            # No export needs the source any more: its snapshot may end while the imports go on.
            self._proven = True
            self._on_export()
            self._report_progress()
            self._start_loads()
            loaded = self._finish(exported)
            return Exported.together(exported), Loaded.from_parts(loaded)

    def close(self) -> None:
        """End what still runs, and close all descriptors."""
        # The imports first and at once, so that they roll back.
        end_children([lane.load.psql for lane in self._lanes if lane.load], at_once=True)
        for lane in self._lanes:
            lane.close()
        end_children([lane.export.psql for lane in self._lanes])
        self._wal.wait_for_answer()

    def _finish(self, exported: list[Exported]) -> list[Loaded]:
        self._pump(lambda: not any(lane.spool for lane in self._lanes))
        loads = [load for lane in self._lanes if (load := lane.load)]
        # Only now, with every export proven, may an import see the end of its data.
        for lane, load in zip(self._lanes, loads, strict=True):
            load.close_data_pipe()
            lane.target_end.moved_at = time.monotonic()
        self._pump(lambda: all(load.psql.transcript.values("changed") for load in loads))
        for lane, load, proof in zip(self._lanes, loads, exported, strict=True):
            rows, digest = load.psql.transcript.number("rows"), lane.target_end.digest.hexdigest()
            loading.require_agreement(proof, rows=rows, size=lane.target_end.size, digest=digest)
            exporting.require_meaning(load.psql)
        # No import commits before the rows of all pipes agree.
        for load in loads:
            load.commit()
        self._pump(lambda: all(load.psql.process.poll() is not None for load in loads))
        for load in loads:
            load.psql.read_stderr()
        return [
            loading.prove(load, rows=proof.rows, size=lane.target_end.size, digest=lane.target_end.digest.hexdigest())
            for lane, load, proof in zip(self._lanes, loads, exported, strict=True)
        ]

    def _start_loads(self) -> None:
        for lane in self._lanes:
            lane.start_load()

    def _pump(self, is_done: Callable[[], bool]) -> None:
        while not is_done():
            self._abort.check()
            now = time.monotonic()
            for lane in self._lanes:
                lane.check_limits()
            handlers = self._build_handlers(now)
            poll = select.poll()
            for descriptor, (events, _) in handlers.items():
                poll.register(descriptor, events)
            for descriptor, _ in poll.poll(self._compute_timeout(now)):
                handlers[descriptor][1]()
            self._check_silence(now)
            self._report_progress()
            self._report_idle(now)

    def _report_idle(self, now: float) -> None:
        still = [lane.read_idle_seconds(now) for lane in self._lanes]
        for look, seconds in zip(self._look, zip(*still, strict=True), strict=True):
            look(max(seconds))

    def _check_silence(self, now: float) -> None:
        """Have the lookout check, once a second, what silent exports wait for."""
        if now - self._waited < _ASK_SECONDS:
            return
        self._waited = now
        if readers := [backend for lane in self._lanes if (backend := lane.find_silent_backend(now - _ASK_SECONDS))]:
            self._waiting(readers)

    def _build_handlers(self, now: float) -> dict[int, tuple[int, Callable[[], None]]]:
        """Return the descriptors to wait for now, and what to do about each."""
        waiting: dict[int, tuple[int, Callable[[], None]]] = {self._abort.fileno(): (select.POLLIN, self._abort.check)}
        for psql in self._list_children():
            # A descriptor at its end would wake the poll at once, again and again.
            if psql.stderr not in self._silent:
                waiting[psql.stderr] = (select.POLLIN, lambda psql=psql: self._read_stderr(psql))  # type: ignore[misc]
        for lane in self._lanes:
            if lane.can_read(now):
                waiting[lane.export.data] = (select.POLLIN, lane.read)
            if lane.can_write(now) and (load := lane.load) and load.data_pipe is not None:
                waiting[load.data_pipe] = (select.POLLOUT, lane.write)
        if (flushing := self._wal.answer_descriptor) is not None:
            waiting[flushing] = (select.POLLIN, self._wal.read_answer)
        return waiting

    def _compute_timeout(self, now: float) -> int:
        """Return the most milliseconds to wait."""
        rests = [rest for lane in self._lanes if (rest := lane.compute_rest(now)) > 0]
        dying = any(psql.stderr in self._silent and psql.process.returncode is None for psql in self._list_children())
        least = min([*rests, *([_DYING_SECONDS] if dying else [])], default=_TICK_SECONDS)
        return max(1, round(least * 1000))

    def _list_children(self) -> list[Psql]:
        return [psql for lane in self._lanes for psql in lane.children]

    def _read_stderr(self, psql: Psql) -> None:
        if not psql.read_stderr():
            self._silent.add(psql.stderr)

    def _report_progress(self) -> None:
        """Report progress: at once when the stage has changed, else a few times a second."""
        read, taken = (
            sum(sizes)
            for sizes in zip(*((lane.source_end.size, lane.target_end.size) for lane in self._lanes), strict=True)
        )
        self._moved(read + taken)
        self._wal.request_flush(taken)
        now = time.monotonic()
        stage: Stage = "import" if self._proven else "export"
        if stage == self._told[0] and now - self._told[1] < _REPORT_SECONDS:
            return
        self._told = stage, now
        self._report(Progress(stage, taken if self._proven else read))

    def _interrupt(self) -> None:
        for psql in self._list_children():
            psql.interrupt()
