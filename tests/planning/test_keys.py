"""Tables that refer to each other: an error names the order of copies that works."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import StageError
from airflow_provider_safecopy.spec import CopySpec
from tests.conftest import MakeDatabase
from tests.support.content import rows_of
from tests.support.database import Database


def copy(source: Database, target: Database, name: str, **options: Any) -> None:
    spec = CopySpec.of(source_table=f"public.{name}", target_table=f"public.{name}", **options)
    pipeline.copy(spec, source.endpoint, target.endpoint)


def lay(source: Database, target: Database, clause: str, parts: str = "") -> None:
    """A parent and a child on both sides, of which each has a new row, and one that has vanished."""
    for each in (source, target):
        each.execute(
            f'CREATE TABLE "부모" (n int PRIMARY KEY){parts}; {"CREATE TABLE 부분 PARTITION OF 부모 DEFAULT" if parts else ""}'
        )
        each.execute(f'CREATE TABLE "자식" (n int PRIMARY KEY, p int CONSTRAINT "윗줄" REFERENCES "부모" {clause})')
    source.execute('INSERT INTO "부모" VALUES (1), (2); INSERT INTO "자식" VALUES (1, 1), (2, 2)')
    target.execute('INSERT INTO "부모" VALUES (1), (3); INSERT INTO "자식" VALUES (1, 1), (3, 3)')


@pytest.mark.parametrize("major", [16, 18])
@pytest.mark.parametrize(
    ("clause", "parts"),
    [("", ""), ("ON DELETE RESTRICT", ""), ("DEFERRABLE INITIALLY DEFERRED", ""), ("", " PARTITION BY RANGE (n)")],
    ids=["plain", "restrict", "deferred", "partitions"],
)
def test_the_hint_of_a_violated_foreign_key_tells_the_order_that_works(
    database: MakeDatabase, major: int, clause: str, parts: str
) -> None:
    """The kind: with new and vanished rows on both sides each copy fails first, whichever comes first."""
    source, target = database(), database(major=major)
    lay(source, target, clause, parts)
    for name in ("자식", "부모"):
        for way in ("delta", "delete_insert", *(() if parts else ("swap",))):
            with pytest.raises(StageError) as caught:
                copy(source, target, name, publish=way)
            assert not caught.value.retryable
            assert 'public."부모" with write_mode=upsert' in caught.value.hint
            assert 'then public."자식"; then public."부모"' in caught.value.hint
    copy(source, target, "부모", write_mode="upsert")
    copy(source, target, "자식")
    copy(source, target, "부모")
    for name in ("부모", "자식"):
        assert rows_of(source, f'SELECT * FROM "{name}"') == rows_of(target, f'SELECT * FROM "{name}"')
