"""Many small tables through one persistent psql pair, one table after the other.

For a table of a few rows, starting psql twice takes longer than all the rest. Here each side has one psql for all
tables. It reads from its stdin what is next, and reports after each table. It goes on only after success
(ON_ERROR_STOP), so the mark with the server's own row count stands for the exit code that is still to come.

The rows of a table wait in a file in memory until its export is proven; only then does its import begin, and its COMMIT
is sent only after both counts, sizes and digests agree. A table that fails ends its psql: close the pair then, and make
another one.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal

import xxhash

from airflow_provider_safecopy.abort import AbortSwitch, wait_for_input
from airflow_provider_safecopy.planning import copy_script
from airflow_provider_safecopy.planning.plan import CopyPlan
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.postgres.psql import (
    Psql,
    PsqlBinary,
    end_children,
    make_memory_file,
    make_nonce,
    open_pipe,
)
from airflow_provider_safecopy.report import StageReport
from airflow_provider_safecopy.spec import Timeouts
from airflow_provider_safecopy.transfer import load as loading
from airflow_provider_safecopy.transfer.export import Exported, require_meaning, require_snapshot
from airflow_provider_safecopy.transfer.load import Loaded

log = logging.getLogger(__name__)


@dataclass
class PersistentPsql:
    """One psql that reads its script from a pipe, and the state of its current table.

    `began` and `moved` are of the monotonic clock.
    """

    psql: Psql
    script: int
    backend: int = 0
    began: float = 0.0
    moved: float = 0.0

    def start_table(self, nonce: str, script: str) -> None:
        """Write the script of the next table, whose marks carry `nonce`."""
        self.psql.transcript = self.psql.transcript.with_nonce(nonce)
        self.began = self.moved = time.monotonic()
        self.write_script(script)

    def write_script(self, script: str) -> None:
        """Write more of the script."""
        try:
            os.write(self.script, script.encode())
        # A psql that has died is found by `require_life`, with its exit code.
        except BrokenPipeError:
            log.debug("%s: psql reads no more", self.psql.stage)

    def require_life(self, limits: Timeouts) -> None:
        """Raise if psql has ended, outlived the stage's timeout, or stalled."""
        psql = self.psql
        if psql.process.poll() is not None:
            psql.read_stderr()
            raise psql.build_error(f"failed with exit code {psql.process.returncode}")
        timeout = limits.export if psql.stage == "export" else limits.import_
        psql.require_life(began=self.began, moved=self.moved, timeout=timeout, stall=limits.stall)

    def let_end(self, deadline: float) -> None:
        """Wait until psql ends by itself, which it does at the end of its script, or until `deadline`."""
        while self.psql.process.poll() is None and time.monotonic() < deadline:
            wait_for_input(self.psql.stderr, 0.01)
            self.psql.read_stderr()


_TICK_MS = 100
_READ_BYTES = 256 * 1024
_EXIT_SECONDS = 1.0
_ASK_SECONDS = 1.0

StartGuard = Callable[[], AbstractContextManager[None]]
"""The context of the start of a psql.

It is entered when psql may connect and this process has no other thread.
"""


class TooLargeError(Exception):
    """The table has more bytes than a psql pair copies. Internal: it is copied by itself then."""


class PsqlPair:
    """A persistent psql pair for tables of at most `limit` bytes each, all as of `snapshot`.

    Main thread only; `close` always. `start_guards`, of export and import, are entered around the start of each psql.
    `on_move` is called whenever a byte or a table has moved. `on_silence` gets, once a second, the backend of an export
    that stands still. `on_idle`, of source and target, gets for how many seconds no byte has moved there.

    Raises `StageError` and its kinds, `VerifyError`, `AbortedError`, and `TooLargeError` for a table that is too large.
    """

    def __init__(
        self,
        binary: PsqlBinary,
        endpoints: tuple[Endpoint, Endpoint],
        *,
        snapshot: str,
        application_name: str,
        timeouts: Timeouts,
        limit: int,
        abort: AbortSwitch,
        start_guards: tuple[StartGuard, StartGuard],
        on_move: Callable[[], None],
        on_silence: Callable[[Sequence[int]], None],
        on_idle: tuple[Callable[[float], None], Callable[[float], None]],
    ) -> None:
        self._binary = binary
        self._source, self._target = endpoints
        self._snapshot = snapshot
        self._name = application_name
        self._timeouts = timeouts
        self._limit = limit
        self._abort = abort
        self._starting = start_guards
        self._moved = on_move
        self._waiting = on_silence
        self._look = on_idle
        self._data, self._into = open_pipe()
        os.set_blocking(self._data, False)
        self._file = make_memory_file("")
        self._export: PersistentPsql | None = None
        self._load: PersistentPsql | None = None
        self._asked: CopyPlan | None = None
        self._asked_why = 0.0
        self._size, self._digest = 0, xxhash.xxh3_128()

    def begin_export(self, plan: CopyPlan) -> None:
        """Have the export psql begin with a table before that is fetched.

        It may be one table ahead.
        """
        if self._asked is plan:
            return
        if self._export is None:
            self._export = self._start("export", inherit=self._into)
        nonce, output = make_nonce(), f"/proc/self/fd/{self._into}"
        query = copy_script.export_next(
            plan.build_copy_source(), format=plan.format, output=output, nonce=nonce, snapshot=self._snapshot
        )
        self._asked = plan
        self._export.start_table(nonce, query)

    def fetch(self, plan: CopyPlan) -> Exported:
        """Read the rows of a table, which wait here for `load`, and return their proof."""
        self.begin_export(plan)
        driver = self._export
        assert driver is not None  # noqa: S101 -- it has just been asked
        # What this process did meanwhile is no stall of psql.
        driver.began = driver.moved = time.monotonic()
        self._size, self._digest = 0, xxhash.xxh3_128()
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        self._wait(driver, "keeper", data=self._data)
        # All that it wrote before the mark is in the pipe by now.
        self._read()
        self._asked = None
        return self._prove_export(driver)

    def load(self, plan: CopyPlan, staging: TableName, exported: Exported) -> Loaded:
        """Create the staging table and load what was fetched. Commits once both sides agree."""
        if self._load is None:
            self._load = self._start("import", inherit=self._file)
        driver, nonce = self._load, make_nonce()
        columns = [(taken.name, taken.type) for _, taken in plan.pairs]
        data, seconds = f"/proc/self/fd/{self._file}", self._timeouts.import_
        driver.start_table(
            nonce,
            copy_script.load_next(
                staging,
                columns,
                format=plan.format,
                data=data,
                nonce=nonce,
                seconds=seconds,
                hidden_from=plan.hidden_from,
                lock_wait=self._timeouts.lock_wait,
            ),
        )
        self._wait(driver, "changed")
        size, digest = self._digest_file()
        rows = driver.psql.transcript.number("rows")
        loading.require_agreement(exported, rows=rows, size=size, digest=digest, prefix=f"{plan.target_name}: ")
        require_meaning(driver.psql)
        driver.write_script(copy_script.load_commit(nonce))
        self._wait(driver, "committed")
        seconds = time.monotonic() - driver.began
        report = StageReport("import", seconds, driver.psql.pid, rows=exported.rows, bytes=size)
        return Loaded(staging, exported.rows, size, digest, (report,))

    def close(self, *, at_once: bool = True) -> None:
        """End both psqls. A second call is harmless.

        Without `at_once` they get a moment to end by themselves.
        """
        drivers = [driver for driver in (self._load, self._export) if driver is not None]
        self._load = self._export = self._asked = None
        for driver in drivers:
            os.close(driver.script)
        for descriptor in (self._data, self._into, self._file):
            if descriptor >= 0:
                os.close(descriptor)
        self._data = self._into = self._file = -1
        deadline = time.monotonic() + _EXIT_SECONDS
        for driver in drivers:
            if not at_once:
                driver.let_end(deadline)
            # The import at once, so that it rolls back; the export may cancel its query first.
            end_children([driver.psql], at_once=at_once and driver.psql.stage == "import")

    @contextmanager
    def interrupt_on_abort(self) -> Iterator[None]:
        """Interrupt what both psqls do when the switch is thrown inside the block."""
        with self._abort.hang(self._interrupt):
            yield

    def _start(self, stage: Literal["export", "import"], *, inherit: int) -> PersistentPsql:
        nonce, (stdin, script) = make_nonce(), open_pipe()
        try:
            with self._starting[0 if stage == "export" else 1]():
                psql = Psql.start(
                    stage,
                    self._binary,
                    self._source if stage == "export" else self._target,
                    nonce=nonce,
                    arguments=["-f", "-"],
                    stdin=stdin,
                    inherit=[inherit],
                    application_name=self._name,
                    connect_timeout=self._timeouts.connect,
                )
        except BaseException:
            os.close(script)
            raise
        finally:
            os.close(stdin)
        log.info("%s started (PID %d): for one table after the other", stage, psql.pid)
        driver = PersistentPsql(psql, script)
        if stage == "export":
            seconds, lock_wait = self._timeouts.export, self._timeouts.lock_wait
            opening = copy_script.export_opening(
                snapshot=self._snapshot, nonce=nonce, seconds=seconds, lock_wait=lock_wait
            )
            driver.start_table(nonce, opening)
        else:
            driver.start_table(nonce, copy_script.load_opening(nonce))
        try:
            self._wait(driver, "backend")
            driver.backend = psql.transcript.number("backend") or 0
        except BaseException:
            os.close(script)
            end_children([psql])
            raise
        return driver

    def _wait(self, driver: PersistentPsql, mark: str, *, data: int | None = None) -> None:
        """Wait until psql has reported `mark`; meanwhile read what comes from `data`."""
        poll, psql = select.poll(), driver.psql
        for descriptor in (psql.stderr, self._abort.fileno(), *(() if data is None else (data,))):
            poll.register(descriptor, select.POLLIN)
        while not psql.transcript.values(mark):
            self._abort.check()
            ready = {descriptor for descriptor, _ in poll.poll(_TICK_MS)}
            if data in ready and self._read():
                driver.moved = time.monotonic()
            if psql.stderr in ready and not psql.read_stderr():
                # It is ending: a descriptor at its end would wake the poll at once, again and again.
                poll.unregister(psql.stderr)
            if not psql.transcript.values(mark):
                self._look[0 if psql.stage == "export" else 1](time.monotonic() - driver.moved)
                driver.require_life(self._timeouts)
                self._check_silence(driver)
        self._moved()

    def _check_silence(self, driver: PersistentPsql) -> None:
        """Have the lookout check what a silent export waits for."""
        now = time.monotonic()
        if driver.psql.stage == "export" and driver.backend and now - max(driver.moved, self._asked_why) > _ASK_SECONDS:
            self._asked_why = now
            self._waiting([driver.backend])

    def _read(self) -> bool:
        """Read all that is in the pipe now; return whether there was anything."""
        before = self._size
        while True:
            try:
                data = os.read(self._data, _READ_BYTES)
            except BlockingIOError:
                break
            self._size += len(data)
            if self._size > self._limit:
                raise TooLargeError
            self._digest.update(data)
            os.write(self._file, data)
        if self._size > before:
            self._moved()
        return self._size > before

    def _digest_file(self) -> tuple[int, str]:
        """Return the size and the digest of what the import was given."""
        size, digest = 0, xxhash.xxh3_128()
        # Read from the very file that psql read: what this process wrote proves nothing of it.
        while data := os.pread(self._file, _READ_BYTES, size):
            digest.update(data)
            size += len(data)
        return size, digest.hexdigest()

    def _prove_export(self, driver: PersistentPsql) -> Exported:
        psql, size = driver.psql, self._size
        require_meaning(psql)
        require_snapshot(psql)
        rows = psql.transcript.number("rows")
        if rows is None:
            raise psql.build_error("did not give the server's row count", retryable=True)
        # Even a row without columns is a line, or two bytes.
        if rows > 0 and size == 0:
            raise psql.build_error(f"reports {rows} rows, and not a single byte came", retryable=True)
        report = StageReport("export", time.monotonic() - driver.began, psql.pid, rows=rows, bytes=size)
        return Exported(rows, size, self._digest.hexdigest(), (report,))

    def _interrupt(self) -> None:
        for driver in (self._export, self._load):
            if driver is not None:
                driver.psql.interrupt()
