from __future__ import annotations

from pathlib import Path

from benchmarks.results import Results, Run, Spread


def made(name: str, number: int, wall: float, *, table: str = "lineitem", section: str = "ratios") -> Run:
    return Run(section, table, name, number, wall, 0.5, 1.0, 30_000_000, heap=10**9, memory=((0.05, number),))


def test_ratios_are_of_pairs_of_one_round() -> None:
    results = Results([made("ours", 1, 1.0), made("raw", 1, 2.0), made("ours", 2, 9.0), made("raw", 2, 10.0)])
    assert results.ratios("ratios", "lineitem", "ours", "raw") == Spread(0.5, 0.7, 0.9)


def test_a_round_without_its_pair_gives_no_ratio() -> None:
    results = Results([made("ours", 1, 1.0), made("ours", 2, 1.0), made("raw", 2, 4.0)])
    assert results.ratios("ratios", "lineitem", "ours", "raw") == Spread(0.25, 0.25, 0.25)
    assert results.ratios("ratios", "lineitem", "ours", "nobody") is None


def test_runs_replace_those_of_the_same_table_and_section_alone() -> None:
    results = Results()
    results.put([made("ours", 1, 1.0), made("raw", 1, 2.0)])
    results.put([made("ours", 1, 3.0, table="korean"), made("ours", 1, 4.0, section="growth")])
    results.put([made("ours", 1, 5.0)])
    assert [(run.section, run.table, run.wall) for run in results.runs] == [
        ("ratios", "korean", 3.0),
        ("growth", "lineitem", 4.0),
        ("ratios", "lineitem", 5.0),
    ]


def test_the_course_of_memory_is_kept_of_the_last_round() -> None:
    results = Results()
    results.put([made("ours", 1, 1.0), made("ours", 2, 1.0)])
    assert [run.memory for run in results.runs] == [(), ((0.05, 2),)]


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    results = Results([made("ours", 1, 1.25), made("raw", 1, 2.0)], {"commit": "abc"}, {"peers": ["없음"]})
    results.save(tmp_path / "새 곳")
    assert Results.load(tmp_path / "새 곳") == results
    assert Results.load(tmp_path) == Results()
