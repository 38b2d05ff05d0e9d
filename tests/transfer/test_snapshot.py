"""A copy reads what its snapshot saw, whatever happens to the source while the copy begins."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from pytest_mock import MockerFixture

from airflow_provider_safecopy import pipeline, sql
from airflow_provider_safecopy.errors import StageError
from airflow_provider_safecopy.transfer import export
from airflow_provider_safecopy.transfer.name import TableName
from airflow_provider_safecopy.transfer.shuttle import Shuttle
from airflow_provider_safecopy.transfer.spec import CopySpec
from airflow_provider_safecopy.transfer.timeouts import Timeouts
from tests.conftest import MakeDatabase, NothingLeft
from tests.ground.database import Database
from tests.ground.until import until

SOURCE = """
CREATE SCHEMA erp;
CREATE TABLE erp.plain (id bigint PRIMARY KEY, note text);
INSERT INTO erp.plain SELECT n, repeat('가', 30) FROM generate_series(1, 900) n;
CREATE TABLE erp.other (LIKE erp.plain INCLUDING ALL);
INSERT INTO erp.other SELECT n, 'other' FROM generate_series(1, 5) n;
CREATE TABLE erp.parted (id bigint PRIMARY KEY, note text) PARTITION BY RANGE (id);
CREATE TABLE erp.parted_low PARTITION OF erp.parted FOR VALUES FROM (0) TO (500);
CREATE TABLE erp.parted_high PARTITION OF erp.parted FOR VALUES FROM (500) TO (1000);
INSERT INTO erp.parted SELECT n, 'part' FROM generate_series(1, 900) n;
CREATE VIEW erp.seen AS SELECT id, note FROM erp.plain;
CREATE MATERIALIZED VIEW erp.kept AS SELECT id, note FROM erp.plain;
"""
TARGET = """
CREATE SCHEMA dw; CREATE TABLE dw.copied (id bigint PRIMARY KEY, note text);
INSERT INTO dw.copied VALUES (1, 'old'), (5000, 'old')
"""

# What is done to the source, and the relation that is copied meanwhile.
REWRITES = {
    "emptied and filled": ("plain", "TRUNCATE erp.plain; INSERT INTO erp.plain VALUES (1, 'new')"),
    "made anew": (
        "plain",
        "DROP TABLE erp.plain CASCADE; CREATE TABLE erp.plain (id bigint, note text); INSERT INTO erp.plain VALUES (1, 'new')",
    ),
    "exchanged with one that was there": (
        "plain",
        "ALTER TABLE erp.plain RENAME TO going; ALTER TABLE erp.other RENAME TO plain",
    ),
    "written anew": (
        "plain",
        "DROP VIEW erp.seen; DROP MATERIALIZED VIEW erp.kept; ALTER TABLE erp.plain ALTER note TYPE varchar(90) USING note || ''",
    ),
    "read by a view": ("seen", "TRUNCATE erp.plain; INSERT INTO erp.plain VALUES (1, 'new')"),
    "a view defined anew": ("seen", "CREATE OR REPLACE VIEW erp.seen AS SELECT id, note FROM erp.other"),
    "refreshed": ("kept", "DELETE FROM erp.plain WHERE id > 3; REFRESH MATERIALIZED VIEW erp.kept"),
    "a partition emptied": ("parted", "TRUNCATE erp.parted_high; INSERT INTO erp.parted VALUES (600, 'new')"),
    "a partition detached": ("parted", "ALTER TABLE erp.parted DETACH PARTITION erp.parted_high"),
}
MODES: dict[str, dict[str, Any]] = {
    "replace": {"publish": "delete_insert", "min_rows": 0},
    "swap": {"publish": "swap", "min_rows": 0},
    "append": {"write_mode": "append", "append_key": "2026-12-01"},
    "upsert": {"write_mode": "upsert", "key_columns": ("id",), "missing": "delete", "min_rows": 0},
    "incremental": {"write_mode": "incremental", "key_columns": ("id",), "cursor_column": "id"},
}


@dataclass(frozen=True)
class Hosts:
    """The two ends of one copy."""

    source: Database
    target: Database

    def copy(self, relation: str, **options: Any) -> Any:
        spec = CopySpec(
            source_table=TableName("erp", relation),
            target_table=TableName("dw", "copied"),
            timeouts=Timeouts(connect=10, stall=30),
            **options,
        )
        return pipeline.copy(spec, self.source.endpoint, self.target.endpoint)

    def rows(self) -> list[tuple[Any, ...]]:
        return self.target.rows("SELECT id, note FROM dw.copied ORDER BY 1")


@pytest.fixture
def hosts(source: Database, target: Database) -> Hosts:
    source.execute(SOURCE)
    target.execute(TARGET)
    return Hosts(source, target)


@contextmanager
def rewriting(hosts: Hosts, statement: str, mocker: MockerFixture, *, ending_the_keeper: bool = True) -> Iterator[None]:
    """Let a rewrite of the source come between the plan and the export, and wait there.

    With `ending_the_keeper` the session that keeps the snapshot is then ended, so that the rewrite comes first.
    """
    begin, threads = export.start, list[threading.Thread]()

    def run() -> None:
        with hosts.source.connect() as session, session.transaction():
            session.execute(statement.encode())

    def end_keeper() -> None:
        until(lambda: _waiting(hosts.source, "COPY"))
        hosts.source.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name LIKE 'safecopy:%' AND state = 'idle in transaction'"
        )

    def start(*args: Any, **kwargs: Any) -> Any:
        if not threads:
            threads.append(threading.Thread(target=run))
            threads[0].start()
            until(lambda: _waiting(hosts.source, ""))
            if ending_the_keeper:
                threads.append(threading.Thread(target=end_keeper))
                threads[1].start()
        return begin(*args, **kwargs)

    mocker.patch.object(export, "start", start)
    try:
        yield
    finally:
        for thread in threads:
            thread.join()


def _waiting(database: Database, query: str) -> bool:
    """Whether a statement that begins so waits for a lock."""
    return bool(
        database.value(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND starts_with(query, %s) "
            "AND datname = current_database())",
            [query],
        )
    )


@pytest.mark.pair(16, 18)
@pytest.mark.parametrize("how", REWRITES)
def test_a_source_rewritten_before_it_is_read_fails_the_copy(
    hosts: Hosts, mocker: MockerFixture, nothing_left: NothingLeft, how: str
) -> None:
    """What is no part of MVCC shows an older snapshot other rows: none, those of another table, or all but a partition's."""
    relation, statement = REWRITES[how]
    before = hosts.rows()
    with rewriting(hosts, statement, mocker), pytest.raises(StageError) as caught:
        hosts.copy(relation, publish="delete_insert", min_rows=0)
    assert caught.value.retryable, caught.value
    assert hosts.rows() == before
    mocker.stopall()
    report = hosts.copy(relation, publish="delete_insert")
    assert report.status == "published"
    assert hosts.rows() == hosts.source.rows(f"SELECT id, note FROM erp.{relation} ORDER BY 1")
    nothing_left(hosts.source, hosts.target)


@pytest.mark.pair(18, 18)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("parallel", [1, 2])
def test_no_mode_publishes_what_a_rewritten_source_has_left(
    hosts: Hosts, mocker: MockerFixture, mode: str, parallel: int
) -> None:
    """A slice that is recorded empty, rows deleted as missing, a watermark moved: each would be lost for good."""
    if mode == "swap" and parallel > 1:
        pytest.skip("a swap has one lane")
    before = hosts.rows()
    with rewriting(hosts, REWRITES["emptied and filled"][1], mocker), pytest.raises(StageError) as caught:
        hosts.copy("plain", parallel=parallel, **MODES[mode])
    assert caught.value.retryable, caught.value
    assert hosts.rows() == before
    assert "min_rows" not in str(caught.value)
    assert hosts.target.value("SELECT count(*) FROM safecopy.receipt") == 0
    assert hosts.target.value("SELECT count(*) FROM safecopy.watermark") == 0


def test_the_relation_that_was_replaced_is_named(hosts: Hosts, mocker: MockerFixture) -> None:
    with rewriting(hosts, REWRITES["emptied and filled"][1], mocker), pytest.raises(StageError, match=r"erp\.plain"):
        hosts.copy("plain")


@pytest.mark.parametrize("table", ["plain", "parted"])
def test_an_export_that_waits_behind_what_waits_for_its_own_copy_ends_in_seconds(
    hosts: Hosts, mocker: MockerFixture, nothing_left: NothingLeft, table: str
) -> None:
    """Our idle session keeps the source as it was seen, a TRUNCATE waits for that, and our psql waits behind it."""
    with (
        rewriting(hosts, f"TRUNCATE erp.{table}", mocker, ending_the_keeper=False),
        pytest.raises(StageError, match=r"pid \d+ .* waits to change erp\.") as caught,
    ):
        hosts.copy(table)
    assert caught.value.retryable
    assert hosts.source.value(f"SELECT count(*) FROM erp.{table}") == 0  # it has gone on
    assert len(hosts.rows()) == 2
    nothing_left(hosts.source, hosts.target)


def test_a_batch_reads_what_its_snapshot_saw(database: MakeDatabase, mocker: MockerFixture) -> None:
    """Small tables are read by one psql, one after the other, each checked by itself."""
    source, target = database(), database()
    names = [f"t{number}" for number in range(4)]
    for name in names:
        source.execute(f"CREATE TABLE {name} (id int); INSERT INTO {name} SELECT generate_series(1, 50)")
        target.execute(f"CREATE TABLE {name} (id int); INSERT INTO {name} VALUES (0)")
    specs = [
        CopySpec(source_table=TableName("public", name), target_table=TableName("public", name), min_rows=0)
        for name in names
    ]
    ask: Callable[..., None] = Shuttle.ask
    emptied: list[str] = []

    def empty_first(self: Shuttle, plan: Any) -> None:
        if str(plan.target_name) == "public.t1" and not emptied:
            source.execute("TRUNCATE t1")
            emptied.append("t1")
        ask(self, plan)

    mocker.patch.object(Shuttle, "ask", empty_first)
    report = pipeline.copy_tables(specs, source.endpoint, target.endpoint)
    (failed,) = report.failed
    assert "replaced after the snapshot was taken: public.t1" in str(failed.error)
    assert failed.error.retryable
    assert [target.value(f"SELECT count(*) FROM {name}") for name in names] == [50, 1, 50, 50]


DEFINITIONS = {
    "a child let go": "ALTER TABLE child NO INHERIT parent",
    "a child that came": "ALTER TABLE later INHERIT parent",
    "a view defined anew": "CREATE OR REPLACE VIEW seen AS SELECT id, b FROM later",
    "a column exchanged": "ALTER TABLE parent RENAME b TO old; ALTER TABLE parent ADD b int",
}


@pytest.mark.parametrize("major", [16, 18])
@pytest.mark.parametrize("how", DEFINITIONS)
def test_what_was_defined_anew_after_the_snapshot_is_noticed(database: MakeDatabase, major: int, how: str) -> None:
    """Names, views and children are resolved by the catalog as it is now, whatever the snapshot saw."""
    source = database(major=major)
    source.execute(
        "CREATE TABLE parent (id int, b int); CREATE TABLE child () INHERITS (parent); CREATE TABLE later (id int, b int);"
        "CREATE VIEW seen AS SELECT id, b FROM parent; INSERT INTO child VALUES (1, 1)"
    )
    replaced = sql.load("snapshot")["replaced"]
    with source.connect() as session, session.transaction():
        session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        session.execute("SET LOCAL search_path = pg_catalog")
        session.execute("SELECT FROM pg_class")
        source.execute("ALTER TABLE child SET (fillfactor = 90)")  # what changes no row is no matter
        session.execute("SELECT id FROM public.child")
        assert session.execute(replaced).fetchone() == ("",)
    with source.connect() as session, session.transaction():
        session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        session.execute("SET LOCAL search_path = pg_catalog")
        session.execute("SELECT FROM pg_class")
        source.execute(DEFINITIONS[how])
        session.execute("SELECT id FROM public.seen")
        session.execute("SELECT id FROM public.parent")
        assert session.execute(replaced).fetchone() != ("",)
