"""Options are declared once: Python, the command and the reference page follow. The operator: `tests/airflow`."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from airflow_provider_safecopy import table_list
from airflow_provider_safecopy.cli import option, spelling
from airflow_provider_safecopy.cli.entry import safecopy
from airflow_provider_safecopy.cli.failure import format_error
from airflow_provider_safecopy.errors import ConfigError, PlanError, Refusal, StageError
from airflow_provider_safecopy.spec import CopySpec, Timeouts
from tests import reference
from tests.support.dummy_option import DummySpec

NAMES: dict[str, Any] = {"source_table": "영업.고객", "target_table": "분석.고객"}
OLD_NAMES = [
    ({"slice": "11월", "write_mode": "append"}, {"append_key": "11월", "write_mode": "append"}, "append_key"),
    ({"end_blockers_after": 5}, {"terminate_blockers_after": 5}, "terminate_blockers_after"),
    ({"launch_interval": 5}, {"connect_interval": 5}, "connect_interval"),
    ({"allow_empty": True}, {"min_rows": 0}, "min_rows=0"),
    ({"allow_empty": False}, {}, "min_rows=0"),
]


# One more option


def test_a_declared_option_is_one_of_the_spec_and_is_checked() -> None:
    assert DummySpec.of(**NAMES).dots == 3
    assert DummySpec.of(**NAMES, paint_colour="빨강", dots=0).paint_colour == "빨강"
    for wrong in ({"dots": -1}, {"dots": None}, {"paint_colour": " "}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            DummySpec.of(**NAMES, **wrong)
    with pytest.raises(ConfigError, match="unknown option: dots"):
        CopySpec.of(**NAMES, dots=3)


def test_a_declared_option_may_be_given_for_one_table_unless_it_is_shared() -> None:
    entries = table_list.parse_entries([NAMES | {"paint_colour": "빨강"}], "tables", DummySpec)
    (made,) = table_list.build_specs(entries, {"dots": 5}, DummySpec)
    assert made == DummySpec.of(**NAMES, paint_colour="빨강", dots=5)
    with pytest.raises(ConfigError, match="dots cannot be said of one table"):
        table_list.parse_entries([NAMES | {"dots": 5}], "tables", DummySpec)


def test_a_declared_option_is_a_flag_of_the_command() -> None:
    found: dict[str, Any] = {}

    @click.command()
    @option.flags(DummySpec.options())
    def command(**options: Any) -> None:
        found.update(options)

    shown = CliRunner().invoke(command, ["--help"]).output
    assert "--paint-colour NAME" in shown
    assert "Colour beside --min-rows." in shown
    assert "--hue" not in shown
    assert "How many dots.  [default: 3]" in shown
    assert CliRunner().invoke(command, ["--paint-colour", "빨강", "--dots", "7"]).exit_code == 0
    assert (found["paint_colour"], found["dots"]) == ("빨강", 7)


def test_a_declared_option_is_on_the_reference_page() -> None:
    page = reference.page(DummySpec)
    assert "| `paint_colour` | `--paint-colour` | `str` |  | Colour beside `min_rows`. *(templated)* |" in page
    assert "| `dots` | `--dots` | `int` | `3` | How many dots. *(all tables)* |" in page
    assert "| `hue` | `paint_colour` |" in page


# Timeouts


def test_timeouts_are_given_one_by_one_or_together() -> None:
    assert CopySpec.of(**NAMES, stall_timeout=60, import_timeout=5).timeouts == Timeouts(stall=60, import_=5)
    assert CopySpec.of(**NAMES, timeouts=Timeouts(stall=60)).timeouts == Timeouts(stall=60)
    with pytest.raises(ConfigError, match="contradict"):
        CopySpec.of(**NAMES, timeouts=Timeouts(), stall_timeout=60)


def test_a_missing_target_is_named() -> None:
    with pytest.raises(ConfigError, match="target_table is missing"):
        CopySpec.of(source_table="영업.고객")


# Old names


@pytest.mark.parametrize("old, new, instead", OLD_NAMES)
def test_an_old_name_warns_the_line_that_uses_it_and_means_the_new_one(
    old: dict[str, Any], new: dict[str, Any], instead: str
) -> None:
    with pytest.warns(DeprecationWarning, match=f"{next(iter(old))} is deprecated.*use {instead}$") as met:
        made = CopySpec.of(**NAMES, **old)
    assert [each.filename for each in met] == [__file__]
    assert made == CopySpec.of(**NAMES, **new)


@pytest.mark.parametrize("old, new, _instead", OLD_NAMES)
def test_an_old_name_in_a_list_of_tables(old: dict[str, Any], new: dict[str, Any], _instead: str) -> None:
    one = {name: value for name, value in old.items() if name != "launch_interval"}
    shared = {name: value for name, value in old.items() if name not in one}
    with pytest.warns(DeprecationWarning, match="is deprecated"):
        (made,) = table_list.build_specs(
            table_list.parse_entries([NAMES | one], "tables"), {"min_rows": None, **shared}
        )
    assert made == CopySpec.of(**NAMES, **new)


def test_an_old_name_for_one_table_overrides_the_new_one_for_all() -> None:
    asked = NAMES | {"slice": "하나"}
    with pytest.warns(DeprecationWarning, match="slice"):
        (made,) = table_list.build_specs(
            table_list.parse_entries([asked], "tables"), {"write_mode": "append", "append_key": "모두"}
        )
    assert made.append_key == "하나"


def test_old_and_new_name_together_must_agree() -> None:
    with pytest.warns(DeprecationWarning, match="allow_empty"):
        assert CopySpec.of(**NAMES, allow_empty=True, min_rows=0).min_rows == 0
    with (
        pytest.warns(DeprecationWarning, match="slice"),
        pytest.raises(ConfigError, match="slice contradicts append_key"),
    ):
        CopySpec.of(**NAMES, write_mode="append", slice="하나", append_key="둘")


@pytest.mark.parametrize(
    "words",
    [
        ("--slice", "11월", "--write-mode", "append"),
        ("--end-blockers-after", "5"),
        ("--launch-interval", "5"),
        ("--allow-empty",),
    ],
)
def test_an_old_flag_is_hidden_and_warns_with_the_new_flag(words: tuple[str, ...]) -> None:
    tables = (
        "--source-table",
        "고객",
        "--target-table",
        "고객",
        "--source",
        "host=/nowhere",
        "--target",
        "host=/nowhere",
    )
    ran = CliRunner().invoke(safecopy, ["plan", *tables, *words, "--connect-timeout", "1"])
    assert f"safecopy: warning: {words[0]} is deprecated, and the next version drops it: use --" in ran.stderr
    assert "allow-empty is deprecated, and the next version drops it: use --min-rows 0" in ran.stderr or len(words) > 1
    assert words[0] not in CliRunner().invoke(safecopy, ["plan", "--help"]).output


def test_an_old_name_in_a_file_of_tables_warns(tmp_path: Path) -> None:
    listed = tmp_path / "목록.json"
    listed.write_text(json.dumps([NAMES | {"allow_empty": True}]), "utf-8")
    words = ["plan", "--tables-from", str(listed), "--source", "host=/nowhere", "--target", "host=/nowhere"]
    assert (
        "allow_empty is deprecated, and the next version drops it: use min_rows=0"
        in CliRunner().invoke(safecopy, words).stderr
    )


def test_no_flag_but_the_old_ones_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CopySpec.of(**NAMES, min_rows=0)


# Spelling


@pytest.mark.parametrize(
    "written, spelled",
    [
        ("set min_rows=0 if that is meant", "set --min-rows 0 if that is meant"),
        ("cast it in source_sql", "cast it in --source-sql"),
        ("key_columns is empty", "--key is empty"),
        ("raise max_shrink.", "raise --max-shrink."),
        ("max_shrink means nothing with missing=keep", "--max-shrink means nothing with --missing keep"),
        ("publish='swop' is not one of auto", "--publish 'swop' is not one of auto"),
        ("set create_target=True", "set --create-target"),
        ("raise lock_wait_timeout and publish_timeout", "raise --lock-wait-timeout and --publish-timeout"),
        ("the lock is busy; publish it where you like", "the lock is busy; publish it where you like"),
        ('column "min_rows" of 영업.min_rows does not exist', 'column "min_rows" of 영업.min_rows does not exist'),
    ],
)
def test_the_command_spells_options_as_flags(written: str, spelled: str) -> None:
    assert spelling.spell_options(written) == spelled


def test_errors_name_options_as_the_command_spells_them() -> None:
    refusal = Refusal("empty_source", "영업.고객 has no rows, and min_rows asks for 5", hint="lower min_rows")
    told = format_error(PlanError((refusal,)))
    assert "and --min-rows asks for 5" in told
    assert "next     lower --min-rows" in told
    assert "give either --source-table or --source-sql" in format_error(
        ConfigError("give either source_table or source_sql")
    )
    stage = StageError("export failed", stage="export", stderr_tail="ERROR: min_rows", hint="raise stall_timeout")
    assert "ERROR: min_rows" in format_error(stage)
    assert "raise --stall-timeout" in format_error(stage)
