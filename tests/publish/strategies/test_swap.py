"""Swap: the rows are new, all else is what it was; readers see the old rows or the new ones, and hardly wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import PlanError, VerifyError
from airflow_provider_safecopy.publish.strategies import swap
from airflow_provider_safecopy.spec import Timeouts
from tests.conftest import MakeDatabase, NothingLeft
from tests.support.customers import SHAPE, TABLE, fill, same, spec
from tests.support.database import Database
from tests.support.fingerprint import differences, fingerprint, sequence_values
from tests.support.readers import Readers

_HUNG = f"""
CREATE INDEX "이름 색인" ON {TABLE} ("이름");
CREATE VIEW "영업"."큰 고객" AS SELECT * FROM {TABLE} WHERE "금액" > 1000;
CREATE TABLE "영업"."나라" ("코드" text PRIMARY KEY);
INSERT INTO "영업"."나라" VALUES ('KR');
ALTER TABLE {TABLE} ADD "나라" text NOT NULL DEFAULT 'KR' REFERENCES "영업"."나라", ADD "순번" int GENERATED ALWAYS AS IDENTITY,
    ADD "일련" serial, ADD "지역" text DEFAULT current_setting('TimeZone');
COMMENT ON INDEX "영업"."이름 색인" IS '이름으로 찾기';
GRANT SELECT ON {TABLE} TO PUBLIC;
ANALYZE {TABLE};
"""
COLUMNS = ("번호", "이름", "금액", "가입")


@pytest.mark.sweep(2)
@pytest.mark.parametrize("major", [16, 18])
def test_the_rows_are_new_and_all_else_is_as_it_was(
    database: MakeDatabase, nothing_left: NothingLeft, major: int
) -> None:
    source, target = database(major=16), database(major=major)
    for each in (source, target):
        each.execute(SHAPE)
    fill(source, 2000)
    fill(target, 3)
    target.execute(_HUNG)
    target.execute(f"ALTER DATABASE \"{target.name}\" SET TimeZone = 'Asia/Seoul'")
    before, drawn = fingerprint(target, "영업", "고객"), sequence_values(target, "영업", "고객")
    for previous in (3, 2000):
        report = pipeline.copy(spec(publish="swap", columns=COLUMNS), source.endpoint, target.endpoint)
        assert (report.publish, report.rows, report.previous_rows) == ("swap", 2000, previous)
        assert [stage.stage for stage in report.stages][-2:] == ["prepare", "publish"]
        assert differences(before, fingerprint(target, "영업", "고객")) == []
    assert same(source, target, f'SELECT "번호", "이름", "금액", "가입" FROM {TABLE}')
    # What was not copied has its defaults, drawn on from where the old table's ended.
    given = f'SELECT DISTINCT "나라", "지역", "순번" BETWEEN 2004 AND 4003, "일련" BETWEEN 2004 AND 4003 FROM {TABLE}'
    assert target.rows(given) == [("KR", "Asia/Seoul", True, True)]
    assert set(drawn.values()) == {(3, True)}
    assert set(sequence_values(target, "영업", "고객").values()) == {(4003, True)}
    nothing_left(source, target)


def test_the_old_rows_of_a_large_table_are_counted_only_for_a_guard(
    filled: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = filled
    monkeypatch.setattr(swap, "COUNTED_BYTES", 0)
    report = pipeline.copy(spec(publish="swap"), source.endpoint, target.endpoint)
    assert (report.rows, report.previous_rows, report.inserted, report.deleted) == (2000, None, 2000, None)
    source.execute(f'DELETE FROM {TABLE} WHERE "번호" > 500')
    with pytest.raises(VerifyError, match="2000"):
        pipeline.copy(spec(publish="swap", max_shrink=50), source.endpoint, target.endpoint)
    report = pipeline.copy(spec(publish="swap", max_shrink=80), source.endpoint, target.endpoint)
    assert (report.rows, report.previous_rows, report.deleted) == (500, 2000, 2000)


@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_reader_with_an_older_snapshot_sees_the_new_rows_and_never_none(
    filled: tuple[Database, Database], isolation: str
) -> None:
    source, target = filled
    with target.connect() as reader:
        reader.execute(f"BEGIN ISOLATION LEVEL {isolation}; SELECT 1".encode())
        pipeline.copy(spec(publish="swap"), source.endpoint, target.endpoint)
        for scan in ("off", "on"):
            reader.execute(f"SET LOCAL enable_seqscan = {scan}".encode())
            assert reader.execute(f'SELECT count(*) FROM {TABLE} WHERE "번호" > 0'.encode()).fetchall() == [(2000,)]
        reader.rollback()


def test_readers_see_old_or_new_and_hardly_wait(filled: tuple[Database, Database]) -> None:
    source, target = filled
    states = set()
    with Readers(target.conninfo, TABLE, lock_timeout=5000) as readers:
        for rows in range(5):
            states.add(target.value(f"SELECT count(*) FROM {TABLE}"))
            source.execute(f"INSERT INTO {TABLE} VALUES ({-rows}, 'x', 1, NULL)")
            pipeline.copy(spec(publish="swap"), source.endpoint, target.endpoint)
            readers.look()
    states.add(target.value(f"SELECT count(*) FROM {TABLE}"))
    for sight in readers.sights:
        assert not sight.errors
        assert not sight.torn
        assert {count for count, _ in sight.states} <= states
        assert sight.longest < 2, "one waiting step, on however busy a machine"
    assert any(sight.overtaken for sight in readers.sights)


def test_it_waits_for_whoever_has_read_the_table_and_readers_pass(filled: tuple[Database, Database]) -> None:
    source, target = filled
    with target.connect() as holder:
        holder.execute(f"BEGIN; SELECT FROM {TABLE} LIMIT 1".encode())
        release = threading.Timer(1.5, holder.rollback)
        release.start()
        with longest_wait(target) as waits:
            report = pipeline.copy(
                spec(publish="swap", timeouts=Timeouts(publish=30)), source.endpoint, target.endpoint
            )
        release.join()
    assert report.rows == 2000
    assert max(waits) < 1, "a step of a fifth of a second at a time, and never the whole of the wait"


def test_it_waits_for_whoever_reads_what_it_refers_to(filled: tuple[Database, Database]) -> None:
    """Dropping a foreign key locks the table it refers to: its readers are waited for, and ours do not queue meanwhile."""
    source, target = filled
    target.execute(_HUNG)
    with target.connect() as holder:
        holder.execute('BEGIN; SELECT FROM "영업"."나라"')
        release = threading.Timer(1.5, holder.rollback)
        release.start()
        with longest_wait(target) as waits:
            pipeline.copy(spec(publish="swap", columns=COLUMNS), source.endpoint, target.endpoint)
        release.join()
    assert max(waits) < 1


@contextmanager
def longest_wait(target: Database) -> Iterator[list[float]]:
    """How long each look of a reader took that looks all the time."""
    waits, over = [0.0], threading.Event()

    def look() -> None:
        with target.connect() as reader:
            while not over.is_set():
                began = time.monotonic()
                reader.execute(f"SELECT FROM {TABLE} LIMIT 1".encode())
                waits.append(time.monotonic() - began)

    reading = threading.Thread(target=look)
    reading.start()
    try:
        yield waits
    finally:
        over.set()
        reading.join()


def test_values_are_drawn_once_whoever_draws_meanwhile(filled: tuple[Database, Database]) -> None:
    """Of a serial column's sequence, which stays, and of an identity's, which another takes the place of."""
    source, target = filled
    target.execute(_HUNG)
    drawn: dict[str, list[int]] = {"고객_순번_seq": [], "고객_일련_seq": []}
    over = threading.Event()

    def draw(name: str) -> None:
        with target.connect() as session:
            while not over.is_set():
                try:
                    drawn[name] += session.execute(f'SELECT nextval(\'"영업"."{name}"\')'.encode()).fetchall()[0]
                except psycopg.errors.InternalError:
                    assert name == "고객_순번_seq", "the other is never dropped"  # it had waited for one that is gone

    drawing = [threading.Thread(target=draw, args=[name]) for name in drawn]
    for each in drawing:
        each.start()
    try:
        for _ in range(4):
            pipeline.copy(spec(publish="swap", columns=COLUMNS), source.endpoint, target.endpoint)
    finally:
        over.set()
        for each in drawing:
            each.join()
    for name, column in (("고객_순번_seq", "순번"), ("고객_일련_seq", "일련")):
        assert len(drawn[name]) > 100
        assert drawn[name] == sorted(set(drawn[name]))
        held = {value for (value,) in target.rows(f'SELECT "{column}" FROM {TABLE}')}
        assert not held & set(drawn[name])
        assert target.value(f'SELECT nextval(\'"영업"."{name}"\')') > max(held | set(drawn[name]))


def test_tables_whose_indexes_have_the_same_names_are_swapped_at_once(filled: tuple[Database, Database]) -> None:
    """In two schemas; while they are built both are in our one."""
    source, target = filled
    other = '"구매"."고객"'
    target.execute(f'CREATE SCHEMA "구매"; CREATE TABLE {other} (LIKE {TABLE} INCLUDING ALL)')
    before = [fingerprint(target, schema, "고객") for schema in ("영업", "구매")]
    failed: list[BaseException] = []

    def copy(schema: str) -> None:
        try:
            for _ in range(2):
                pipeline.copy(spec(publish="swap", target_table=(schema, "고객")), source.endpoint, target.endpoint)
        except BaseException as error:  # noqa: BLE001 -- told to the test
            failed.append(error)

    copying = [threading.Thread(target=copy, args=[schema]) for schema in ("영업", "구매")]
    for each in copying:
        each.start()
    for each in copying:
        each.join()
    assert not failed
    for schema, was in zip(("영업", "구매"), before, strict=True):
        assert differences(was, fingerprint(target, schema, "고객")) == []
        assert target.value(f'SELECT count(*) FROM "{schema}"."고객"') == 2000


def test_a_table_that_cannot_be_analyzed_is_published_all_the_same(
    filled: tuple[Database, Database], caplog: pytest.LogCaptureFixture
) -> None:
    """An index on a function that analyzes itself: none may run inside another."""
    source, target = filled
    target.execute(
        "CREATE FUNCTION public.look() RETURNS void LANGUAGE sql AS 'ANALYZE pg_catalog.pg_am';"
        "CREATE FUNCTION public.same(bigint) RETURNS bigint IMMUTABLE LANGUAGE sql AS 'SELECT $1 FROM public.look()';"
        f'CREATE INDEX ON {TABLE} (public.same("번호"))'
    )
    report = pipeline.copy(spec(publish="swap"), source.endpoint, target.endpoint)
    assert (report.status, report.rows) == ("published", 2000)
    assert "was not analyzed" in caplog.text


@pytest.mark.parametrize(
    "user",
    [
        "CREATE TABLE 영업.표 (번호 bigint DEFAULT nextval('영업.\"고객_순번_seq\"'))",
        "CREATE VIEW 영업.보기 AS SELECT nextval('영업.\"고객_순번_seq\"')",
        "CREATE FUNCTION 영업.다음() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT nextval('영업.\"고객_순번_seq\"'); END",
        'ALTER TABLE 영업.고객 ADD "따라" bigint DEFAULT nextval(\'영업."고객_순번_seq"\')',
    ],
)
def test_an_identity_that_others_draw_from_is_published_another_way(
    filled: tuple[Database, Database], user: str
) -> None:
    """The sequence of an identity goes with the old table. Any other object that uses it would prevent that, each
    night anew: `auto` takes another way, and a swap that was asked for is refused with the names."""
    source, target = filled
    target.execute(f'ALTER TABLE {TABLE} ADD "순번" int GENERATED ALWAYS AS IDENTITY')
    target.execute(user)
    report = pipeline.copy(spec(columns=COLUMNS), source.endpoint, target.endpoint)
    assert report.publish == "delta"
    with pytest.raises(PlanError) as caught:
        pipeline.copy(spec(columns=COLUMNS, publish="swap"), source.endpoint, target.endpoint)
    assert [refused.code for refused in caught.value.refusals] == ["sequence_used"]
    assert "고객_순번_seq" in str(caught.value)
    assert "CASCADE" not in str(caught.value)


def test_a_serial_that_others_draw_from_is_kept_by_a_swap(filled: tuple[Database, Database]) -> None:
    source, target = filled
    target.execute(f'ALTER TABLE {TABLE} ADD "일련" serial')
    target.execute("CREATE TABLE 영업.표 (번호 bigint DEFAULT nextval('영업.\"고객_일련_seq\"'))")
    assert pipeline.copy(spec(columns=COLUMNS, publish="swap"), source.endpoint, target.endpoint).publish == "swap"
    target.execute("INSERT INTO 영업.표 DEFAULT VALUES")
