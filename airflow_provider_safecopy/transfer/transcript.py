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
_NUMBER = re.compile(r"[0-9]{1,19}")  # the server's are bigint


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
        return (self._tail + self._line)[-TAIL_BYTES:].decode("utf-8", "backslashreplace").strip()

    def values(self, mark: str) -> list[str]:
        """Every value reported under `mark`, in order (of the first 32 marks in all)."""
        return [value for name, value in self._marks if name == mark]

    def number(self, mark: str) -> int | None:
        """The one number reported under `mark`; None if there is none, more than one, or no number."""
        values = self.values(mark)
        return int(values[0]) if len(values) == 1 and _NUMBER.fullmatch(values[0]) else None

    def feed(self, data: bytes) -> None:
        """Take the next piece of stderr."""
        *lines, rest = (self._line + data).split(b"\n")
        self._line = _shortened(rest)
        ours = f"safecopy {self.nonce} ".encode()
        # Put together once: of a flood of short lines, each would copy all that is kept.
        said = b"".join(line + b"\n" for line in map(_shortened, lines) if self._is_said(line, ours))
        self._tail = (self._tail + said)[-TAIL_BYTES:]

    def _is_said(self, line: bytes, ours: bytes) -> bool:
        """Whether a line is psql's; of ours the mark is taken."""
        if line.startswith(ours):
            mark, _, value = line[len(ours) :].decode("ascii", "replace").partition(" ")
            if len(self._marks) < _MARKS_KEPT:
                self._marks.append((mark, value))
            return False
        if self.sqlstate is None and (match := _SQLSTATE.match(line)):
            self.sqlstate = match[1].decode()
        return True


def _shortened(line: bytes) -> bytes:
    """Both ends of a long line: it begins with its SQLSTATE. In whatever pieces it came, it ends up the same."""
    return line if len(line) <= 2 * TAIL_BYTES else line[:TAIL_BYTES] + line[-TAIL_BYTES:]
