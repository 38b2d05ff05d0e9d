"""What is asked for is refused at once where it cannot be meant; what came of it is plain JSON."""

from __future__ import annotations

import json
from collections import UserDict
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from airflow_provider_safecopy.errors import ConfigError, LockBusyError
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.report import CopyReport, StageReport
from airflow_provider_safecopy.spec import CopySpec, Timeouts


def spec(**options: Any) -> CopySpec:
    return CopySpec.of(**{"source_table": "영업.고객", "target_table": "분석.고객"} | options)


def test_names_are_read_and_the_rest_has_defaults() -> None:
    made = spec()
    assert made.source_table == TableName("영업", "고객")
    assert made.target_table == TableName("분석", "고객")
    assert (made.transfer, made.format, made.publish, made.verify) == ("auto", "auto", "auto", "counts")
    assert (made.columns, made.where, made.lock, made.psql, made.spool_dir, made.spool_limit) == (None,) * 6
    assert made.timeouts == Timeouts()


def test_it_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        spec().where = "true"  # type: ignore[misc]


@pytest.mark.parametrize("options", [{"source_table": None}, {"source_sql": "SELECT 1"}])
def test_exactly_one_source_is_given(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="either source_table or source_sql"):
        spec(**options)


@pytest.mark.parametrize(
    "columns, mapping",
    [
        (["번호", "이름"], {"번호": "번호", "이름": "이름"}),
        (("이름", "번호"), {"이름": "이름", "번호": "번호"}),
        ({"번호": "id", "이름": "name"}, {"번호": "id", "이름": "name"}),
        (UserDict({"번호": "id"}), {"번호": "id"}),
        ({"번호": "이름", "이름": "번호"}, {"번호": "이름", "이름": "번호"}),
    ],
)
def test_columns_become_a_mapping_in_their_order(columns: Any, mapping: dict[str, str]) -> None:
    made = spec(columns=columns).columns
    assert made is not None
    assert list(made.items()) == list(mapping.items())


@pytest.mark.parametrize(
    "columns, told",
    [
        ([], "columns is empty"),
        ({}, "columns is empty"),
        ("번호,이름", "not '번호,이름'"),
        (["번호", "번호"], "twice"),
        ({"번호": "id", "이름": "id"}, "two source columns to one target column"),
        (["번호", ""], "no column name"),
        (["번호", "이\0름"], "no column name"),
        (["번호", "이\udcff름"], "no column name"),
        (["번호", None], "no column name"),
        ([["번호"]], "no column name"),
        ({"번호": 5}, "no column name"),
        ({5: "번호"}, "no column name"),
        (5, "list or a mapping"),
        ({"번호", "이름"}, "list or a mapping"),
        (b"id", "no column name"),
    ],
)
def test_columns_that_cannot_be_meant_are_refused(columns: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        spec(columns=columns)


@pytest.mark.parametrize("option", ["transfer", "format", "publish", "verify"])
@pytest.mark.parametrize("value", ["", "AUTO", "csv", None, 5, ["auto"]])
def test_a_choice_is_one_of_those_it_names(option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^{option}=.* is not one of .*") as caught:
        spec(**{option: value})
    allowed = {"format": "auto, text, binary", "verify": "counts, full"}
    assert allowed.get(option, "auto, ") in str(caught.value)


@pytest.mark.parametrize("option", ["where", "lock"])
@pytest.mark.parametrize("value", ["", " \n", "a\0b", "\udcff", 5, True, ["a"]])
def test_a_text_is_a_text_and_not_blank(option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^{option}\b"):
        spec(**{option: value})


@pytest.mark.parametrize("value", ["", " ", "SELECT '\0'", "SELECT '\udcff'", 5])
def test_source_sql_is_a_text_and_not_blank(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^source_sql"):
        spec(source_table=None, source_sql=value)


def test_what_sql_says_is_not_repeated_where_it_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        spec(where="token = 's3cret'\0")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "16", [1]])
def test_a_spool_limit_is_a_positive_number(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^spool_limit="):
        spec(spool_limit=value)


@pytest.mark.parametrize("option", ["create_target", "allow_empty"])
@pytest.mark.parametrize("value", ["false", "", 0, 1, None])
def test_a_flag_is_true_or_false_and_never_a_word_for_it(option: str, value: object) -> None:
    # A template renders to "False", which Python takes for true; an emptied target is too much to guess at.
    with pytest.raises(ConfigError, match=rf"^{option}="):
        spec(**{option: value})


@pytest.mark.parametrize("value", [None, 5, {"export": 5}])
def test_timeouts_are_timeouts(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^timeouts="):
        spec(timeouts=value)


@pytest.mark.parametrize("option", [option.name for option in fields(Timeouts)])
@pytest.mark.parametrize("value", [0, -0.5, float("nan"), float("inf"), None, True, "5"])
def test_no_timeout_can_be_switched_off(option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{option.rstrip('_')}_timeout="):
        Timeouts(**{option: value})  # type: ignore[arg-type]


def test_an_unknown_option_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match="unknown option: write_mod") as caught:
        spec(write_mod="append")
    assert "min_rows" in caught.value.hint
    assert "where" in caught.value.hint


@pytest.mark.parametrize("option", ["source_table", "target_table"])
def test_an_ambiguous_table_name_is_refused_with_the_quoted_spelling(option: str) -> None:
    with pytest.raises(ConfigError, match="3 parts") as caught:
        spec(**{option: "영업.주문.내역"})
    assert '영업."주문.내역"' in caught.value.hint


def test_a_skipped_copy_reports_who_holds_the_lock_and_no_figures() -> None:
    error = LockBusyError("held", lock="분석.고객", holder={"owner": {"dag": "영업_복사"}})
    told = CopyReport.from_busy_error(spec(), "here", "there", error).as_dict()
    assert (told["status"], told["lock"], told["holder"]) == ("skipped", "분석.고객", error.holder)
    assert (told["token"], told["rows"], told["stages"], told["reasons"]) == (None, None, [], ["held"])


def test_a_report_is_json() -> None:
    report = CopyReport(
        status="published",
        lock="분석.고객",
        source="here 영업.고객",
        target="there 분석.고객",
        format="text",
        transfer="chunked",
        publish="delete_insert",
        token=3,
        rows=2,
        reasons=("format text: asked for",),
        stages=(StageReport("export", 0.5, 4711, 0, 2, 20), StageReport("verify", 0.1, rows=2)),
    )
    told = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert set(told) == {option.name for option in fields(CopyReport)} - {"holder"}
    assert told["stages"][0] == {
        "stage": "export",
        "seconds": 0.5,
        "pid": 4711,
        "exit_code": 0,
        "rows": 2,
        "bytes": 20,
    }
    assert told["reasons"] == ["format text: asked for"]
    assert told["warnings"] == []
    assert told["content_hash"] is None


def test_what_as_dict_gives_may_be_changed_without_changing_the_report() -> None:
    report = CopyReport(
        "planned", "l", "s", "t", "text", "chunked", "delete_insert", stages=(StageReport("export", 1),)
    )
    report.as_dict()["stages"][0]["seconds"] = 99
    assert report.stages[0].seconds == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"write_mode": "merge"}, "write_mode"),
        ({"write_mode": "append"}, "needs append_key"),
        ({"append_key": "11월"}, "append_key means nothing with write_mode=replace"),
        ({"write_mode": "upsert", "publish": "swap"}, "publish means nothing with write_mode=upsert"),
        ({"write_mode": "append", "append_key": "a", "key_columns": ["번호"]}, "key_columns means nothing"),
        ({"write_mode": "upsert", "key_columns": []}, "key_columns is empty"),
        ({"write_mode": "upsert", "key_columns": ["번호", "번호"]}, "twice"),
        ({"write_mode": "incremental"}, "cursor_column"),
        ({"cursor_column": "변경일시"}, "cursor_column"),
        ({"lookback": "2 days"}, "lookback means nothing"),
        ({"write_mode": "incremental", "cursor_column": "n", "interval_start": "1"}, "go together"),
        (
            {
                "write_mode": "incremental",
                "cursor_column": "n",
                "interval_start": "1",
                "interval_end": "2",
                "lookback": 5,
            },
            "lookback",
        ),
        ({"missing": "delete"}, "missing means nothing"),
        ({"write_mode": "upsert", "missing": "mark"}, "missing_column"),
        ({"write_mode": "upsert", "missing_column": "삭제"}, "missing_column"),
        ({"min_rows": -1}, "min_rows"),
        ({"min_rows": True}, "min_rows"),
        ({"min_rows": 1.5}, "min_rows"),
        ({"max_shrink": 101}, "max_shrink"),
        ({"write_mode": "upsert", "max_shrink": 5}, "max_shrink means nothing"),
        ({"max_null_share": {"이메일": -1}}, "이메일"),
        ({"max_null_share": {"": 5}}, "max_null_share"),
        ({"drift": "guess"}, "drift"),
        ({"create_target": "yes"}, "create_target"),
        ({"refresh_views": 1}, "refresh_views"),
        ({"terminate_blockers_after": 0}, "terminate_blockers_after"),
        ({"swap_patience": 0}, "swap_patience"),
    ],
)
def test_what_contradicts_itself_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        spec(**options)


def test_an_empty_source_is_an_accident_only_where_it_would_empty_the_target() -> None:
    assert spec().fewest_rows == 1
    assert spec(min_rows=0).fewest_rows == 0
    assert spec(min_rows=500).fewest_rows == 500
    assert spec(write_mode="upsert").fewest_rows == 0
    assert spec(write_mode="append", append_key="11월", min_rows=1).fewest_rows == 1


def test_a_lookback_may_be_a_number() -> None:
    assert spec(write_mode="incremental", cursor_column="번호", lookback=1000).lookback == "1000"
