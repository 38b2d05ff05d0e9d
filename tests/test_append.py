"""Append: a slice is added once, whatever happens on the way, and readers see all of it or nothing."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import ConfigError, PlanError, SafeCopyError, StageError, VerifyError
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.planning import history as slices
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.report import CopyReport
from airflow_provider_safecopy.spec import CopySpec, Progress
from tests.conftest import MakeDatabase, MakeRole, NothingLeft
from tests.support.database import Database
from tests.support.proxy import Proxy

SHAPE = 'CREATE SCHEMA "영업"; CREATE TABLE "영업"."일별 주문" ("번호" bigint, "날짜" date, "금액" numeric(12,2))'
TABLE = ("영업", "일별 주문")
LABEL = str(TableName(*TABLE))
NAME = '"영업"."일별 주문"'
DAY = "\"날짜\" = '2026-11-19'"


@pytest.fixture
def orders(source: Database, target: Database) -> tuple[Database, Database]:
    """Three days of 50 orders in the source; a target that holds two of an older day."""
    for database in (source, target):
        database.execute(SHAPE)
    source.execute(f"INSERT INTO {NAME} SELECT g, '2026-11-19'::date + g % 3, g * 1.5 FROM generate_series(1, 150) g")
    target.execute(f"INSERT INTO {NAME} VALUES (-1, '2026-11-01', 1), (-2, '2026-11-01', 2)")
    return source, target


def spec(**options: Any) -> CopySpec:
    asked = {
        "source_table": TABLE,
        "target_table": TABLE,
        "write_mode": "append",
        "where": DAY,
        "append_key": "11월 19일",
    }
    return CopySpec.of(**asked | options)


def held(target: Database) -> tuple[int, int]:
    """Rows in all, and different ones."""
    ((rows, different),) = target.rows(f"SELECT count(*), count(DISTINCT t) FROM {NAME} t")
    return rows, different


def test_a_slice_is_added_and_its_receipt_says_so(orders: tuple[Database, Database], nothing_left: NothingLeft) -> None:
    source, target = orders
    report = pipeline.copy(spec(), source.endpoint, target.endpoint)
    assert (report.status, report.write_mode, report.publish, report.slice) == (
        "published",
        "append",
        "insert",
        "11월 19일",
    )
    assert (report.inserted, report.updated, report.deleted, report.unchanged) == (50, 0, 0, 0)
    assert (report.rows, report.previous_rows) == (None, None)
    assert held(target) == (52, 52)
    ((mode, name, inserted, rows),) = target.rows("SELECT write_mode, slice, inserted, row_count FROM safecopy.receipt")
    assert (mode, name, inserted, rows) == ("append", "11월 19일", 50, None)
    nothing_left(source, target)


def test_a_slice_that_is_there_is_told_and_nothing_is_exported(orders: tuple[Database, Database]) -> None:
    source, target = orders
    first = pipeline.copy(spec(), source.endpoint, target.endpoint)
    source.execute(f"INSERT INTO {NAME} VALUES (1000, '2026-11-19', 1)")
    seen: list[Progress] = []
    again = pipeline.copy(spec(verify="full"), source.endpoint, target.endpoint, progress=seen.append)
    assert (again.status, seen, again.stages) == ("already_published", [], ())
    assert (again.token, again.attempt, again.lock) == (first.token, first.attempt, first.lock)
    assert (again.inserted, again.published_at) == (50, first.published_at)
    assert (again.digest, again.bytes) == (first.digest, first.bytes)
    assert "nothing was exported" in again.reasons[0]
    assert held(target) == (52, 52)
    assert target.value("SELECT count(*) FROM safecopy.receipt") == 1


def test_other_slices_of_the_same_rows_are_others(orders: tuple[Database, Database]) -> None:
    source, target = orders
    for name in ("하나", "둘"):
        assert pipeline.copy(spec(append_key=name), source.endpoint, target.endpoint).status == "published"
    assert held(target) == (102, 52)


def test_an_empty_slice_is_a_slice(orders: tuple[Database, Database]) -> None:
    source, target = orders
    empty = spec(where="false", append_key="빈 날")
    assert pipeline.copy(empty, source.endpoint, target.endpoint).inserted == 0
    assert pipeline.copy(empty, source.endpoint, target.endpoint).status == "already_published"


@pytest.mark.parametrize(
    "other",
    [
        {"where": "\"날짜\" = '2026-11-20'"},
        {"where": None},
        {"source_table": None, "source_sql": f"SELECT * FROM {NAME}"},
        {"source_table": ("영업", "다른 주문")},
        {"columns": ["번호", "날짜"]},
    ],
)
def test_the_same_slice_of_other_rows_is_refused(orders: tuple[Database, Database], other: dict[str, Any]) -> None:
    source, target = orders
    source.execute(f'CREATE TABLE "영업"."다른 주문" AS TABLE {NAME}')
    first = pipeline.copy(spec(), source.endpoint, target.endpoint)
    with pytest.raises(PlanError) as caught:
        pipeline.copy(spec(**other), source.endpoint, target.endpoint)
    (refused,) = caught.value.refusals
    assert (refused.code, caught.value.retryable) == ("slice_taken", False)
    assert f"token {first.token}" in refused.message
    kept = target.value("SELECT proof ->> 'read' FROM safecopy.receipt")
    assert kept.startswith(f"{source.endpoint} {LABEL} WHERE ")
    assert "2026-11-19" not in kept, "values of a filter are not kept"
    assert kept in refused.message, "what is there"
    assert str(other.get("where") or other.get("source_sql") or LABEL) in refused.message, "and what was asked for"
    assert held(target) == (52, 52)


def test_the_same_slice_of_another_database_is_refused(
    orders: tuple[Database, Database], database: MakeDatabase
) -> None:
    source, target = orders
    branch = database(major=source.major)
    branch.execute(SHAPE)
    branch.execute(f"INSERT INTO {NAME} VALUES (1, '2026-11-19', 1)")
    pipeline.copy(spec(), source.endpoint, target.endpoint)
    with pytest.raises(PlanError, match="slice_taken"):
        pipeline.copy(spec(), branch.endpoint, target.endpoint)


def test_another_server_behind_the_same_name_is_another_source(
    orders: tuple[Database, Database], database: MakeDatabase
) -> None:
    """As through a tunnel that leads elsewhere now: the address is the same, the cluster is not."""
    source, target = orders
    pipeline.copy(spec(), source.endpoint, target.endpoint)
    other = database(major=18)
    other.execute(SHAPE)
    other.server.execute("postgres", f'ALTER DATABASE "{other.name}" RENAME TO "{source.name}"')
    there = replace(other, name=source.name)
    try:
        there.execute(f"INSERT INTO {NAME} VALUES (1, '2026-11-19', 1)")
        endpoint = replace(there.endpoint, label=str(source.endpoint))
        with pytest.raises(PlanError, match="slice_taken"):
            pipeline.copy(spec(), endpoint, target.endpoint)
    finally:
        other.server.execute("postgres", f'ALTER DATABASE "{source.name}" RENAME TO "{other.name}"')


def test_who_was_quicker_is_found_out_inside_the_publish(
    orders: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs that both believe to hold the lock: the ledger alone keeps them apart. First as it is asked …"""
    source, target = orders
    quicker = appended_meanwhile(source, target)
    with pytest.raises(PlanError, match="since this copy was planned") as caught:
        pipeline.copy(spec(), source.endpoint, target.endpoint, progress=quicker)
    assert caught.value.retryable
    assert held(target) == (2, 2)
    monkeypatch.setattr(slices, "require_unchanged_append", lambda *_: None)  # … and then by its index alone
    target.execute("DELETE FROM safecopy.receipt")
    with pytest.raises(PlanError, match="since this copy was planned") as caught:
        pipeline.copy(spec(), source.endpoint, target.endpoint, progress=appended_meanwhile(source, target))
    assert caught.value.retryable
    assert held(target) == (2, 2)


def appended_meanwhile(source: Database, target: Database) -> Callable[[Progress], None]:
    """Enter the receipt of another run once the copy is about to publish."""
    done: list[int] = []

    def enter(at: Progress) -> None:
        if at.stage == "publish" and not done:
            done.append(1)
            target.execute(
                "INSERT INTO safecopy.receipt (lock, token, lease_id, attempt, owner_key, source, target, proof, write_mode, "
                "slice, origin, inserted) VALUES ('l', 1, gen_random_uuid(), gen_random_uuid(), 'o', %s, %s, '{}', 'append', "
                "'11월 19일', 'x', 1)",
                [str(source.endpoint), LABEL],
            )

    return enter


@pytest.mark.parametrize("stage", ["export", "verify", "publish"])
def test_a_slice_that_failed_is_added_once_by_the_next_try(
    orders: tuple[Database, Database], nothing_left: NothingLeft, stage: str
) -> None:
    source, target = orders

    def fail(at: Progress) -> None:
        if at.stage == stage:
            raise OSError(stage)

    with pytest.raises(OSError, match=stage):
        pipeline.copy(spec(), source.endpoint, target.endpoint, progress=fail)
    assert held(target) == (2, 2)
    assert pipeline.copy(spec(), source.endpoint, target.endpoint).status == "published"
    assert pipeline.copy(spec(), source.endpoint, target.endpoint).status == "already_published"
    assert held(target) == (52, 52)
    nothing_left(source, target)


@pytest.mark.parametrize("happened", [True, False])
def test_a_lost_answer_to_commit_adds_nothing_twice(
    orders: tuple[Database, Database], proxy: Callable[[Database], Proxy], *, happened: bool
) -> None:
    source, target = orders
    wire = proxy(target)

    def lose(at: Progress) -> None:
        if at.stage == "publish":
            (wire.lose_answer_after if happened else wire.cut_before)(b"COMMIT\0")

    through = target.through(wire.port).endpoint
    if happened:
        assert pipeline.copy(spec(), source.endpoint, through, progress=lose).status == "published"
    else:
        with pytest.raises(StageError):
            pipeline.copy(spec(), source.endpoint, through, progress=lose)
    assert wire.met.is_set()
    again = pipeline.copy(spec(), source.endpoint, target.endpoint)
    assert again.status == ("already_published" if happened else "published")
    assert held(target) == (52, 52)


PROGRAM = """
import sys, json
from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.spec import CopySpec
given = json.load(sys.stdin)
source, target = Endpoint.from_conninfo(given["source"]), Endpoint.from_conninfo(given["target"])
print(pipeline.copy(CopySpec.of(**given["spec"]), source, target).status, flush=True)
"""


def test_killed_at_any_moment_and_tried_again_it_is_added_once(orders: tuple[Database, Database]) -> None:
    """Four moments, spread over the time one copy takes in a process of its own, once it has started."""
    source, target = orders
    started = time.monotonic()
    assert killed_after(source, target, "처음", 60) == 0
    whole = time.monotonic() - started
    for part in range(3, 7):
        before = held(target)[0]
        name = f"{part}번째"
        killed_after(source, target, name, whole * part / 6)
        assert held(target)[0] in {before, before + 50}
        took = until_free(partial(pipeline.copy, spec(append_key=name), source.endpoint, target.endpoint))
        assert took.status in {"published", "already_published"}
        assert held(target)[0] == before + 50


def killed_after(source: Database, target: Database, name: str, seconds: float) -> int:
    options = {"source_table": TABLE, "target_table": TABLE, "write_mode": "append", "where": DAY, "append_key": name}
    given = {"source": source.conninfo, "target": target.conninfo, "spec": options}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(given).encode())
        process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            return process.wait(seconds)
        process.kill()
        return -signal.SIGKILL


def until_free(attempt: Callable[[], CopyReport]) -> CopyReport:
    """The lock of a killed run is taken over once its process is seen gone; its last COMMIT may take a moment."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return attempt()
        except SafeCopyError as error:
            if not error.retryable or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


# Readers, writers, and what hangs on the table


def test_readers_and_writers_go_on_while_a_slice_is_added(orders: tuple[Database, Database]) -> None:
    source, target = orders
    count = f"SELECT count(*) FROM {NAME}".encode()
    with target.connect() as snapshot, target.connect() as writer:
        snapshot.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        assert snapshot.execute(count).fetchall() == [(2,)]
        writer.execute("BEGIN")
        writer.execute(f"INSERT INTO {NAME} VALUES (-3, '2026-11-02', 3)".encode())
        assert pipeline.copy(spec(), source.endpoint, target.endpoint).inserted == 50
        assert snapshot.execute(count).fetchall() == [(2,)], "all of it or nothing"
        writer.execute("COMMIT")
        snapshot.execute("COMMIT")
        assert snapshot.execute(count).fetchall() == [(53,)]


def test_a_trigger_that_swallows_rows_is_noticed(orders: tuple[Database, Database]) -> None:
    source, target = orders
    target.execute(
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS "
        '$$BEGIN IF NEW."번호" = 150 THEN RETURN NULL; END IF; RETURN NEW; END$$;'
        f"CREATE TRIGGER swallow BEFORE INSERT ON {NAME} FOR EACH ROW EXECUTE FUNCTION swallow()"
    )
    with pytest.raises(VerifyError, match="50 rows were staged, 49 inserted"):
        pipeline.copy(spec(), source.endpoint, target.endpoint)
    assert held(target) == (2, 2)
    assert target.value("SELECT count(*) FROM safecopy.receipt") == 0


def test_a_key_that_is_there_already_fails_the_whole_slice(orders: tuple[Database, Database]) -> None:
    source, target = orders
    target.execute(f'ALTER TABLE {NAME} ADD PRIMARY KEY ("번호"); INSERT INTO {NAME} VALUES (3, NULL, NULL)')
    with pytest.raises(StageError) as caught:
        pipeline.copy(spec(), source.endpoint, target.endpoint)
    assert (caught.value.sqlstate, caught.value.retryable) == ("23505", False)
    assert held(target) == (3, 3)


def test_insert_is_all_the_right_it_needs(
    orders: tuple[Database, Database], role: MakeRole, nothing_left: NothingLeft
) -> None:
    source, target = orders
    loader = role(target)
    with target.connect() as session:
        schema.init(session, grant=loader.role)
    target.execute(
        f'GRANT USAGE ON SCHEMA "영업" TO "{loader.role}"; GRANT SELECT, INSERT ON {NAME} TO "{loader.role}"'
    )
    assert pipeline.copy(spec(), source.endpoint, loader.endpoint).inserted == 50
    assert pipeline.copy(spec(), source.endpoint, loader.endpoint).status == "already_published"
    nothing_left(source, target)


# The plan, and what is asked for


def test_the_plan_says_it_without_touching_anything(orders: tuple[Database, Database]) -> None:
    source, target = orders
    plan = pipeline.plan(spec(), source.endpoint, target.endpoint)
    assert plan.refusals == ()
    assert [step.lock for step in plan.steps() if step.stage == "publish"] == ["ROW EXCLUSIVE"]
    assert any(reason == "publish insert: write_mode is append" for reason in plan.reasons)
    assert target.value("SELECT to_regnamespace('safecopy')") is None


def test_a_slice_the_target_cannot_spell_is_refused(source: Database, database: MakeDatabase) -> None:
    target = database(major=18, encoding="EUC_KR", locale="C")
    for each in (source, target):
        each.execute(SHAPE)
    codes = [each.code for each in pipeline.plan(spec(append_key="😀"), source.endpoint, target.endpoint).refusals]
    assert codes == ["name_not_in_encoding"]
    smiling = spec(where="\"번호\" <> length('😀')", append_key="웃음")
    assert pipeline.copy(smiling, source.endpoint, target.endpoint).status == "published"


def test_a_slice_has_a_name_of_bounded_length() -> None:
    assert spec(append_key="가" * 600).append_key == "가" * 600
    with pytest.raises(ConfigError, match="2000 bytes"):
        spec(append_key="가" * 700)


def test_the_longest_slice_of_the_longest_name_fits_the_index(source: Database, target: Database) -> None:
    long = ("가" * 21, '"' * 63)
    for each in (source, target):
        each.execute('CREATE SCHEMA "{}"; CREATE TABLE "{}"."{}" (a int)'.format(long[0], long[0], '""' * 63))
    letters = random.Random(7)  # nothing the server could compress
    name = "".join(chr(letters.randrange(0xAC00, 0xD7A3)) for _ in range(666))
    asked = CopySpec.of(source_table=long, target_table=long, write_mode="append", append_key=name)
    assert pipeline.copy(asked, source.endpoint, target.endpoint).status == "published"
    assert pipeline.copy(asked, source.endpoint, target.endpoint).status == "already_published"


# Whether its rows are still there


def ends(target: Database, how: str) -> None:
    """Take the rows of the table away, in one of the ways there are."""
    if how == "made anew":
        target.execute(f"DROP TABLE {NAME}; {SHAPE.partition(';')[2]}")
    else:
        target.execute({"truncated": f"TRUNCATE {NAME}", "deleted": f"DELETE FROM {NAME}"}[how])


@pytest.mark.slow
@pytest.mark.parametrize("how", ["truncated", "deleted", "made anew"])
def test_slices_are_forgotten_with_the_rows_of_the_table(orders: tuple[Database, Database], how: str) -> None:
    """A receipt proves what a table held then. Once a table was emptied none of its slices is there any more: the second
    one neither, though the first has filled the table again."""
    source, target = orders
    slices_of = [spec(append_key=name) for name in ("하나", "둘", "셋")]
    for each in slices_of:
        pipeline.copy(each, source.endpoint, target.endpoint)
    ends(target, how)
    for each in slices_of:
        report = pipeline.copy(each, source.endpoint, target.endpoint)
        assert (report.status, report.inserted) == ("published", 50)
        assert "once more" in " ".join(report.reasons)
    assert held(target) == (150, 50)
    for each in slices_of:
        assert pipeline.copy(each, source.endpoint, target.endpoint).status == "already_published"


@pytest.mark.parametrize("publish", ["auto", "delete_insert", "truncate_insert"])
def test_slices_are_forgotten_when_the_table_is_replaced(orders: tuple[Database, Database], publish: str) -> None:
    """Our own replace takes the rows of all slices away, whichever way it publishes and whether the OID changes."""
    source, target = orders
    pipeline.copy(spec(), source.endpoint, target.endpoint)
    replace_all = spec(write_mode="replace", append_key=None, where="\"날짜\" = '2026-11-20'", publish=publish)
    pipeline.copy(replace_all, source.endpoint, target.endpoint)
    assert pipeline.copy(spec(), source.endpoint, target.endpoint).inserted == 50
    assert held(target) == (100, 100)


@pytest.mark.parametrize("rows", [f"TABLE {NAME}", "SELECT -3, date '2026-11-01', 1"])
def test_a_slice_is_in_doubt_when_the_table_was_made_anew_with_rows(
    orders: tuple[Database, Database], rows: str
) -> None:
    """A table that was rebuilt by hand may hold the slice's rows: they must not come twice."""
    source, target = orders
    pipeline.copy(spec(), source.endpoint, target.endpoint)
    target.execute(
        f'CREATE TABLE "영업".other (LIKE {NAME}); INSERT INTO "영업".other {rows}; '
        f'DROP TABLE {NAME}; ALTER TABLE "영업".other RENAME TO "{TABLE[1]}"'
    )
    before = held(target)
    with pytest.raises(PlanError, match="made anew since, and holds rows") as caught:
        pipeline.copy(spec(), source.endpoint, target.endpoint)
    assert [refused.code for refused in caught.value.refusals] == ["slice_unsure"]
    assert held(target) == before


@pytest.mark.parametrize("how", [f"TRUNCATE {NAME}; INSERT INTO {NAME} VALUES (-3, '2026-11-01', 1)", "VACUUM FULL"])
def test_where_nothing_tells_whether_a_slice_is_there_the_copy_is_refused(
    orders: tuple[Database, Database], how: str
) -> None:
    """TRUNCATE and a rewrite look alike once the table holds rows again: rows may neither be missing nor come twice."""
    source, target = orders
    pipeline.copy(spec(), source.endpoint, target.endpoint)
    target.execute(how if how.startswith("TRUNCATE") else f"VACUUM FULL {NAME}")
    before = held(target)
    with pytest.raises(PlanError) as caught:
        pipeline.copy(spec(), source.endpoint, target.endpoint)
    assert [refused.code for refused in caught.value.refusals] == ["slice_unsure"]
    assert not caught.value.retryable
    assert held(target) == before
    assert pipeline.copy(spec(append_key="다른"), source.endpoint, target.endpoint).status == "published"


PARTED = (
    f'DROP TABLE {NAME}; {SHAPE.partition(";")[2]} PARTITION BY RANGE ("날짜"); '
    f"CREATE TABLE \"영업\".d19 PARTITION OF {NAME} FOR VALUES FROM ('2026-11-19') TO ('2026-11-20'); "
    f"CREATE TABLE \"영업\".d20 PARTITION OF {NAME} FOR VALUES FROM ('2026-11-20') TO ('2026-11-21')"
)


def second() -> CopySpec:
    return spec(append_key="11월 20일", where="\"날짜\" = '2026-11-20'")


@pytest.mark.parametrize("how", ["TRUNCATE", "DELETE FROM"])
def test_a_slice_in_a_partition_that_was_emptied_is_appended_again(orders: tuple[Database, Database], how: str) -> None:
    """Of a partitioned table only the partitions that rows were put into count; others may come, go and be emptied."""
    source, target = orders
    target.execute(PARTED)
    for each in (spec(), second()):
        pipeline.copy(each, source.endpoint, target.endpoint)
    target.execute(f'{how} "영업".d19')
    target.execute(
        f"CREATE TABLE \"영업\".d21 PARTITION OF {NAME} FOR VALUES FROM ('2026-11-21') TO ('2026-11-22'); "
        f"INSERT INTO {NAME} VALUES (-3, '2026-11-21', 1)"
    )
    assert pipeline.copy(second(), source.endpoint, target.endpoint).status == "already_published"
    assert held(target) == (51, 51)
    assert pipeline.copy(spec(), source.endpoint, target.endpoint).status == "published"
    assert held(target) == (101, 101)
    target.execute('DROP TABLE "영업".d19')
    assert pipeline.copy(second(), source.endpoint, target.endpoint).status == "already_published"
    assert held(target) == (51, 51)


def test_a_slice_whose_partition_was_dropped_is_appended_again(orders: tuple[Database, Database]) -> None:
    source, target = orders
    target.execute(PARTED)
    for each in (spec(), second()):
        pipeline.copy(each, source.endpoint, target.endpoint)
    target.execute('DROP TABLE "영업".d19')
    target.execute(f"CREATE TABLE \"영업\".d19 PARTITION OF {NAME} FOR VALUES FROM ('2026-11-19') TO ('2026-11-20'); ")
    assert pipeline.copy(spec(), source.endpoint, target.endpoint).inserted == 50
    assert held(target) == (100, 100)


REBUILT = 'CREATE TABLE "영업".other (LIKE "영업".d19); INSERT INTO "영업".other TABLE "영업".d19; '
ATTACHED = f"ALTER TABLE {NAME} ATTACH PARTITION \"영업\".other FOR VALUES FROM ('2026-11-19') TO ('2026-11-20')"
HANDS = {
    "copied": f'{REBUILT}DROP TABLE "영업".d19; {ATTACHED}',
    "detached": f'{REBUILT}ALTER TABLE {NAME} DETACH PARTITION "영업".d19; {ATTACHED}',
    "moved to the default": f'{REBUILT}DROP TABLE "영업".d19; INSERT INTO {NAME} TABLE "영업".other',
    "rewritten": f'ALTER TABLE {NAME} DETACH PARTITION "영업".d19; ALTER TABLE "영업".d19 ALTER "날짜" TYPE text; '
    'ALTER TABLE "영업".d19 ALTER "날짜" TYPE date USING "날짜"::date; ' + ATTACHED.replace("other", "d19"),
}


@pytest.mark.parametrize("hands", HANDS)
def test_a_slice_is_in_doubt_when_its_partition_was_rebuilt_by_hand(
    orders: tuple[Database, Database], hands: str
) -> None:
    """A partition that is gone proves nothing where another one may have its rows."""
    source, target = orders
    target.execute(f'{PARTED}; CREATE TABLE "영업".rest PARTITION OF {NAME} DEFAULT')
    pipeline.copy(spec(), source.endpoint, target.endpoint)
    target.execute(HANDS[hands])
    with pytest.raises(PlanError, match="slice_unsure"):
        pipeline.copy(spec(), source.endpoint, target.endpoint)
    assert held(target) == (50, 50)


def test_a_slice_is_in_doubt_when_its_rows_left_the_default_partition(orders: tuple[Database, Database]) -> None:
    """Rows are moved from a default partition into one of their own: they are not gone."""
    source, target = orders
    target.execute(f'{PARTED}; DROP TABLE "영업".d19; CREATE TABLE "영업".rest PARTITION OF {NAME} DEFAULT')
    pipeline.copy(spec(), source.endpoint, target.endpoint)
    target.execute(
        'CREATE TABLE "영업".other (LIKE "영업".rest); INSERT INTO "영업".other TABLE "영업".rest; '
        f'DELETE FROM "영업".rest; {ATTACHED}'
    )
    with pytest.raises(PlanError, match="slice_unsure"):
        pipeline.copy(spec(), source.endpoint, target.endpoint)
    assert held(target) == (50, 50)


@pytest.mark.parametrize("counts", ["on", "off"])
def test_a_slice_of_which_one_partition_was_deleted_is_in_doubt(orders: tuple[Database, Database], counts: str) -> None:
    """A server that does not count rows knows only that a partition is empty, not that rows were put there."""
    source, target = orders
    target.execute(f'ALTER DATABASE "{target.name}" SET track_counts = {counts}')
    target.execute(PARTED)
    wide = spec(where="\"날짜\" IN ('2026-11-19', '2026-11-20')" if counts == "on" else "\"날짜\" = '2026-11-19'")
    pipeline.copy(wide, source.endpoint, target.endpoint)
    if counts == "off":
        assert pipeline.copy(wide, source.endpoint, target.endpoint).status == "already_published"
        return
    target.execute('DELETE FROM "영업".d19')
    with pytest.raises(PlanError, match="slice_unsure"):
        pipeline.copy(wide, source.endpoint, target.endpoint)


def test_a_slice_of_which_rows_were_deleted_by_a_later_copy_is_refused(orders: tuple[Database, Database]) -> None:
    source, target = orders
    target.execute(f'DELETE FROM {NAME}; ALTER TABLE {NAME} ADD PRIMARY KEY ("번호")')
    pipeline.copy(spec(), source.endpoint, target.endpoint)
    fewer = spec(write_mode="upsert", append_key=None, where='"번호" < 60', missing="delete")
    pipeline.copy(fewer, source.endpoint, target.endpoint)
    with pytest.raises(PlanError, match="slice_unsure"):
        pipeline.copy(spec(), source.endpoint, target.endpoint)
