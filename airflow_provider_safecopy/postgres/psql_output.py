"""The output of psql on stderr: our own marked lines, the server's SQLSTATE, and a bounded tail of the rest.

Marks and five-letter codes decide, never words: messages are translated, and a stranger's NOTICE may
say anything, on as many lines as it likes. A mark carries a nonce that no stranger knows, and so does the place that
psql puts before a message. Only messages about a statement given by ``-c`` have no place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

TAIL_BYTES = 8192
"""The bytes of stderr that are kept. psql's earlier output is read and forgotten."""

# Bounded, though no statement of ours reports as many: memory must not grow with what psql writes.
_MARKS_KEPT = 32
# "ERROR:  42P01: …", with "psql:<stdin>:7: " before it in a script.
_CODED = re.compile(rb"(?:psql:.*?:\d+: )?[^:]+:  ([0-9A-Z]{5}): ")
_NO_ERRORS = (b"00", b"01", b"02")
# The word is psql's own, and psql speaks English: LC_ALL=C.
_ENDS_A_MESSAGE = b"LOCATION:  "
_PLACE_ENDS = b"\x1b[0m"
# The server counts rows in bigint.
_NUMBER = re.compile(r"[0-9]{1,19}")


@dataclass
class Transcript:
    """The transcript of psql's stderr, which it is fed with in pieces of any size.

    `colour` is the colour in which psql paints places, by ``PG_COLORS``: a nonce, which makes a place unforgeable.
    `bare`: messages without a place count too, the first with an error's code. One in the midst of another does not;
    but nothing can tell that from a message whose text pretends to have ended.
    """

    nonce: str
    colour: str | None = None
    bare: bool = True
    sqlstate: str | None = None
    _inside: bool = False
    _marks: list[tuple[str, str]] = field(default_factory=list)
    _tail: bytes = b""
    _line: bytes = b""

    def with_nonce(self, nonce: str) -> Transcript:
        """Return a new transcript of the same psql, whose marks carry `nonce` from now on."""
        return Transcript(nonce, self.colour, self.bare)

    @property
    def tail(self) -> str:
        """The last words, without our own lines; bytes that are not UTF-8 are escaped."""
        return (self._tail + self._strip_colour(self._line))[-TAIL_BYTES:].decode("utf-8", "backslashreplace").strip()

    def values(self, mark: str) -> list[str]:
        """Return every value reported under `mark`, in order, of the first 32 marks in all."""
        return [value for name, value in self._marks if name == mark]

    def number(self, mark: str) -> int | None:
        """Return the one number reported under `mark`; None for none, several, or no number."""
        values = self.values(mark)
        return int(values[0]) if len(values) == 1 and _NUMBER.fullmatch(values[0]) else None

    def feed(self, data: bytes) -> None:
        """Read the next piece of stderr."""
        *lines, rest = (self._line + data).split(b"\n")
        self._line = _shorten(rest)
        ours = f"safecopy {self.nonce} ".encode()
        # Joined once: in a flood of short lines, each would copy all that is kept.
        said = b"".join(
            self._strip_colour(line) + b"\n" for line in map(_shorten, lines) if self._is_output(line, ours)
        )
        self._tail = (self._tail + said)[-TAIL_BYTES:]

    def _is_output(self, line: bytes, own_prefix: bytes) -> bool:
        """Return whether a line is psql's; keep the mark of a line of ours."""
        if line.startswith(own_prefix):
            mark, _, value = line[len(own_prefix) :].decode("ascii", "replace").partition(" ")
            if len(self._marks) < _MARKS_KEPT:
                self._marks.append((mark, value))
            return False
        self._read_code(line)
        return True

    def _read_code(self, line: bytes) -> None:
        """Read the SQLSTATE of a line.

        Of messages with a place the last counts: psql stops at an error, and a NOTICE may have any code.
        """
        plain = self._strip_colour(line)
        placed = plain != line
        if not placed and (not self.bare or self._inside):
            self._inside = self._inside and not line.startswith(_ENDS_A_MESSAGE)
            return
        if match := _CODED.match(plain):
            self._inside = True
            if not match[1].startswith(_NO_ERRORS) and (placed or self.sqlstate is None):
                self.sqlstate = match[1].decode()

    def _strip_colour(self, line: bytes) -> bytes:
        """Return a line without the colour of its place, as a person is to see it."""
        if self.colour is None or not line.startswith(begins := f"\x1b[{self.colour}m".encode()):
            return line
        return line.removeprefix(begins).replace(_PLACE_ENDS, b"", 1)


def _shorten(line: bytes) -> bytes:
    """Return both ends of a long line, which begins with its SQLSTATE.

    The result does not depend on the pieces in which the line came.
    """
    return line if len(line) <= 2 * TAIL_BYTES else line[:TAIL_BYTES] + line[-TAIL_BYTES:]
