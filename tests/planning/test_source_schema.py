"""Shape: told apart by whatever matters of a column; kept in the receipt, and compared by the next copy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.planning.catalog import Column, Relation
from airflow_provider_safecopy.planning.source_schema import SourceSchema
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.spec import CopySpec
from tests.conftest import MakeDatabase, MakeRole
from tests.support.customers import TABLE, spec
from tests.support.database import Database

COLUMNS = (
    Column("번호", "bigint", not_null=True),
    Column("이름", "character varying(40)"),
    Column("등급", '"영업"."등급"', inner_shape="'금', '은'"),
)


def shape(*columns: Column) -> SourceSchema:
    return SourceSchema.from_relation(Relation(TableName("영업", "고객"), "r", columns))


THEN = shape(*COLUMNS)


@pytest.mark.parametrize(
    "now, told",
    [
        ((*COLUMNS, Column("적 립", "integer")), ('column "적 립" integer is new',)),
        (COLUMNS[1:], ("column 번호 bigint is gone",)),
        ((replace(COLUMNS[0], type="numeric(12,2)"), *COLUMNS[1:]), ("번호 was bigint, is numeric(12,2)",)),
        ((replace(COLUMNS[0], not_null=False), *COLUMNS[1:]), ("번호 may be NULL now",)),
        ((COLUMNS[0], replace(COLUMNS[1], not_null=True), COLUMNS[2]), ("이름 may not be NULL now",)),
        ((COLUMNS[1], COLUMNS[0], COLUMNS[2]), ("the columns are in another order",)),
        (
            (*COLUMNS[:2], replace(COLUMNS[2], inner_shape="'금', '은', '동'")),
            ("등급: the type \"영업\".\"등급\" was ('금', '은'), is ('금', '은', '동')",),
        ),
        (
            (Column("이름", "text"), COLUMNS[2], Column("적립금", "integer")),
            ("column 적립금 integer is new", "column 번호 bigint is gone", "이름 was character varying(40), is text"),
        ),
    ],
)
def test_every_difference_has_its_words_and_another_fingerprint(now: tuple[Column, ...], told: tuple[str, ...]) -> None:
    assert shape(*now).list_differences(THEN) == told
    assert shape(*now).fingerprint != THEN.fingerprint


def test_what_is_no_difference_has_no_words() -> None:
    poorer = tuple(replace(column, may_select=False, has_default=True, binary_safe=True) for column in COLUMNS)
    assert shape(*poorer) == THEN
    assert shape(*poorer).list_differences(THEN) == ()


def test_only_chosen_columns_are_of_the_shape() -> None:
    relation = Relation(TableName("영업", "고객"), "r", COLUMNS)
    assert SourceSchema.from_relation(relation, {"이름": "성명", "번호": "번호"}) == shape(*COLUMNS[:2])


@pytest.mark.parametrize("encoding", ["UTF8", "EUC_KR"])
def test_it_comes_back_as_it_was(encoding: str) -> None:
    odd = shape(*COLUMNS, Column("똠\\u0041'\"", "text"))
    data = odd.as_dict(encoding=encoding)
    assert SourceSchema.from_dict(data) == odd
    assert SourceSchema.from_dict(data | {"columns": data["columns"], "since": "a later version"}) == odd
    assert len(odd.fingerprint) == 32
    assert encoding == "UTF8" or str(data).isascii()


def test_the_next_copy_tells_what_has_changed_since_which(filled: tuple[Database, Database]) -> None:
    source, target = filled
    first = pipeline.copy(spec(), source.endpoint, target.endpoint)
    kept = target.value("SELECT proof -> 'shape' ->> 'fingerprint' FROM safecopy.receipt")
    assert kept == first.shape
    assert not [warning for warning in first.warnings if "has changed" in warning]
    again = pipeline.copy(spec(), source.endpoint, target.endpoint)
    assert (again.shape, [warning for warning in again.warnings if "has changed" in warning]) == (first.shape, [])

    for each in (source, target):
        each.execute(
            f'ALTER TABLE {TABLE} ADD COLUMN "적립금" integer; ALTER TABLE {TABLE} ALTER "금액" TYPE numeric(14,2)'
        )
    plan = pipeline.plan(spec(), source.endpoint, target.endpoint)
    day = target.value("SELECT to_char(max(published_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD') FROM safecopy.receipt")
    wanted = (
        f"영업.고객: since token {again.token} of {day} the source has changed: column 적립금 integer is new; "
        "금액 was numeric(12,2), is numeric(14,2)"
    )
    assert wanted in plan.warnings
    third = pipeline.copy(spec(), source.endpoint, target.endpoint)
    assert wanted in third.warnings
    assert third.shape == plan.as_report().shape != first.shape
    assert not any(
        "has changed" in warning for warning in pipeline.plan(spec(), source.endpoint, target.endpoint).warnings
    )


def test_another_source_of_the_same_target_is_not_compared(filled: tuple[Database, Database]) -> None:
    source, target = filled
    pipeline.copy(spec(), source.endpoint, target.endpoint)
    source.execute(f'CREATE VIEW "영업"."보기" AS SELECT * FROM {TABLE}')
    plan = pipeline.plan(spec(source_table="영업.보기"), source.endpoint, target.endpoint)
    assert not [warning for warning in plan.warnings if "has changed" in warning]


def test_what_has_changed_is_told_of_a_copy_that_is_refused(filled: tuple[Database, Database]) -> None:
    source, target = filled
    pipeline.copy(spec(), source.endpoint, target.endpoint)
    source.execute(f'ALTER TABLE {TABLE} ADD COLUMN "적립금" integer')
    plan = pipeline.plan(spec(), source.endpoint, target.endpoint)
    assert [refused.code for refused in plan.refusals] == ["column_extra"]
    assert [warning for warning in plan.warnings if "column 적립금 integer is new" in warning]


def test_receipts_that_this_role_may_not_read_are_no_obstacle(
    filled: tuple[Database, Database], role: MakeRole
) -> None:
    source, target = filled
    pipeline.copy(spec(), source.endpoint, target.endpoint)
    stranger = role(target)
    target.execute(f'GRANT USAGE ON SCHEMA "영업" TO "{stranger.role}"; GRANT ALL ON {TABLE} TO "{stranger.role}"')
    plan = pipeline.plan(spec(), source.endpoint, stranger.endpoint)
    assert not [warning for warning in plan.warnings if "has changed" in warning]


def test_letters_that_the_target_lacks_are_kept_all_the_same(source: Database, database: MakeDatabase) -> None:
    target = database(encoding="EUC_KR", locale="C")
    source.execute('CREATE SCHEMA "영업"; CREATE TABLE "영업"."표" ("똠" int); INSERT INTO "영업"."표" VALUES (1)')
    target.execute('CREATE SCHEMA "영업"; CREATE TABLE "영업"."표" ("값" int)')
    asked = CopySpec.of(source_table="영업.표", target_table="영업.표", columns={"똠": "값"})
    pipeline.copy(asked, source.endpoint, target.endpoint)
    source.execute('ALTER TABLE "영업"."표" ALTER "똠" SET NOT NULL')
    (warning,) = pipeline.plan(asked, source.endpoint, target.endpoint).warnings
    assert warning.endswith("똠 may not be NULL now")
