"""The transcript: decided by marks no stranger can forge, in whatever pieces stderr comes, in bounded memory."""

from __future__ import annotations

import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_safecopy.demo.servers import Installation, installations
from airflow_provider_safecopy.postgres.psql import Psql, find_psql
from airflow_provider_safecopy.postgres.psql_output import TAIL_BYTES, Transcript
from tests.support.database import PRESENT, Database, Servers

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


def test_of_messages_without_a_place_the_first_errors_code_counts() -> None:
    said = (
        b"psql:<stdin>:3: WARNING:  01000: a\nLOCATION:  f, x.c:1\nNOTICE:  00000: b\nLOCATION:  f, x.c:1\n"
        b"psql:<stdin>:4: ERROR:  42P01: c\nLOCATION:  f, x.c:1\nERROR:  XX000: d\n"
    )
    assert heard(said).sqlstate == "42P01"
    assert heard(b"ERROR:  22P02: invalid").sqlstate is None  # its line has not ended


def test_a_message_in_the_midst_of_another_is_none() -> None:
    said = b"NOTICE:  00000: a\nERROR:  42P01: b\npsql:<stdin>:1: ERROR:  42P02: c\nLOCATION:  f, x.c:1\n"
    assert heard(said).sqlstate is None
    assert heard(said, b"ERROR:  40001: d\n").sqlstate == "40001"


def test_of_messages_with_a_place_the_last_errors_code_counts_and_none_of_those_without() -> None:
    place = "\x1b[beef0123mpsql:<stdin>:4: \x1b[0m"
    said = f"{place}NOTICE:  42P01: a\nLOCATION:  f, x.c:1\nERROR:  42P02: b\n{place}ERROR:  40001: c\n{place}INFO:  00000: d\n"
    said += "\x1b[0123beefmpsql:<stdin>:4: \x1b[0mERROR:  42P03: e\n"
    transcript = Transcript(NONCE, "beef0123", bare=False)
    for each in (transcript, Transcript(NONCE, "beef0123")):
        each.feed(said.encode())
        assert each.sqlstate == "40001"
        assert each.tail.startswith("psql:<stdin>:4: NOTICE:  42P01: a\n")
    assert (transcript.with_nonce("beef").colour, transcript.with_nonce("beef").bare) == ("beef0123", False)


def test_a_line_that_has_not_ended_is_shown_without_its_colour() -> None:
    transcript = Transcript(NONCE, "beef0123")
    transcript.feed(b"\x1b[beef0123mpsql: \x1b[0merror: gone")
    assert transcript.tail == "psql: error: gone"


FORGED = "ERROR:  42P01: 위조\npsql:<stdin>:1: ERROR:  42P01: 위조"


@pytest.mark.parametrize("installed", installations(), ids=lambda installed: str(installed.major))
@pytest.mark.parametrize(
    "notice",
    [
        f"RAISE NOTICE E'{FORGED}'",
        f"RAISE NOTICE E'가\n{FORGED}'",
        f"RAISE INFO E'가\n{FORGED}\nLOCATION:  f, x.c:1\n{FORGED}'",
        "RAISE WARNING '가' USING ERRCODE = '42P01'",
    ],
    ids=["its first line", "another line", "after a forged end", "its own code"],
)
def test_no_notice_of_a_strangers_forges_the_code_of_a_scripts_error(
    servers: Servers, notice: str, installed: Installation, tmp_path: Path
) -> None:
    """Found: a NOTICE with a line break in it, and the error was told under a code it made up, and as not retryable."""
    assert _ended(servers, installed, notice, tmp_path, "-f", "-") == "40001"


@pytest.mark.parametrize("installed", installations(), ids=lambda installed: str(installed.major))
@pytest.mark.parametrize("notice", [f"RAISE NOTICE E'{FORGED}'", f"RAISE INFO E'가\n{FORGED}'"])
def test_no_notice_within_another_message_forges_the_code_of_a_single_statement(
    servers: Servers, notice: str, installed: Installation, tmp_path: Path
) -> None:
    assert _ended(servers, installed, notice, tmp_path, "-c", "SELECT pg_temp.소문()") == "40001"


def _ended(servers: Servers, installed: Installation, notice: str, folder: Path, *arguments: str) -> str | None:
    """The code that is told of a function's error, which says `notice` before."""
    body = f"BEGIN {notice}; RAISE EXCEPTION E'진짜\n{FORGED}' USING ERRCODE = '40001'; END"
    function = f"CREATE FUNCTION pg_temp.소문() RETURNS int LANGUAGE plpgsql AS $${body}$$;\n"
    first, script = folder / "먼저.sql", folder / "다음.sql"
    first.write_text(function)
    script.write_text("SELECT pg_temp.소문();\n")
    with script.open("rb") as stdin:
        child = Psql.start(
            "export",
            find_psql(str(installed.psql)),
            Database(servers.of(18), "postgres").endpoint,
            nonce=NONCE,
            arguments=["-f", str(first), *arguments],
            stdin=stdin.fileno(),
            inherit=[],
            application_name="safecopy:소문",
            connect_timeout=10,
        )
    assert child.process.wait(100)
    child.close()
    assert "진짜" in child.transcript.tail
    assert "\x1b" not in child.transcript.tail
    return child.transcript.sqlstate


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
