"""What parsers are fed: texts that people write in names, texts nobody should, and valid ones with pieces put wrong."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar

from hypothesis import strategies as st

_T = TypeVar("_T", str, bytes)

# Composed and decomposed Hangul and single jamo; quotes, dots, blanks of all kinds; what turns the reading direction.
AWKWARD = (
    *('"', "'", '""', ".", ",", "=", "\\", "/", "#", "%", ":", ";", "$", "`", "{", "}", "[", "]", "(", ")", "-", "@"),
    *(" ", "\t", "\n", "\r", "\r\n", "\v", "\f", "\x85", "\xa0", "\u2028", "\u3000", "\ufeff", "\u200b"),
    *(
        "가",
        "각",
        "똠",
        "\u1100\u1161",
        "\u11a8",
        "\u3131",
        "영업.고객",
        "고객",
        "A",
        "a",
        "0",
        "９",
        "٣",
        "ß",
        "İ",
        "😀",
    ),
    *("\u200f", "\u202e", "\u2066", "\u061c", "\x1b", "\x7f", "\x01"),
)
BROKEN = ("\0", "\ud800", "\udcff", "\udfff")

texts = st.lists(st.sampled_from(AWKWARD) | st.characters(codec="utf-8"), max_size=30).map("".join)
"""What UTF-8 can spell, NUL included."""
clean = texts.map(lambda text: text.replace("\0", ""))
broken = st.lists(st.sampled_from(AWKWARD + BROKEN) | st.characters(), max_size=30).map("".join)
"""With lone surrogates and NULs."""


def _within_63_bytes(text: str) -> str:
    return text.encode()[:63].decode("utf-8", "ignore")


identifiers = (clean.map(partial(unicodedata.normalize, "NFC")) | clean.map(partial(unicodedata.normalize, "NFD"))).map(
    _within_63_bytes
).filter(bool) | st.sampled_from(("가" * 21, "각" * 21, "a" * 63, '"' * 63))
"""What PostgreSQL takes as a name."""

numbers = st.sampled_from(("0", "-0", "1", "-1", "9" * 18, "9" * 19, "9" * 20, "9" * 400, "9" * 5000, "1e400", "0.1"))
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()
    | broken
    | st.sampled_from(["", "nan", "2026-01-01T00:00:00+00:00", "2026-01-01", 10**400, -1, 1e308]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(broken, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def spoiled(draw: st.DrawFn, valid: st.SearchStrategy[_T], pieces: Sequence[_T]) -> _T:
    """A valid one with a few parts cut out, doubled, exchanged or replaced by one of `pieces`."""
    data = draw(valid)
    for _ in range(draw(st.integers(0, 4))):
        first, second = sorted((draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))))
        part = data[first:second]
        changed = [part[:0], part + part, part[::-1]]
        changed.extend(pieces)
        instead = draw(st.sampled_from(changed))
        data = data[:first] + instead + data[second:]
    return data
