"""One `safecopy copy --json`, as a process of its own: how it is started, how it ended, what it told."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from airflow_provider_safecopy.demo.servers import installations
from tests.soak.ground import Side
from tests.support.database import Database

Pair = Mapping[Side, Database]
# For a run that nothing befalls, on a machine that may be busy: of an option that is given twice the last counts.
PATIENT = ("--connect-timeout", "30", "--stall-timeout", "30", "--verify-timeout", "60", "--publish-timeout", "60")
_COMMAND = (sys.executable, "-m", "airflow_provider_safecopy.cli", "copy", "--json")


@dataclass(frozen=True)
class Run:
    """A started process. `out` and `err` are files: nobody need read while it runs."""

    process: subprocess.Popen[bytes] = field(repr=False)
    out: Path
    err: Path

    @classmethod
    def start(cls, command: Sequence[str], environment: Mapping[str, str], directory: Path) -> Run:
        """With what it says kept in `directory`, as long as that is there."""
        name = secrets.token_hex(6)
        out, err = directory / f"{name}.out", directory / f"{name}.err"
        with out.open("wb") as told, err.open("wb") as said:
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=said,
                process_group=0,  # Ctrl-C ends the soak, which then ends what it has started
            )
        return cls(process, out, err)

    @classmethod
    def copy(cls, pair: Pair, words: Sequence[str], directory: Path) -> Run:
        """`safecopy copy --json` between two databases."""
        conninfos = {f"SAFECOPY_{side.upper()}": database.conninfo for side, database in pair.items()}
        return cls.start([*_COMMAND, *words], environment() | conninfos, directory)

    @cached_property
    def told(self) -> Any:
        """The one object on stdout once it has ended; None where there is none, or something else."""
        try:
            return json.loads(self.out.read_bytes())
        except ValueError:
            return None

    @property
    def said(self) -> str:
        """The end of stderr."""
        return self.err.read_text("utf-8", "replace")[-2000:].strip()

    def kill(self) -> None:
        """End it, if it has not ended."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def faults(self) -> list[str]:
        """What is wrong with how it ended, whatever came of it."""
        code = self.process.returncode
        if code < 0:
            return []
        found = [f"exit code {code} with a traceback: {self.said}"] if "Traceback (most recent" in self.said else []
        if not isinstance(self.told, dict):
            return [*found, f"exit code {code} without one JSON object on stdout: {self.said}"]
        error = self.told.get("error")
        if code and not (isinstance(error, dict) and error.get("message") and error.get("type")):
            found.append(f"exit code {code} without an error that says what happened: {self.told}")
        return found


def environment() -> dict[str, str]:
    """A person's own, without what would decide something here."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return {**kept, "LC_ALL": "C.UTF-8", "SAFECOPY_PSQL": str(installations()[0].psql)}
