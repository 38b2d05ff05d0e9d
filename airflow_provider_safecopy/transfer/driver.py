"""A driver: one psql that stays, reads its script from a pipe, and is told of one table after the other."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass

from airflow_provider_safecopy.abort import wait_for_input
from airflow_provider_safecopy.transfer.psql import Psql
from airflow_provider_safecopy.transfer.timeouts import Timeouts

log = logging.getLogger(__name__)


@dataclass
class PersistentPsql:
    """One psql that reads its script from a pipe, and what is known of the table it is at."""

    psql: Psql
    script: int
    backend: int = 0
    began: float = 0.0
    moved: float = 0.0

    def start_table(self, nonce: str, script: str) -> None:
        """Give it the script of the next table, whose marks carry `nonce`."""
        self.psql.transcript = self.psql.transcript.with_nonce(nonce)
        self.began = self.moved = time.monotonic()
        self.write_script(script)

    def write_script(self, script: str) -> None:
        """Give it some more. One that has died is found out by who waits for it."""
        try:
            os.write(self.script, script.encode())
        except BrokenPipeError:
            log.debug("%s: psql reads no more", self.psql.stage)

    def require_life(self, limits: Timeouts) -> None:
        """Raise once it has ended, outlived the stage's timeout, or stalled."""
        psql = self.psql
        if psql.process.poll() is not None:
            psql.read_stderr()
            raise psql.build_error(f"failed with exit code {psql.process.returncode}")
        timeout = limits.export if psql.stage == "export" else limits.import_
        psql.require_life(began=self.began, moved=self.moved, timeout=timeout, stall=limits.stall)

    def let_end(self, deadline: float) -> None:
        """Its script has ended, and so will it."""
        while self.psql.process.poll() is None and time.monotonic() < deadline:
            wait_for_input(self.psql.stderr, 0.01)
            self.psql.read_stderr()
