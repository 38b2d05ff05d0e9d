"""Names are bytes: read as they stand, spelled so that they are read back the same."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_safecopy.errors import ConfigError
from airflow_provider_safecopy.postgres.names import TableName, spell

# Whatever UTF-8 can spell, but a NUL; blanks, dots and quotes more often than chance would have it.
LEGAL = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
AWKWARD = st.text(st.sampled_from(".\"' \t\n\x85\xa0\u3000가각\u1100\u1161aA_$-:\\%"), min_size=1)
PART = LEGAL | AWKWARD
NAMES = st.builds(TableName, st.none() | PART, PART)


@given(NAMES)
@example(TableName("영업", "주문.내역"))
@example(TableName(" ", '"'))
@example(TableName(None, "\x85고객\u2028"))
def test_what_is_spelled_is_read_back(name: TableName) -> None:
    assert TableName.parse(str(name)) == name


@given(NAMES)
def test_sql_reads_the_spelling_with_quotes_as_the_same_name(name: TableName) -> None:
    quoted = ".".join('"' + part.replace('"', '""') + '"' for part in (name.schema, name.name) if part is not None)
    assert TableName.parse(quoted) == name


@given(PART, PART)
def test_a_pair_is_taken_as_it_stands(schema: str, name: str) -> None:
    assert TableName.parse((schema, name)) == TableName(schema, name)
    assert TableName.parse([name]) == TableName(None, name)


@given(st.text() | st.lists(st.text(), max_size=4) | AWKWARD)
def test_whatever_is_given_is_a_name_or_a_config_error(value: str | list[str]) -> None:
    try:
        name = TableName.parse(value)
    except ConfigError:
        return
    assert TableName.parse(str(name)) == name
    assert name.name.encode()


@pytest.mark.parametrize(
    "text, schema, name",
    [
        ("고객", None, "고객"),
        ("영업.고객", "영업", "고객"),
        (" 영업 . 고객 ", "영업", "고객"),
        ('"영업"."주문.내역"', "영업", "주문.내역"),
        ('영업."주문.내역"', "영업", "주문.내역"),
        ('"영업.본부".고객', "영업.본부", "고객"),
        ('"주문 ""특가"" 내역"', None, '주문 "특가" 내역'),
        ('" 고객 "', None, " 고객 "),
        ("Sales.Customer", "Sales", "Customer"),
        ("select", None, "select"),
        ("고객-2026", None, "고객-2026"),
    ],
)
def test_reading(text: str, schema: str | None, name: str) -> None:
    assert TableName.parse(text) == TableName(schema, name)


def test_a_name_is_taken_for_itself() -> None:
    name = TableName("영업", "고객")
    assert TableName.parse(name) is name


@pytest.mark.parametrize(
    "text, guess",
    [
        ("영업.주문.내역", '영업."주문.내역"'),
        ("a.b.c.d", 'a."b.c.d"'),
        ('영업."주문.".내역', '영업."주문..내역"'),
    ],
)
def test_a_name_of_many_dots_is_refused_with_the_quoted_spelling(text: str, guess: str) -> None:
    with pytest.raises(ConfigError, match="could be read in several ways") as caught:
        TableName.parse(text)
    assert guess in caught.value.hint
    assert TableName.parse(guess).schema == text.split(".", maxsplit=1)[0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ".",
        "영업.",
        ".고객",
        "영업..고객",
        '"',
        '""',
        '"고객',
        '고객"',
        '"영업"고객',
        '"영업".',
        ' "영업".고객',
    ],
)
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        TableName.parse(text)


@pytest.mark.parametrize("parts", [(), ("a", "b", "c"), ("영업", ""), ("", "고객"), ("영업", "고\0객")])
def test_what_is_no_pair_is_refused(parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        TableName.parse(parts)


@pytest.mark.parametrize("name", ["고\udcff객", "\ud800"])
def test_a_name_no_encoding_can_spell_is_refused(name: str) -> None:
    # What a command line in the wrong encoding turns into.
    with pytest.raises(ConfigError, match="not a text"):
        TableName(None, name)
    with pytest.raises(ConfigError, match="not a text"):
        TableName.parse(f"영업.{name}")


@pytest.mark.parametrize("value", [None, 5, ("영업", 5), (None, "고객"), b"customer"])
def test_what_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(ConfigError):
        TableName.parse(value)  # type: ignore[arg-type]


def test_case_and_normalisation_tell_names_apart() -> None:
    composed, decomposed = (unicodedata.normalize(form, "영업.고객") for form in ("NFC", "NFD"))
    assert TableName.parse(composed) != TableName.parse(decomposed)
    assert TableName.parse("Customer") != TableName.parse("customer")


@pytest.mark.parametrize(
    "name, spelled",
    [
        ("고객", "고객"),
        ("Customer", "Customer"),
        ("주문.내역", '"주문.내역"'),
        ("주문 내역", '"주문 내역"'),
        ('특"가', '"특""가"'),
        ("고객\u3000", '"고객\u3000"'),
    ],
)
def test_quotes_only_where_they_must_be(name: str, spelled: str) -> None:
    assert spell(name) == spelled
