"""Fragments of SQL: a semicolon at the end, and comments after it, are no part of what people mean."""

from __future__ import annotations

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.postgres.fragment import trim
from tests.support.customers import TABLE, spec
from tests.support.database import Database

ENDS = [
    "",
    ";",
    " ; \n",
    "; -- 끝",
    ";\n-- 끝\n-- 또\n",
    "; /* 하나 /* 둘; */ */ ;",
    ";;\n",
    "; --",
    ";-- it's $x$ \"끝",
]
"""What may follow a query: none of it means anything."""

WHOLE = [
    "SELECT 1",
    "SELECT '; -- x'",
    "SELECT 'it''s; ' || '/*'",
    r"SELECT E'it\'s; --'",
    "SELECT E'a'\n  '\\'; -- b'",
    "SELECT E'a' -- 글\n'\\'; /*'",
    "SELECT 'a'\n'; --'",
    "SELECT $$; -- x$$",
    "SELECT $글$; $$ -- x$글$",
    'SELECT 1 AS "; -- ""이름"',
    "SELECT 1 /* ; /* -- */ ; */ + 1",
    "SELECT 1 AS a$b$",
    "SELECT 1 AS e, 'x\\'",
    "SELECT e'x\\\\'",
    "SELECT U&'d\\0061t;'",
    "SELECT 2 - -1",
]
"""Statements whose semicolons and dashes are not at their end."""


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("text", WHOLE)
def test_what_follows_the_end_is_left_out_and_nothing_else(target: Database, text: str, end: str) -> None:
    """The kind: SQL that other programs take with its semicolon and comments; the server gives the same answer to both."""
    trimmed = trim(text + end)
    assert target.rows(f"SELECT * FROM (\n{trimmed}\n) AS x") == target.rows(text)
    if ";" in end.partition("-")[0]:
        assert trimmed == text


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1; SELECT 2",
        "SELECT 1; -- 하나\nSELECT 2",
        "SELECT 1; /* 하나 */ SELECT 2; x",
        "SELECT 'a; -- b",
        'SELECT "a; -- b',
        "SELECT $$; -- b",
        "SELECT 1; /* b",
        "SELECT 1 /* /* */ ;",
        "SELECT E'\\'; -- b",
    ],
)
def test_what_cannot_be_read_or_goes_on_stays_as_it_is(text: str) -> None:
    assert trim(text) == text.rstrip("; \n")


@pytest.mark.parametrize("end", ENDS)
def test_queries_and_conditions_may_end_so(filled: tuple[Database, Database], end: str) -> None:
    source, target = filled
    for options in (
        {"where": f'"번호" <= 7 AND "이름" <> \':USER; --\'{end}'},
        {"source_table": None, "source_sql": f'SELECT * FROM {TABLE} WHERE "번호" <= 7 AND "이름" <> \':USER\'{end}'},
    ):
        assert pipeline.copy(spec(verify="full", **options), source.endpoint, target.endpoint).rows == 7
