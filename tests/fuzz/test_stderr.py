"""psql's stderr: what a real one said, spoiled; and floods, which may cost neither memory nor much time."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_safecopy.transfer.transcript import TAIL_BYTES, Transcript
from tests.fuzz.depth import looking
from tests.fuzz.material import spoiled

NONCE = "0123456789abcdef"
SAID = (
    f"safecopy {NONCE} backend 4711\n"
    'psql:<stdin>:9: NOTICE:  00000: 표 "영업.고객"\nLOCATION:  exec_stmt_raise, pl_exec.c:3923\n'
    'psql:/proc/self/fd/7:12: ERROR:  22P04: 마지막 자료 다음에\nCONTEXT:  COPY 고객, line 3: "가"\n'
    f"safecopy {NONCE} rows 12345\nsafecopy {NONCE} end\n"
).encode()
PIECES = (b"\n", b"\r", b"\0", b":", b"  ", b"ERROR:  ", b"psql:", NONCE.encode(), b"9" * 5000, b"\xff", "٣".encode())
FLOODS = (b"\n", b":\n", b"psql:" + b":1" * 4000 + b"\n", b"NOTICE:  00000: ...\n", b"psql:" + b"1:" * 8192, b"x")


@looking(3)
@given(spoiled(st.just(SAID), PIECES), st.integers(1, 64))
def test_whatever_is_said_is_a_tail_a_sqlstate_or_none_and_numbers_or_none(said: bytes, size: int) -> None:
    transcript = Transcript(NONCE)
    for at in range(0, len(said), size):
        transcript.feed(said[at : at + size])
    assert transcript.sqlstate is None or re.fullmatch("(?!0[012])[0-9A-Z]{5}", transcript.sqlstate)
    assert NONCE not in transcript.tail or said.count(NONCE.encode()) > 3 or said != SAID
    for mark in ("rows", "backend"):
        number = transcript.number(mark)
        assert number is None or (0 <= number < 10**19 and str(number).encode() in said.replace(b" 0", b" "))
    assert len(transcript.tail.encode()) <= 4 * TAIL_BYTES


@pytest.mark.parametrize("flood", FLOODS, ids=["lines", "colons", "place", "notices", "digits", "no lines"])
def test_a_flood_costs_little_time_and_no_memory(flood: bytes) -> None:
    piece = (flood * (65536 // len(flood) + 1))[:65536]
    transcript, began = Transcript(NONCE), time.process_time()
    for _ in range(64):  # 4 MiB
        transcript.feed(piece)
    assert time.process_time() - began < 8
    assert len(transcript._tail) + len(transcript._line) <= 4 * TAIL_BYTES
