"""One database as source and target: a copy never waits for a session of its own."""

from __future__ import annotations

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.spec import CopySpec, Timeouts
from tests.conftest import NothingLeft
from tests.support.database import Database

_PATIENCE = Timeouts(publish=20.0, lock_wait=20.0)


@pytest.fixture
def shop(target: Database) -> Database:
    """Tables, and views that read them."""
    target.execute(
        'CREATE TABLE "판매" ("번호" int PRIMARY KEY, "금액" int); CREATE TABLE "집계" ("번호" int PRIMARY KEY, "금액" int);'
        'CREATE VIEW "할인" AS SELECT "번호", "금액" - 1 AS "금액" FROM "판매";'
        'INSERT INTO "판매" SELECT g, 100 FROM generate_series(1, 50) g'
    )
    return target


def spec(source: str, target: str, publish: str, verify: str) -> CopySpec:
    return CopySpec.of(
        source_table=f"public.{source}",
        target_table=f"public.{target}",
        publish=publish,
        verify=verify,
        timeouts=_PATIENCE,
    )


@pytest.mark.parametrize("verify", ["counts", "full"])
@pytest.mark.parametrize("publish", ["swap", "truncate_insert", "delta", "delete_insert", "auto"])
def test_a_view_over_the_target_is_copied_into_it(
    shop: Database, nothing_left: NothingLeft, publish: str, verify: str
) -> None:
    """The kind: what our own idle session has read is locked, and the publish would wait for that."""
    report = pipeline.copy(spec("할인", "판매", publish, verify), shop.endpoint, shop.endpoint)
    assert shop.value('SELECT sum("금액") FROM "판매"') == 50 * 99
    assert not any("instead of swap" in each for each in report.reasons)
    nothing_left(shop)


@pytest.mark.parametrize("verify", ["counts", "full"])
@pytest.mark.parametrize("publish", ["swap", "truncate_insert", "delta", "delete_insert", "auto"])
def test_tables_that_are_sources_and_targets_of_one_batch(shop: Database, publish: str, verify: str) -> None:
    """The kind, for many tables: they share a snapshot, and one's target is another's source."""
    specs = [spec("판매", "집계", publish, verify), spec("할인", "판매", publish, verify)]
    report = pipeline.copy_tables(specs, shop.endpoint, shop.endpoint)
    assert [each.status for each in report.tables] == ["published", "published"]
    assert shop.value('SELECT sum("금액") FROM "판매"') == 50 * 99
