"""A copy reads what its snapshot saw, whatever happens to the source while the copy begins."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from pytest_mock import MockerFixture

from airflow_provider_safecopy import pipeline, sql
from airflow_provider_safecopy.errors import StageError
from airflow_provider_safecopy.pipeline import batch_rounds as batch_round
from airflow_provider_safecopy.planning import row_checks
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.postgres.psql import Psql
from airflow_provider_safecopy.publish.transaction import publish
from airflow_provider_safecopy.spec import CopySpec, Timeouts
from airflow_provider_safecopy.transfer import export
from airflow_provider_safecopy.transfer.small_tables import PsqlPair
from tests.conftest import MakeDatabase, NothingLeft
from tests.support.database import Database
from tests.support.until import until

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


# Sessions of a copy that are in a transaction.
_KEEPERS = """
SELECT count(*) FROM pg_stat_activity
WHERE application_name LIKE 'safecopy:%' AND state = 'idle in transaction' AND datname = current_database()
"""


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
    ask: Callable[..., None] = PsqlPair.begin_export
    emptied: list[str] = []

    def empty_first(self: PsqlPair, plan: Any) -> None:
        if str(plan.target_name) == "public.t1" and not emptied:
            source.execute("TRUNCATE t1")
            emptied.append("t1")
        ask(self, plan)

    mocker.patch.object(PsqlPair, "begin_export", empty_first)
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


# A relation, what locks it, and what then locks a table below it.
ABOVE_AND_BELOW: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "partition": ("parted", "LOCK TABLE ONLY erp.parted", "LOCK TABLE ONLY erp.parted_high", MODES["replace"]),
    "table of a view": (
        "seen",
        "ALTER VIEW erp.seen SET (security_barrier = false)",
        "LOCK TABLE ONLY erp.plain",
        MODES["replace"],
    ),
}


@pytest.mark.parametrize("what", ABOVE_AND_BELOW)
def test_planning_locks_nothing_before_what_is_above_it(hosts: Hosts, mocker: MockerFixture, what: str) -> None:
    """Whoever exchanges partitions locks the parent first; in the other order their session could be the deadlock's victim."""
    relation, above, below, mode = ABOVE_AND_BELOW[what]
    failed: list[psycopg.Error] = []
    expect, threads = row_checks.estimate, list[threading.Thread]()
    locked = threading.Event()

    def exchange() -> None:
        try:
            with hosts.source.connect() as session, session.transaction():
                session.execute(f"SET deadlock_timeout = '50ms'; {above}".encode())
                locked.set()
                until(lambda: _waiting(hosts.source, ""))
                session.execute(below.encode())
        except psycopg.Error as error:
            failed.append(error)

    def explain(*args: Any, **kwargs: Any) -> Any:
        """Let the other session come between two questions of planning, in the snapshot's transaction."""
        if not threads and hosts.source.value(_KEEPERS):
            threads.append(threading.Thread(target=exchange))
            threads[-1].start()
            assert locked.wait(30)
        return expect(*args, **kwargs)

    mocker.patch.object(row_checks, "estimate", explain)
    report = hosts.copy(relation, **mode)
    for thread in threads:
        thread.join()
    assert threads
    assert not failed
    assert report.status == "published"


WORKERS = """
CREATE TABLE erp.rate (factor int); INSERT INTO erp.rate VALUES (2);
CREATE FUNCTION erp.factor(bigint) RETURNS int LANGUAGE plpgsql STABLE PARALLEL SAFE
    AS $$ BEGIN RETURN (SELECT factor FROM erp.rate); END $$;
INSERT INTO erp.plain SELECT n, 'more' FROM generate_series(1000, 20000) n; ANALYZE erp.plain
"""
EAGER = {
    "parallel_leader_participation": "off",
    "parallel_setup_cost": "0",
    "parallel_tuple_cost": "0",
    "min_parallel_table_scan_size": "0",
}
BY_WORKERS = "SELECT sum(erp.factor(id))::bigint AS id, 'sum' AS note FROM erp.plain"


@pytest.mark.parametrize("how", ["TRUNCATE erp.rate", "TRUNCATE erp.rate; INSERT INTO erp.rate VALUES (3)"])
@pytest.mark.parametrize("batch", [False, True])
def test_what_only_parallel_workers_read_is_proven_too(
    hosts: Hosts, mocker: MockerFixture, how: str, batch: bool
) -> None:
    """A worker releases its locks when it ends, so nothing that it has read is left for the proof to find."""
    hosts.source.execute(WORKERS)
    for name, value in EAGER.items():
        hosts.source.execute(f'ALTER DATABASE "{hosts.source.name}" SET {name} = {value}')
    assert "Gather" in str(hosts.source.rows(f"EXPLAIN {BY_WORKERS}"))
    spec = CopySpec(
        source_sql=BY_WORKERS,
        target_table=TableName("dw", "copied"),
        min_rows=0,
        publish="delete_insert",
        max_shrink=None,
    )
    begin = Psql.start

    def start(stage: Any, *args: Any, **kwargs: Any) -> Psql:
        if stage == "export":
            hosts.source.execute(how)
        return begin(stage, *args, **kwargs)

    mocker.patch.object(Psql, "start", start)
    before = hosts.rows()
    if batch:
        (failed,) = pipeline.copy_tables([spec], hosts.source.endpoint, hosts.target.endpoint).failed
        error = failed.error
    else:
        with pytest.raises(StageError) as caught:
            pipeline.copy(spec, hosts.source.endpoint, hosts.target.endpoint)
        error = caught.value
    assert "erp.rate" in error.message
    assert error.retryable
    assert hosts.rows() == before


def test_workers_read_where_no_function_can_hide_a_table(hosts: Hosts) -> None:
    alone = sql.load("snapshot")["read_alone"]
    with hosts.source.connect() as session:
        assert session.execute(alone).fetchall() == []
        session.execute("CREATE EXTENSION vector")  # its functions are written in C
        assert session.execute(alone).fetchall() == []
        session.execute("CREATE FUNCTION erp.plus(int) RETURNS int LANGUAGE sql PARALLEL SAFE AS 'SELECT $1 + 1'")
        assert session.execute(alone).fetchall() == [("0",)]


def test_a_lane_that_waits_behind_what_waits_for_another_lane_ends_in_seconds(
    hosts: Hosts, mocker: MockerFixture, nothing_left: NothingLeft
) -> None:
    """Neither lane is slow, and no server sees a deadlock: but the source stands still for as long as the first one reads.

    Our own session holds no lock here, and rate_limit leaves bytes of the first lane unread.
    """
    hosts.source.execute(WORKERS)
    hosts.source.execute("INSERT INTO erp.plain SELECT n, repeat('x', 500) FROM generate_series(30000, 70000) n")
    begin, pids = export.start, list[int]()

    def truncate() -> None:
        with hosts.source.connect() as session:
            pids.append(session.info.backend_pid)
            session.execute("TRUNCATE erp.rate")

    thread, started = threading.Thread(target=truncate), list[Any]()

    def start(*args: Any, **kwargs: Any) -> Any:
        if started:
            until(
                lambda: hosts.source.value("SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'erp.rate'::regclass)")
            )
            thread.start()
            until(lambda: _waiting(hosts.source, "TRUNCATE"))
        started.append(begin(*args, **kwargs))
        return started[-1]

    mocker.patch.object(export, "start", start)
    with pytest.raises(
        StageError, match=r"waits to change erp\.rate, which another export of this copy keeps"
    ) as caught:
        hosts.copy(
            "plain", where="erp.factor(id) > 0", parallel=2, publish="delete_insert", min_rows=0, rate_limit=1024 * 1024
        )
    thread.join()
    assert f"pid {pids[0]} (" in caught.value.message
    assert caught.value.retryable
    assert len(hosts.rows()) == 2
    nothing_left(hosts.source, hosts.target)


def test_a_batch_keeps_no_lock_of_what_it_has_read(database: MakeDatabase, mocker: MockerFixture) -> None:
    """A session that keeps locks, and then waits for the next table, is a deadlock with a job that reloads all of them."""
    source, target = database(), database()
    source.execute(
        "CREATE TABLE t0 (id int); INSERT INTO t0 VALUES (1); CREATE TABLE base (id int); INSERT INTO base VALUES (2);"
        "CREATE VIEW t1 AS SELECT id FROM base; CREATE TABLE t2 (id int); INSERT INTO t2 VALUES (3)"
    )
    names = ("t0", "t1", "t2")
    for name in names:
        target.execute(f"CREATE TABLE {name} (id int)")
    held: list[str] = []
    locked = (
        "SELECT l.relation::regclass::text FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
        "WHERE a.application_name LIKE 'safecopy:%' AND l.relation >= 16384 AND a.datname = current_database()"
    )

    def look(plan: Any, *args: Any, **kwargs: Any) -> Any:
        """The shuttle may read the table after this one by now."""
        following = {"t0": {"t1", "base"}, "t1": {"t2"}, "t2": set[str]()}[plan.target_name.name]
        until(lambda: {name for (name,) in source.rows(locked)} <= following, 15)
        held.append(plan.target_name.name)
        return publish(plan, *args, **kwargs)

    mocker.patch.object(batch_round, "publish", look)
    specs = [CopySpec(source_table=TableName("public", name), target_table=TableName("public", name)) for name in names]
    report = pipeline.copy_tables(specs, source.endpoint, target.endpoint)
    assert report.status == "published"
    assert held == list(names)


def test_a_partition_whose_detaching_was_broken_off_is_none(hosts: Hosts) -> None:
    """It is in pg_inherits until FINALIZE, and no query reads it: that is how the snapshot saw it too."""
    with hosts.source.connect() as reader, reader.transaction():
        reader.execute("SELECT FROM erp.parted")
        with hosts.source.connect() as session:
            session.execute("SET lock_timeout = '100ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                session.execute("ALTER TABLE erp.parted DETACH PARTITION erp.parted_high CONCURRENTLY")
    pending = "SELECT count(*) FROM pg_inherits WHERE inhdetachpending AND inhrelid = 'erp.parted_high'::regclass"
    assert hosts.source.value(pending) == 1
    assert hosts.copy("parted").rows == hosts.source.value("SELECT count(*) FROM erp.parted") == 499
