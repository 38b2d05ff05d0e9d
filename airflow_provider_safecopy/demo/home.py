"""Where an embedded server lives, and whom it runs as: a temporary directory, and a user with fewer rights than root."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from airflow_provider_safecopy.errors import SafeCopyError

# Where the server's user may be let in, when the usual temporary directory is closed, or too deep for a socket's path.
_TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - candidates for mkdtemp, never used as they are
_SOCKET_PATH_BYTES = 107
# Waits for this process's end (its side of the pipe closes), ends the server if there is one, removes all.
_GUARD = """
read -r _
if read -r pid 2>/dev/null < "$1/data/postmaster.pid"; then
  kill -INT "$pid"; n=0
  while kill -0 "$pid" 2>/dev/null && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done
  kill -KILL "$pid" 2>/dev/null
fi
cd / && exec rm -rf "$1"
"""


class _Options(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True)
class Account:
    """Whom the server runs as: ourselves, or a user with fewer rights than root."""

    user: int
    group: int

    @classmethod
    def of_servers(cls) -> Account:
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid())
        for name in ("postgres", "nobody"):
            with suppress(KeyError):
                entry = pwd.getpwnam(name)
                return cls(entry.pw_uid, entry.pw_gid)
        raise SafeCopyError(
            "PostgreSQL refuses to run as root, and there is no user postgres or nobody",
            hint="run this as an ordinary user",
        )

    def options(self) -> _Options:
        """Return what `subprocess` needs to become this account."""
        if self.user == os.geteuid():
            return {}
        return {"user": self.user, "group": self.group, "extra_groups": []}

    def may(self, *command: str | Path) -> bool:
        """Return whether a command succeeds when this account runs it."""
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, check=False, cwd="/", **self.options()
            )
        except OSError:
            return False
        return done.returncode == 0


@dataclass(frozen=True)
class Home:
    """A temporary directory that a guard removes when we close it, or are no more."""

    path: Path
    account: Account
    guard: subprocess.Popen[bytes] = field(repr=False)

    @classmethod
    def open(cls, preferred: str | None = None) -> Home:
        """A directory of the servers' account, in the first place where it may enter and write, `preferred` tried first."""
        account = Account.of_servers()
        for place in dict.fromkeys((preferred or tempfile.gettempdir(), tempfile.gettempdir(), *_TEMPORARY)):
            deepest = os.fsencode(f"{place}/safecopy-12345678/.s.PGSQL.65535")
            if not Path(place).is_dir() or len(deepest) > _SOCKET_PATH_BYTES:
                continue
            path = Path(tempfile.mkdtemp(prefix="safecopy-", dir=place))
            os.chown(path, account.user, account.group)
            if account.may("/bin/sh", "-c", ': > "$1/log"', "sh", path):
                return cls(path, account, _guard(path, account))
            shutil.rmtree(path)
        raise SafeCopyError("no temporary directory is open to the user PostgreSQL runs as", hint="set TMPDIR")

    def close(self) -> None:
        """Remove the directory, and see that it is gone."""
        # A line, as forked children may hold the pipe open.
        self.guard.communicate(b"\n")
        if self.path.exists():
            shutil.rmtree(self.path)


def _guard(path: Path, account: Account) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["/bin/sh", "-c", _GUARD, "safecopy-guard", path],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=environment(),
        process_group=0,
        **account.options(),
    )


def environment() -> dict[str, str]:
    """Return what a server needs of the environment: nothing of ours, and no PG* variable."""
    return {"PATH": os.defpath, "LC_ALL": "C"}
