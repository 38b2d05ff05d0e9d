"""The transcript: decided by marks no stranger can forge, in whatever pieces stderr comes, in bounded memory."""

from __future__ import annotations

import subprocess
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_safecopy.transfer.transcript import TAIL_BYTES, Transcript
from tests.ground.database import PRESENT, Database, Servers

NONCE = "0123456789abcdef"

marks = st.builds(
    "safecopy {} {} {}".format,
    st.sampled_from([NONCE, NONCE[::-1], NONCE[:-1], "", f"{NONCE}x"]),
    st.sampled_from(["rows", "end", "backend", "rows rows"]),
    st.text(max_size=8) | st.integers().map(str) | st.just("9" * 5000),
).map(str.encode)
errors = st.builds(
    "{}{}:  {}: {}".format,
    st.sampled_from(["", "psql:<stdin>:7: ", "psql:/proc/self/fd/9:12: "]),
    st.sampled_from(["ERROR", "오류", "WARNING", "NOTICE", "FEHLER"]),
    st.sampled_from(["42P01", "00000", "01000", "02000", "XX000", "123", "23505"]),
    st.text(max_size=20),
).map(str.encode)
long = st.builds(lambda start, size: start + b"x" * size, marks | errors, st.integers(0, 5 * TAIL_BYTES))
lines = st.lists(marks | errors | long | st.binary(max_size=40), max_size=8).map(b"\n".join)


def heard(*pieces: bytes) -> Transcript:
    transcript = Transcript(NONCE)
    for piece in pieces:
        transcript.feed(piece)
    return transcript


@given(lines, st.lists(st.integers(0, 6 * TAIL_BYTES), max_size=8))
@example(b"ERROR:  22P02: " + b"x" * 5 * TAIL_BYTES + b"\n", [8192, 16384, 24576])
@example(b"x" * TAIL_BYTES + f"safecopy {NONCE} rows 7\n".encode(), [TAIL_BYTES + 10, TAIL_BYTES + 24])
def test_pieces_of_any_size_tell_the_same(said: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(said)) for cut in cuts), len(said)]
    pieces = [said[start:stop] for start, stop in pairwise(edges)]
    assert heard(*pieces) == heard(said)


@given(lines)
def test_memory_is_bounded_and_nothing_said_is_too_much(said: bytes) -> None:
    transcript = heard(*(said + b"\n",) * 50)
    transcript.feed(b"z" * 10 * TAIL_BYTES)
    assert len(transcript._tail) + len(transcript._line) <= 4 * TAIL_BYTES
    assert len(transcript._marks) <= 32
    transcript.number("rows")
    transcript.tail.encode()


@given(lines)
def test_a_stranger_cannot_forge_a_mark(said: bytes) -> None:
    strange = said.replace(NONCE.encode(), NONCE.swapcase().encode())
    transcript = heard(strange)
    assert transcript._marks == []
    assert transcript.number("rows") is None


def test_a_mark_in_the_midst_of_a_line_is_none() -> None:
    said = f"WARNING:  01000: safecopy {NONCE} rows 5\n safecopy {NONCE} rows 6\nsafecopy {NONCE}  rows 7\n"
    transcript = heard(said.encode())
    assert transcript.values("rows") == []


def test_marks_are_taken_in_order_and_kept_out_of_the_tail() -> None:
    transcript = heard(f"hello\nsafecopy {NONCE} backend 42\nsafecopy {NONCE} rows 7\nsafecopy {NONCE} end\n".encode())
    assert transcript.number("backend") == 42
    assert transcript.number("rows") == 7
    assert transcript.values("end") == [""]
    assert transcript.values("committed") == []
    assert transcript.tail == "hello"


def test_an_unfinished_mark_does_not_count_until_its_line_ends() -> None:
    transcript = heard(f"safecopy {NONCE} rows 1".encode())
    assert transcript.number("rows") is None
    transcript.feed(b"2\n")
    assert transcript.number("rows") == 12


@pytest.mark.parametrize(
    "values", [[], ["5", "5"], [""], ["-5"], ["5.0"], ["０"], ["5 5"], [":ROW_COUNT"], ["9" * 5000]]
)
def test_a_number_is_one_plain_number_or_none(values: list[str]) -> None:
    transcript = heard("".join(f"safecopy {NONCE} rows {value}\n" for value in values).encode())
    assert transcript.number("rows") is None


def test_the_first_sqlstate_counts_and_notices_have_none() -> None:
    said = (
        b"psql:<stdin>:3: WARNING:  01000: a\nNOTICE:  00000: b\npsql:<stdin>:4: ERROR:  42P01: c\nERROR:  XX000: d\n"
    )
    assert heard(said).sqlstate == "42P01"
    assert heard(b"ERROR:  22P02: invalid").sqlstate is None  # its line has not ended


def test_bytes_of_no_encoding_are_shown_escaped() -> None:
    assert heard(b"\xb0\xed\xb0\xb4 \xea\xb3\xa0\n").tail == "\\xb0\\xed\\xb0\\xb4 고"


def test_the_tail_keeps_the_last_words() -> None:
    transcript = heard(b"\n".join(b"line %d" % number for number in range(10_000)))
    assert transcript.tail.endswith("line 9998\nline 9999")
    assert len(transcript.tail) <= TAIL_BYTES


@pytest.mark.parametrize("major", PRESENT)
def test_a_real_servers_sqlstate_is_heard_even_behind_a_long_message(servers: Servers, psql: str, major: int) -> None:
    database = Database(servers.of(major), "postgres")
    command = [psql, "-X", "-w", "-q", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose", database.conninfo]
    for arguments in (["-c", "SELECT repeat('가', 40000)::int"], ["-f", "-"]):
        done = subprocess.run(
            [*command, *arguments], input=b"\n\nSELECT * FROM none;\n", capture_output=True, check=False, timeout=30
        )
        for size in (61, 4096, 1 << 20):
            transcript = heard(*(done.stderr[at : at + size] for at in range(0, len(done.stderr), size)))
            assert transcript.sqlstate == ("22P02" if arguments[0] == "-c" else "42P01")
