"""A copy behind a pooler: refused where sessions are shared, before anything is set; right where they are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from airflow_provider_safecopy import doctor, pipeline
from airflow_provider_safecopy.errors import StageError
from airflow_provider_safecopy.postgres.session import open_session
from tests.support.customers import TABLE, same, spec
from tests.support.database import Database
from tests.support.pooler import Pooler

_SETTINGS = (
    "search_path",
    "row_security",
    "default_transaction_read_only",
    "TimeZone",
    "DateStyle",
    "statement_timeout",
)

Through = Callable[[Database, str, int], Database]


@pytest.fixture
def through() -> Iterator[Through]:
    """Reach a database through a new PgBouncer, of a mode and a number of sessions."""
    with ExitStack() as stack:

        def make(database: Database, mode: str, size: int) -> Database:
            return database.through(stack.enter_context(closing(Pooler.before(database, size=size, mode=mode))).port)

        yield make


def settings_of(database: Database) -> list[str]:
    """Return what the next client of the pool finds set."""
    return [str(database.value(f"SHOW {name}")) for name in _SETTINGS]


@pytest.mark.parametrize("mode", ["transaction", "statement"])
@pytest.mark.parametrize("size", [1, 2, 20])
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_pool_whose_sessions_are_shared_is_refused_before_anything_is_set(
    filled: tuple[Database, Database], through: Through, side: str, size: int, mode: str
) -> None:
    """The kind: what one client sets, the next finds. The pool's clients see what they saw before."""
    source, target = filled
    pooled = through(source if side == "source" else target, mode, size)
    before = settings_of(pooled)
    ends = (pooled, target) if side == "source" else (source, pooled)
    for run in (pipeline.plan, pipeline.copy):
        with pytest.raises(StageError) as caught:
            run(spec(), ends[0].endpoint, ends[1].endpoint)
        assert (caught.value.stage, caught.value.retryable) == ("connect", False)
        assert "pool_mode=session" in caught.value.hint
    with pytest.raises(StageError, match="pooler"):
        pipeline.copy_tables([spec()], ends[0].endpoint, ends[1].endpoint)
    checks = [each for each in doctor.examine(ends[0].endpoint, ends[1].endpoint) if each.name == side]
    assert [each.outcome for each in checks] == ["failed"]
    assert "pooler" in checks[0].detail
    assert settings_of(pooled) == before
    assert target.value(f"SELECT count(*) FROM {TABLE}") == 2


def test_it_is_found_among_other_clients_too(filled: tuple[Database, Database], through: Through) -> None:
    """The kind, in a pool that others use: sessions that they have taken and given back are other ones each time."""
    source, target = filled
    pooled = through(target, "transaction", 5)
    with ExitStack() as stack:
        clients = [stack.enter_context(pooled.connect()) for _ in range(4)]
        for client in clients:
            client.execute("BEGIN")
            client.execute("SELECT 1")
        for client in clients[:2]:
            client.execute("COMMIT")
        with pytest.raises(StageError, match="pooler"):
            pipeline.copy(spec(), source.endpoint, pooled.endpoint)


@pytest.mark.parametrize("publish", ["swap", "delta"])
def test_a_pool_in_session_mode_works(filled: tuple[Database, Database], through: Through, publish: str) -> None:
    """The kind's other side: there a session belongs to its client until it leaves."""
    source, target = (through(each, "session", 10) for each in filled)
    before = settings_of(target)
    pipeline.copy(spec(publish=publish, verify="full"), source.endpoint, target.endpoint)
    assert same(*filled)
    assert settings_of(target) == before


def test_a_pool_of_one_session_is_not_taken_for_a_shared_one(target: Database, through: Through) -> None:
    """The kind's border: a second client waits there for the first to leave, and is waited for only so long."""
    pooled = through(target, "session", 1)
    with open_session(pooled.endpoint, application_name="safecopy:test", connect_timeout=30) as session:
        assert session.server.backend == session.fetch_value("SELECT pg_backend_pid()")
