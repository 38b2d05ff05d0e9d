"""Large objects are not copied, and a column that may point at them is named in a warning."""

from __future__ import annotations

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.spec import CopySpec
from tests.support.database import Database

_SPEC = CopySpec.of(source_table="public.문서", target_table="public.문서")


@pytest.mark.parametrize("column", ["oid", "lo", "oid[]", "lo[]"])
def test_a_column_that_may_point_at_large_objects_is_named(source: Database, target: Database, column: str) -> None:
    """The kind: numbers of things that live outside of the table arrive, and point at nothing."""
    for each in (source, target):
        each.execute(f'CREATE DOMAIN lo AS oid; CREATE TABLE "문서" ("번호" int PRIMARY KEY, "본문" {column})')
    value = "ARRAY[lo_from_bytea(0, '글')]" if column.endswith("[]") else "lo_from_bytea(0, '글')"
    source.execute(f'INSERT INTO "문서" SELECT 1, {value}')
    for report in (
        pipeline.plan(_SPEC, source.endpoint, target.endpoint),
        pipeline.copy(_SPEC, source.endpoint, target.endpoint),
    ):
        (warning,) = report.warnings
        assert "본문 may point at large objects" in warning


def test_without_large_objects_a_number_is_a_number(source: Database, target: Database) -> None:
    for each in (source, target):
        each.execute('CREATE TABLE "문서" ("번호" oid PRIMARY KEY, "본문" text)')
    source.execute("INSERT INTO \"문서\" VALUES (4294967295, '글')")
    assert pipeline.copy(_SPEC, source.endpoint, target.endpoint).warnings == ()
    source.execute("SELECT lo_create(0)")
    assert any("번호" in each for each in pipeline.copy(_SPEC, source.endpoint, target.endpoint).warnings)
