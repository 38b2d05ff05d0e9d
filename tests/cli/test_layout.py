"""Results as a person reads them, and what of them could harm a terminal."""

from __future__ import annotations

from airflow_provider_safecopy.cli import layout
from airflow_provider_safecopy.doctor import Check


def test_findings_have_their_next_step_below_them() -> None:
    checks = (Check("psql", "ok", "psql 18"), Check("대상", "failed", "no\nsuch", "make it"))
    assert layout.format_checks(checks).splitlines() == [
        "ok      psql  psql 18",
        "failed  대상  no such",
        "         next: make it",
        "",
        "1 ok, 0 warning, 1 failed",
    ]


def test_names_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in layout.format_checks((Check("a", "ok", "\x1b[2J", "\x1b"),))
