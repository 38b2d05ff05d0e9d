"""`nothing_left` bites: each thing a copy could leave behind makes it fail."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import psycopg
import pytest

from tests.conftest import NothingLeft
from tests.support.database import Database


def test_it_is_content_when_nothing_is_left(source: Database, target: Database, nothing_left: NothingLeft) -> None:
    with source.connect(), tempfile.NamedTemporaryFile(), tempfile.TemporaryDirectory() as empty:
        nothing_left(source, target, spool=Path(empty), seconds=0)


def test_a_session_is_found(target: Database, nothing_left: NothingLeft) -> None:
    session = psycopg.connect(target.conninfo, application_name="safecopy:1234")
    with session, pytest.raises(AssertionError, match=r"session \d+ in"):
        nothing_left(target, seconds=0)
    nothing_left(target)


@pytest.mark.parametrize("schema", ["safecopy", "영업"])
def test_a_staging_table_is_found(target: Database, nothing_left: NothingLeft, schema: str) -> None:
    target.execute(f'CREATE SCHEMA "{schema}"; CREATE TABLE "{schema}"."고객__safecopy_7_ab12" ()')
    with pytest.raises(AssertionError, match="staging table"):
        nothing_left(target, seconds=0)


def test_a_psql_is_found_whoever_its_parent_is(
    target: Database, nothing_left: NothingLeft, psql: str, tmp_path: Path
) -> None:
    command = [psql, "-X", target.conninfo, "-c", "SELECT pg_sleep(60)"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        with pytest.raises(AssertionError, match=f"psql {child.pid}"):
            nothing_left(target, seconds=0)
        child.kill()
    with subprocess.Popen(["/bin/sh", "-c", '"$@" >/dev/null 2>&1 & echo $!', "sh", *command], stdout=-1) as shell:
        assert shell.stdout is not None
        orphan = int(shell.stdout.read())
    with pytest.raises(AssertionError, match=f"orphaned psql {orphan}"):
        nothing_left(target, seconds=0)
    os.kill(orphan, 9)
    nothing_left(target)


def test_temporary_files_are_found(nothing_left: NothingLeft, tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    with tempfile.TemporaryFile(dir=tmp_path), pytest.raises(AssertionError, match="open file"):
        nothing_left(seconds=0)
    descriptor = os.memfd_create("safecopy-password")
    with pytest.raises(AssertionError, match="open file /memfd:safecopy-password"):
        nothing_left(seconds=0)
    os.close(descriptor)
    (tmp_path / "spool" / "chunk").touch()
    with pytest.raises(AssertionError, match="spool file chunk"):
        nothing_left(spool=tmp_path / "spool", seconds=0)
