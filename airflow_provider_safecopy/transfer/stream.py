"""The stream: bytes from the export psql through the spool into the import psql, watched all the while.

Sequential and chunked differ in one thing, when the import starts. In both, the end of the stream is
withheld from the import until the export is proven, and its COMMIT until both row counts agree.
One thread, one poll loop: nothing here waits for anything it could not be woken from.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import xxhash

from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.errors import StageError, StageTimeoutError, StalledError, VerifyError
from airflow_provider_safecopy.transfer import export as exporting
from airflow_provider_safecopy.transfer import load as loading
from airflow_provider_safecopy.transfer.export import Export, Exported
from airflow_provider_safecopy.transfer.load import Load, Loaded
from airflow_provider_safecopy.transfer.model import Progress, Stage
from airflow_provider_safecopy.transfer.psql import Psql, end
from airflow_provider_safecopy.transfer.spool import READ_BYTES, Spool, SpoolFullError
from airflow_provider_safecopy.transfer.timeouts import Timeouts

_TICK_MS = 100
# psql writes 4 KiB at a time. Reading each at once costs a wake-up apiece; a millisecond lets them gather in
# the 1 MiB pipe, which a gigabyte per second would just fill.
_GATHER_BYTES = 64 * 1024
_GATHER_SECONDS = 0.001
_REPORT_SECONDS = 0.2


@dataclass
class _Side:
    """One end of the stream: what went through it, and when a byte last moved while it could."""

    digest: xxhash.xxh3_128
    size: int = 0
    moved: float = 0.0
    resting: float = 0.0

    def passed(self, data: bytes | memoryview) -> None:
        now = time.monotonic()
        self.digest.update(data)
        self.size += len(data)
        self.moved = now
        if len(data) < _GATHER_BYTES:
            self.resting = now + _GATHER_SECONDS


class Stream:
    """One copy's stream. `run` once, `close` always; `on_export` is called once the source may be let go.

    `moved` is told, all the time, how many bytes have passed on both sides together.
    """

    def __init__(
        self,
        export: Export,
        begin_load: Callable[[], Load],
        *,
        overlapping: bool,
        spool: Spool,
        timeouts: Timeouts,
        abort: AbortSwitch,
        report: Callable[[Progress], None],
        on_export: Callable[[], None] = lambda: None,
        moved: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._export = export
        self._load: Load | None = None
        self._begin_load = begin_load
        self._overlapping = overlapping
        self._spool = spool
        self._timeouts = timeouts
        self._abort = abort
        self._report = report
        self._on_export = on_export
        self._moved = moved
        self._told: tuple[Stage | None, float] = None, 0.0
        self._proven = False
        self._export_ended = False
        self._silent: set[int] = set()
        self._out = _Side(xxhash.xxh3_128(), moved=time.monotonic())
        self._in = _Side(xxhash.xxh3_128())

    def run(self) -> tuple[Exported, Loaded]:
        """Carry everything over. Raises `StageError` and its kinds, `VerifyError`, `AbortedError`."""
        with self._abort.hang(self._interrupt):
            if self._overlapping:
                self._start_load()
            self._tell()
            self._pump(self._export_is_over)
            size, digest = self._out.size, self._out.digest.hexdigest()
            exported = exporting.prove(self._export, size=size, digest=digest)
            self._proven = True
            self._on_export()
            self._tell()
            if self._load is None:
                self._start_load()
            return exported, self._finish(exported)

    def close(self) -> None:
        """End what still runs, the import first and at once, so that it rolls back; give back all descriptors."""
        if self._load is not None:
            end([self._load.psql], at_once=True)
            self._load.end_data()
            self._load.close_gate()
        if not self._export_ended:
            # Before its psql is asked to end: blocked in writing, it would not hear.
            self._end_export_data()
        end([self._export.psql])
        self._spool.close()

    def _finish(self, exported: Exported) -> Loaded:
        load = self._load
        assert load is not None  # noqa: S101 -- run() has started it
        self._pump(lambda: not self._spool)
        load.end_data()
        self._in.moved = time.monotonic()
        self._pump(lambda: bool(load.psql.transcript.values("rows")))
        self._agree(load, exported)
        load.commit()
        self._pump(lambda: load.psql.process.poll() is not None)
        load.psql.listen()
        return loading.prove(load, rows=exported.rows, size=self._in.size, digest=self._in.digest.hexdigest())

    def _agree(self, load: Load, exported: Exported) -> None:
        imported = load.psql.transcript.number("rows")
        proofs: dict[str, dict[str, Any]] = {
            "rows": {"exported": exported.rows, "imported": imported},
            "bytes": {"exported": exported.bytes, "imported": self._in.size},
            "digest": {"exported": exported.digest, "imported": self._in.digest.hexdigest()},
        }
        for proof, sides in proofs.items():
            if sides["exported"] != sides["imported"]:
                raise VerifyError(
                    f"{proof} differ: {sides['exported']} exported, {sides['imported']} imported; nothing was committed",
                    proofs=proofs,
                    retryable=True,
                )

    def _start_load(self) -> None:
        self._load = self._begin_load()
        self._in.moved = time.monotonic()

    def _export_is_over(self) -> bool:
        if not self._export_ended or self._export.psql.process.poll() is None:
            return False
        self._export.psql.listen()
        return True

    def _pump(self, until: Callable[[], bool]) -> None:
        while not until():
            self._abort.check()
            self._watch()
            handlers = self._handlers()
            poll = select.poll()
            for descriptor, (events, _) in handlers.items():
                poll.register(descriptor, events)
            for descriptor, _ in poll.poll(self._patience()):
                handlers[descriptor][1]()
            self._tell()

    def _handlers(self) -> dict[int, tuple[int, Callable[[], None]]]:
        """What to wait for now, and what to do about it."""
        now = time.monotonic()
        waiting: dict[int, tuple[int, Callable[[], None]]] = {self._abort.fileno(): (select.POLLIN, self._abort.check)}
        for psql in self._children():
            if psql.stderr not in self._silent:
                waiting[psql.stderr] = (select.POLLIN, lambda psql=psql: self._listen(psql))  # type: ignore[misc]
        if self._spool.full and self._load is not None:
            self._out.moved = now  # it is we who do not read: no stall of the export's
        elif not self._export_ended and self._out.resting <= now:
            waiting[self._export.data] = (select.POLLIN, self._read)
        if not self._spool:
            self._in.moved = max(self._in.moved, now) if not self._export_ended else self._in.moved
        elif self._load and self._load.data is not None and self._in.resting <= now:
            waiting[self._load.data] = (select.POLLOUT, self._write)
        return waiting

    def _patience(self) -> int:
        now = time.monotonic()
        dying = any(psql.stderr in self._silent and psql.process.returncode is None for psql in self._children())
        if dying or self._out.resting > now or self._in.resting > now:
            return 1
        return _TICK_MS

    def _children(self) -> list[Psql]:
        return [self._export.psql, *([self._load.psql] if self._load else [])]

    def _listen(self, psql: Psql) -> None:
        if not psql.listen():
            self._silent.add(psql.stderr)

    def _read(self) -> None:
        data = os.read(self._export.data, READ_BYTES)
        if not data:
            self._end_export_data()
            return
        self._out.passed(data)
        try:
            self._spool.put(data)
        except (SpoolFullError, OSError) as error:
            why = (
                "spool_limit is reached" if isinstance(error, SpoolFullError) else os.strerror(error.errno or errno.EIO)
            )
            raise StageError(
                f"export: no room for the stream in the spool directory {self._spool.directory}: {why}",
                stage="export",
                hint="raise spool_limit, name another spool_dir, or use transfer=chunked",
            ) from error

    def _write(self) -> None:
        assert self._load is not None  # noqa: S101 -- it is what we were woken for
        assert self._load.data is not None  # noqa: S101 -- likewise
        try:
            head = self._spool.head()
            written = os.write(self._load.data, head)
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._in.resting = time.monotonic() + 0.01  # it is dying: _watch will find its exit code
            return
        self._in.passed(memoryview(head)[:written])
        self._spool.advance(written)

    def _end_export_data(self) -> None:
        os.close(self._export.data)
        self._export_ended = True

    def _watch(self) -> None:
        """Raise once a stage has outlived its timeout, stalled, or died before its time."""
        now = time.monotonic()
        load = self._load
        if load is not None and load.gate is not None and load.psql.process.poll() is not None:
            load.psql.listen()
            raise load.psql.failure(f"failed with exit code {load.psql.process.returncode}")
        limits = self._timeouts
        if not self._export_is_over():
            _demand_life(self._export.psql, now, self._out.moved, limits.export, limits.stall)
        if load is not None:
            _demand_life(load.psql, now, self._in.moved, limits.import_, limits.stall)

    def _tell(self) -> None:
        """Report progress: at once when the stage has changed, else a few times a second."""
        self._moved(self._out.size + self._in.size)
        now = time.monotonic()
        stage: Stage = "import" if self._proven else "export"
        if stage == self._told[0] and now - self._told[1] < _REPORT_SECONDS:
            return
        self._told = stage, now
        self._report(Progress(stage, (self._in if self._proven else self._out).size))

    def _interrupt(self) -> None:
        for psql in self._children():
            psql.interrupt()


def _demand_life(psql: Psql, now: float, moved: float, timeout: float, stall: float) -> None:
    if now - psql.started > timeout:
        raise psql.failure(
            f"took longer than its timeout of {timeout:g} s",
            kind=StageTimeoutError,
            hint=f"raise {psql.stage}_timeout, or see why it is slow",
            retryable=True,
        )
    if now - moved > stall:
        raise psql.failure(
            f"stalled: no byte moved for {stall:g} s",
            kind=StalledError,
            hint="see what the server waits for, or raise stall_timeout",
            retryable=True,
        )
