"""A COMMIT that waits for synchronous standbys is named, and so is what to look at."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.demo.servers import Server
from airflow_provider_safecopy.errors import LockStoreError
from airflow_provider_safecopy.spec import Progress, Timeouts
from tests.conftest import NothingLeft
from tests.support.customers import OLD, SHAPE, fill, same, spec
from tests.support.database import Database
from tests.support.until import until

WITHIN_SECONDS = 5.0
WAITS = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name LIKE %s"
NAMED = "the server waits for its synchronous standbys before it answers COMMIT (synchronous_standby_names = 'gone')"


@pytest.fixture
def pair(source: Database) -> Iterator[tuple[Database, Database]]:
    """A source, and a target on a server of its own, which keeps its promises about COMMIT."""
    with Server.start(source.server.installation, settings={"fsync": "off"}) as server:
        target = Database(server, "postgres")
        for database in (source, target):
            database.execute(SHAPE)
        fill(source, 2000)
        target.execute(OLD)
        yield source, target


def lose_standby(target: Database) -> None:
    """Demand a standby that does not exist, and see that a COMMIT waits for it."""
    configure(target, "ALTER SYSTEM SET synchronous_standby_names = 'gone'")
    with ThreadPoolExecutor(1) as pool:
        probe = pool.submit(target.execute, "CREATE TABLE public.probe ()")

        def waits() -> bool:
            nonlocal probe
            if probe.done():  # before the server had read its new settings
                probe.result()
                probe = pool.submit(target.execute, "DROP TABLE IF EXISTS public.probe; CREATE TABLE public.probe ()")
            return bool(target.value(WAITS, [""]))

        until(waits)
        target.rows("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
        probe.result(60)


def restore_standby(target: Database) -> None:
    configure(target, "ALTER SYSTEM RESET synchronous_standby_names")


def configure(target: Database, statement: str) -> None:
    with target.connect() as session:
        session.execute(statement.encode())
        session.execute("SELECT pg_reload_conf()")


def on_publish(target: Database) -> Callable[[Progress], None]:
    def report(at: Progress) -> None:
        if at.stage == "publish":
            lose_standby(target)

    return report


def test_a_publish_whose_commit_waits_for_standbys_says_so_and_ends_published(
    pair: tuple[Database, Database], caplog: pytest.LogCaptureFixture, nothing_left: NothingLeft
) -> None:
    source, target = pair
    asked = spec(publish="delete_insert")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(pipeline.copy, asked, source.endpoint, target.endpoint, progress=on_publish(target))
        until(lambda: running.done() or target.value(WAITS, ["safecopy:%"]))
        began = time.monotonic()
        until(lambda: running.done() or NAMED in caplog.text)
        assert time.monotonic() - began < WITHIN_SECONDS
        assert not running.done()
        assert "see pg_stat_replication there, and start the standby or change that setting" in caplog.text
        restore_standby(target)
        assert running.result(60).inserted == 2000
    assert same(source, target)
    nothing_left(source, target)


def test_a_commit_that_waits_too_long_for_standbys_is_settled_and_named(
    pair: tuple[Database, Database], caplog: pytest.LogCaptureFixture
) -> None:
    source, target = pair
    asked = spec(publish="delete_insert", timeouts=Timeouts(publish=1))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(pipeline.copy, asked, source.endpoint, target.endpoint, progress=on_publish(target))
        settled = "the receipt says it happened: "
        until(lambda: running.done() or settled in caplog.text)
        restore_standby(target)
        assert running.result(60).inserted == 2000
    (line,) = [each.getMessage() for each in caplog.records if settled in each.getMessage()]
    assert NAMED in line
    assert same(source, target)


@pytest.mark.parametrize("batch", [False, True], ids=["alone", "one of many"])
def test_a_grant_that_waits_for_standbys_names_them_in_its_error(
    pair: tuple[Database, Database], caplog: pytest.LogCaptureFixture, batch: bool
) -> None:
    """The kind: a store's question that is answered late, because its COMMIT waits."""
    source, target = pair
    asked = spec(lock="야간") if batch else spec()

    def run() -> object:
        if batch:
            return pipeline.copy_tables([asked], source.endpoint, target.endpoint)
        return pipeline.copy(asked, source.endpoint, target.endpoint)

    run()
    lose_standby(target)
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run)
        until(lambda: running.done() or NAMED in caplog.text)
        assert time.monotonic() - began < WITHIN_SECONDS
        with pytest.raises(LockStoreError) as caught:
            running.result(60)
    assert NAMED in str(caught.value)
    assert caught.value.retryable
    restore_standby(target)
    run()
    assert same(source, target)
