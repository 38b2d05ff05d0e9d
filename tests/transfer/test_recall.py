"""Recall: the same answers as without it, always those of now, and no plan is left with the session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_provider_safecopy.transfer.recall import Recall
from airflow_provider_safecopy.transfer.session import Session, open_session
from tests.ground.database import Database

_KEPT = "SELECT count(*)::int AS kept FROM pg_catalog.pg_prepared_statements"
_TOLD = "SELECT %(text)s::text AS text, count(*) AS tables FROM pg_catalog.pg_class WHERE relname = %(text)s"


@pytest.fixture
def session(target: Database) -> Iterator[Session]:
    with open_session(target.endpoint, application_name="safecopy:0123abcd", connect_timeout=10) as session:
        yield session


def test_it_answers_as_the_session_does_whatever_has_changed_meanwhile(session: Session) -> None:
    recall, asked = Recall(session), {"text": "그 표's %"}
    with session.connection.transaction():
        assert recall(_TOLD, asked) == session.all(_TOLD, asked) == [{"text": "그 표's %", "tables": 0}]
        session.connection.execute('CREATE TABLE public."그 표\'s %" ()')
        assert recall(_TOLD, asked) == [{"text": "그 표's %", "tables": 1}]
        assert recall(_TOLD, {"text": "pg_class"}) == [{"text": "pg_class", "tables": 1}]
        assert session.value(_KEPT) == 2


def test_it_forgets_and_what_a_rollback_left_too(session: Session) -> None:
    recall = Recall(session)
    for _ in range(2):
        with session.connection.transaction(force_rollback=True):
            recall.forget()
            assert recall(_KEPT) == [{"kept": 1}]
    assert session.value(_KEPT) == 1
    recall.forget()
    assert session.value(_KEPT) == 0
    assert recall(_KEPT) == [{"kept": 1}]
