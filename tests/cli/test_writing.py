"""The options of writing: what a person types is what the spec asks for."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from airflow_provider_safecopy.cli import option
from airflow_provider_safecopy.cli.output import Output
from airflow_provider_safecopy.spec import CopySpec, Timeouts

TABLES = ("--source-table", "영업.고객", "--target-table", "분석.고객")


@pytest.fixture
def spec() -> Any:
    """Read a command line: ``spec("--min-rows", "5")``."""

    def read(*words: str) -> CopySpec | str:
        found: list[CopySpec] = []

        @click.command()
        @option.table
        @option.manner
        def command(**options: Any) -> None:
            found.append(option.spec_of(Output(), options))

        result = CliRunner().invoke(command, [*TABLES, *words], catch_exceptions=True)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            return str(result.exception)
        return found[0] if found else result.output

    return read


def test_what_is_left_out_is_the_spec_s_own_default(spec: Any) -> None:
    assert spec() == CopySpec.of(source_table="영업.고객", target_table="분석.고객")


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (("--publish", "swap"), {"publish": "swap"}),
        (("--write-mode", "upsert", "--key", "지역,번호"), {"write_mode": "upsert", "key_columns": ("지역", "번호")}),
        (
            ("--write-mode", "upsert", "--key", '"금액,원"', "--key", "번호"),
            {"write_mode": "upsert", "key_columns": ("금액,원", "번호")},
        ),
        (
            ("--write-mode", "incremental", "--cursor-column", '"변경 일시"'),
            {"write_mode": "incremental", "cursor_column": "변경 일시"},
        ),
        (
            ("--write-mode", "incremental", "--cursor-column", "변경일시", "--lookback", "2 days"),
            {"write_mode": "incremental", "cursor_column": "변경일시", "lookback": "2 days"},
        ),
        (
            ("--write-mode", "incremental", "--cursor-column", "n", "--interval-start", "1", "--interval-end", "9"),
            {"write_mode": "incremental", "cursor_column": "n", "interval_start": "1", "interval_end": "9"},
        ),
        (("--write-mode", "append", "--append-key", "11월"), {"write_mode": "append", "append_key": "11월"}),
        (
            ("--write-mode", "upsert", "--missing", "mark", "--missing-column", "삭제일시"),
            {"write_mode": "upsert", "missing": "mark", "missing_column": "삭제일시"},
        ),
        (("--min-rows", "0", "--max-shrink", "12.5"), {"min_rows": 0, "max_shrink": 12.5}),
        (
            ("--max-null-share", "이메일=5", "--max-null-share", "a=b=0.5%"),
            {"max_null_share": {"이메일": 5.0, "a=b": 0.5}},
        ),
        (("--drift", "add_columns", "--create-target"), {"drift": "add_columns", "create_target": True}),
        (
            ("--refresh-views", "--terminate-blockers-after", "5min"),
            {"refresh_views": True, "terminate_blockers_after": 300.0},
        ),
        (("--swap-patience", "2min"), {"swap_patience": 120.0}),
        (("--lock-wait-timeout", "45"), {"timeouts": Timeouts(lock_wait=45)}),
    ],
)
def test_what_is_typed_is_what_is_asked_for(spec: Any, words: tuple[str, ...], asked: dict[str, Any]) -> None:
    assert spec(*words) == CopySpec.of(source_table="영업.고객", target_table="분석.고객", **asked)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--key", "a=b"), "names alone"),
        (("--key", "a,,b"), "--key"),
        (("--max-null-share", "이메일"), "no column and percentage"),
        (("--max-null-share", "=5"), "names no column"),
        (("--max-shrink", "101"), "101"),
        (("--min-rows", "-1"), "-1"),
        (("--write-mode", "append"), "append_key"),
    ],
)
def test_nonsense_is_told(spec: Any, words: tuple[str, ...], told: str) -> None:
    assert told in spec(*words)
