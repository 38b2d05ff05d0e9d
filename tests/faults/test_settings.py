"""What a function sets while a copy runs it: rows of this and of other tables mean what they meant, or the copy fails.

Views, conditions, defaults and checks of users run functions, and a function may set whatever its session has. The kind:
a setting that decides what bytes, literals or names mean, or whether a session may write, leaks out of one table's SQL.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_safecopy import doctor, pipeline
from airflow_provider_safecopy.errors import PlanError, StageError
from airflow_provider_safecopy.pipeline.outcome import Failure
from airflow_provider_safecopy.spec import CopySpec
from tests.support.content import rows_of
from tests.support.database import Database

SHAPE = """
CREATE SCHEMA 값; CREATE TABLE 값.값 (번호 int PRIMARY KEY, 실수 float8, 간격 interval, 때 timestamptz, 글 text);
CREATE TABLE 값.다음 (LIKE 값.값 INCLUDING ALL);
"""
ROWS = (
    "INSERT INTO 값.{} SELECT g, 3.141592653589793 * g, '-1 day -2 hours', '2026-01-01 00:00+00', 'Ã©' "
    "FROM generate_series(1, 5) g;"
)
SETS = """
CREATE FUNCTION 값.정하다(설정 text, 값 text, 이번만 bool) RETURNS bool LANGUAGE plpgsql VOLATILE AS $$
BEGIN PERFORM pg_catalog.set_config(설정, 값, 이번만); RETURN true; END $$;
"""
LEAKS = {
    "extra_float_digits": "-9",
    "IntervalStyle": "sql_standard",
    "client_encoding": "LATIN1",
    "TimeZone": "Asia/Seoul",
    "search_path": "값, pg_catalog",
    "standard_conforming_strings": "off",
    "DateStyle": "German",
    "bytea_output": "escape",
    "xmloption": "document",
}


@dataclass(frozen=True)
class Pair:
    """Two tables on both sides; the first table's source may be a view."""

    source: Database
    target: Database
    spool: Path

    def spec(self, **options: Any) -> CopySpec:
        return CopySpec.of(**{"source_table": "값.값", "target_table": "값.값", "spool_dir": str(self.spool)} | options)

    def copy(self, **options: Any) -> object:
        return pipeline.copy(self.spec(**options), self.source.endpoint, self.target.endpoint)

    def batch(self, first: dict[str, Any], after: dict[str, Any] | None = None, **shared: Any) -> tuple[Any, Any]:
        """What came of two tables in one batch: of one with a function that sets something, and of the next."""
        following = {"source_table": "값.다음", "target_table": "값.다음"} | (after or {})
        specs = [self.spec(**shared | options) for options in (first, following)]
        report = pipeline.copy_tables(specs, self.source.endpoint, self.target.endpoint, keep_going=True)
        of_first, of_next = report.outcomes
        return of_first, of_next

    def same(self, name: str = "다음") -> bool:
        query = f"SELECT * FROM 값.{name}"
        return rows_of(self.source, query) == rows_of(self.target, query)


@pytest.fixture
def pair(source: Database, target: Database, tmp_path: Path) -> Pair:
    for database in (source, target):
        database.execute(SHAPE + SETS)
    source.execute(ROWS.format("값") + ROWS.format("다음"))
    return Pair(source, target, tmp_path)


def told(outcome: object) -> str:
    """The message of a failure that no retry would help."""
    assert isinstance(outcome, Failure), outcome
    error = outcome.as_dict()["error"]
    assert error["retryable"] is False
    return str(error["message"])


def setting(name: str, *, local: bool, when: str = "true") -> str:
    """A column of a view that sets it, for the reading of rows alone where `when` says so."""
    return f"CASE WHEN {when} THEN 값.정하다('{name}', '{LEAKS[name]}', {local}) END"


@pytest.mark.pair(18, 18)
@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("name", sorted(LEAKS))
def test_what_a_view_sets_fails_its_own_copy_and_reaches_no_other_table(pair: Pair, name: str, local: bool) -> None:
    """Settings leak from one table's COPY into the next one's, which are read by one session."""
    view = f"SELECT 번호, 실수, 간격, 때, 글 FROM (SELECT *, {setting(name, local=local)} AS 정함 FROM 값.값 OFFSET 0) x WHERE 정함 IS NOT NULL OR 번호 > 0"
    pair.source.execute(f"CREATE VIEW 값.보기 AS {view}")
    leaking = {"source_table": "값.보기", "format": "text"}
    first, after = pair.batch(leaking, format="text", min_rows=0)
    assert name in told(first)
    assert not isinstance(after, Failure), after
    assert pair.same()
    assert pair.target.value("SELECT count(*) FROM 값.값") == 0


@pytest.mark.parametrize("verify", ["counts", "full"])
def test_what_is_set_in_the_export_alone_fails_it(pair: Pair, verify: str) -> None:
    """A function may know a COPY from a question; then planning sees nothing, and the COPY's own check must."""
    when = "pg_catalog.current_query() LIKE 'COPY%'"
    view = f"SELECT 번호, 실수, 간격, 때, CASE WHEN {setting('extra_float_digits', local=True, when=when)} THEN 글 ELSE 글 END AS 글 FROM 값.값"
    pair.source.execute(f"CREATE VIEW 값.보기 AS {view}")
    with pytest.raises(StageError, match="changed extra_float_digits") as caught:
        pair.copy(source_table="값.보기", verify=verify)
    assert (caught.value.stage, caught.value.retryable) == ("export", False)
    assert "SET clause" in caught.value.hint
    first, after = pair.batch({"source_table": "값.보기"}, verify=verify)
    assert "extra_float_digits" in told(first)
    assert not isinstance(after, Failure), after
    assert pair.same()


def test_what_is_set_in_the_hash_alone_fails_the_verification(pair: Pair) -> None:
    """The content hash of both sides is of texts, which settings make; it is no proof where they were changed."""
    when = "pg_catalog.current_query() LIKE '%safecopy_rows%'"
    view = f"SELECT 번호, 실수, 간격, 때, CASE WHEN {setting('xmloption', local=False, when=when)} THEN 글 ELSE 글 END AS 글 FROM 값.값"
    pair.source.execute(f"CREATE VIEW 값.보기 AS {view}")
    with pytest.raises(StageError, match="changed xmloption") as caught:
        pair.copy(source_table="값.보기", verify="full")
    assert (caught.value.stage, caught.value.retryable) == ("verify", False)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.hint, again.stage) == (str(caught.value), caught.value.hint, "verify")


def test_what_a_default_of_the_target_sets_fails_the_import(pair: Pair) -> None:
    """The target's own functions run where texts are read as well: a table that is swapped in has its defaults."""
    pair.target.execute(
        "ALTER TABLE 값.값 ADD 덤 bool; ALTER TABLE 값.값 ALTER 덤 SET DEFAULT 값.정하다('IntervalStyle', 'sql_standard', true)"
    )
    with pytest.raises(StageError, match="changed IntervalStyle") as caught:
        pair.copy(publish="swap", format="text", columns=["번호", "실수", "간격", "때", "글"])
    assert (caught.value.stage, caught.value.retryable) == ("import", False)


def test_what_a_check_of_the_target_sets_changes_nothing_of_what_is_staged_elsewhere(pair: Pair) -> None:
    """Staging of the other ways has no checks; they run while rows of the right types are written."""
    pair.target.execute("ALTER TABLE 값.값 ADD CHECK (값.정하다('IntervalStyle', 'sql_standard', false))")
    assert not isinstance(pair.batch({"publish": "delta"}, verify="full", format="text")[1], Failure)
    assert pair.same("값")
    assert pair.same()


def test_a_function_with_a_set_clause_of_its_own_is_copied(pair: Pair) -> None:
    """What ends with the function changes nothing, and so does a setting of the user's own."""
    pair.source.execute(
        "CREATE FUNCTION 값.조용히() RETURNS bool LANGUAGE plpgsql SET TimeZone = 'Asia/Seoul' SET search_path = '값' AS "
        "$$ BEGIN PERFORM set_config('app.user', 'x', false); RETURN true; END $$"
    )
    assert pair.copy(where="값.조용히()", verify="full")
    assert pair.same("값")


# Strings that psql reads otherwise


@pytest.mark.parametrize(
    "when", ["true", "pg_catalog.current_query() LIKE 'COPY%'", "pg_catalog.current_query() NOT LIKE 'COPY%'"]
)
def test_strings_are_read_alike_by_all_whatever_the_table_before_sets(pair: Pair, when: str, tmp_path: Path) -> None:
    r"""A string ends elsewhere where standard_conforming_strings is off, in psql as well, which follows the session.

    Set by the first table of a batch in its COPY, in the control session only, or in both: what stands in the second
    table's string is no command of psql's, and is read as it stands.
    """
    planted = tmp_path / "심은_파일"
    leak = f"(CASE WHEN {when} THEN 값.정하다('standard_conforming_strings', 'off', false) ELSE true END)"
    first, after = pair.batch({"where": leak}, {"where": f"'\\' = '\\! touch {planted} #' OR true"})
    assert "standard_conforming_strings" in told(first)
    assert not isinstance(after, Failure), after
    assert pair.same()
    assert not planted.exists()


# Reading is reading


def _writes(pair: Pair) -> None:
    """A function of the user's that deletes, and one that makes a session write again."""
    for database in (pair.source, pair.target):
        database.execute(
            "CREATE FUNCTION 값.지우다() RETURNS bool LANGUAGE sql VOLATILE AS 'DELETE FROM 값.값; SELECT true';"
        )


WRITABLE = "set_config('default_transaction_read_only', 'off', false) IS NOT NULL AND set_config('transaction_read_only', 'off', false) IS NOT NULL"


@pytest.mark.parametrize("opening", [WRITABLE.split(" AND ", maxsplit=1)[0], WRITABLE])
@pytest.mark.parametrize("command", ["plan", "plan_tables", "doctor", "copy_tables", "copy"])
def test_no_sql_that_is_handed_to_a_copy_can_write_to_the_source(pair: Pair, command: str, opening: str) -> None:
    """A default of the session can be set by what the session runs; a transaction that began read only stays so."""
    _writes(pair)
    before = pair.source.value("SELECT count(*) FROM 값.값")
    ends = pair.source.endpoint, pair.target.endpoint
    specs = [pair.spec(where=opening), pair.spec(source_table="값.다음", target_table="값.다음", where="값.지우다()")]
    both = pair.spec(where=f"{opening} AND 값.지우다()")
    asked: dict[str, Callable[[], Any]] = {
        "plan": lambda: pipeline.plan(both, *ends).refusals,
        "plan_tables": lambda: pipeline.plan_tables(specs, *ends)[1].refusals,
        "doctor": lambda: [check for check in doctor.examine(*ends, spec=both) if check.outcome == "failed"],
        "copy_tables": lambda: pipeline.copy_tables(specs, *ends),
        "copy": lambda: pipeline.copy(both, *ends),
    }
    if command.startswith("copy"):
        with pytest.raises(PlanError):
            asked[command]()
    else:
        assert asked[command]()
    assert pair.source.value("SELECT count(*) FROM 값.값") == before == 5
