"""After the COMMIT: statistics and materialized views; whatever goes wrong with them, the copy is published."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.publish import maintenance
from airflow_provider_safecopy.report import CopyReport
from airflow_provider_safecopy.spec import Timeouts
from tests.conftest import MakeDatabase, MakeRole, NothingLeft
from tests.support.customers import OLD, SHAPE, TABLE, fill, spec
from tests.support.database import Database

IN_PLACE = ["delete_insert", "truncate_insert", "delta"]
# Each on what is above it; the names in an order that is not theirs.
VIEWS = {
    "다. 첫째 view": f"SELECT count(*)::int AS n, 1 AS id FROM {TABLE}",
    "나.둘째": 'SELECT n, id FROM "영업"."보기"',
    '가"셋째': 'SELECT a.n + b.n AS n, a.id FROM "영업"."나.둘째" a JOIN "영업"."다. 첫째 view" b ON true',
}


@pytest.fixture
def ends(database: MakeDatabase, request: pytest.FixtureRequest) -> tuple[Database, Database]:
    """A source of 2,000 customers, and a target of the major that is asked for, or 18, with two old ones."""
    source, target = database(major=16), database(major=getattr(request, "param", 18))
    for each in (source, target):
        each.execute(SHAPE)
    fill(source, 2000)
    target.execute(OLD)
    return source, target


def copy(source: Database, target: Database, **options: Any) -> CopyReport:
    return pipeline.copy(spec(**options), source.endpoint, target.endpoint)


def stages(report: CopyReport) -> list[str]:
    return [stage.stage for stage in report.stages]


def expected_rows(target: Database) -> int:
    """What the planner believes."""
    return int(target.value(f"SELECT reltuples::bigint FROM pg_class WHERE oid = '{TABLE}'::regclass"))


def quoted(name: str) -> str:
    return '"영업"."' + name.replace('"', '""') + '"'


def views(target: Database, *, unique: bool = False) -> None:
    """A materialized view on the table, one on a view of that, and one on both."""
    first, second, third = VIEWS
    target.execute(
        f'CREATE MATERIALIZED VIEW {quoted(first)} AS {VIEWS[first]}; CREATE VIEW "영업"."보기" AS SELECT * FROM {quoted(first)};'
        f"CREATE MATERIALIZED VIEW {quoted(second)} AS {VIEWS[second]};"
        f"CREATE MATERIALIZED VIEW {quoted(third)} AS {VIEWS[third]}"
    )
    if unique:
        for name in VIEWS:
            target.execute(f"CREATE UNIQUE INDEX ON {quoted(name)} (id)")


def counted(target: Database) -> list[int]:
    return [target.value(f"SELECT n FROM {quoted(name)}") for name in VIEWS]


# Statistics


@pytest.mark.parametrize("way", IN_PLACE)
@pytest.mark.parametrize("ends", [16, 18], indirect=True)
def test_the_planner_knows_of_the_new_rows(ends: tuple[Database, Database], way: str) -> None:
    source, target = ends
    report = copy(source, target, publish=way)
    assert expected_rows(target) == 2000
    assert stages(report)[-2:] == ["publish", "analyze"]
    assert report.stages[-1].seconds > 0
    assert report.warnings == ()


def test_where_nothing_changed_nothing_is_analyzed(ends: tuple[Database, Database]) -> None:
    source, target = ends
    copy(source, target, publish="delta")
    target.execute(f"UPDATE pg_class SET reltuples = 7 WHERE oid = '{TABLE}'::regclass")
    assert stages(copy(source, target, publish="delta"))[-1] == "publish"
    assert expected_rows(target) == 7
    source.execute(f'DELETE FROM {TABLE} WHERE "번호" = 1')
    assert stages(copy(source, target, publish="delta"))[-1] == "analyze"
    assert expected_rows(target) == 1999


def test_a_swap_has_its_statistics_already(ends: tuple[Database, Database]) -> None:
    source, target = ends
    report = copy(source, target, publish="swap")
    assert "analyze" not in stages(report)
    assert expected_rows(target) == 2000
    assert "analyze" not in [step.stage for step in planned(source, target, publish="swap")]


def test_partitions_are_analyzed_with_their_parent(ends: tuple[Database, Database]) -> None:
    source, target = ends
    target.execute(
        f'DROP TABLE {TABLE}; CREATE TABLE {TABLE} ("번호" bigint, "이름" varchar(40) NOT NULL, "금액" numeric(12,2), '
        f'"가입" timestamptz) PARTITION BY RANGE ("번호"); CREATE TABLE "영업"."앞" PARTITION OF {TABLE} '
        f'FOR VALUES FROM (0) TO (1000); CREATE TABLE "영업"."뒤" PARTITION OF {TABLE} DEFAULT'
    )
    copy(source, target)
    found = target.rows("SELECT reltuples::int FROM pg_class WHERE relname IN ('앞', '뒤') ORDER BY relname")
    assert found == [(1001,), (999,)]


@pytest.mark.parametrize("ends", [16, 18], indirect=True)
def test_a_role_that_may_not_analyze_is_told_and_has_published(ends: tuple[Database, Database], role: MakeRole) -> None:
    source, target = ends
    loader = able(role(target))
    report = copy(source, loader, publish="delete_insert")
    (warning,) = report.warnings
    assert warning.startswith("영업.고객 was not analyzed: permission denied")
    assert report.rows == target.value(f"SELECT count(*) FROM {TABLE}") == 2000


@pytest.mark.pair(18, 18)
def test_the_right_to_maintain_is_enough(ends: tuple[Database, Database], role: MakeRole) -> None:
    source, target = ends
    loader = able(role(target))
    target.execute(f'GRANT MAINTAIN ON {TABLE} TO "{loader.role}"')
    assert copy(source, loader, publish="delete_insert").warnings == ()
    assert expected_rows(target) == 2000


def test_somebody_who_keeps_it_locked_is_not_waited_for_long(
    ends: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch, nothing_left: NothingLeft
) -> None:
    source, target = ends
    monkeypatch.setattr(maintenance, "_PATIENCE_SECONDS", 0.5)
    target.execute(QUEUED)
    with target.connect() as other, ThreadPoolExecutor(1) as pool:
        holding = pool.submit(hold_when_published, target, other)
        report = copy(source, target, publish="delete_insert")
        holding.result(100)
    (warning,) = report.warnings
    assert warning.startswith("영업.고객 was not analyzed: 영업.고객 stayed locked for ")
    assert "ShareUpdateExclusiveLock on 영업.고객" in warning
    assert report.rows == 2000
    nothing_left(source, target)


# The publish goes on once somebody waits in the queue behind it.
QUEUED = f"""
CREATE FUNCTION "영업".until_queued() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN FOR n IN 1 .. 1000 LOOP
    EXIT WHEN EXISTS (SELECT FROM pg_locks WHERE relation = TG_RELID AND NOT granted); PERFORM pg_sleep(0.02);
END LOOP; RETURN NULL; END$$;
CREATE TRIGGER until_queued BEFORE INSERT ON {TABLE} EXECUTE FUNCTION "영업".until_queued();
"""


def hold_when_published(target: Database, other: psycopg.Connection[Any]) -> None:
    """Wait in the queue behind the publish, for what an ANALYZE then has to wait for."""
    deadline = time.monotonic() + 30
    held = "SELECT count(*) FROM pg_locks WHERE relation = %s::text::regclass AND granted AND mode = 'ShareRowExclusiveLock'"
    while not target.value(held, [TABLE]):
        assert time.monotonic() < deadline
    other.execute("BEGIN")
    other.execute(f"LOCK TABLE {TABLE} IN SHARE UPDATE EXCLUSIVE MODE".encode())


# Views


def planned(source: Database, target: Database, **options: Any) -> Any:
    return pipeline.plan(spec(**options), source.endpoint, target.endpoint).steps()


def test_views_are_left_alone_unless_they_are_asked_for(ends: tuple[Database, Database]) -> None:
    source, target = ends
    views(target)
    report = copy(source, target, publish="delete_insert")
    assert counted(target) == [2, 2, 4]
    assert "refresh" not in stages(report)


@pytest.mark.parametrize("unique", [True, False])
@pytest.mark.parametrize("ends", [16, 18], indirect=True)
def test_views_are_refreshed_each_after_what_it_is_made_of(ends: tuple[Database, Database], *, unique: bool) -> None:
    source, target = ends
    views(target, unique=unique)
    asked = {"publish": "delete_insert", "refresh_views": True}
    steps = [step for step in planned(source, target, **asked) if step.stage == "refresh"]
    how = "CONCURRENTLY " if unique else ""
    assert [step.sql for step in steps] == [f"REFRESH MATERIALIZED VIEW {how}{quoted(name)}" for name in VIEWS]
    assert {step.lock for step in steps} == {"EXCLUSIVE" if unique else "ACCESS EXCLUSIVE"}
    report = copy(source, target, **asked)
    assert counted(target) == [2000, 2000, 4000]
    assert stages(report)[-3:] == ["publish", "analyze", "refresh"]
    waits = [] if unique else [name for name in VIEWS if any("its readers wait" in each for each in report.warnings)]
    assert len(report.warnings) == len(waits)


def test_a_view_that_was_never_filled_is_filled(ends: tuple[Database, Database]) -> None:
    source, target = ends
    target.execute(
        f'CREATE MATERIALIZED VIEW "영업"."수" AS SELECT count(*) AS n FROM {TABLE} WITH NO DATA;'
        'CREATE UNIQUE INDEX ON "영업"."수" (n)'
    )
    assert copy(source, target, publish="delete_insert", refresh_views=True).warnings == ()
    assert target.value('SELECT n FROM "영업"."수"') == 2000


@pytest.mark.parametrize(
    "index",
    ["(n) WHERE n > 0", "((n + 1))", "(n, (n + 1))"],
    ids=["a partial index", "an expression", "an expression among columns"],
)
def test_not_every_unique_index_spares_the_readers(ends: tuple[Database, Database], index: str) -> None:
    source, target = ends
    target.execute(f'CREATE MATERIALIZED VIEW "영업"."수" AS SELECT count(*) AS n FROM {TABLE}')
    target.execute(f'CREATE UNIQUE INDEX ON "영업"."수" {index}')
    (warning,) = copy(source, target, publish="delete_insert", refresh_views=True).warnings
    assert warning.startswith("영업.수: its readers wait while it is refreshed")
    assert target.value('SELECT n FROM "영업"."수"') == 2000


def test_one_that_fails_is_told_and_keeps_no_other_from_it(ends: tuple[Database, Database]) -> None:
    source, target = ends
    target.execute(
        f'CREATE MATERIALIZED VIEW "영업"."가" AS SELECT 1 / (2 - least(count(*), 3)::int + 1) AS n FROM {TABLE};'
        f'CREATE MATERIALIZED VIEW "영업"."나" AS SELECT count(*) AS n FROM {TABLE}'
    )
    report = copy(source, target, publish="delete_insert", refresh_views=True)
    (warning,) = [each for each in report.warnings if "was not refreshed" in each]
    assert warning == "영업.가 was not refreshed: division by zero"
    assert target.value('SELECT n FROM "영업"."나"') == 2000
    assert report.status == "published"


@pytest.mark.parametrize("ends", [16, 18], indirect=True)
def test_a_role_that_may_not_refresh_is_told_beforehand(ends: tuple[Database, Database], role: MakeRole) -> None:
    source, target = ends
    loader = able(role(target))
    views(target)
    first = next(iter(VIEWS))
    target.execute(
        f'ALTER TABLE {TABLE} OWNER TO "{loader.role}"; ALTER MATERIALIZED VIEW {quoted(first)} OWNER TO "{loader.role}"'
    )
    asked = {"publish": "delete_insert", "refresh_views": True}
    plan = pipeline.plan(spec(**asked), source.endpoint, loader.endpoint)
    refused = [each for each in plan.warnings if "will not be refreshed" in each]
    assert refused == [
        f'영업."{name}" will not be refreshed: role {loader.role} may not, it belongs to postgres'
        for name in ("나.둘째", '가""셋째')
    ]
    assert [step.sql for step in plan.steps() if step.stage == "refresh"] == [
        f"REFRESH MATERIALIZED VIEW {quoted(first)}"
    ]
    report = copy(source, loader, **asked)
    assert [each for each in report.warnings if "refreshed" in each] == [
        each for each in plan.warnings if "refreshed" in each
    ]
    assert counted(target) == [2000, 2, 4]


@pytest.mark.parametrize("into", ["the parent", "a partition"])
def test_views_of_the_other_end_of_a_partition_tree_are_refreshed_too(
    ends: tuple[Database, Database], into: str
) -> None:
    source, target = ends
    columns = '("번호" bigint, "이름" varchar(40) NOT NULL, "금액" numeric(12,2), "가입" timestamptz)'
    target.execute(
        f'DROP TABLE {TABLE}; CREATE TABLE {TABLE} {columns} PARTITION BY RANGE ("번호");'
        f'CREATE TABLE "영업"."모두" PARTITION OF {TABLE} DEFAULT'
    )
    seen, given = ('"영업"."모두"', "영업.고객") if into == "the parent" else (TABLE, "영업.모두")
    target.execute(f'CREATE MATERIALIZED VIEW "영업"."수" AS SELECT count(*) AS n FROM {seen}')
    copy(source, target, target_table=given, publish="delete_insert", refresh_views=True)
    assert target.value('SELECT n FROM "영업"."수"') == 2000


def test_views_in_a_circle_are_no_end(ends: tuple[Database, Database]) -> None:
    source, target = ends
    target.execute(
        f'CREATE VIEW "영업"."하나" AS SELECT count(*) AS n FROM {TABLE}; CREATE VIEW "영업"."둘" AS SELECT n FROM "영업"."하나";'
        'CREATE OR REPLACE VIEW "영업"."하나" AS SELECT n FROM "영업"."둘"'
    )
    target.execute(f'CREATE OR REPLACE VIEW "영업"."둘" AS SELECT h.n FROM "영업"."하나" h, {TABLE} LIMIT 1')
    target.execute(f'CREATE MATERIALIZED VIEW "영업"."수" AS SELECT count(*) AS n FROM {TABLE}')
    copy(source, target, publish="delete_insert", refresh_views=True)
    assert target.value('SELECT n FROM "영업"."수"') == 2000


@pytest.mark.parametrize("ends", [16], indirect=True)
def test_a_view_is_refreshed_as_the_role_would_by_hand(ends: tuple[Database, Database]) -> None:
    """Its functions look names up along the role's own search_path."""
    source, target = ends
    target.execute(
        f'ALTER DATABASE "{target.name}" SET search_path = "영업", public;'
        f'CREATE TABLE "영업"."배수" AS SELECT 3 AS x;'
        'CREATE FUNCTION "영업".times(n bigint) RETURNS bigint LANGUAGE plpgsql AS '
        '$$BEGIN RETURN n * (SELECT x FROM "배수"); END$$;'
        'SET search_path = "영업", public;'
        f'CREATE MATERIALIZED VIEW "영업"."수" AS SELECT "영업".times(count(*)) AS n FROM {TABLE}'
    )
    report = copy(source, target, publish="delete_insert", refresh_views=True)
    assert not any("was not" in each for each in report.warnings)
    assert target.value('SELECT n FROM "영업"."수"') == 6000


def test_row_security_hides_rows_from_a_view_as_it_always_does(ends: tuple[Database, Database], role: MakeRole) -> None:
    """Everywhere else in a copy it is an error."""
    source, target = ends
    loader = able(role(target))
    target.execute(
        'CREATE TABLE "영업"."비밀" AS SELECT generate_series(1, 3) AS n; ALTER TABLE "영업"."비밀" ENABLE ROW LEVEL SECURITY;'
        'CREATE POLICY "하나만" ON "영업"."비밀" USING (n = 1); GRANT SELECT ON "영업"."비밀" TO PUBLIC;'
        f'CREATE MATERIALIZED VIEW "영업"."수" AS SELECT count(*) AS n FROM {TABLE}, "영업"."비밀";'
        f'ALTER MATERIALIZED VIEW "영업"."수" OWNER TO "{loader.role}"'
    )
    report = copy(source, loader, publish="delete_insert", refresh_views=True)
    assert not any("was not refreshed" in each for each in report.warnings)
    assert target.value('SELECT n FROM "영업"."수"') == 2000


# Stopped


SLOW = f"""
CREATE FUNCTION "영업".slowly(n bigint) RETURNS bigint LANGUAGE plpgsql AS
$$BEGIN IF n > 2 THEN PERFORM pg_sleep(60); END IF; RETURN n; END$$;
CREATE MATERIALIZED VIEW "영업"."느린" AS SELECT "영업".slowly(count(*)) AS n FROM {TABLE};
"""


def test_an_abort_after_the_commit_ends_it_and_the_copy_is_published(
    ends: tuple[Database, Database], nothing_left: NothingLeft
) -> None:
    source, target = ends
    target.execute(SLOW)
    abort = AbortSwitch()

    def stop() -> None:
        deadline = time.monotonic() + 30
        while not target.value("SELECT count(*) FROM pg_stat_activity WHERE query ~ '^REFRESH' AND state = 'active'"):
            assert time.monotonic() < deadline
        abort.throw("시험이 멈춤")

    thread = threading.Thread(target=stop)
    thread.start()
    asked = spec(publish="delete_insert", refresh_views=True)
    report = pipeline.copy(asked, source.endpoint, target.endpoint, abort=abort)
    thread.join()
    assert report.status == "published"
    assert "영업.느린 was not refreshed: aborted: 시험이 멈춤" in report.warnings
    assert target.value(f"SELECT count(*) FROM {TABLE}") == 2000
    nothing_left(source, target)


def test_it_ends_with_the_publishs_own_timeout(ends: tuple[Database, Database], nothing_left: NothingLeft) -> None:
    source, target = ends
    target.execute(SLOW)
    report = copy(source, target, publish="delete_insert", refresh_views=True, timeouts=Timeouts(publish=2))
    assert "영업.느린 was not refreshed: the time of publish_timeout was over" in report.warnings
    assert report.rows == 2000
    nothing_left(source, target)


def test_a_session_lost_after_the_commit_is_told(ends: tuple[Database, Database]) -> None:
    source, target = ends
    target.execute(SLOW)
    target.execute(f'CREATE MATERIALIZED VIEW "영업"."뒤의 것" AS SELECT count(*) AS n FROM {TABLE}')

    def cut() -> None:
        deadline = time.monotonic() + 30
        while not target.value(
            "SELECT bool_or(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query ~ '^REFRESH' AND state = 'active'"
        ):
            assert time.monotonic() < deadline

    thread = threading.Thread(target=cut)
    thread.start()
    report = copy(source, target, publish="delete_insert", refresh_views=True)
    thread.join()
    assert report.status == "published"
    assert any(each.startswith("영업.느린 was not refreshed: ") for each in report.warnings)
    assert '영업."뒤의 것" was not refreshed: the session was lost' in report.warnings


def able(loader: Database) -> Database:
    """A role that may do all that a copy needs."""
    owner = Database(loader.server, loader.name)
    owner.execute(
        f'GRANT CREATE ON DATABASE "{loader.name}" TO "{loader.role}"; GRANT USAGE, CREATE ON SCHEMA "영업" TO "{loader.role}";'
        f'GRANT SELECT, INSERT, DELETE ON {TABLE} TO "{loader.role}"'
    )
    return loader
