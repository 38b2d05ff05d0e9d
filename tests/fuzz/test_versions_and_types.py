"""What programs and servers say of themselves: versions, types, names of types. Known, or not known; never a crash."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_safecopy.errors import ConfigError
from airflow_provider_safecopy.planning.column_match import can_widen
from airflow_provider_safecopy.planning.incremental import kind_of
from airflow_provider_safecopy.postgres.psql import OLDEST_MAJOR, find_psql
from tests.fuzz.depth import looking
from tests.fuzz.material import AWKWARD, spoiled
from tests.fuzz.tried import tried

PIECES = (b"\0", b"\xff", b"9" * 5000, "٣".encode(), b"(PostgreSQL)", b" ", b"\n", b"0", b"-")
SAID = b"psql (PostgreSQL) 16.4 (Debian 16.4-1.pgdg120+1)\n"
SPELLED = (
    *("smallint", "integer", "bigint", "numeric", "numeric(10,2)", "numeric(5,-2)", "character varying(40)", "text"),
    *("timestamp(3) without time zone", "time with time zone", "interval(2)", "bit varying(8)", "numeric(3,0)[]"),
)
TYPES = (*AWKWARD, "9" * 5000, "9" * 20, "(", ")", ",", "-1", "[]", " with time zone", "numeric")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("psql")


@looking(0.4)
@given(said=spoiled(st.just(SAID), PIECES))
@example(said=b"psql (PostgreSQL) " + b"9" * 5000)
@example(said="psql (PostgreSQL) ٣٣".encode())
def test_a_program_is_a_psql_of_some_major_or_refused_by_its_path(folder: Path, said: bytes) -> None:
    number = len(list(folder.iterdir()))
    answer, program = folder / f"{number}.told", folder / f"{number}.psql"
    answer.write_bytes(said)
    program.write_text(f'#!/bin/sh\nexec cat "{answer}"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    found = tried(ConfigError, lambda: find_psql(str(program)))
    if isinstance(found, ConfigError):
        assert str(program) in found.message
        return
    assert OLDEST_MAJOR <= found.major < 10_000
    assert str(found.major).encode() in said


@pytest.mark.parametrize("path", ["/nowhere/p\0sql", "/nowhere/\ud800"])
def test_a_path_that_can_be_none_is_refused(path: str) -> None:
    """Found: ValueError and UnicodeEncodeError."""
    with pytest.raises(ConfigError, match="does not answer --version"):
        find_psql(path)


@looking(3)
@given(spoiled(st.sampled_from(SPELLED), TYPES), spoiled(st.sampled_from(SPELLED), TYPES))
def test_any_type_widens_another_or_does_not(given_: str, taken: str) -> None:
    assert can_widen(given_, taken) in (True, False)
    assert not can_widen(given_, given_)
    assert not (can_widen(given_, taken) and can_widen(taken, given_)) or {given_, taken} == {
        "text",
        "character varying",
    }


@looking(3)
@given(spoiled(st.sampled_from(SPELLED), TYPES))
def test_any_type_is_a_cursors_or_is_not(spelled: str) -> None:
    kind = kind_of(spelled)
    assert kind is None or spelled.startswith(kind.type.partition(" ")[0])


def test_a_type_of_more_digits_than_python_reads_is_no_wider_one() -> None:
    """Found: ValueError. No server spells one so today; the parser had no bound of its own."""
    assert not can_widen("numeric(3,0)", f"numeric({'9' * 5000},0)")
