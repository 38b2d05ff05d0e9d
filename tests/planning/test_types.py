"""Types of extensions and of one's own: the same wherever their schemas are, and never the same by name alone."""

from __future__ import annotations

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import PlanError
from airflow_provider_safecopy.spec import CopySpec
from tests.conftest import MakeDatabase
from tests.support.content import rows_of
from tests.support.database import Database

_SPEC = CopySpec.of(source_table="public.표", target_table="public.표", verify="full")
# A base type, as extensions make them; those that come with PostgreSQL are not in every installation.
_BASE = (
    "CREATE TYPE {0}.글; CREATE FUNCTION {0}.글_in(cstring) RETURNS {0}.글 LANGUAGE internal IMMUTABLE STRICT AS 'textin';"
    "CREATE FUNCTION {0}.글_out({0}.글) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';"
    "CREATE TYPE {0}.글 (INPUT = {0}.글_in, OUTPUT = {0}.글_out, LIKE = text)"
)
_EXTENSION = f"{_BASE}; ALTER EXTENSION plpgsql ADD TYPE {{0}}.글"
_ENUM = "CREATE TYPE {0}.등급 AS ENUM ('금', '은')"
SAME = {
    "of an extension": (_EXTENSION, "{0}.글", "'가나다'"),
    "an array of an extension's": (_EXTENSION, "{0}.글[]", "ARRAY['가나다', NULL]::{0}.글[]"),
    "an enum": (_ENUM, "{0}.등급", "'은'"),
    "an array of an enum": (_ENUM, "{0}.등급[]", "ARRAY['은', NULL]::{0}.등급[]"),
    "a domain": ("CREATE DOMAIN {0}.점수 AS numeric(5,2) CHECK (value > 0)", "{0}.점수", "3.14"),
    "a domain over an enum": (f"{_ENUM}; CREATE DOMAIN {{0}}.상위 AS {{0}}.등급", "{0}.상위", "'금'"),
    "a domain over an extension's": (f"{_EXTENSION}; CREATE DOMAIN {{0}}.말 AS {{0}}.글", "{0}.말", "'가'"),
    "a composite": (
        f'{_ENUM}; CREATE TYPE {{0}}.주소 AS (시 text, "구 동" {{0}}.등급)',
        "{0}.주소",
        "ROW('서울', '금')",
    ),
    "a range": ("CREATE TYPE {0}.폭 AS RANGE (subtype = float8)", "{0}.폭", "'[1,2.5)'"),
    "a multirange": (
        "CREATE TYPE {0}.폭 AS RANGE (subtype = float8, multirange_type_name = {0}.폭들)",
        "{0}.폭들",
        "'{{[1,2.5)}}'",
    ),
}
"""Of each type: how it is made in a schema, how it is spelled, and a value."""


def fill(source: Database, target: Database, made: tuple[str, str], types: tuple[str, str], value: str) -> None:
    """Make each type in its database, and a table of it with one row in the source."""
    for database, making, type_ in zip((source, target), made, types, strict=True):
        database.execute(f"CREATE SCHEMA 확장; {making}; CREATE TABLE 표 (번호 int PRIMARY KEY, 값 {type_})")
    source.execute(f"INSERT INTO 표 VALUES (1, {value})")


def refusal(source: Database, target: Database) -> str:
    with pytest.raises(PlanError) as caught:
        pipeline.copy(_SPEC, source.endpoint, target.endpoint)
    (found,) = caught.value.refusals
    assert found.code == "type_differs"
    return f"{found.message} ({found.hint})"


@pytest.mark.parametrize("name", SAME)
def test_a_type_in_another_schema_is_the_same_type(source: Database, target: Database, name: str) -> None:
    """The kind: a type's schema is where somebody put it, and says nothing of its values."""
    making, type_, value = SAME[name]
    schemas = ("확장", "public")
    made = [making.format(each) for each in schemas]
    types = [type_.format(each) for each in schemas]
    fill(source, target, (made[0], made[1]), (types[0], types[1]), value.format("확장"))
    report = pipeline.copy(_SPEC, source.endpoint, target.endpoint)
    assert rows_of(source, "SELECT 번호, 값::text FROM 표") == rows_of(target, "SELECT 번호, 값::text FROM 표")
    assert not any("holds every" in each for each in report.reasons)


OTHER = {
    "an enum of other labels": (_ENUM, "CREATE TYPE {0}.등급 AS ENUM ('금', '동')", "{0}.등급"),
    "an enum in another order": (_ENUM, "CREATE TYPE {0}.등급 AS ENUM ('은', '금')", "{0}.등급"),
    "a domain over another type": ("CREATE DOMAIN {0}.점수 AS int", "CREATE DOMAIN {0}.점수 AS bigint", "{0}.점수"),
    "a domain over another enum": (
        f"{_ENUM}; CREATE DOMAIN {{0}}.상위 AS {{0}}.등급",
        "CREATE TYPE {0}.등급 AS ENUM ('금', '은', '동'); CREATE DOMAIN {0}.상위 AS {0}.등급",
        "{0}.상위",
    ),
    "a composite in another order": (
        "CREATE TYPE {0}.짝 AS (가 int, 나 int)",
        "CREATE TYPE {0}.짝 AS (나 int, 가 int)",
        "{0}.짝",
    ),
    "a range of another type": (
        "CREATE TYPE {0}.폭 AS RANGE (subtype = float8)",
        "CREATE TYPE {0}.폭 AS RANGE (subtype = int8)",
        "{0}.폭",
    ),
    "a domain of an extension's name": (_EXTENSION, "CREATE DOMAIN {0}.글 AS text", "{0}.글"),
}


@pytest.mark.parametrize("where", ["확장", "public"])
@pytest.mark.parametrize("name", OTHER)
def test_a_type_of_one_name_made_otherwise_is_another_type(
    source: Database, target: Database, name: str, where: str
) -> None:
    """The kind's other side: at any depth, in the same schema or in another."""
    one, other, type_ = OTHER[name]
    fill(source, target, (one.format("확장"), other.format(where)), (type_.format("확장"), type_.format(where)), "NULL")
    refusal(source, target)


def test_a_base_type_of_no_extension_is_known_by_its_schema_alone(source: Database, target: Database) -> None:
    """The kind's border: of what a function in C makes of a text nothing is known."""
    fill(source, target, (_BASE.format("확장"), _BASE.format("public")), ("확장.글", "public.글"), "'가'")
    refusal(source, target)
    target.execute("ALTER TYPE public.글 SET SCHEMA 확장")
    assert pipeline.copy(_SPEC, source.endpoint, target.endpoint).rows == 1


@pytest.mark.parametrize(
    ("name", "value"), [("citext", "'Ab'"), ("hstore", "'a=>1'"), ("ltree", "'a.b'"), ("cube", "'(1, 2)'")]
)
def test_extensions_of_postgresql_itself(database: MakeDatabase, name: str, value: str) -> None:
    """The kind, with extensions that people have; they are in the distribution's installation only."""
    source, target = database(major=15), database(major=15)
    if not source.value("SELECT count(*) FROM pg_available_extensions WHERE name = %s", [name]):
        pytest.skip(f"the extension {name} is not in this installation of PostgreSQL")
    for each in (source, target):
        each.execute("CREATE SCHEMA 확장")
    source.execute(f"CREATE EXTENSION {name} SCHEMA 확장; CREATE TABLE 표 (번호 int PRIMARY KEY, 값 확장.{name})")
    target.execute(f"CREATE EXTENSION {name}; CREATE TABLE 표 (번호 int PRIMARY KEY, 값 {name})")
    source.execute(f"INSERT INTO 표 VALUES (1, {value})")
    pipeline.copy(_SPEC, source.endpoint, target.endpoint)
    assert target.value("SELECT 값::text FROM 표") == source.value("SELECT 값::text FROM 표")


@pytest.mark.parametrize("name", SAME)
def test_a_table_is_made_with_the_type_where_the_target_has_it(source: Database, target: Database, name: str) -> None:
    """The kind, for a table and for columns that a copy makes."""
    making, type_, value = SAME[name]
    source.execute(f"CREATE SCHEMA 확장; {making.format('확장')}")
    source.execute(f"CREATE TABLE 표 (번호 int PRIMARY KEY, 값 {type_.format('확장')})")
    source.execute(f"INSERT INTO 표 VALUES (1, {value.format('확장')})")
    target.execute(f"CREATE SCHEMA 다른; {making.format('다른')}")
    rows = "SELECT 번호, 값::text FROM 표"
    made = CopySpec.of(source_table="public.표", target_table="public.표", create_target=True, verify="full")
    pipeline.copy_tables([made], source.endpoint, target.endpoint)
    assert rows_of(source, rows) == rows_of(target, rows)
    target.execute("ALTER TABLE 표 DROP COLUMN 값")
    widened = CopySpec.of(source_table="public.표", target_table="public.표", drift="add_columns")
    if name == "a domain":  # its rules would bind rows that are there
        with pytest.raises(PlanError, match="rules"):
            pipeline.copy(widened, source.endpoint, target.endpoint)
        return
    pipeline.copy(widened, source.endpoint, target.endpoint)
    assert rows_of(source, rows) == rows_of(target, rows)
