"""What psql says on stderr: our own marked lines, the server's SQLSTATE, and a bounded tail of the rest.

Decided by marks and five-letter codes, never by words: messages are translated, and a stranger's NOTICE
may say anything. A mark carries a nonce no stranger knows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

TAIL_BYTES = 8192
"""How much of stderr is kept. Whatever psql says beyond it is read and forgotten."""

_MARKS_KEPT = 32
# "ERROR:  42P01: …", with "psql:<stdin>:7: " before it in a script. Classes 00 to 02 are no errors.
_SQLSTATE = re.compile(rb"(?:psql:.*?:\d+: )?[^:]+:  (?!0[012])([0-9A-Z]{5}): ")


@dataclass
class Transcript:
    """Fed with stderr as it comes, in pieces of any size."""

    nonce: str
    sqlstate: str | None = None
    _marks: list[tuple[str, str]] = field(default_factory=list)
    _tail: bytes = b""
    _line: bytes = b""

    @property
    def tail(self) -> str:
        """The last words, without our own lines; bytes that are not UTF-8 are escaped."""
        return (self._tail + self._line).decode("utf-8", "backslashreplace").strip()

    def values(self, mark: str) -> list[str]:
        """Every value reported under `mark`, in order (of the first 32 marks in all)."""
        return [value for name, value in self._marks if name == mark]

    def number(self, mark: str) -> int | None:
        """The one number reported under `mark`; None if there is none, more than one, or no number."""
        values = self.values(mark)
        return int(values[0]) if len(values) == 1 and values[0].isascii() and values[0].isdigit() else None

    def feed(self, data: bytes) -> None:
        """Take the next piece of stderr."""
        *lines, rest = (self._line + data).split(b"\n")
        self._line = rest[-TAIL_BYTES:]
        for line in lines:
            self._hear(line)

    def _hear(self, line: bytes) -> None:
        ours = f"safecopy {self.nonce} ".encode()
        if line.startswith(ours):
            mark, _, value = line[len(ours) :].decode("ascii", "replace").partition(" ")
            if len(self._marks) < _MARKS_KEPT:
                self._marks.append((mark, value))
            return
        if self.sqlstate is None and (match := _SQLSTATE.match(line)):
            self.sqlstate = match[1].decode()
        self._tail = (self._tail + line + b"\n")[-TAIL_BYTES:]
