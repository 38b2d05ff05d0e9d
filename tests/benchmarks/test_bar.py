from __future__ import annotations

import pytest

from benchmarks import bar
from benchmarks.contestant import CHUNKED, RAW_BINARY, RAW_TEXT
from benchmarks.results import Results, Run


def made(section: str, table: str, name: str, wall: float, **known: float) -> Run:
    figures: dict[str, float] = {"heap": 10**9, "peak_rss": 30_000_000, **known}
    return Run(section, table, name, 1, wall, 0.0, 0.0, **figures)  # type: ignore[arg-type]


def words(*runs: Run) -> dict[str, str]:
    return {each.what: each.word for each in bar.verdicts(Results(list(runs)))}


@pytest.mark.parametrize(("seconds", "word"), [(8.0, "ok"), (8.1, "MISSED")])
def test_each_table_has_a_bar_of_its_own(seconds: float, word: str) -> None:
    pair = (made("ratios", "lineitem", RAW_TEXT, 10.0), made("ratios", "lineitem", CHUNKED, seconds))
    assert words(*pair) == {f"lineitem: {CHUNKED} / {RAW_TEXT}": word}


def test_a_table_with_a_key_has_the_bar_of_the_one_without() -> None:
    pair = (made("ratios", "types-keyed", RAW_TEXT, 10.0), made("ratios", "types-keyed", CHUNKED, 7.1))
    assert words(*pair) == {f"types-keyed: {CHUNKED} / {RAW_TEXT}": "MISSED"}


def test_a_table_that_is_too_small_is_not_judged() -> None:
    small = {"heap": 10**7}
    pair = (made("ratios", "types", RAW_BINARY, 1.0, **small), made("ratios", "types", CHUNKED, 9.0, **small))
    assert set(words(*pair).values()) == {"small table"}
    assert not any(verdict.missed for verdict in bar.verdicts(Results(list(pair))))


def test_memory_is_judged_by_the_worst_run_and_flatness_from_a_size_on() -> None:
    def grown(heap: int, peak: int) -> Run:
        return made("growth", str(heap), CHUNKED, 1.0, heap=heap, peak_rss=peak, temp_bytes=0)

    found = words(grown(10**6, 10**6), grown(10**8, 40_000_000), grown(10**9, 61_000_000))
    assert [found[what] for what in found if "beyond" in what] == ["MISSED"]
    assert [found[what] for what in found if "less the least" in what] == ["MISSED"]
    found = words(grown(10**6, 10**6), grown(10**8, 40_000_000), grown(10**9, 49_000_000))
    assert set(found.values()) == {"ok"}


def test_many_tiny_tables_are_judged_beyond_the_first() -> None:
    one = made("tiny", "tables", "safecopy, 1 table", 0.5, tables=1)
    many = made("tiny", "tables", "safecopy, all tables", 0.5 + 499 * 0.016, tables=500)
    (verdict,) = bar.verdicts(Results([one, many]))
    assert verdict.figure.median == pytest.approx(0.016)
    assert verdict.missed


def test_the_time_a_source_is_held_is_judged_against_a_bare_export() -> None:
    bare = made("release", "korean", "export to /dev/null, binary", 2.0)
    assert list(words(bare, made("release", "korean", CHUNKED, 20.0, held=2.5)).values()) == ["ok"]
    assert list(words(bare, made("release", "korean", CHUNKED, 20.0, held=2.7)).values()) == ["MISSED"]


def test_what_was_not_measured_is_not_judged() -> None:
    assert bar.verdicts(Results()) == []
