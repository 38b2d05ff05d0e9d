"""Widening: what is taken holds every value as the same text, on real servers; what is not taken is refused with the statement that mends it."""

from __future__ import annotations

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.planning.column_match import can_widen
from airflow_provider_safecopy.spec import CopySpec
from tests.support.database import Database

# The source's type, the target's, and values at the edges of the source's.
TAKEN = [
    ("smallint", "integer", "-32768 32767 0"),
    ("smallint", "bigint", "-32768 32767"),
    ("integer", "bigint", "-2147483648 2147483647"),
    ("bigint", "numeric", "-9223372036854775808 9223372036854775807"),
    ("bigint", "numeric(19,0)", "-9223372036854775808 9223372036854775807"),
    ("integer", "numeric(10,0)", "-2147483648 2147483647"),
    ("numeric(10,2)", "numeric(12,2)", "-99999999.99 0.10 1.50 NaN"),
    ("numeric(5,3)", "numeric", "-99.999 0.100 1.000 NaN"),
    ("numeric(3,-2)", "numeric(4,-2)", "-99900 100 0"),
    ("varchar(3)", "varchar(4)", "가나다 a__ ___"),
    ("varchar(3)", "varchar", "가나다 a__"),
    ("varchar(3)", "text", "가나다 a__"),
    ("varchar", "text", "가나다 a__"),
    ("text", "varchar", "가나다 a__"),
    ("timestamp(3)", "timestamp", "infinity 2026-11-20T10:00:00.120 0001-01-01T00:00:00.999_BC"),
    ("timestamp(0)", "timestamp(6)", "-infinity 2026-11-20T23:59:59"),
    ("timestamp", "timestamp(6)", "2026-11-20T10:00:00.123456"),
    ("timestamptz(3)", "timestamptz", "infinity 2026-11-20T10:00:00.120+09"),
    ("time(0)", "time(3)", "24:00:00 00:00:01"),
    ("timetz(2)", "timetz", "10:00:00.25+09"),
    ("interval(1)", "interval(6)", "1.5s -3d 1y2mon"),
    ("bit varying(3)", "bit varying(8)", "101 1"),
    ("bit varying(3)", "bit varying", "101 1"),
    ("integer[]", "bigint[]", "{1,NULL,-2147483648} {}"),
    ("varchar(3)[]", "text[]", '{가,"a__",NULL}'),
    ("numeric(10,2)[]", "numeric[]", "{1.50,NULL}"),
]
# What PostgreSQL would cast by itself, and changes the text or the meaning.
REFUSED = [
    ("bigint", "integer"),
    ("integer", "smallint"),
    ("bigint", "numeric(18,0)"),
    ("integer", "numeric(12,2)"),
    ("real", "double precision"),
    ("integer", "double precision"),
    ("numeric(10,2)", "numeric(12,3)"),
    ("numeric(12,2)", "numeric(10,2)"),
    ("numeric", "numeric(30,10)"),
    ("character varying(4)", "character varying(3)"),
    ("text", "character varying(100)"),
    ("character varying", "character varying(100)"),
    ("character(3)", "character(4)"),
    ("character(3)", "text"),
    ("text", "character(3)"),
    ("timestamp without time zone", "timestamp with time zone"),
    ("timestamp without time zone", "timestamp(3) without time zone"),
    ("time without time zone", "interval"),
    ("date", "timestamp without time zone"),
    ("interval", "interval day to second"),
    ("interval year", "interval"),
    ("bit(3)", "bit varying(3)"),
    ("bit varying", "bit varying(64)"),
    ("json", "jsonb"),
    ("cidr", "inet"),
    ("integer", "bigint[]"),
    ("integer[]", "bigint"),
    ("text", "text"),
    ('"영업"."등급"', "text"),
    ("text", '"영업".text'),
    ('"char"', "text"),
    ("name", "text"),
]


def test_every_value_arrives_with_its_exact_text(source: Database, target: Database) -> None:
    """All rules in one table, each with the values at its edges; both sides hash the same."""
    given = ", ".join(f'"열 {i}" {given}' for i, (given, _, _) in enumerate(TAKEN))
    taken = ", ".join(f'"열 {i}" {taken}' for i, (_, taken, _) in enumerate(TAKEN))
    source.execute(f"CREATE SCHEMA 영업; CREATE TABLE 영업.표 ({given})")
    target.execute(f"CREATE SCHEMA 영업; CREATE TABLE 영업.표 ({taken})")
    columns = [values.split(" ") for _, _, values in TAKEN]
    for row in range(max(map(len, columns)) + 1):
        values = [each[row].replace("_", " ") if row < len(each) else None for each in columns]
        source.execute(f"INSERT INTO 영업.표 VALUES ({', '.join(['%s'] * len(values))})", values)
    spec = CopySpec.of(source_table="영업.표", target_table="영업.표", verify="full")
    plan = pipeline.plan(spec, source.endpoint, target.endpoint)
    assert plan.refusals == ()
    assert plan.format == "text"
    assert len([reason for reason in plan.reasons if "as the same text" in reason]) == len(TAKEN)
    report = pipeline.copy(spec, source.endpoint, target.endpoint)
    assert report.content_hash
    texts = "SELECT " + ", ".join(f'"열 {i}"::text COLLATE "C"' for i in range(len(TAKEN))) + " FROM 영업.표 ORDER BY "
    order = ", ".join(str(i + 1) for i in range(len(TAKEN)))
    assert target.rows(texts + order) == source.rows(texts + order)


@pytest.mark.parametrize("given, taken", REFUSED)
def test_what_would_change_is_not_taken(given: str, taken: str) -> None:
    assert not can_widen(given, taken)


@pytest.mark.parametrize(
    "given, taken, mend",
    [
        ("bigint", "integer", 'ALTER TABLE "영업"."표" ALTER COLUMN "값 하나" TYPE bigint;'),
        ("numeric(12,2)", "numeric(10,2)", 'ALTER TABLE "영업"."표" ALTER COLUMN "값 하나" TYPE numeric(12,2);'),
        ("text", "varchar(3)", 'ALTER TABLE "영업"."표" ALTER COLUMN "값 하나" TYPE text;'),
        ("integer", "text", 'ALTER TABLE "영업"."표" ALTER COLUMN "값 하나" TYPE integer USING "값 하나"::integer;'),
    ],
)
def test_the_statement_that_is_told_mends_it(
    source: Database, target: Database, given: str, taken: str, mend: str
) -> None:
    for database, type_ in ((source, given), (target, taken)):
        database.execute(
            f"CREATE SCHEMA 영업; CREATE TABLE 영업.표 (\"값 하나\" {type_}); INSERT INTO 영업.표 VALUES ('7')"
        )
    spec = CopySpec.of(source_table="영업.표", target_table="영업.표")
    (refused,) = pipeline.plan(spec, source.endpoint, target.endpoint).refusals
    assert refused.code == "type_differs"
    assert mend in refused.hint
    target.execute(mend)
    assert pipeline.plan(spec, source.endpoint, target.endpoint).refusals == ()


@pytest.mark.pair(18, 18)
def test_a_wider_type_goes_as_text_and_never_in_binary(source: Database, target: Database) -> None:
    for database, type_ in ((source, "integer"), (target, "bigint")):
        database.execute(f"CREATE SCHEMA 영업; CREATE TABLE 영업.표 (값 {type_}); INSERT INTO 영업.표 VALUES (7)")
    asked = {"source_table": "영업.표", "target_table": "영업.표"}
    plan = pipeline.plan(CopySpec.of(**asked), source.endpoint, target.endpoint)
    assert plan.format == "text"
    assert "format text: column 값 is bigint, and integer in the source" in plan.reasons
    (refused,) = pipeline.plan(CopySpec.of(**asked, format="binary"), source.endpoint, target.endpoint).refusals
    assert (refused.code, refused.column) == ("binary_unsafe", "값")


def test_a_partition_and_a_query_are_widened_as_well(source: Database, target: Database) -> None:
    source.execute("CREATE SCHEMA 영업")
    target.execute(
        "CREATE SCHEMA 영업; CREATE TABLE 영업.표 (값 bigint) PARTITION BY RANGE (값);"
        "CREATE TABLE 영업.부분 PARTITION OF 영업.표 DEFAULT"
    )
    spec = CopySpec.of(source_sql="SELECT g::int AS 값 FROM pg_catalog.generate_series(1, 5) g", target_table="영업.표")
    assert pipeline.copy(spec, source.endpoint, target.endpoint).rows == 5
