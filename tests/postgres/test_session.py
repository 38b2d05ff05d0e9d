"""A control session: pinned, read-only where asked, and never waited for in vain."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from uuid import uuid4

import psycopg
import pytest

from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.errors import AbortedError, StageError
from airflow_provider_safecopy.postgres.session import LOCK_WAIT_SECONDS, end_stage_sessions, open_session
from airflow_provider_safecopy.spec import Timeouts
from tests.support.database import Database
from tests.support.proxy import Proxy

SETTINGS = "SELECT current_setting('search_path') AS path, current_setting('TimeZone') AS zone"


def test_settings_that_change_what_text_means_are_pinned_whatever_the_database_says(target: Database) -> None:
    target.execute(f"ALTER DATABASE \"{target.name}\" SET TimeZone = 'Asia/Seoul'")
    with open_session(target.endpoint, application_name="safecopy:test", connect_timeout=5) as session:
        assert session.fetch_one(SETTINGS) == {"path": "pg_catalog", "zone": "UTC"}
        assert session.search_path == ("public",), "what the role itself would have looked through"


def test_a_read_only_session_cannot_write(target: Database) -> None:
    target.execute("CREATE TABLE t (a int)")
    with (
        open_session(target.endpoint, application_name="safecopy:test", connect_timeout=5, read_only=True) as session,
        pytest.raises(psycopg.errors.ReadOnlySqlTransaction),
    ):
        session.connection.execute("INSERT INTO public.t VALUES (1)")


def test_two_sessions_in_one_database_have_one_identity_and_other_databases_another(
    source: Database, target: Database
) -> None:
    identities = []
    for database in (source, source, target):
        with open_session(database.endpoint, application_name="safecopy:test", connect_timeout=5) as session:
            identities.append(session.server.identity)
    assert identities[0] == identities[1] != identities[2]


def test_a_server_that_falls_silent_after_the_handshake_is_not_waited_for_for_ever(
    target: Database, proxy: Callable[[Database], Proxy]
) -> None:
    """The soak found it: the first question after connecting had no timeout."""
    wire = proxy(target)
    wire.at_step(2, wire.stall_now)
    started = time.monotonic()
    with (
        pytest.raises(StageError, match="cannot be asked") as caught,
        open_session(target.through(wire.port).endpoint, application_name="safecopy:test", connect_timeout=2),
    ):
        pass
    assert wire.met.is_set()
    assert (caught.value.stage, caught.value.retryable) == ("connect", True)
    assert time.monotonic() - started < 2 + 10


def test_an_abort_cancels_what_the_session_runs(target: Database) -> None:
    abort = AbortSwitch()
    started = time.monotonic()
    with open_session(target.endpoint, application_name="safecopy:test", connect_timeout=5) as session:
        threading.Timer(0.3, abort.throw, ["enough"]).start()
        with pytest.raises(AbortedError, match="enough"), session.cancel_on_abort(abort):
            session.connection.execute("SELECT pg_sleep(60)")
    assert time.monotonic() - started < 10


def test_an_abort_between_two_questions_ends_the_next_that_takes_long(target: Database) -> None:
    """It is thrown once, and then nothing was running that a cancel could have ended."""
    abort, started = AbortSwitch(), time.monotonic()
    with open_session(target.endpoint, application_name="safecopy:test", connect_timeout=5) as session:
        abort.throw("enough")
        with pytest.raises(AbortedError, match="enough"), session.cancel_on_abort(abort):
            session.fetch_value("SELECT 1 FROM pg_sleep(60)")
        assert session.fetch_value("SELECT 2 FROM pg_sleep(0.5)") == 2, "after its block nothing is cancelled"
    assert time.monotonic() - started < 10


def test_a_cancel_that_is_not_ours_stays_what_it_is(target: Database) -> None:
    with (
        open_session(target.endpoint, application_name="safecopy:test", connect_timeout=5) as session,
        pytest.raises(psycopg.errors.QueryCanceled),
        session.cancel_on_abort(AbortSwitch()),
    ):
        session.connection.execute("SET statement_timeout = 100; SELECT pg_sleep(60)")


def test_a_server_that_never_answers_is_waited_for_no_longer_than_asked(
    target: Database, proxy: Callable[[Database], Proxy]
) -> None:
    wire = proxy(target)
    endpoint = target.through(wire.port).endpoint
    with open_session(endpoint, application_name="safecopy:test", connect_timeout=5) as session:
        wire.stall()
        with pytest.raises(psycopg.OperationalError), session.limit_answer(0.5):
            session.connection.execute("SELECT 1")
        session.end_transaction()
        assert session.connection.closed


def test_the_sessions_of_a_run_are_ended_and_seen_gone_and_nobody_elses(target: Database) -> None:
    name, other = f"safecopy:{uuid4()}", f"safecopy:{uuid4()}"

    def pids(application: str) -> int:
        count: int = target.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", [application])
        return count

    with (
        open_session(target.endpoint, application_name=name, connect_timeout=5) as own,
        open_session(target.endpoint, application_name=name, connect_timeout=5),
        open_session(target.endpoint, application_name=other, connect_timeout=5),
    ):
        assert (pids(name), pids(other)) == (2, 1)
        end_stage_sessions(own, application_name=name, kept_backends=(own.server.backend,))
        assert (pids(name), pids(other)) == (1, 1)


def test_an_answer_is_not_waited_for_longer_than_its_patience(
    target: Database, proxy: Callable[[Database], Proxy]
) -> None:
    """The soak found it: only what was asked within some limit had one, and the snapshot and staging were not."""
    wire = proxy(target)
    endpoint = target.through(wire.port).endpoint
    with open_session(endpoint, application_name="safecopy:test", connect_timeout=5, patience=0.5) as session:
        with session.limit_answer(30):
            session.fetch_value("SELECT 1 FROM pg_sleep(1)")  # longer, as it was allowed to
        wire.stall()
        started = time.monotonic()
        with pytest.raises(psycopg.OperationalError, match=r"no answer within 0\.5 s"):
            session.fetch_value("SELECT 1")
        assert time.monotonic() - started < 5
        assert session.connection.closed


def test_a_session_waits_for_a_lock_as_long_as_a_spec_says_by_default() -> None:
    assert Timeouts().lock_wait == LOCK_WAIT_SECONDS
