"""Swap, and something goes wrong: the old table stands as it was, whatever was done by then, and nothing is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest
from pytest_mock import MockerFixture

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.errors import AbortedError, PlanError, StageError, StageTimeoutError
from airflow_provider_safecopy.publish import staging
from airflow_provider_safecopy.publish.context import PublishContext
from airflow_provider_safecopy.publish.strategies import swap
from airflow_provider_safecopy.spec import Progress, Timeouts
from tests.conftest import NothingLeft
from tests.support.customers import TABLE, spec
from tests.support.database import Database
from tests.support.fingerprint import differences, fingerprint

_BUILDS = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'CREATE INDEX%느린%'"
_SLOW = (
    'CREATE FUNCTION "영업".slow(text) RETURNS int IMMUTABLE LANGUAGE plpgsql AS '
    "$$BEGIN PERFORM pg_catalog.pg_sleep(0.05); RETURN 1; END$$; "
    f'CREATE INDEX "느린 색인" ON {TABLE} ("영업".slow("이름"))'
)
_REFERRING = (
    'CREATE TABLE "영업"."등급" ("금액" numeric PRIMARY KEY); INSERT INTO "영업"."등급" VALUES (0); '
    f'ALTER TABLE {TABLE} ADD CONSTRAINT "등급 있음" FOREIGN KEY ("금액") REFERENCES "영업"."등급"'
)


def stands(target: Database) -> bool:
    """Whether the rows are the old ones."""
    return bool(target.value(f'SELECT count(*) = 2 AND max("번호") = -1 FROM {TABLE}'))


def test_a_session_that_ends_between_any_two_statements_leaves_the_old_table(
    filled: tuple[Database, Database], mocker: MockerFixture, nothing_left: NothingLeft
) -> None:
    source, target = filled
    target.execute(
        f'CREATE TABLE "영업"."주문" ("고객" bigint REFERENCES {TABLE}); ALTER TABLE {TABLE} ADD "순번" int GENERATED ALWAYS AS IDENTITY; '
        f'CREATE VIEW "영업"."이름들" AS SELECT "이름" FROM {TABLE}; GRANT SELECT ON {TABLE} TO PUBLIC'
    )
    before, run = fingerprint(target, "영업", "고객"), swap._run
    cut = mocker.patch.object(swap, "_run", side_effect=run)
    asked = spec(publish="swap", columns=["번호", "이름", "금액", "가입"])
    pipeline.copy(asked, source.endpoint, target.endpoint)
    statements = sum(len(each.args[1]) for each in cut.call_args_list)
    assert statements > 10
    assert differences(before, fingerprint(target, "영업", "고객")) == []
    target.execute(f"DELETE FROM {TABLE}; INSERT INTO {TABLE} VALUES (-1, '옛', 0, NULL), (-2, '더 옛', 0, NULL)")
    for done in range(0, statements + 1, 3):
        left = [done]

        def until(job: PublishContext, wanted: Sequence[str], left: list[int] = left) -> None:
            first, left[0] = left[0], left[0] - len(wanted)
            end = ["SELECT pg_terminate_backend(pg_backend_pid())"] if 0 <= first <= len(wanted) else []
            run(job, [*wanted[: max(0, first)], *end, *wanted[max(0, first) :]])

        cut.side_effect = until
        with pytest.raises(StageError) as caught:
            pipeline.copy(asked, source.endpoint, target.endpoint)
        assert caught.value.retryable
        assert stands(target)
        changed = differences(before, fingerprint(target, "영업", "고객"))
        assert [each for each in changed if "__safecopy_" not in each] == []  # the next run sweeps that
    cut.side_effect = run
    pipeline.copy(asked, source.endpoint, target.endpoint)
    nothing_left(source, target)


def test_what_changes_while_the_new_table_is_built_is_refused(
    filled: tuple[Database, Database], mocker: MockerFixture, nothing_left: NothingLeft
) -> None:
    source, target = filled
    prepare = mocker.patch.object(swap, "prepare", side_effect=swap.prepare)
    prepared = prepare.side_effect
    for change in (
        f'CREATE INDEX "새 색인" ON {TABLE} ("금액")',
        f"ALTER TABLE {TABLE} ALTER \"이름\" SET DEFAULT '없음'",
        f'ALTER TABLE {TABLE} ADD CONSTRAINT "새 검사" CHECK ("금액" < 1000000)',
        f'ALTER TABLE {TABLE} ALTER "이름" SET STATISTICS 7',
        f"ALTER TABLE {TABLE} SET (fillfactor = 50)",
        f'CREATE STATISTICS "영업"."상관" ON "이름", "금액" FROM {TABLE}',
        f"GRANT SELECT ON {TABLE} TO PUBLIC",
        f'CREATE VIEW "영업"."큰" AS SELECT * FROM {TABLE}',
        f'ALTER TABLE {TABLE} RENAME TO "그 고객"; CREATE TABLE {TABLE} (LIKE "영업"."그 고객")',
    ):

        def then(job: PublishContext, change: str = change) -> swap.PreparedSwap:
            found: swap.PreparedSwap = prepared(job)
            target.execute(change)
            return found

        prepare.side_effect = then
        with pytest.raises(PlanError, match="target_changed") as caught:
            pipeline.copy(spec(publish="swap"), source.endpoint, target.endpoint)
        assert caught.value.retryable
        assert target.value(f"SELECT count(*) < 3 FROM {TABLE}")
    nothing_left(source, target)


def test_what_changes_before_it_is_built_is_built(filled: tuple[Database, Database]) -> None:
    """An index; but a column made in another way was loaded otherwise."""
    source, target = filled

    def disturb(at: Progress) -> None:
        if at.stage == "verify":
            target.execute(change)

    change = f'CREATE INDEX "새 색인" ON {TABLE} ("금액")'
    pipeline.copy(spec(publish="swap"), source.endpoint, target.endpoint, progress=disturb)
    assert target.value("SELECT count(*) FROM pg_indexes WHERE tablename = '고객'") == 2
    change = f'ALTER TABLE {TABLE} ALTER "금액" SET STORAGE PLAIN'
    with pytest.raises(PlanError, match="target_changed"):
        pipeline.copy(spec(publish="swap"), source.endpoint, target.endpoint, progress=disturb)


@pytest.mark.parametrize(
    ("ddl", "name", "sqlstate"),
    [
        (f'ALTER TABLE {TABLE} ADD CONSTRAINT "번호 검사" CHECK ("번호" < 1500)', "번호 검사", "23514"),
        (f'CREATE UNIQUE INDEX "금액은 하나" ON {TABLE} (("번호" % 1000))', "금액은 하나", "23505"),
        (_REFERRING, "등급 있음", "23503"),
    ],
)
def test_rows_that_violate_a_constraint_are_refused_by_its_name(
    filled: tuple[Database, Database], nothing_left: NothingLeft, ddl: str, name: str, sqlstate: str
) -> None:
    source, target = filled
    target.execute(ddl)
    with pytest.raises(StageError, match=name) as caught:
        pipeline.copy(spec(publish="swap"), source.endpoint, target.endpoint)
    assert (caught.value.stage, caught.value.sqlstate, caught.value.retryable) == ("prepare", sqlstate, False)
    assert stands(target)
    nothing_left(source, target)


def test_an_abort_ends_an_index_build_at_once(filled: tuple[Database, Database], nothing_left: NothingLeft) -> None:
    source, target = filled
    target.execute(_SLOW)
    abort, thrown = AbortSwitch(), list[float]()

    def throw() -> None:
        deadline = time.monotonic() + 60
        while not target.value(_BUILDS) and time.monotonic() < deadline:
            time.sleep(0.02)
        thrown.append(time.monotonic())
        abort.throw("it is enough")

    throwing = threading.Thread(target=throw)
    throwing.start()
    with pytest.raises(AbortedError, match="enough"):
        pipeline.copy(spec(publish="swap"), source.endpoint, target.endpoint, abort=abort)
    assert time.monotonic() - thrown[0] < 5, "the build would take a hundred seconds"
    throwing.join()
    assert stands(target)
    nothing_left(source, target)


def test_a_build_that_outlives_the_timeout_is_ended(
    filled: tuple[Database, Database], nothing_left: NothingLeft
) -> None:
    source, target = filled
    target.execute(_SLOW)
    with pytest.raises(StageTimeoutError, match="느린 색인") as caught:
        pipeline.copy(spec(publish="swap", timeouts=Timeouts(publish=1.5)), source.endpoint, target.endpoint)
    assert caught.value.stage == "prepare"
    assert stands(target)
    nothing_left(source, target)


def test_a_function_that_finds_nothing_under_our_search_path_is_told(filled: tuple[Database, Database]) -> None:
    source, target = filled
    target.execute(
        "CREATE FUNCTION public.inner_one(text) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1'; "
        "CREATE FUNCTION public.outer_one(text) RETURNS int IMMUTABLE LANGUAGE plpgsql SET search_path = pg_catalog, public "
        "AS 'BEGIN RETURN inner_one($1); END'; "
        f'CREATE INDEX "함수 색인" ON {TABLE} (public.outer_one("이름")); '
        "ALTER FUNCTION public.outer_one(text) RESET search_path"
    )
    with pytest.raises(StageError, match="함수 색인") as caught:
        pipeline.copy(spec(publish="swap"), source.endpoint, target.endpoint)
    assert not caught.value.retryable
    assert "schema" in caught.value.hint
    assert stands(target)


def test_what_a_killed_swap_has_built_is_swept_by_the_next_run(
    filled: tuple[Database, Database], mocker: MockerFixture, nothing_left: NothingLeft
) -> None:
    source, target = filled
    kept = mocker.patch.object(staging, "_drop_now")
    mocker.patch.object(swap, "write", side_effect=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        pipeline.copy(spec(publish="swap"), source.endpoint, target.endpoint)
    assert (
        target.value("SELECT count(*) FROM pg_indexes WHERE schemaname = 'safecopy' AND tablename ~ '__safecopy_'") == 1
    )
    mocker.stop(kept)
    mocker.stopall()
    pipeline.copy(spec(publish="swap"), source.endpoint, target.endpoint)
    nothing_left(source, target)
