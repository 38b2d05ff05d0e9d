"""The server is slow, busy, or ends a session: the stage ends, its session is seen gone, the old rows stand."""

from __future__ import annotations

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import SafeCopyError, StageError, StageTimeoutError, StalledError
from airflow_provider_safecopy.spec import CopySpec, Progress, Timeouts
from tests.conftest import MakeDatabase, MakePsql
from tests.faults.conftest import ROWS, Ground
from tests.support.fake_psql import Behaviour
from tests.support.remains import Remains

SLEEPING = 'SELECT g::bigint AS "번호", \'x\'::text AS "품목", 1::numeric(12,2) AS "금액" FROM generate_series(1, 3) g, pg_sleep(60)'
_BUSY = "SELECT count(*) FROM pg_stat_activity WHERE starts_with(application_name, 'safecopy:') AND state = 'active'"


@pytest.mark.parametrize("transfer", ["chunked", "sequential"])
@pytest.mark.parametrize(
    ("timeouts", "error"), [(Timeouts(export=1), StageTimeoutError), (Timeouts(stall=1), StalledError)]
)
def test_a_statement_that_computes_for_ever_is_ended_on_the_server_too(
    ground: Ground, transfer: str, timeouts: Timeouts, error: type[StageError]
) -> None:
    spec = CopySpec.of(source_sql=SLEEPING, target_table="영업.주문_내역", transfer=transfer, timeouts=timeouts)
    with pytest.raises(error) as caught:
        pipeline.copy(spec, ground.source.endpoint, ground.target.endpoint)
    assert caught.value.stage == "export"
    assert ground.source.value(_BUSY) == 0, "seen gone before the error was raised"
    ground.demand("old")


def test_a_killed_psql_does_not_leave_its_statement_running(ground: Ground, fake_psql: MakePsql) -> None:
    psql = fake_psql(Behaviour("export", hang_at="exit", stubborn=True))
    spec = CopySpec.of(source_sql=SLEEPING, target_table="영업.주문_내역", timeouts=Timeouts(stall=1), psql=psql)
    with pytest.raises(StalledError):
        pipeline.copy(spec, ground.source.endpoint, ground.target.endpoint)
    assert ground.source.value(_BUSY) == 0, "seen gone before the error was raised"
    ground.demand("old")


@pytest.mark.parametrize("stage", ["export", "import", "verify", "publish"])
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_session_ended_by_somebody_fails_the_copy(ground: Ground, side: str, stage: str) -> None:
    database = ground.source if side == "source" else ground.target

    def end(at: Progress) -> None:
        if at.stage == stage:
            database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE starts_with(application_name, 'safecopy:') AND datname = current_database()"
            )

    if side == "source" and stage != "export":
        pipeline.copy(ground.spec(), ground.source.endpoint, ground.target.endpoint, progress=end)
        ground.demand("new")
        return
    with pytest.raises(SafeCopyError) as caught:
        pipeline.copy(ground.spec(), ground.source.endpoint, ground.target.endpoint, progress=end)
    assert caught.value.retryable
    ground.demand("old", swept_by_next_run=True)


def test_timeouts_of_the_role_do_not_cut_a_healthy_copy(ground: Ground) -> None:
    for database in (ground.source, ground.target):
        for setting in ("statement_timeout", "idle_in_transaction_session_timeout", "lock_timeout"):
            database.execute(f"ALTER DATABASE \"{database.name}\" SET {setting} = '100ms'")
    try:
        assert ground.copy(verify="full").rows == ROWS
    finally:
        for database in (ground.source, ground.target):
            database.server.execute("postgres", f'ALTER DATABASE "{database.name}" RESET ALL')
    ground.demand("new")


def test_a_bad_row_is_named_by_its_line(ground: Ground, database: MakeDatabase) -> None:
    query = "SELECT ('품목 ' || g)::text AS \"품목\" FROM generate_series(1, 900) g"
    spec = CopySpec.of(
        source_sql=query.replace("g)::text", "CASE g WHEN 777 THEN chr(0x1F600) ELSE '가' END)::text"),
        target_table="public.좁은",
    )
    narrow = database(encoding="EUC_KR", locale="C")
    narrow.execute('CREATE TABLE "좁은" ("품목" text)')
    with pytest.raises(StageError) as caught:
        pipeline.copy(spec, ground.source.endpoint, narrow.endpoint)
    error = caught.value
    assert (error.stage, error.sqlstate, error.retryable) == ("import", "22P05", False)
    assert "line 777" in error.stderr_tail
    assert narrow.value('SELECT count(*) FROM "좁은"') == 0
    ground.nothing_left(ground.source, narrow)


def test_children_and_descriptors_are_gone_after_many_copies(ground: Ground) -> None:
    before = Remains()
    for _ in range(5):
        ground.copy(transfer="chunked")
    before.check(ground.source, ground.target, spool=ground.spool)
