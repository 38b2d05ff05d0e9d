"""The steps of a client are counted alike, however its bytes are cut."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from tests.support.frames import STARTUP, Frames


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def startup(code: int, body: bytes) -> bytes:
    return struct.pack("!ii", len(body) + 8, code) + body


KINDS = st.sampled_from([b"Q", b"P", b"S", b"d", b"c", b"X"])


@given(st.booleans(), st.lists(st.tuples(KINDS, st.binary(max_size=300))), st.lists(st.integers(1, 60), min_size=1))
def test_messages_are_told_apart_however_they_are_cut(
    encrypting: bool, said: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    stream = (startup(80877103, b"") if encrypting else b"") + startup(196608, b"user\0me\0\0")
    stream += b"".join(message(kind, body) for kind, body in said)
    frames, found, turn = Frames(), [], 0
    while stream:
        size = cuts[turn % len(cuts)]
        found += frames.feed(stream[:size])
        stream, turn = stream[size:], turn + 1
    assert found == [STARTUP, *(kind for kind, _ in said)]
