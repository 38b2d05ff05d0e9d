"""What comes between the plan and the publish, or from one table of a batch to the next, and loses no row of anyone's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import PlanError
from airflow_provider_safecopy.report import CopyReport
from airflow_provider_safecopy.spec import CopySpec, Progress, Timeouts
from tests.conftest import MakeRole
from tests.support.database import Database
from tests.support.until import until
from tests.test_waits import holding

Pair = tuple[Database, Database]
LATE = {
    "a key with an action": "CREATE TABLE other (r int REFERENCES t ON DELETE CASCADE); INSERT INTO other VALUES (1)",
    "a child": "CREATE TABLE other () INHERITS (t); INSERT INTO other VALUES (1, 'mine')",
}
THIRDS = "CREATE TABLE t (id int PRIMARY KEY, d int); INSERT INTO t SELECT g, g % 3 FROM generate_series(1, 90) g"
PARTED = """CREATE TABLE t (id int PRIMARY KEY, d int) PARTITION BY RANGE (id);
CREATE TABLE t_a PARTITION OF t FOR VALUES FROM (0) TO (50); CREATE TABLE t_b PARTITION OF t FOR VALUES FROM (50) TO (1000)"""


@pytest.fixture
def pair(source: Database, target: Database) -> Pair:
    return source, target


def spec_of(source_table: str, target_table: str | None = None, **options: Any) -> CopySpec:
    target = target_table or source_table
    return CopySpec.of(source_table=f"public.{source_table}", target_table=f"public.{target}", **options)


def copy(pair: Pair, source_table: str, target_table: str | None = None, **options: Any) -> CopyReport:
    spec = spec_of(source_table, target_table, **options)
    return pipeline.copy(spec, pair[0].endpoint, pair[1].endpoint)


@pytest.mark.pair(18, 18)
@pytest.mark.parametrize("late", LATE)
@pytest.mark.parametrize("publish", ["delete_insert", "truncate_insert"])
def test_a_key_or_a_child_that_comes_after_planning_loses_no_row(pair: Pair, late: str, publish: str) -> None:
    """What was refused when the copy was planned is asked again under the lock of the publish."""
    source, target = pair
    for each in pair:
        each.execute("CREATE TABLE t (id int PRIMARY KEY, n text)")
    source.execute("INSERT INTO t SELECT g, 'new' FROM generate_series(1, 9) g")
    target.execute("INSERT INTO t VALUES (1, 'old'), (900, 'old')")
    made: list[str] = []

    def make(_: Progress) -> None:
        if not made:
            made.append(late)
            target.execute(LATE[late])

    with pytest.raises(PlanError) as caught:
        pipeline.copy(spec_of("t", publish=publish), source.endpoint, target.endpoint, progress=make)
    assert caught.value.retryable
    assert target.value("SELECT count(*) FROM other") == 1
    assert target.value("SELECT count(*) FROM ONLY t") == 2


@pytest.mark.pair(18, 18)
@pytest.mark.parametrize(("appended", "replaced"), [("t", "t_a"), ("t_a", "t")])
@pytest.mark.parametrize(
    "by", [{"publish": "delta"}, {"publish": "delete_insert"}, {"write_mode": "upsert", "missing": "delete"}]
)
def test_a_slice_is_in_doubt_once_a_partition_or_parent_was_replaced(
    pair: Pair, appended: str, replaced: str, by: dict[str, Any]
) -> None:
    """Receipts are of one table; its rows are those of its partitions as well."""
    source, target = pair
    source.execute(
        "CREATE TABLE t (id int PRIMARY KEY, d int); INSERT INTO t SELECT g, g % 3 FROM generate_series(1, 49) g"
    )
    target.execute(PARTED)
    copy(pair, "t", appended, write_mode="append", append_key="A", where="d = 1")
    copy(pair, "t", replaced, where="d = 2", **by)
    with pytest.raises(PlanError, match="slice_unsure"):
        copy(pair, "t", appended, write_mode="append", append_key="A", where="d = 1")


@pytest.mark.pair(18, 18)
@pytest.mark.parametrize("by", [{}, {"write_mode": "upsert", "missing": "delete"}])
@pytest.mark.parametrize(("read", "replaced", "kept"), [("t", "t_a", "id < 10"), ("t_b", "t", "id < 60")])
def test_a_watermark_is_forgotten_once_a_partition_or_parent_was_replaced(
    pair: Pair, read: str, replaced: str, kept: str, by: dict[str, Any]
) -> None:
    """A watermark promises rows that a copy into a partition, or the parent, has deleted since."""
    source, target = pair
    source.execute(
        "CREATE TABLE t (id int PRIMARY KEY, d int); INSERT INTO t SELECT g, g FROM generate_series(1, 100) g"
    )
    target.execute(PARTED)
    options = {"write_mode": "incremental", "cursor_column": "d", "where": "id >= 50" if read == "t_b" else None}
    copy(pair, "t", read, **options)
    copy(pair, "t", replaced, where=kept, **by)
    copy(pair, "t", read, **options)
    assert target.value(f"SELECT count(*) FROM {read}") == (51 if read == "t_b" else 100)


@pytest.mark.pair(18, 18)
@pytest.mark.parametrize("how", ["renamed", "moved", "away and back"])
def test_a_slice_stays_with_its_table_whatever_that_is_called(pair: Pair, how: str) -> None:
    """A name is no identity: the same table under another name still has the slice's rows."""
    source, target = pair
    source.execute(THIRDS)
    target.execute("CREATE TABLE t (id int, d int); CREATE SCHEMA z")

    def append(table: str) -> CopyReport:
        spec = CopySpec.of(
            source_table="public.t", target_table=table, write_mode="append", append_key="A", where="d = 1"
        )
        return pipeline.copy(spec, source.endpoint, target.endpoint)

    append("public.t")
    table = {"renamed": "public.u", "moved": "z.t", "away and back": "public.t"}[how]
    if how == "renamed":
        target.execute("ALTER TABLE t RENAME TO u")
    elif how == "moved":
        target.execute("ALTER TABLE t SET SCHEMA z")
    else:
        target.execute("ALTER TABLE t RENAME TO o; CREATE TABLE t (id int, d int)")
        append("public.t")
        target.execute("DROP TABLE t; ALTER TABLE o RENAME TO t")
    assert append(table).status == "already_published"
    assert target.value(f"SELECT count(*) FROM {table}") == 30


def renamed(pair: Pair, name: str, **options: Any) -> CopyReport:
    """Copy into `t` while it is called something else, and give it its name back."""
    pair[1].execute(f"ALTER TABLE t RENAME TO {name}")
    report = copy(pair, "t", name, **options)
    pair[1].execute(f"ALTER TABLE {name} RENAME TO t")
    return report


BY_ANOTHER_NAME: dict[str, dict[str, Any]] = {
    "swap": {"publish": "swap"},
    "delta": {"publish": "delta"},
    "delete_insert": {"publish": "delete_insert"},
    "truncate_insert": {"publish": "truncate_insert"},
}


@pytest.mark.pair(18, 18)
@pytest.mark.parametrize("by", BY_ANOTHER_NAME)
def test_a_slice_is_gone_when_its_table_was_replaced_under_another_name(pair: Pair, by: str) -> None:
    """A receipt says which table was replaced, not only what it was called."""
    source, target = pair
    source.execute(THIRDS)
    target.execute("CREATE TABLE t (id int PRIMARY KEY, d int)")
    asked = {"write_mode": "append", "append_key": "A", "where": "d = 1"}
    copy(pair, "t", **asked)
    renamed(pair, "u", where="d = 2", **BY_ANOTHER_NAME[by])
    assert copy(pair, "t", **asked).inserted == 30
    assert target.value("SELECT count(*) FROM t") == 60


@pytest.mark.pair(18, 18)
def test_a_slice_stays_when_another_table_of_its_name_was_replaced(pair: Pair) -> None:
    source, target = pair
    source.execute(THIRDS)
    target.execute("CREATE TABLE t (id int, d int)")
    asked = {"write_mode": "append", "append_key": "A", "where": "d = 1"}
    copy(pair, "t", **asked)
    target.execute("ALTER TABLE t RENAME TO o; CREATE TABLE t (id int, d int)")
    copy(pair, "t", publish="delete_insert")
    target.execute("DROP TABLE t; ALTER TABLE o RENAME TO t")
    assert copy(pair, "t", **asked).status == "already_published"
    assert target.value("SELECT count(*) FROM t") == 30


@pytest.mark.pair(18, 18)
@pytest.mark.parametrize("what", ["emptied", "thinned", "partition replaced"])
def test_what_happened_under_another_name_counts(pair: Pair, what: str) -> None:
    source, target = pair
    source.execute(THIRDS)
    target.execute(PARTED)
    asked = {"write_mode": "append", "append_key": "A", "where": "d = 1"}
    copy(pair, "t", **asked)
    if what == "emptied":
        target.execute("DELETE FROM t")
        renamed(pair, "u", write_mode="append", append_key="B", where="d = 2")
        assert copy(pair, "t", **asked).inserted == 30
        assert target.value("SELECT count(*) FROM t") == 60
        return
    if what == "thinned":
        renamed(pair, "u", write_mode="upsert", missing="delete", where="d = 2")
    else:
        copy(pair, "t", "t_a", where="d = 2 AND id < 50", publish="delete_insert")
        target.execute("ALTER TABLE t_a RENAME TO t_c")
    with pytest.raises(PlanError, match="slice_unsure"):
        copy(pair, "t", **asked)


@pytest.mark.pair(18, 18)
def test_a_slice_can_be_appended_again_after_another_table_had_its_name(pair: Pair) -> None:
    """The next receipt follows the last one of this name, not only that of this table."""
    source, target = pair
    source.execute(THIRDS)
    target.execute("CREATE TABLE t (id int, d int)")
    asked = {"write_mode": "append", "append_key": "A", "where": "d = 1"}
    copy(pair, "t", **asked)
    target.execute("ALTER TABLE t RENAME TO o; CREATE TABLE t (id int, d int)")
    copy(pair, "t", **asked)
    target.execute("DROP TABLE t; ALTER TABLE o RENAME TO t; TRUNCATE t")
    assert copy(pair, "t", **asked).inserted == 30
    assert copy(pair, "t", **asked).status == "already_published"


@pytest.mark.pair(18, 18)
@pytest.mark.parametrize("by", [*BY_ANOTHER_NAME, "upsert", "emptied"])
def test_a_watermark_is_stale_when_its_table_lost_rows_under_another_name(pair: Pair, by: str) -> None:
    source, target = pair
    source.execute(
        "CREATE TABLE t (id int PRIMARY KEY, d int); INSERT INTO t SELECT g, g FROM generate_series(1, 100) g"
    )
    target.execute("CREATE TABLE t (id int PRIMARY KEY, d int)")
    options = {"write_mode": "incremental", "cursor_column": "d"}
    copy(pair, "t", **options)
    if by == "emptied":
        target.execute("DELETE FROM t")
        renamed(pair, "u", write_mode="append", append_key="B", where="id < 10")
    elif by == "upsert":
        renamed(pair, "u", write_mode="upsert", missing="delete", where="id < 10")
    else:
        renamed(pair, "u", where="id < 10", **BY_ANOTHER_NAME[by])
    copy(pair, "t", **options)
    assert target.value("SELECT count(*) FROM t") == 100
    assert copy(pair, "t", **options).unchanged == 1


@pytest.mark.pair(18, 18)
@pytest.mark.parametrize("publish", ["delta", "delete_insert"])
def test_a_trigger_of_one_table_changes_nothing_for_the_next(pair: Pair, publish: str) -> None:
    """A setting of the session's that a trigger leaves behind decides what the next table's defaults say."""
    source, target = pair
    for each in pair:
        each.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)")
    target.execute(
        "ALTER TABLE b ADD tenant text DEFAULT coalesce(nullif(current_setting('app.tenant', true), ''), 'main');"
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN PERFORM set_config('app.tenant', 'other', false); RETURN NEW; END$$;"
        "CREATE TRIGGER f BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION f()"
    )
    source.execute("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)")
    specs = [spec_of("a", publish=publish), spec_of("b", publish=publish, columns=["id"])]
    assert pipeline.copy_tables(specs, source.endpoint, target.endpoint).failed == ()
    assert target.rows("SELECT tenant FROM b") == [("main",)]


@pytest.mark.pair(18, 18)
def test_nor_does_it_switch_off_the_keys_of_the_next(pair: Pair, role: MakeRole) -> None:
    """A function with its owner's rights may set what the loader may not: rows would come that no key allows."""
    source, target = pair
    for each in pair:
        each.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY, r int)")
    source.execute("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1, 99)")
    target.execute(
        "CREATE TABLE ref (id int PRIMARY KEY); ALTER TABLE b ADD FOREIGN KEY (r) REFERENCES ref;"
        "CREATE FUNCTION q() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS "
        "$$BEGIN PERFORM set_config('session_replication_role', 'replica', false); RETURN NEW; END$$;"
        "CREATE TRIGGER q BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION q()"
    )
    loader = role(target)
    target.execute(f'GRANT CREATE ON DATABASE "{target.name}" TO "{loader.role}"; GRANT ALL ON a, b TO "{loader.role}"')
    report = pipeline.copy_tables([spec_of("a"), spec_of("b")], source.endpoint, loader.endpoint)
    (failed,) = report.failed
    assert "b_r_fkey" in str(failed.error)
    assert target.rows("SELECT r FROM b") == []


@pytest.mark.pair(18, 18)
def test_a_function_of_one_view_changes_nothing_for_the_hash_of_the_next(pair: Pair) -> None:
    """All hashes of a batch are computed in one transaction of the source's."""
    source, target = pair
    source.execute(
        "CREATE FUNCTION leak(int) RETURNS int LANGUAGE plpgsql AS "
        "$$BEGIN PERFORM set_config('app.tenant', 'b', true); RETURN $1; END$$;"
        "CREATE TABLE x (id int); INSERT INTO x VALUES (1); CREATE VIEW a AS SELECT leak(id) AS id FROM x;"
        "CREATE TABLE y (id int, who text); INSERT INTO y VALUES (1, 'a'), (2, 'b'), (3, 'b');"
        "CREATE VIEW b AS SELECT id FROM y WHERE who = coalesce(nullif(current_setting('app.tenant', true), ''), 'a')"
    )
    target.execute("CREATE TABLE a (id int); CREATE TABLE b (id int)")
    specs = [spec_of("a", verify="full"), spec_of("b", verify="full")]
    assert pipeline.copy_tables(specs, source.endpoint, target.endpoint).failed == ()
    assert target.rows("SELECT id FROM b") == [(1,)]


@pytest.mark.pair(18, 18)
def test_the_first_line_of_a_waiting_publish_names_the_holder(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    """Also where another table is locked, one that the target refers to."""
    source, target = pair
    source.execute("CREATE TABLE t (id int PRIMARY KEY, r int); INSERT INTO t VALUES (1, 1)")
    target.execute(
        "CREATE TABLE ref (id int PRIMARY KEY); INSERT INTO ref VALUES (1); CREATE TABLE t (id int PRIMARY KEY, r int REFERENCES ref)"
    )

    def lines() -> list[str]:
        return [record.getMessage() for record in caplog.records if "has been waiting for" in record.getMessage()]

    with ThreadPoolExecutor(1) as pool, holding(target, "INSERT INTO ref VALUES (2)") as holder:
        copying = pool.submit(copy, pair, "t", publish="swap", timeouts=Timeouts(lock_wait=60))
        until(lines, 60, told="the wait was never logged")
        holder.run("COMMIT")
        copying.result(100)
    assert f"pid {holder.pid}" in lines()[0]
