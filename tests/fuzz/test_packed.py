"""What is read back of a packed piece: the bytes that were written, or OSError. (The spool's own digest comes before.)"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_safecopy.transfer.model import Compress
from airflow_provider_safecopy.transfer.pack import Packing, packing
from airflow_provider_safecopy.transfer.spool import READ_BYTES
from tests.fuzz.depth import looking
from tests.fuzz.tried import tried

CONTENT = "1\t김하나\t2026-01-01\n".encode() * 40


def made(kind: Compress) -> Packing:
    found = packing(kind)
    assert found is not None
    return found


PACKED = {kind: made(kind).pack(CONTENT) for kind in ("zstd", "lz4")}


@st.composite
def flipped(draw: st.DrawFn, data: bytes) -> bytes:
    """With a few bits the other way."""
    bits = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        bits[draw(st.integers(0, len(bits) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(bits)


@looking(2)
@given(st.sampled_from(("zstd", "lz4")), st.binary(max_size=4096))
def test_what_was_packed_is_read_back(kind: Compress, data: bytes) -> None:
    assert made(kind).unpack(made(kind).pack(data)) == data


@pytest.mark.parametrize("kind", ["zstd", "lz4"])
@looking(3)
@given(data=st.data())
def test_what_was_not_packed_so_is_an_os_error(kind: Compress, data: st.DataObject) -> None:
    raw = data.draw(flipped(PACKED[kind]) | st.binary(max_size=64))
    found = tried(OSError, lambda: made(kind).unpack(raw))
    if isinstance(found, OSError):
        assert "spool file" in str(found)
        return
    assert len(found) <= READ_BYTES
