"""The rewrite exam in short, and that it would notice."""

from __future__ import annotations

import pytest

from tests.conftest import MakeDatabase
from tests.rewrite.exam import Exam, ablated

pytestmark = pytest.mark.slow


def test_a_source_that_is_reloaded_all_the_time_yields_one_load_or_a_retryable_error(database: MakeDatabase) -> None:
    """A rewrite is no part of MVCC: a snapshot that is older reads the new file, and finds none of its rows."""
    said: list[str] = []
    exam = Exam(database(), database(), seed=11)
    exam.run(25, say=said.append)
    assert [str(result) for result in exam.results if result.violation] == []
    assert any(result.said == "published" for result in exam.results), said


def test_the_exam_finds_what_is_published_of_a_rewritten_source_without_the_proof(database: MakeDatabase) -> None:
    exam = Exam(database(), database(), seed=11)
    with ablated():
        exam.run(100, say=lambda _: None, enough=lambda result: result.violation is not None)
    assert any(result.violation for result in exam.results)


@pytest.mark.pair(16, 16)
def test_an_older_server_is_no_different(database: MakeDatabase) -> None:
    exam = Exam(database(major=16), database(major=16), seed=5)
    exam.run(10, say=lambda _: None)
    assert [str(result) for result in exam.results if result.violation] == []
