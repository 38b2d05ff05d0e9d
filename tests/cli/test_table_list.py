"""The list of tables as people write it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from airflow_provider_safecopy.cli import table_list
from airflow_provider_safecopy.errors import ConfigError
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.table_list import build_specs

Pairs = list[tuple[str | None, str, str | None, str]]


def read(folder: Path, text: str, name: str = "목록.txt") -> Pairs:
    """What each line names: source schema and table, target schema and table."""
    file = folder / name
    file.write_text(text, "utf-8")
    found = []
    for spec in build_specs(table_list.read(str(file)), {}):
        source = spec.source_table or TableName(None, "?")
        found.append((source.schema, source.name, spec.target_table.schema, spec.target_table.name))
    return found


@pytest.mark.parametrize(
    "text, pairs",
    [
        ("영업.고객", [("영업", "고객", "영업", "고객")]),
        ("영업.고객\t분석.고객\n", [("영업", "고객", "분석", "고객")]),
        ("영업.고객   분석.고객  # 매일\r\n\n# 없음\n표", [("영업", "고객", "분석", "고객"), (None, "표", None, "표")]),
        ('영업."큰 고객" "분석"."점.찍음"', [("영업", "큰 고객", "분석", "점.찍음")]),
        ('"탭\t#""인용"""', [(None, '탭\t#"인용"', None, '탭\t#"인용"')]),
        ('"줄\n바꿈"\n둘 셋', [(None, "줄\n바꿈", None, "줄\n바꿈"), (None, "둘", None, "셋")]),
        ("\ufeff표#주석", [(None, "표", None, "표")]),
    ],
)
def test_lines(tmp_path: Path, text: str, pairs: Pairs) -> None:
    assert read(tmp_path, text) == pairs


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "the list of tables is empty"),
        ("# nothing\n\n", "the list of tables is empty"),
        ("표\n하나 둘 셋\n", r"line 2 of .*목록.txt has 3 names"),
        ('표\n"열린 따옴표\n', r"line 2 of .*목록.txt: a double quote is left open"),
        ("표\n하나.둘.셋\n", r"line 2 of .*목록.txt: .*has 3 parts"),
        ('"줄\n바꿈"\n하나.둘.셋\n', r"line 3 of .*목록.txt: .*has 3 parts"),
        ("가 표\n나 표\n", r"line 2 of .*목록.txt: 표 is the target of line 1 of .*목록.txt already"),
    ],
)
def test_lines_that_cannot_be_meant(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)


def test_json_may_say_more_of_a_table(tmp_path: Path) -> None:
    file = tmp_path / "목록.json"
    file.write_text(
        '["영업.고객", {"source_table": ["영업", "주문.내역"], "target_table": "분석.주문", "where": "금액 > 0"},'
        ' {"source_sql": "select 1 as a", "target_table": "하나", "write_mode": "append", "append_key": "오늘"}]'
    )
    one, other, query = build_specs(table_list.read(str(file)), {"where": "참", "verify": "full"})
    assert (one.source_table, one.where, one.verify) == (TableName("영업", "고객"), "참", "full")
    assert (other.source_table, other.where, other.verify) == (TableName("영업", "주문.내역"), "금액 > 0", "full")
    assert (query.source_sql, query.append_key, query.source_table) == ("select 1 as a", "오늘", None)


@pytest.mark.parametrize(
    "text, message",
    [
        ("[", "is no JSON"),
        ('{"source_table": "표"}', "must be a list of tables, not dict"),
        ('"표"', "must be a list of tables, not str"),
        ("[1]", r"목록.json\[0\] is neither a name nor a mapping"),
        ('[{"source_table": "표"}]', r"목록.json\[0\] names no target_table"),
        ('[{"target_table": "표", "source_table": "표", "psql": "/x"}]', r"목록.json\[0\]: psql cannot be said of one"),
        ('["표", {"target_table": "둘", "source_table": "둘", "format": "csv"}]', r"목록.json\[1\]: format='csv'"),
    ],
)
def test_json_that_cannot_be_meant(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text, "목록.json")


@pytest.mark.parametrize("text", ["하나 둘\n", '[{"source_table": "하나", "target_table": "둘"}]'])
def test_standard_input_is_either(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    (spec,) = build_specs(table_list.read("-"), {})
    assert (str(spec.source_table), str(spec.target_table)) == ("하나", "둘")


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*없음: No such file"):
        table_list.read(str(tmp_path / "없음"))
    (tmp_path / "글").write_bytes("한글\n".encode("euc-kr"))
    with pytest.raises(ConfigError, match="is not UTF-8"):
        table_list.read(str(tmp_path / "글"))
