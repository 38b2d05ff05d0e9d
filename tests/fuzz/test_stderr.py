"""psql's stderr: what a real one said, spoiled; and floods, which may cost neither memory nor much time."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_safecopy.postgres.psql_output import TAIL_BYTES, Transcript
from tests.fuzz.depth import looking
from tests.fuzz.material import spoiled

NONCE, COLOUR = "0123456789abcdef", "fedcba9876543210"
PAINTED = (f"\x1b[{COLOUR}m", "\x1b[0m")
SAID = (
    f"safecopy {NONCE} backend 4711\n"
    f'{PAINTED[0]}psql:<stdin>:9: {PAINTED[1]}NOTICE:  00000: 표 "영업.고객"\nLOCATION:  exec_stmt_raise, pl_exec.c:3923\n'
    f'{PAINTED[0]}psql:/proc/self/fd/7:12: {PAINTED[1]}ERROR:  22P04: 마지막 자료 다음에\nCONTEXT:  COPY 고객, line 3: "가"\n'
    f"safecopy {NONCE} rows 12345\nsafecopy {NONCE} end\n"
).encode()
PIECES = (
    b"\n",
    b"\r",
    b"\0",
    b":",
    b"  ",
    b"ERROR:  ",
    b"psql:",
    b"LOCATION:  ",
    NONCE.encode(),
    b"9" * 5000,
    b"\xff",
    "٣".encode(),
    *map(str.encode, PAINTED),
)
FLOODS = (b"\n", b":\n", b"psql:" + b":1" * 4000 + b"\n", b"NOTICE:  00000: ...\n", b"psql:" + b"1:" * 8192, b"x")


@looking(3)
@given(spoiled(st.just(SAID), PIECES), st.integers(1, 64), st.sampled_from((None, COLOUR)), st.booleans())
def test_whatever_is_said_is_a_tail_a_sqlstate_or_none_and_numbers_or_none(
    said: bytes, size: int, colour: str | None, bare: bool
) -> None:
    transcript = Transcript(NONCE, colour, bare)
    for at in range(0, len(said), size):
        transcript.feed(said[at : at + size])
    assert transcript.sqlstate is None or re.fullmatch("(?!0[012])[0-9A-Z]{5}", transcript.sqlstate)
    assert NONCE not in transcript.tail or said.count(NONCE.encode()) > 3 or said != SAID
    for mark in ("rows", "backend"):
        number = transcript.number(mark)
        assert number is None or (0 <= number < 10**19 and str(number).encode() in said.replace(b" 0", b" "))
    assert len(transcript.tail.encode()) <= 4 * TAIL_BYTES


@looking(2)
@given(spoiled(st.just(SAID), PIECES), st.sampled_from(("NOTICE:  00000", "WARNING:  42P01", "INFO:  22023")))
def test_whatever_a_notice_says_the_code_of_a_scripts_error_is_its_own(said: bytes, kind: str) -> None:
    place = f"{PAINTED[0]}psql:<stdin>:9: {PAINTED[1]}"
    strange = said.replace(COLOUR.encode(), NONCE.encode())
    transcript = Transcript(NONCE[::-1], COLOUR, bare=False)
    transcript.feed(f"{place}{kind}: ".encode() + strange + f"\n{place}ERROR:  40P01: 진짜\n".encode() + strange)
    transcript.feed(b"\n")
    assert transcript.sqlstate == "40P01"


@pytest.mark.slow
@pytest.mark.parametrize("flood", FLOODS, ids=["lines", "colons", "place", "notices", "digits", "no lines"])
def test_a_flood_costs_little_time_and_no_memory(flood: bytes) -> None:
    piece = (flood * (65536 // len(flood) + 1))[:65536]
    transcript, began = Transcript(NONCE), time.process_time()
    for _ in range(64):  # 4 MiB
        transcript.feed(piece)
    assert time.process_time() - began < 8
    assert len(transcript._tail) + len(transcript._line) <= 4 * TAIL_BYTES
