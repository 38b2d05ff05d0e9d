"""Values of options that a test of the whole command would not reach."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import click
import pytest

from airflow_provider_safecopy.cli import param_types

OPTION = click.Option(["--option"])
CONTEXT = click.Context(click.Command("test"))


def test_text_is_passed_on_as_it_is() -> None:
    assert param_types.text(CONTEXT, OPTION, "고객 😀") == "고객 😀"
    assert param_types.text(CONTEXT, OPTION, None) is None


def test_sql_comes_from_a_file_with_or_without_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "고객.sql"
    for encoding in ("utf-8", "utf-8-sig"):
        path.write_text("SELECT 1 AS 하나", encoding=encoding)
        assert param_types.sql(CONTEXT, OPTION, f"@{path}") == "SELECT 1 AS 하나"
    assert param_types.sql(CONTEXT, OPTION, "SELECT 1") == "SELECT 1"


def test_sql_comes_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("SELECT '고객'".encode()), encoding="ascii"))
    assert param_types.sql(CONTEXT, OPTION, "@-") == "SELECT '고객'"


def test_a_file_that_is_not_utf_8_is_refused_by_its_first_bad_byte(tmp_path: Path) -> None:
    path = tmp_path / "q.sql"
    path.write_bytes(b"SELECT '" + "고객".encode("euc_kr") + b"'")
    with pytest.raises(click.BadParameter, match=r"is not UTF-8 \(byte 9\)"):
        param_types.sql(CONTEXT, OPTION, f"@{path}")
    with pytest.raises(click.BadParameter, match="cannot read"):
        param_types.sql(CONTEXT, OPTION, f"@{tmp_path}")


@pytest.mark.parametrize("given", ["0", "-1", "soon", "0.0s"])
def test_what_is_no_time_is_refused_with_examples(given: str) -> None:
    with pytest.raises(click.BadParameter, match="such as 90, 90s, 15min or 4h"):
        param_types.seconds(CONTEXT, OPTION, given)


@pytest.mark.parametrize("given", ["0", "0.2", "512M", "much"])
def test_what_is_no_size_is_refused_with_examples(given: str) -> None:
    with pytest.raises(click.BadParameter, match="such as 1000000, 512MiB or 2GB"):
        param_types.size(CONTEXT, OPTION, given)


def test_a_path_that_is_nowhere_stays_as_it_was_written(tmp_path: Path) -> None:
    assert param_types.existing(str(tmp_path / "없음")) == str(tmp_path / "없음")
    raw = os.fsencode(tmp_path) + b"/\xb0\xed"
    Path(os.fsdecode(raw)).touch()
    assert os.fsencode(param_types.existing(os.fsdecode(raw))) == raw
