"""Find, start and end psql. No other module of a copy starts a process.

*psql moves bytes; psycopg asks questions.* A child gets an environment built from nothing, the real
binary rather than a distribution's wrapper, its SQL as UTF-8 bytes, and dies with the thread that
started it (PR_SET_PDEATHSIG follows the thread, not the process: prctl(2)). Where that call does not
exist its pipes end it: an export cannot write any more, an import never gets its COMMIT.

C's library makes psql read its input 4 KiB at a time. GNU coreutils bring a library for `stdbuf`, which enlarges that
buffer in any program: an import then took up to a twentieth less time. Without that library it works as well.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from airflow_provider_safecopy import shortage
from airflow_provider_safecopy.errors import ConfigError, StageError, StageTimeoutError, StalledError, may_pass
from airflow_provider_safecopy.postgres import memory
from airflow_provider_safecopy.postgres.diagnosis import describe_output
from airflow_provider_safecopy.postgres.endpoint import Endpoint, leave_no_core
from airflow_provider_safecopy.postgres.psql_output import Transcript

_BUFFER_BYTES = 256 * 1024
_LIBRARY_PATHS = ("usr/libexec/coreutils", "usr/lib/coreutils", "usr/lib64/coreutils", "usr/lib/*/coreutils")


@cache
def build_buffer_environment() -> Mapping[str, str]:
    """Return the environment that gives a process large buffers; empty without the library."""
    found = next((path for place in _LIBRARY_PATHS for path in Path("/").glob(f"{place}/libstdbuf.so")), None)
    return {} if found is None else {"LD_PRELOAD": str(found), "_STDBUF_I": str(_BUFFER_BYTES)}


OLDEST_MAJOR = 14
"""The oldest psql whose row count after `\\g` and whose `\\warn` are measured here."""

PIPE_BYTES = 1024 * 1024

LOCK_NOT_AVAILABLE = "55P03"
"""The SQLSTATE of a lock that could not be taken in time."""

_SEARCH_PATHS = (
    "usr/lib/postgresql/*/bin/psql",
    "usr/pgsql-*/bin/psql",
    "usr/local/pgsql*/bin/psql",
    "opt/homebrew/opt/postgresql*/bin/psql",
)
_VERSION = re.compile(r"\(PostgreSQL\)\s+([0-9]{1,4})(?![0-9])")
_WORDS_BYTES = 500
_F_SETPIPE_SZ = 1031
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
# The first two graces are short: Airflow 3 leaves a killed task five seconds in all.
_END_SIGNALS = ((signal.SIGINT, 1.0), (signal.SIGTERM, 0.5), (signal.SIGKILL, 10.0))
# Where the server's own words mislead: this is "out of memory".
_HINTS = {"54000": "a value or a row is larger than the 1 GB PostgreSQL can handle: leave its column out, or cut it"}
# libpq's own words, in the language that is asked for: a missing feature has no code.
_NO_TLS = b"SSL support is not compiled in"
_SNAPSHOT_LOST = frozenset({"22023", "42704"})
"""A server's messages about a snapshot whose session is gone, up to 17 and from 18 on."""

_FAILED_OVER = "the server has become a standby: give the new primary, or run the copy again when this one is back"


@dataclass(frozen=True)
class PsqlBinary:
    """A psql that answered ``--version``."""

    path: str
    major: int


def find_psql(requested: str | None = None) -> PsqlBinary:
    """Return the psql to use: `requested`, else `SAFECOPY_PSQL`, else that on PATH, else the newest.

    Debian's psql on PATH is a script that adds 60 ms and picks a cluster by itself: it is skipped.
    Raises `ConfigError` when there is none, when the given one is none, or when it is older than 14; `StageError` when
    this machine can start none now.
    """
    chosen = requested or os.environ.get("SAFECOPY_PSQL")
    if chosen:
        return _read_binary(chosen)
    on_path = shutil.which("psql")
    if on_path and not _is_script(on_path):
        return _read_binary(on_path)
    return _find_newest(str(path) for place in _SEARCH_PATHS for path in Path("/").glob(place))


@cache
def has_tls(binary: PsqlBinary) -> bool:
    """Return whether this psql was built with TLS. It is asked for once, and connects to nothing."""
    command = [binary.path, "-X", "-w", "-d", f"host={os.devnull}/none sslmode=require connect_timeout=2", "-c", ""]
    asked = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, env={"LC_ALL": "C"})
    return _NO_TLS not in asked.stderr


def _find_newest(paths: Iterable[str]) -> PsqlBinary:
    """Return the newest psql that will do. An old or broken one beside it does no harm."""
    found: list[PsqlBinary] = []
    error = ConfigError(
        "no psql found: neither on PATH nor where distributions put it",
        hint="install the PostgreSQL client (package postgresql-client), or name one in SAFECOPY_PSQL",
    )
    for path in paths:
        try:
            found.append(_read_binary(path))
        except ConfigError as other:
            error = other
    if not found:
        raise error
    return max(found, key=lambda binary: binary.major)


@dataclass
class Psql:
    """One running psql. It belongs to the process that started it: a forked child leaves it alone."""

    stage: Literal["export", "import"]
    process: subprocess.Popen[bytes]
    transcript: Transcript
    started: float = field(default_factory=time.monotonic)
    parent: int = field(default_factory=os.getpid)

    @classmethod
    def start(
        cls,
        stage: Literal["export", "import"],
        binary: PsqlBinary,
        endpoint: Endpoint,
        *,
        nonce: str,
        arguments: Sequence[str],
        stdin: int,
        inherit: Sequence[int],
        application_name: str,
        connect_timeout: float,
    ) -> Psql:
        """Start psql on `endpoint`, with `arguments` after those of every stage. Raises `StageError`."""
        head = [binary.path, "-X", "-w", "-q", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose"]
        command = [*head, "-d", endpoint.psql_conninfo(), *arguments]
        parent, colour = os.getpid(), make_nonce()
        _reset_sigchld()
        with endpoint.psql_environment(application_name=application_name, connect_timeout=connect_timeout) as (
            environment,
            secret,
        ):
            try:
                process = subprocess.Popen(
                    [os.fsencode(word) if word.isascii() else word.encode() for word in command],
                    stdin=stdin,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env={
                        **environment,
                        **(build_buffer_environment() if stage == "import" else {}),
                        "PG_COLOR": "always",
                        # A nonce, so that no message can pretend to have a place: see `Transcript`.
                        "PG_COLORS": f"locus={colour}",
                    },
                    pass_fds=[*inherit, *secret],
                    bufsize=0,
                    # The same process group: a signal to the task's group must reach this child too.
                    preexec_fn=lambda: _die_with_parent(parent),  # noqa: PLW1509 -- a few system calls, nothing that locks
                )
            except OSError as error:
                if (short := shortage.find(error, starting=True)) is not None:
                    raise shortage.as_error(short, stage) from error
                raise StageError(
                    f"{stage}: cannot start {binary.path}: {error}", stage=stage, retryable=False
                ) from error
        assert process.stderr is not None  # noqa: S101 -- asked for above
        os.set_blocking(process.stderr.fileno(), False)
        return cls(stage, process, Transcript(nonce, colour, bare="-c" in arguments))

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    @property
    def stderr(self) -> int:
        """The descriptor to poll for reading."""
        assert self.process.stderr is not None  # noqa: S101 -- asked for in `start`
        return self.process.stderr.fileno()

    def read_stderr(self) -> bool:
        """Read what is on stderr now, at most 1 MiB, without waiting. Return False once it has ended."""
        for _ in range(16):
            try:
                data = os.read(self.stderr, 65536)
            except BlockingIOError:
                return True
            self.transcript.feed(data)
            if not data:
                return False
        return True

    def interrupt(self) -> None:
        """Ask it to stop, as Ctrl-C would: it cancels its statement first. Safe in a signal handler."""
        self.send(signal.SIGINT)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless the child has ended: its pid may be another's then."""
        if self.parent == os.getpid():
            self.process.send_signal(number)

    def close(self) -> None:
        """Read the rest of stderr and close it. A second call does no harm."""
        if self.process.stderr and not self.process.stderr.closed:
            self.read_stderr()
            self.process.stderr.close()

    def build_error(
        self,
        problem: str,
        *,
        kind: type[StageError] = StageError,
        hint: str = "",
        retryable: bool | None = None,
    ) -> StageError:
        """Return the error of this stage, with psql's own last words."""
        said, sqlstate = describe_output(self.transcript.tail), self.transcript.sqlstate
        if sqlstate == LOCK_NOT_AVAILABLE and kind is StageError:
            kind, hint = StageTimeoutError, hint or "end the session that holds the lock, or raise lock_wait_timeout"
        began = bool(self.transcript.values("backend"))
        failed_over = sqlstate == "0A000" and not began
        # The control session that held the snapshot was lost: the next run has another.
        passing = failed_over or (sqlstate in _SNAPSHOT_LOST and self.stage == "export" and not began)
        return kind(
            f"{self.stage} {problem}" + (f": {said}" if said else ""),
            stage=self.stage,
            exit_code=self.process.returncode,
            sqlstate=sqlstate,
            stderr_tail=said,
            hint=hint or (_FAILED_OVER if failed_over else _HINTS.get(sqlstate or "", "")),
            retryable=passing or may_pass(sqlstate) if retryable is None else retryable,
        )

    def require_life(self, *, began: float, moved: float, timeout: float, stall: float) -> None:
        """Raise once the stage outlives `timeout`, or nothing has moved for `stall` seconds.

        `began` and `moved` are times of the monotonic clock. Raises `StageTimeoutError`, `StalledError`.
        """
        now = time.monotonic()
        if now - began > timeout:
            raise self.build_error(
                f"took longer than its timeout of {timeout:g} s",
                kind=StageTimeoutError,
                hint=f"raise {self.stage}_timeout, or see why it is slow",
                retryable=True,
            )
        if now - moved > stall:
            raise self.build_error(
                f"stalled: no byte moved for {stall:g} s",
                kind=StalledError,
                hint="see what the server waits for, or raise stall_timeout",
                retryable=True,
            )


def end_children(children: Sequence[Psql], *, at_once: bool = False) -> None:
    """End the children together and reap them: SIGINT, SIGTERM, SIGKILL, each with its grace.

    `at_once` starts with SIGKILL: the session loses its client and rolls back. Children of a parent process are left
    alone.
    """
    children = [child for child in children if child.parent == os.getpid()]
    for number, grace in _END_SIGNALS[-1:] if at_once else _END_SIGNALS:
        deadline = time.monotonic() + grace
        for child in children:
            child.send(number)
        # A list, since `all` alone would stop at the first child that lives on, and reap no other.
        ended = [_wait_for_end(child, deadline) for child in children]
        if all(ended):
            break
    for child in children:
        child.close()


def open_pipe() -> tuple[int, int]:
    """Return a pipe of 1 MiB where the system allows: (read end, write end), neither inherited."""
    ends = os.pipe2(os.O_CLOEXEC)
    try:
        fcntl.fcntl(ends[1], _F_SETPIPE_SZ, PIPE_BYTES)
    # The user's share of pipe memory is spent: 64 KiB do as well, slower.
    except OSError:
        return ends
    return ends


def make_memory_file(text: str) -> int:
    """Return a memory file with `text` in UTF-8, at its start. The caller closes it. Raises `ConfigError`."""
    return memory.memory_file(text.encode())


def make_nonce() -> str:
    """Return a new mark for our own lines in psql's stderr."""
    return secrets.token_hex(8)


@cache
def _read_binary(path: str) -> PsqlBinary:
    _reset_sigchld()
    version = _VERSION.search(_ask_version(path))
    if version is None:
        raise ConfigError(f"{path} is not PostgreSQL's psql", hint="name a working psql")
    if int(version[1]) < OLDEST_MAJOR:
        raise ConfigError(
            f"{path} is psql {version[1]}, and {OLDEST_MAJOR} is the oldest that will do",
            hint="install a newer PostgreSQL client, or name one in SAFECOPY_PSQL",
        )
    return PsqlBinary(path, int(version[1]))


def _ask_version(path: str) -> str:
    """Return psql's answer to --version, which it writes to a descriptor that it inherits.

    Raises as `find_psql` does.
    """
    with shortage.translate("plan"):
        inherited, written = os.pipe2(os.O_CLOEXEC)
    try:
        done = _run(path, "-X", "-o", f"/proc/self/fd/{written}", "--version", inherit=[written])
        if done.returncode == 0:
            return done.stdout.decode("utf-8", "replace")
    finally:
        os.close(inherited)
        os.close(written)
    plain = _run(path, "--version")
    if plain.returncode == 0 and _VERSION.search(plain.stdout.decode("utf-8", "replace")):
        raise ConfigError(
            f"{path} closes the descriptors that it inherits, and passwords and rows come through them",
            hint="name the real psql, not a wrapper of it (sudo closes them); and mount /proc, if it is not there",
        )
    raise ConfigError(
        f"{path} does not answer --version: {_last_words(plain)}",
        hint="name a working psql, or install what it misses",
    )


def _run(path: str, *words: str, inherit: Sequence[int] = ()) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            [path, *words], capture_output=True, timeout=30, check=False, env={"LC_ALL": "C"}, pass_fds=inherit
        )
    # ValueError: no file can have such a name.
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        if (short := shortage.find(error, starting=True)) is not None:
            raise shortage.as_error(short, "plan") from error
        raise ConfigError(f"{path} does not answer --version: {error}", hint="name a working psql") from error


def _last_words(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return how it ended and the end of its stderr, where the loader names a missing library."""
    code = done.returncode
    ended = f"exit status {code}" if code >= 0 else f"ended by signal {-code}"
    said = " ".join(done.stderr[-_WORDS_BYTES:].decode("utf-8", "replace").split())
    return f"{ended}: {said}" if said else ended


def _reset_sigchld() -> None:
    """Have the system report how children end, which may be switched off. Raises `ConfigError`.

    With SIGCHLD ignored, a killed psql looks like one that has done all, and its pid may be another's at once.
    """
    if signal.getsignal(signal.SIGCHLD) is not signal.SIG_IGN:
        return
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    except ValueError as error:
        raise ConfigError(
            "this process ignores SIGCHLD, so that it cannot learn how psql ends",
            hint="call signal.signal(signal.SIGCHLD, signal.SIG_DFL) in the main thread before the copy",
        ) from error


def _is_script(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            return file.read(2) == b"#!"
    # This user may run the file but not read it: that cannot be a script, which its interpreter must read.
    except OSError:
        return False


def _die_with_parent(parent: int) -> None:
    """Let this child die with its parent (Linux), and leave no core file.

    It runs in the child, before exec. If the parent has ended already, the child ends now.
    """
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    leave_no_core()
    if os.getppid() != parent:
        os._exit(127)


def _wait_for_end(child: Psql, deadline: float) -> bool:
    with suppress(subprocess.TimeoutExpired):
        child.process.wait(max(0.0, deadline - time.monotonic()))
    return child.process.returncode is not None
