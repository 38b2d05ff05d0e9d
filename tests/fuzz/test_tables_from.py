"""The list of ``--tables-from``: each table as it was written, or a refusal that says which line or entry."""

from __future__ import annotations

import io
import json
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_safecopy.cli import main, table_list
from airflow_provider_safecopy.errors import ConfigError
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.spec import CopySpec
from airflow_provider_safecopy.table_list import build_specs, read_table_options
from tests.fuzz.depth import looking
from tests.fuzz.material import AWKWARD, BROKEN, broken, identifiers, json_values, spoiled
from tests.fuzz.tried import tried

names = st.builds(TableName, st.none() | identifiers, identifiers)
pairs = st.lists(st.tuples(names, names), min_size=1, max_size=5, unique_by=lambda pair: pair[1])
LINES = '영업.고객 분석.고객 # 매일\n\n"큰 ""고객""".표\t표\r\n영업."줄\n바꿈"\n'
LISTED = (
    '["영업.고객", {"source_table": ["영업", "주문.내역"], "target_table": "분석.주문", "where": "금액 > 0",'
    ' "columns": {"가": "나"}, "max_null_share": {"가": 5}, "min_rows": 3, "missing_column": "없음", "lookback": 7}]'
)
PIECES = (
    *AWKWARD,
    *BROKEN[:1],
    "null",
    "true",
    "NaN",
    "-Infinity",
    "1e999",
    "9" * 5000,
    "[" * 9,
    "{",
    '":',
    '"\\ud800"',
)


def written(name: TableName) -> str:
    """As a line of the list holds it: in double quotes always."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in (name.schema, name.name) if part is not None)


def read(folder: Path, raw: bytes, name: str) -> tuple[CopySpec, ...]:
    file = folder / name
    file.write_bytes(raw)
    return build_specs(table_list.read(str(file)), {})


@looking(2)
@given(pairs)
def test_lines_are_read_as_they_were_printed(tmp_path_factory: pytest.TempPathFactory, pairs: Any) -> None:
    text = "".join(f"{written(one)}\t{written(other)} # 주석\n" for one, other in pairs)
    specs = read(tmp_path_factory.getbasetemp(), text.encode(), "목록.txt")
    assert "".join(f"{written(each.source_table)}\t{written(each.target_table)} # 주석\n" for each in specs) == text  # type: ignore[arg-type]


@looking(2)
@given(pairs)
def test_json_is_read_as_it_was_printed(tmp_path_factory: pytest.TempPathFactory, pairs: Any) -> None:
    listed = [{"source_table": str(one), "target_table": [other.schema or "없음", other.name]} for one, other in pairs]
    raw = json.dumps(listed).encode()
    specs = tried(ConfigError, lambda: read(tmp_path_factory.getbasetemp(), raw, "목록.json"))
    if isinstance(specs, ConfigError):
        assert "already" in specs.message  # the schema that was put in made two of them one
        return
    assert [(str(each.source_table), each.target_table.name) for each in specs] == [
        (str(one), other.name) for one, other in pairs
    ]


@looking(3)
@given(
    spoiled(st.just(LINES), PIECES).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | spoiled(st.just(LINES.encode()), (b"\xff", b"\0", b"\xef\xbb\xbf", b"\xed\xa0\x80"))
    | st.binary(max_size=60)
)
def test_spoiled_lines_are_tables_or_refused_by_their_place(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes
) -> None:
    specs = tried(ConfigError, lambda: read(tmp_path_factory.getbasetemp(), raw, "목록.txt"))
    if isinstance(specs, ConfigError):
        assert "목록.txt" in specs.message or specs.message == "the list of tables is empty"
        return
    assert all(str(each.target_table).encode() for each in specs)


@looking(3)
@given(
    spoiled(st.just(LISTED), PIECES).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.lists(
        broken
        | st.dictionaries(st.sampled_from(sorted(read_table_options())) | broken, json_values | broken, max_size=5),
        max_size=3,
    ).map(lambda listed: json.dumps(listed).encode())
    | json_values.map(lambda value: json.dumps(value).encode())
)
@example(b"[" * 200_000)
@example(b'["\\ud800"]')
def test_spoiled_json_is_tables_or_refused_by_its_place(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    specs = tried(ConfigError, lambda: read(tmp_path_factory.getbasetemp(), raw, "목록.json"))
    if isinstance(specs, ConfigError):
        assert "목록.json" in specs.message or specs.message == "the list of tables is empty"
        return
    assert all(str(each.target_table).encode() for each in specs)


@looking(3)
@given(st.dictionaries(st.sampled_from(sorted(read_table_options())), json_values | broken, max_size=4))
@example({"max_null_share": [5]})
@example({"max_null_share": "가=5"})
@example({"write_mode": "upsert", "missing": "mark", "missing_column": 5})
@example({"write_mode": "upsert", "missing": "mark", "missing_column": "\ud800"})
@example({"spool_dir": 5})
def test_options_of_any_kind_are_a_spec_or_refused_by_name(options: dict[str, Any]) -> None:
    given_ = {"source_table": "영업.고객", "target_table": "분석.고객"} | options
    spec = tried(ConfigError, lambda: CopySpec.of(**given_))
    if isinstance(spec, ConfigError):
        assert any(option in spec.message for option in (*options, "table", "give either", "contradicts"))
        return
    for column in (spec.cursor_column, spec.missing_column, *(spec.columns or {}), *(spec.max_null_share or {})):
        assert column is None or column.encode()


@pytest.mark.parametrize("option", ["rate_limit", "spool_limit", "parallel"])
@pytest.mark.parametrize("number", [10**400, 1 << 80, 0])
def test_a_number_beyond_all_reckoning_is_refused(option: str, number: int) -> None:
    """Found: a rate_limit of 400 digits was taken, and ended the copy in its midst with an OverflowError."""
    asked: dict[str, Any] = {"source_table": "고객", "target_table": "고객", option: number}
    with pytest.raises(ConfigError, match=f"{option}="):
        CopySpec.of(**asked)


def test_json_nested_beyond_measure_is_refused(tmp_path: Path) -> None:
    """Found: RecursionError, told as a mistake of SafeCopy."""
    with pytest.raises(ConfigError, match=r"목록\.json is no JSON"):
        read(tmp_path, b"[" * 200_000, "목록.json")


def test_an_option_said_twice_of_one_table_is_refused(tmp_path: Path) -> None:
    """Found: the last one was taken without a word, as of two tables whose braces were lost between them."""
    raw = '[{"source_table": "영업.고객", "target_table": "분석.고객", "target_table": "분석.주문"}]'.encode()
    with pytest.raises(ConfigError, match=r"목록\.json .*target_table.* twice"):
        read(tmp_path, raw, "목록.json")


@pytest.mark.parametrize("words", [("--tables-from", "-"), ("--source-sql", "@-", "--target-table", "표")])
def test_standard_input_that_is_closed_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    """Found: AttributeError where the shell had closed it (``<&-``), as Python then has none."""
    monkeypatch.setattr(sys, "stdin", None)
    ends = ("--source", "host=/nowhere", "--target", "host=/nowhere")
    assert main(["plan", *ends, *words]) == 2
    assert "standard input" in capsys.readouterr().err


def test_an_open_quote_costs_no_more_memory_than_the_file_is_worth(tmp_path: Path) -> None:
    file = tmp_path / "목록.txt"
    file.write_bytes(b'"' + b"a" * (1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match="left open"):
            table_list.read(str(file))
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_standard_input_is_read_as_bytes_of_any_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    with pytest.raises(ConfigError, match=r"standard input is not UTF-8 \(byte 1\)"):
        table_list.read("-")
