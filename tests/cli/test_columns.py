"""Columns as written on a command line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_safecopy.cli import param_types
from airflow_provider_safecopy.errors import ConfigError

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8)


@pytest.mark.parametrize(
    "options, expected",
    [
        ((), None),
        (("고객번호,이름",), {"고객번호": "고객번호", "이름": "이름"}),
        (("고객번호", "이름"), {"고객번호": "고객번호", "이름": "이름"}),
        (("고객번호=cust_no, 이름 = name",), {"고객번호": "cust_no", "이름": "name"}),
        (('"금액,원"=amount',), {"금액,원": "amount"}),
        (('"a=b"="c,d"',), {"a=b": "c,d"}),
        (('"큰""따옴표"',), {'큰"따옴표': '큰"따옴표'}),
        (('" 앞뒤 "',), {" 앞뒤 ": " 앞뒤 "}),
        (("요청 사항",), {"요청 사항": "요청 사항"}),
    ],
)
def test_names_and_pairs_are_read(options: tuple[str, ...], expected: dict[str, str] | None) -> None:
    assert param_types.parse(options) == expected


def test_their_order_is_kept() -> None:
    assert list(param_types.parse(["다,가", "나"]) or ()) == ["다", "가", "나"]


@pytest.mark.parametrize(
    "option", ["", " ", ",", "가,", ",가", "가,,나", "가=", "=가", "가=나=다", '"가', '"가"나', '가"나', '""']
)
def test_what_cannot_be_read_is_shown_as_it_was_written(option: str) -> None:
    with pytest.raises(ConfigError) as caught:
        param_types.parse([option])
    assert repr(option) in caught.value.message
    assert "separated by commas" in caught.value.hint


def test_a_column_named_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="twice"):
        param_types.parse(["가=x", "가=y"])


@given(st.dictionaries(NAMES, NAMES, min_size=1, max_size=5))
def test_any_name_can_be_given_in_quotes(wanted: dict[str, str]) -> None:
    def quoted(name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    option = ",".join(f"{quoted(source)}={quoted(target)}" for source, target in wanted.items())
    assert param_types.parse([option]) == wanted


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ('"수정 일시"', "수정 일시"),
        ('"따""옴표"', '따"옴표'),
        ("수정 일시", "수정 일시"),
        ("금액,원", "금액,원"),
        ("a=b", "a=b"),
        ('"', '"'),
        ('가"나"', '가"나"'),
        (' "가" ', "가"),
    ],
)
def test_a_single_name_may_stand_in_quotes(word: str, name: str) -> None:
    """The kind: an option that takes one column reads it as those do that take several."""
    assert param_types.unquote_name(word) == name
