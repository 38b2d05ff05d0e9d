"""Fragments of SQL as people write them, without the semicolon at the end and what follows it.

A part of a statement may have no semicolon. It is found where the server finds it: outside of strings, names and
comments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_END = re.compile(r"[;\s]+$")
_LETTER = r"A-Za-z_\x80-\U0010ffff"
# A string goes on after a line break, by the rules of its beginning.
_CONTINUED = r"(?:[ \t\f\v]|--[^\n\r]*)*+[\n\r](?:\s|--[^\n\r]*[\n\r])*+"
_ESCAPED, _PLAIN = r"'(?:[^'\\]|\\.|'')*+'", r"'(?:[^']|'')*+'"
_TOKEN = re.compile(
    rf"(?P<unseen>\s++|--[^\n\r]*+)|(?P<opening>/\*)|(?P<end>;)"
    rf"|[eE]{_ESCAPED}(?:{_CONTINUED}{_ESCAPED})*+|{_PLAIN}(?:{_CONTINUED}{_PLAIN})*+"
    rf'|"(?:[^"]|"")*+"|(?P<tag>\$(?:[{_LETTER}][{_LETTER}0-9]*+)?\$)'
    rf"|(?![eE]')(?:[{_LETTER}0-9][{_LETTER}0-9$]*+|[^'\"])",
    re.DOTALL,
)
_COMMENT = re.compile(r"/\*|\*/")


def trim(text: str) -> str:
    """Return `text` without a semicolon at its end and the comments after that.

    Text that cannot be read stays as it is.
    """
    last, ended = 0, False
    for kind, end in _tokens(text):
        # The server is to find the error where the person made it.
        if kind == "unreadable":
            ended = False
        elif kind == "end":
            ended = True
        elif kind != "unseen":
            last, ended = end, False
    return _END.sub("", text[:last] if ended else text)


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    """Yield kind and end of each token; the last one is ``unreadable`` if something is not closed."""
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        end: int | None = None if match is None else match.end()
        kind = match.lastgroup or "word" if match else "unreadable"
        if match and match["opening"]:
            kind, end = "unseen", _comment_end(text, match.end())
        elif match and match["tag"]:
            closing = text.find(match["tag"], match.end())
            end = None if closing < 0 else closing + len(match["tag"])
        if end is None:
            yield "unreadable", len(text)
            return
        yield kind, end
        position = end


def _comment_end(text: str, position: int) -> int | None:
    """Return the end of a comment, which may hold other comments; None if it has none."""
    # In PostgreSQL comments nest, so the first end is not always theirs.
    depth = 1
    for found in _COMMENT.finditer(text, position):
        depth += 1 if found[0] == "/*" else -1
        if depth == 0:
            return found.end()
    return None
