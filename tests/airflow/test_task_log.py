"""What a task's log says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from airflow_provider_safecopy.report import CopyReport, StageReport
from airflow_provider_safecopy.spec import CopySpec, MiB, Progress, Stage


class Lines(list[str]):
    """A log that remembers."""

    def info(self, message: str, /, *values: Any) -> None:
        self.append(message % values)


@pytest.fixture
def lines() -> Lines:
    return Lines()


def _journal(lines: Lines, seconds: Iterator[float]) -> Any:
    from airflow_provider_safecopy.operators.task_log import TaskLog

    return TaskLog(lines, every=10, clock=lambda: next(seconds))


def test_progress_is_told_every_ten_seconds_with_rate_and_time_left(lines: Lines) -> None:
    journal = _journal(lines, iter([0.0, 4.0, 10.0, 19.9, 20.0]))
    with journal.open_copy() as progress:
        for done in (0, 5, 10, 15, 20):
            progress(Progress("export", done * MiB, expected_rows=1000, expected_bytes=100 * MiB))
    assert lines == [
        "::group::Transfer",
        "export: 10.0 MiB, about 10 %, 1.0 MiB/s, about 0:01:30 left",
        "export: 20.0 MiB, about 20 %, 1.0 MiB/s, about 0:01:20 left",
        "::endgroup::",
    ]


def test_a_stage_has_a_clock_of_its_own(lines: Lines) -> None:
    journal = _journal(lines, iter([0.0, 100.0, 109.0, 110.0]))
    with journal.open_copy() as progress:
        progress(Progress("export"))
        for done in (0, 9, 10):
            progress(Progress("import", done * MiB, rows=done))
    assert lines == ["::group::Transfer", "import: 10 rows, 10.0 MiB, 1.0 MiB/s", "::endgroup::"]


def test_a_guess_that_proved_wrong_is_not_repeated(lines: Lines) -> None:
    journal = _journal(lines, iter([0.0, 10.0]))
    with journal.open_copy() as progress:
        for done in (0, 200):
            progress(Progress("export", done * MiB, expected_bytes=100 * MiB))
    assert lines[1] == "export: 200.0 MiB, 20.0 MiB/s"


def test_groups_follow_the_stages_and_are_never_nested(lines: Lines) -> None:
    journal = _journal(lines, iter(range(6)))
    with journal.open_copy() as progress:
        stages: tuple[Stage, ...] = ("export", "import", "export", "verify", "publish")
        for stage in stages:
            progress(Progress(stage))
    assert lines == ["::group::Transfer", "::endgroup::", "::group::Verify and publish", "::endgroup::"]


def test_a_group_is_closed_when_the_copy_fails(lines: Lines) -> None:
    with pytest.raises(KeyboardInterrupt), _journal(lines, iter([0.0])).open_copy():
        raise KeyboardInterrupt
    assert lines[-1] == "::endgroup::"


def test_what_was_asked_for_is_told_without_the_defaults(lines: Lines) -> None:
    spec = CopySpec.of(
        target_table=("분석", "x.y"), source_sql="\n  SELECT *\n    FROM 영업.고객\n", columns={"a": "a", "b": "나"}
    )
    _journal(lines, iter([])).log_options(spec)
    assert lines == [
        "::group::Asked for",
        "source_sql   SELECT *",
        "               FROM 영업.고객",
        'target_table 분석."x.y"',
        "columns      a, b → 나",
        "::endgroup::",
    ]


def test_the_report_is_the_one_that_the_command_prints(lines: Lines) -> None:
    report = CopyReport(
        status="published",
        lock="분석.고객",
        source="erp:5432/erp 영업.고객",
        target="dw:5432/dw 분석.고객",
        format="binary",
        transfer="chunked",
        publish="delete_insert",
        token=7,
        attempt="a1",
        rows=1_234_567,
        previous_rows=None,
        inserted=1_234_567,
        updated=0,
        bytes=5 * 1024 * MiB,
        digest="d1",
        content_hash="c1",
        reasons=("the tables are alike",),
        warnings=("psql is old",),
        stages=(StageReport("export", 1.25, pid=11, exit_code=0, rows=1_234_567, bytes=999), StageReport("publish", 2)),
        seconds=61.04,
    )
    _journal(lines, iter([])).log_report(report)
    assert lines == str(report).splitlines()
    assert lines[0] == "published in 61.0 s"
