"""The stream: bytes from the export psql into the import psql, lane by lane, watched all the while.

Sequential and chunked differ in one thing, when the imports start. In both, the end of the stream is withheld from
every import until every export is proven, and COMMIT from each until all row counts agree.
One thread, one poll loop: nothing here waits for anything it could not be woken from.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Sequence

from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.transfer import export as exporting
from airflow_provider_safecopy.transfer import load as loading
from airflow_provider_safecopy.transfer.export import Exported
from airflow_provider_safecopy.transfer.lane import Pipe
from airflow_provider_safecopy.transfer.load import Loaded
from airflow_provider_safecopy.transfer.model import Progress, Stage
from airflow_provider_safecopy.transfer.psql import Psql, end_children
from airflow_provider_safecopy.transfer.wal import WalFlush

_TICK_SECONDS = 0.1
_REPORT_SECONDS = 0.2
_ASK_SECONDS = 1.0
# A child whose stderr has ended is gone in a moment: nothing else would tell.
_DYING_SECONDS = 0.001


class Relay:
    """One copy's lanes. `run` once, `close` always; `on_export` is called once the source may be let go.

    `on_move` is told, all the time, how many bytes have passed on both sides together. `wal` is settled by then. `on_idle`, of source and
    target, is told for how long no byte has moved there.
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
        """Carry everything over. Raises `StageError` and its kinds, `VerifyError`, `AbortedError`."""
        with self._abort.hang(self._interrupt):
            if self._overlapping:
                self._start_loads()
            self._report_progress()
            self._pump(lambda: all(lane.has_export_ended() for lane in self._lanes))
            exported = [
                exporting.prove(lane.export, size=lane.source_end.size, digest=lane.source_end.digest.hexdigest())
                for lane in self._lanes
            ]
            self._proven = True
            self._on_export()
            self._report_progress()
            self._start_loads()
            loaded = self._finish(exported)
            return Exported.together(exported), Loaded.from_parts(loaded)

    def close(self) -> None:
        """End what still runs, the imports first and at once, so that they roll back; give back all descriptors."""
        end_children([lane.load.psql for lane in self._lanes if lane.load], at_once=True)
        for lane in self._lanes:
            lane.close()
        end_children([lane.export.psql for lane in self._lanes])
        self._wal.wait_for_answer()

    def _finish(self, exported: list[Exported]) -> list[Loaded]:
        self._pump(lambda: not any(lane.spool for lane in self._lanes))
        loads = [load for lane in self._lanes if (load := lane.load)]
        for lane, load in zip(self._lanes, loads, strict=True):
            load.close_data_pipe()
            lane.target_end.moved_at = time.monotonic()
        self._pump(lambda: all(load.psql.transcript.values("changed") for load in loads))
        for lane, load, proof in zip(self._lanes, loads, exported, strict=True):
            rows, digest = load.psql.transcript.number("rows"), lane.target_end.digest.hexdigest()
            loading.require_agreement(proof, rows=rows, size=lane.target_end.size, digest=digest)
            exporting.require_meaning(load.psql)
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
        """Once a second, have the lookout check what silent exports wait for."""
        if now - self._waited < _ASK_SECONDS:
            return
        self._waited = now
        if readers := [backend for lane in self._lanes if (backend := lane.find_silent_backend(now - _ASK_SECONDS))]:
            self._waiting(readers)

    def _build_handlers(self, now: float) -> dict[int, tuple[int, Callable[[], None]]]:
        """What to wait for now, and what to do about it."""
        waiting: dict[int, tuple[int, Callable[[], None]]] = {self._abort.fileno(): (select.POLLIN, self._abort.check)}
        for psql in self._list_children():
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
        """Milliseconds to wait at most."""
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
