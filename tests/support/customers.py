"""Customers: a small table in the source, an older one in the target, and the spec that copies it."""

from __future__ import annotations

from typing import Any

from airflow_provider_safecopy.spec import CopySpec
from tests.support.content import rows_of
from tests.support.database import Database

TABLE = '"영업"."고객"'
SHAPE = f"""
CREATE SCHEMA "영업";
CREATE TABLE {TABLE} ("번호" bigint PRIMARY KEY, "이름" varchar(40) NOT NULL, "금액" numeric(12,2), "가입" timestamptz);
"""
OLD = f"INSERT INTO {TABLE} VALUES (-1, '옛 고객', 0, now()), (-2, '더 옛 고객', NULL, NULL)"


def fill(database: Database, rows: int) -> None:
    database.execute(
        f"INSERT INTO {TABLE} SELECT g, '고객 ' || g, CASE WHEN g % 7 = 0 THEN NULL ELSE g * 1.25 END, "
        f"'2026-01-01 09:00+09'::timestamptz + g * interval '1 minute' FROM generate_series(1, {rows}) g"
    )


def spec(**options: Any) -> CopySpec:
    return CopySpec.of(**{"source_table": "영업.고객", "target_table": "영업.고객"} | options)


def same(source: Database, target: Database, query: str = f"SELECT * FROM {TABLE}") -> bool:
    return rows_of(source, query) == rows_of(target, query)
