"""Readers who look at one table again and again, in a process of their own, while it is published into.

One reader for each isolation level, and two that take their snapshot before a publish and touch the table only after
it. In each transaction the whole table is summed up three times, by turns with and without its indexes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

State = tuple[int, int]
"""How many rows, and the sum of hashes of them all."""

_KINDS = (
    ("READ COMMITTED", False),
    ("REPEATABLE READ", False),
    ("SERIALIZABLE", False),
    ("REPEATABLE READ", True),
    ("SERIALIZABLE", True),
)
_LOOKS = 3
_PAUSE_SECONDS = 0.002
_ANSWER_SECONDS = 60.0


def looking(table: str) -> str:
    """The query that tells a table's state. `table` is spelled as SQL wants it."""
    return f"SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text FROM {table} t"


@dataclass(frozen=True)
class Sight:
    """What one reader has seen. `early`: its snapshots were older than what it then read, `overtaken` times."""

    isolation: str
    early: bool
    transactions: int
    overtaken: int
    longest: float
    """Seconds the slowest look took, waiting for locks included."""
    states: frozenset[State]
    torn: int
    """In how many transactions two looks differed."""
    errors: tuple[str, ...]

    @property
    def reads(self) -> int:
        return self.transactions * _LOOKS

    @classmethod
    def read(cls, told: dict[str, Any]) -> Sight:
        states = frozenset((count, int(total)) for count, total in told["states"])
        return cls(**told | {"states": states, "errors": tuple(told["errors"])})


class Readers:
    """Readers at work from ``with`` until its end; then `sights` are theirs.

    `lock_timeout` is how long a reader may wait for a lock, in milliseconds: waiting longer is an error of its sight.
    """

    def __init__(self, conninfo: str, table: str, *, lock_timeout: int) -> None:
        self._asked = {"conninfo": conninfo, "table": table, "lock_timeout": lock_timeout}
        self.sights: tuple[Sight, ...] = ()

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.support.readers"]
        self._process = subprocess.Popen(
            command, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            self._tell(json.dumps(self._asked))
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            told, _ = self._process.communicate(timeout=_ANSWER_SECONDS)
        finally:
            self._end()
        if kind is None:
            self.sights = tuple(map(Sight.read, json.loads(told)))

    def _end(self) -> None:
        self._process.kill()
        with self._process:
            pass

    def look(self) -> None:
        """Wait until each reader has looked from now on, those with an early snapshot too."""
        self._tell("")

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "looked\n", "the readers are gone"


@dataclass
class _Round:
    """How often the readers were told of a publish, and how far each is."""

    readers: int
    number: int = 0
    done: Counter[int] = field(default_factory=Counter)
    stopped: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)

    def until(self, true: Callable[[], bool]) -> bool:
        """Wait until it is true, or all is over."""
        with self.changed:
            return self.changed.wait_for(lambda: self.stopped or true(), _ANSWER_SECONDS)

    def begin(self) -> None:
        """Another round; returns when each reader has finished a transaction that looked in it."""
        with self.changed:
            self.number += 1
            self.changed.notify_all()
        if not self.until(lambda: self.done[self.number] >= self.readers):
            raise TimeoutError(f"{self.readers - self.done[self.number]} of {self.readers} readers have not looked")

    def after(self, number: int) -> None:
        """Wait for a later round than that."""
        self.until(lambda: self.number > number)

    def looked(self, begun: int) -> None:
        with self.changed:
            self.done[begun] += 1
            self.changed.notify_all()


class _Reader(threading.Thread):
    def __init__(self, asked: dict[str, Any], course: _Round, isolation: str, *, early: bool) -> None:
        super().__init__(daemon=True)
        self._asked, self._course, self._isolation, self._early = asked, course, isolation, early
        self._looks: Counter[tuple[int, str]] = Counter()
        self._transactions = self._overtaken = self._torn = 0
        self._longest = 0.0
        self._errors: list[str] = []
        self._last = -1

    def run(self) -> None:
        try:
            with psycopg.connect(self._asked["conninfo"], client_encoding="UTF8", autocommit=True) as session:
                session.execute(f"SET lock_timeout = {self._asked['lock_timeout']}".encode())
                while not self._course.stopped:
                    self._transact(session)
                    with self._course.changed:
                        self._course.changed.wait(_PAUSE_SECONDS)
        except psycopg.Error as error:
            self._errors.append(f"{type(error).__name__}: {error}")
        # A reader that has failed holds nobody up; its error is told in the end.
        while not self._course.stopped:
            number = self._course.number
            self._note(number)
            self._course.after(number)

    def _transact(self, session: psycopg.Connection[Any]) -> None:
        session.execute(
            f"BEGIN ISOLATION LEVEL {self._isolation}; SET LOCAL enable_seqscan = {self._transactions % 2}".encode()
        )
        if self._early:
            session.execute("SELECT")
        before = self._course.number
        if self._early:
            # Not for a later one than it was told of: it would never come if everybody waited for it.
            self._course.after(self._last)
        begun = self._course.number
        self._overtaken += self._early and begun > before
        found = [self._look(session) for _ in range(_LOOKS)]
        session.execute("COMMIT")
        self._transactions += 1
        self._torn += len(set(found)) > 1
        self._note(begun)

    def _look(self, session: psycopg.Connection[Any]) -> tuple[int, str]:
        started = time.monotonic()
        ((count, total),) = session.execute(looking(self._asked["table"]).encode()).fetchall()
        self._longest = max(self._longest, time.monotonic() - started)
        self._looks[count, total] += 1
        return count, total

    def _note(self, begun: int) -> None:
        if begun != self._last:
            self._last = begun
            self._course.looked(begun)

    def told(self) -> dict[str, Any]:
        return {
            "isolation": self._isolation,
            "early": self._early,
            "transactions": self._transactions,
            "overtaken": self._overtaken,
            "longest": self._longest,
            "states": list(self._looks),
            "torn": self._torn,
            "errors": self._errors,
        }


def main() -> None:
    """A line on stdin: what to read. Each further one: look. Its end: stop, and tell on stdout."""
    asked = json.loads(sys.stdin.readline())
    course = _Round(len(_KINDS))
    readers = [_Reader(asked, course, isolation, early=early) for isolation, early in _KINDS]
    for reader in readers:
        reader.start()
    course.begin()
    _say("looked")
    for _ in sys.stdin:
        course.begin()
        _say("looked")
    with course.changed:
        course.stopped = True
        course.changed.notify_all()
    for reader in readers:
        reader.join(_ANSWER_SECONDS)
    _say(json.dumps([reader.told() for reader in readers]))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
