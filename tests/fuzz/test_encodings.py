"""Words from a command line as text, and text to a terminal: nothing is lost on the way in, nothing steers on the way out."""

from __future__ import annotations

import unicodedata

from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_safecopy import display
from airflow_provider_safecopy.cli import encoding
from airflow_provider_safecopy.display import align_columns, count_places
from tests.fuzz.depth import looking
from tests.fuzz.material import broken, clean

LOCALES = st.sampled_from(("utf-8", "euc_kr", "ascii", "cp949", "latin-1"))
encoding.settle_streams()


@looking(3)
@given(st.binary(max_size=40) | broken.map(lambda text: text.encode("utf-8", "surrogatepass")), LOCALES)
@example("책".encode("euc_kr"), "euc_kr")
def test_any_bytes_are_text_by_one_of_two_readings(raw: bytes, locale: str) -> None:
    text = encoding.decode(raw, locale)
    assert text in {raw.decode("utf-8", "surrogateescape"), raw.decode(locale, "surrogateescape")}


@looking(3)
@given(clean, LOCALES)
def test_what_was_typed_in_utf_8_with_hangul_in_it_is_read_as_it_was(text: str, locale: str) -> None:
    word = f"고객{text}똠"
    assert encoding.decode(word.encode(), locale) == word


@looking(3)
@given(broken)
def test_what_is_shown_steers_no_terminal(text: str) -> None:
    shown = display.escape(text)
    shown.encode()
    assert not [letter for letter in shown if unicodedata.category(letter) in {"Cc", "Cs"} and letter not in "\t\n"]
    assert not [letter for letter in shown if unicodedata.bidirectional(letter) in {"LRE", "RLE", "LRO", "RLO", "PDF"}]
    assert display.escape(shown) == shown


@looking(3)
@given(broken)
def test_any_text_can_be_written_to_a_terminal_of_euc_kr_and_is_read_back_where_it_can_be(text: str) -> None:
    raw = text.encode("safecopy_euc_kr", "backslashreplace")
    assert raw.decode("euc_kr") == "".join(
        letter if _spelled(letter) else letter.encode("ascii", "backslashreplace").decode() for letter in text
    )


def _spelled(letter: str) -> bool:
    try:
        return len(letter.encode("euc_kr")) <= 2
    except UnicodeEncodeError:
        return False


@looking(2)
@given(st.lists(st.tuples(broken, broken), min_size=1, max_size=4))
def test_any_cells_are_aligned(rows: list[tuple[str, str]]) -> None:
    lines = align_columns(rows, right=frozenset({1}))
    assert len(lines) == len(rows)
    assert all(
        count_places(line) <= 4 + max(count_places(a) for a, _ in rows) + max(count_places(b) for _, b in rows)
        for line in lines
    )
