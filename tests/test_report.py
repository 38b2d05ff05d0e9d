"""The report of a copy as people read it."""

from __future__ import annotations

from dataclasses import replace

from airflow_provider_safecopy.report import CopyReport, StageReport

DONE = CopyReport(
    status="published",
    lock="분석.고객",
    source="erp:5432/erp 영업.고객",
    target="dw:5432/dw 분석.고객",
    format="binary",
    transfer="chunked",
    publish="delete_insert",
    token=7,
    attempt="a-b",
    rows=120_000,
    previous_rows=99,
    inserted=119_999,
    updated=1,
    deleted=98,
    unchanged=0,
    bytes=36 * 2**20,
    digest="d1",
    reasons=("format binary: same major",),
    warnings=("statistics are old",),
    stages=(StageReport("export", 1.25, 4711, 0, 120_000, 36 * 2**20), StageReport("verify", 0.5, rows=120_000)),
    seconds=3.21,
    peak_rss_bytes=50 * 2**20,
)


def test_the_report_of_a_copy() -> None:
    assert str(DONE).splitlines() == [
        "published in 3.2 s",
        "  from      erp:5432/erp 영업.고객",
        "  to        dw:5432/dw 분석.고객",
        "  rows      99 -> 120,000",
        "  written   119,999 inserted, 1 updated, 98 deleted, 0 unchanged",
        "  bytes     36.0 MiB",
        "  digest    d1 (xxh3, 128 bit)",
        "  how       chunked, binary, delete_insert",
        "  token     7 of lock 분석.고객, attempt a-b",
        "  memory    50.0 MiB at most, 0 B of temporary disk",
        "  because   format binary: same major",
        "  warning   statistics are old",
        "",
        "  stage   seconds     rows     bytes   PID  exit code",
        "  export     1.25  120,000  36.0 MiB  4711          0",
        "  verify     0.50  120,000         -     -          -",
    ]


def test_a_compared_content_is_shown() -> None:
    assert "  content   123 (the same on both sides)" in str(replace(DONE, content_hash="123"))


def test_a_copy_that_was_skipped_says_why() -> None:
    skipped = replace(DONE, status="skipped", reasons=("lock 분석.고객 is held",), warnings=())
    assert str(skipped).splitlines() == [
        "skipped: nothing was touched",
        "  from      erp:5432/erp 영업.고객",
        "  to        dw:5432/dw 분석.고객",
        "  because   lock 분석.고객 is held",
    ]


def test_names_cannot_steer_the_terminal() -> None:
    hostile = str(replace(DONE, source="erp \x1b]0;gone\x07", warnings=("\x9b2J",)))
    assert "\x1b" not in hostile
    assert "\x9b" not in hostile
    assert "\\x1b]0;gone\\x07" in hostile
