from __future__ import annotations

import pytest

from benchmarks import options


@pytest.mark.parametrize(
    ("words", "size"), [("20", 20), ("20MB", 20_000_000), ("1 GB", 10**9), ("1.5g", 1_500_000_000), ("5kb", 5000)]
)
def test_sizes_are_read(words: str, size: int) -> None:
    assert options.size(words) == size


@pytest.mark.parametrize("words", ["", "MB", "-1", "1TB", "1 2"])
def test_what_is_no_size_is_refused(words: str) -> None:
    with pytest.raises(ValueError, match="no size"):
        options.size(words)


def test_lists_are_taken_apart_and_examined() -> None:
    assert options.sizes("10MB,1GB") == (10_000_000, 10**9)
    assert options.some_of("가", "나")("나, 가") == ("나", "가")
    assert options.some_of("a, b", "c", between=";")("a, b;c") == ("a, b", "c")
    with pytest.raises(ValueError, match="다: none of 가, 나"):
        options.some_of("가", "나")("가,다")
