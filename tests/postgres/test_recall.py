"""Recall: the answers are those of now, each text is planned once, and nothing that happens to a session breaks it."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from airflow_provider_safecopy.postgres import statements
from airflow_provider_safecopy.postgres.session import Session, open_session
from tests.support.database import Database

_KEPT = "SELECT count(*)::int AS kept FROM pg_catalog.pg_prepared_statements"
_TOLD = "SELECT %(text)s::text AS text, count(*) AS tables FROM pg_catalog.pg_class WHERE relname = %(text)s"


@pytest.fixture
def session(target: Database) -> Iterator[Session]:
    with open_session(target.endpoint, application_name="safecopy:0123abcd", connect_timeout=10) as session:
        yield session


def test_it_answers_what_is_so_now_whatever_the_parameters(session: Session) -> None:
    asked = {"text": "그 표's %", "more": "than is asked for"}
    for tables in range(2):
        assert session.fetch_all(_TOLD, asked) == [{"text": "그 표's %", "tables": tables}]
        session.connection.execute('CREATE TABLE IF NOT EXISTS public."그 표\'s %" ()')
    assert session.fetch_one(_TOLD, {"text": "pg_class"}) == {"text": "pg_class", "tables": 1}
    assert session.fetch_value(_KEPT) == 2, "one plan for all parameters, and the question itself"
    assert session.fetch_value("SELECT generic_plans::int FROM pg_prepared_statements ORDER BY 1 DESC") == 3


@pytest.mark.parametrize("value", [7, 2**31, True, "7", [7], [], None])
def test_a_parameter_comes_as_what_the_text_says_it_is(session: Session, value: object) -> None:
    asked, kind = {"value": value}, "int8[]" if isinstance(value, list) else "text"
    for _ in range(2):
        assert session.fetch_value(f"SELECT %(value)s::{kind}", asked) == (
            value if value is None or isinstance(value, list) else str(value).lower()
        )


def test_percent_signs_and_texts_without_parameters(session: Session) -> None:
    for _ in range(2):
        assert session.fetch_value("SELECT format('%%I', %(name)s::text)", {"name": "가 나"}) == '"가 나"'
        assert session.fetch_value("SELECT 'a' LIKE '%%'") is True


def test_a_question_that_fails_can_be_asked_again(session: Session) -> None:
    missing = "SELECT count(*)::int FROM public.표"
    for _ in range(2):
        with pytest.raises(psycopg.errors.UndefinedTable):
            session.fetch_value(missing)
    by = "SELECT 1 / %(by)s::int"
    for _ in range(2):
        with pytest.raises(psycopg.errors.DivisionByZero):
            session.fetch_value(by, {"by": 0})
    session.connection.execute("CREATE TABLE public.표 ()")
    assert (session.fetch_value(missing), session.fetch_value(by, {"by": 1})) == (0, 1)


def test_a_rollback_forgets_nothing(session: Session) -> None:
    for _ in range(2):
        with session.connection.transaction(force_rollback=True):
            assert session.fetch_value(_KEPT) == 1


def test_what_somebody_has_thrown_away_is_kept_anew(session: Session) -> None:
    assert session.fetch_value(_KEPT) == 1
    session.connection.execute("DEALLOCATE ALL")
    assert session.fetch_value(_KEPT) == 1
    with session.connection.transaction(force_rollback=True):
        session.connection.execute("DEALLOCATE ALL")
        with pytest.raises(psycopg.errors.InvalidSqlStatementName):
            session.fetch_value(_KEPT)
    assert session.fetch_value(_KEPT) == 1, "and the next transaction finds it again"


def test_those_who_share_a_connection_share_what_it_keeps(session: Session) -> None:
    other = Session(session.endpoint, session.connection, session.server, session.search_path)
    assert [each.fetch_value(_KEPT) for each in (session, other, session)] == [1, 1, 1]
    assert (
        other.fetch_value(_TOLD, {"text": "pg_class"}) == session.fetch_value(_TOLD, {"text": "pg_class"}) == "pg_class"
    )
    assert session.fetch_value(_KEPT) == 2


def test_sql_of_a_user_s_is_not_kept(session: Session) -> None:
    session.fetch_one(statements.no_rows("SELECT 1 AS one"))
    assert session.fetch_value(_KEPT) == 1
