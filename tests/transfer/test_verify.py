"""Verify: every proof must agree, whatever encodings and majors the two sides have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import StageError, StageTimeoutError, VerifyError
from airflow_provider_safecopy.planning.plan import CopyPlan
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.postgres.session import Session, open_session
from airflow_provider_safecopy.report import StageReport
from airflow_provider_safecopy.spec import CopySpec, Timeouts
from airflow_provider_safecopy.transfer.export import Exported
from airflow_provider_safecopy.transfer.load import Loaded
from airflow_provider_safecopy.transfer.verify import Verification, verify
from tests.conftest import MakeDatabase
from tests.support.database import PRESENT, Database
from tests.support.until import until

STAGING = TableName("safecopy", "표__safecopy_7_0123abcd")
COLUMNS = "번호 bigint, 이름 text"
ROWS = "INSERT INTO {} SELECT g, CASE WHEN g % 5 = 0 THEN NULL ELSE '고객 ' || g END FROM generate_series(1, 20) g"


@dataclass
class Ends:
    """A source in its snapshot, a target with its staging, and what the two stages are said to have proven."""

    plan: CopyPlan
    source: Session
    target: Session
    exported: Exported
    loaded: Loaded

    def verify(self, *, said: dict[str, Any] | None = None, **options: Any) -> Verification:
        """Verify, the import having said something else than the export where `said` has it."""
        plan = replace(self.plan, spec=replace(self.plan.spec, **options))
        return verify(plan, self.exported, replace(self.loaded, **said or {}), source=self.source, target=self.target)


@pytest.fixture
def ends() -> Iterator[Callable[..., Ends]]:
    """Make both ends of a copy that has been loaded: ``ends(source, target, columns="…", rows="INSERT INTO {} …")``."""
    with ExitStack() as stack:

        def make(source: Database, target: Database, *, columns: str = COLUMNS, rows: str = ROWS) -> Ends:
            source.execute(f"CREATE TABLE public.표 ({columns}); {rows.format('public.표')}")
            staging = f'safecopy."{STAGING.name}"'
            target.execute(
                f"CREATE TABLE public.표 ({columns}); CREATE SCHEMA safecopy; CREATE TABLE {staging} ({columns})"
            )
            target.execute(rows.format(staging))
            spec = CopySpec.of(source_table="public.표", target_table="public.표")
            plan = pipeline.plan(spec, source.endpoint, target.endpoint)
            ours, theirs = (
                stack.enter_context(
                    open_session(each.endpoint, application_name="safecopy:test", connect_timeout=10, read_only=reading)
                )
                for each, reading in ((source, True), (target, False))
            )
            ours.connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            count = source.value("SELECT count(*) FROM public.표")
            exported = Exported(count, 99, "d1ge57", (StageReport("export", 1),))
            loaded = Loaded(STAGING, count, 99, "d1ge57", (StageReport("import", 1),))
            return Ends(plan, ours, theirs, exported, loaded)

        yield make


@pytest.mark.parametrize("mode", ["counts", "full"])
def test_proofs_that_agree_are_kept(ends: Callable[..., Ends], source: Database, target: Database, mode: str) -> None:
    made = ends(source, target).verify(verify=mode)
    assert (made.staging, made.rows) == (STAGING, 20)
    assert made.proof["rows"] == {"exported": 20, "imported": 20, "staging": 20}
    assert made.proof["bytes"] == {"exported": 99, "imported": 99}
    assert made.proof["digest"] == {"exported": "d1ge57", "imported": "d1ge57"}
    assert (made.content_hash is not None) == ("content hash" in made.proof) == (mode == "full")
    assert (made.report.stage, made.report.rows) == ("verify", 20)
    assert made.report.seconds > 0


@pytest.mark.parametrize("said", [{"rows": 19}, {"bytes": 98}, {"digest": "other"}], ids=lambda said: next(iter(said)))
@pytest.mark.parametrize("mode", ["counts", "full"])
def test_any_proof_that_differs_is_an_error_that_shows_both_sides(
    ends: Callable[..., Ends], source: Database, target: Database, said: dict[str, Any], mode: str
) -> None:
    ((proof, value),) = said.items()
    with pytest.raises(VerifyError, match=rf"^{proof} differ .* nothing was published into public\.표") as caught:
        ends(source, target).verify(said=said, verify=mode)
    error = caught.value
    assert error.retryable
    assert str(value) in str(error)
    assert error.proofs[proof]["imported"] == value


@pytest.mark.parametrize("mode", ["counts", "full"])
@pytest.mark.parametrize("change", ["DELETE FROM {} WHERE 번호 = 7", "INSERT INTO {} VALUES (21, NULL)"])
def test_staging_is_counted_by_the_target_itself(
    ends: Callable[..., Ends], source: Database, target: Database, change: str, mode: str
) -> None:
    made = ends(source, target)
    target.execute(change.format(f'safecopy."{STAGING.name}"'))
    with pytest.raises(VerifyError, match="rows differ"):
        made.verify(verify=mode)


CHANGES = {
    "a value": "UPDATE {} SET 이름 = '고객 8' WHERE 번호 = 7",
    "a NULL for an empty text": "UPDATE {} SET 이름 = '' WHERE 번호 = 5",
    "an empty text for a NULL": "UPDATE {} SET 이름 = NULL WHERE 번호 = 7",
    "a trailing blank": "UPDATE {} SET 이름 = 이름 || ' ' WHERE 번호 = 7",
    "two values swapped": "UPDATE {} SET 이름 = '고객 ' || 15 - 번호 WHERE 번호 IN (7, 8)",
    "a row twice for another": "UPDATE {} SET 번호 = 6, 이름 = '고객 6' WHERE 번호 = 7",
    "the normalisation": "UPDATE {} SET 이름 = normalize(이름, NFD) WHERE 번호 = 7",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_full_sees_what_counts_cannot(
    ends: Callable[..., Ends], source: Database, target: Database, change: str
) -> None:
    made = ends(source, target)
    assert target.execute(change.format(f'safecopy."{STAGING.name}"')) > 0
    made.verify(verify="counts")
    with pytest.raises(VerifyError, match="content hash differ"):
        made.verify(verify="full")


def test_full_does_not_care_for_order(ends: Callable[..., Ends], source: Database, target: Database) -> None:
    made = ends(source, target)
    staging = f'safecopy."{STAGING.name}"'
    target.execute(
        f"CREATE TEMPORARY TABLE t AS TABLE {staging}; DELETE FROM {staging}; "
        f"INSERT INTO {staging} SELECT * FROM t ORDER BY 번호 DESC"
    )
    made.verify(verify="full")


def test_full_reads_the_source_in_its_snapshot(ends: Callable[..., Ends], source: Database, target: Database) -> None:
    made = ends(source, target)
    made.source.fetch_value("SELECT 1")  # the snapshot is taken with the first question
    source.execute("DELETE FROM public.표 WHERE 번호 > 10")
    made.verify(verify="full")
    made.source.connection.rollback()
    with pytest.raises(VerifyError, match="source rows differ"):
        made.verify(verify="full")


def test_full_sees_duplicates_by_their_number(ends: Callable[..., Ends], source: Database, target: Database) -> None:
    made = ends(source, target, rows="INSERT INTO {} SELECT g % 2, 'x' FROM generate_series(1, 4) g")
    made.verify(verify="full")
    target.execute(f"UPDATE safecopy.\"{STAGING.name}\" SET 번호 = 1 WHERE ctid = '(0,2)'")
    with pytest.raises(VerifyError, match="content hash differ"):
        made.verify(verify="full")


MANY_TYPES = {
    "smallint": "'-32768'",
    "numeric(20,4)": "'-0.5000'",
    "numeric": "'NaN'",
    "float4": "'1e-40'",
    "float8": "'-Infinity'",
    "date": "'infinity'",
    "timestamptz": "'2026-11-20 09:00+09'",
    "timetz": "'09:00+09'",
    "interval": "'1 year -2 days 03:04:05.678'",
    "bytea": "'\\x005c27ff'",
    "bool": "'t'",
    "uuid": "'00000000-0000-4000-8000-000000000000'",
    "jsonb": """'{"이름": "철수", "나이": 1.50}'""",
    "text[]": """'{"가, 나", NULL, "\\"", ""}'""",
    "char(5)": "'가'",
    "inet": "'10.0.0.1/8'",
    "int4range": "'[1,5)'",
    "point": "'(0.1,0.2)'",
    "bit(3)": "'101'",
    "tsvector": "'a:1 b:2'",
}


@pytest.mark.parametrize("majors", [(one, other) for one in PRESENT for other in PRESENT if one != other])
def test_equal_content_has_one_hash_whatever_major_and_settings(
    ends: Callable[..., Ends], database: MakeDatabase, majors: tuple[int, int]
) -> None:
    source, target = (database(major=major) for major in majors)
    for name, value in (("TimeZone", "Asia/Seoul"), ("DateStyle", "SQL, DMY"), ("IntervalStyle", "sql_standard")):
        source.execute(f"ALTER DATABASE \"{source.name}\" SET {name} = '{value}'")
    for name, value in (("extra_float_digits", "-5"), ("bytea_output", "escape"), ("TimeZone", "UTC")):
        target.execute(f"ALTER DATABASE \"{target.name}\" SET {name} = '{value}'")
    columns = ", ".join(f'"{type_}" {type_}' for type_ in MANY_TYPES)
    values = ", ".join(MANY_TYPES.values()).replace("{", "{{").replace("}", "}}")
    made = ends(source, target, columns=columns, rows=f"INSERT INTO {{}} VALUES ({values})")
    made.verify(verify="full")


@pytest.mark.parametrize("encodings", [("EUC_KR", "UTF8"), ("UTF8", "EUC_KR"), ("EUC_KR", "EUC_KR")])
def test_equal_content_has_one_hash_whatever_the_encodings(
    ends: Callable[..., Ends], database: MakeDatabase, encodings: tuple[str, str]
) -> None:
    source, target = (database(encoding=each, locale="C") for each in encodings)
    made = ends(source, target)
    assert made.verify(verify="full").content_hash
    target.execute(f"UPDATE safecopy.\"{STAGING.name}\" SET 이름 = '고갹' WHERE 번호 = 1")
    with pytest.raises(VerifyError, match="content hash differ"):
        made.verify(verify="full")


def test_values_in_each_others_columns_are_seen(ends: Callable[..., Ends], source: Database, target: Database) -> None:
    made = ends(source, target, columns="가 int, 나 int", rows="INSERT INTO {} VALUES (1, 2)")
    made.verify(verify="full")
    target.execute(f'UPDATE safecopy."{STAGING.name}" SET 가 = 나, 나 = 가')
    with pytest.raises(VerifyError, match="content hash differ"):
        made.verify(verify="full")


# Empty


@pytest.mark.parametrize("mode", ["counts", "full"])
def test_an_empty_source_is_refused_unless_it_is_meant(
    ends: Callable[..., Ends], source: Database, target: Database, mode: str
) -> None:
    made = ends(source, target, rows="DELETE FROM {}")
    with pytest.raises(VerifyError, match=r"publishing would empty public\.표; nothing was changed") as caught:
        made.verify(verify=mode)
    assert "min_rows=0" in caught.value.hint
    assert not caught.value.retryable
    assert made.verify(verify=mode, min_rows=0).rows == 0


# Time and failure


@pytest.mark.parametrize("mode", ["counts", "full"])
def test_it_ends_in_time(ends: Callable[..., Ends], source: Database, target: Database, mode: str) -> None:
    made = ends(source, target)
    target.execute("CREATE VIEW public.느린 AS SELECT 1::bigint AS 번호, 'x' AS 이름 FROM pg_sleep(60)")
    with pytest.raises(StageTimeoutError, match=r"longer than its timeout of 0\.2 s") as caught:
        made.verify(said={"staging": TableName("public", "느린")}, verify=mode, timeouts=Timeouts(verify=0.2))
    assert (caught.value.stage, caught.value.retryable) == ("verify", True)
    assert "verify_timeout" in caught.value.hint
    made.verify(verify=mode)


def test_a_verify_that_somebody_cancelled_is_not_told_to_have_been_slow(
    ends: Callable[..., Ends], source: Database, target: Database
) -> None:
    """Found: whoever cancelled it, and a server whose clock jumped, was told as its timeout."""
    made = ends(source, target)
    target.execute("CREATE VIEW 느린 AS SELECT pg_sleep(60) IS NULL AS a")
    asked = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
    with ThreadPoolExecutor(1) as cancelling:
        cancelled = cancelling.submit(until, lambda: target.rows(asked, [made.target.server.backend]) == [(True,)])
        with pytest.raises(StageError, match="cancelled there, before its timeout") as caught:
            made.verify(said={"staging": TableName("public", "느린")})
        cancelled.result()
    assert not isinstance(caught.value, StageTimeoutError)
    assert (caught.value.sqlstate, caught.value.retryable) == ("57014", True)


def test_it_waits_for_no_lock_longer_than_that(ends: Callable[..., Ends], source: Database, target: Database) -> None:
    made = ends(source, target)
    with target.connect() as other, other.transaction():
        other.execute(f'LOCK TABLE safecopy."{STAGING.name}"'.encode())
        with pytest.raises(StageTimeoutError):
            made.verify(timeouts=Timeouts(verify=0.2))


def test_the_sources_side_may_be_the_slow_one_and_keeps_its_snapshot(
    ends: Callable[..., Ends], source: Database, target: Database
) -> None:
    made = ends(source, target)
    made.source.fetch_value("SELECT 1")  # the snapshot is taken with the first question
    source.execute("DELETE FROM public.표 WHERE 번호 = 1")
    slow = "번호 = (SELECT 번호 FROM pg_sleep(60))"
    with pytest.raises(StageTimeoutError):
        made.verify(verify="full", where=slow, timeouts=Timeouts(verify=0.2))
    made.verify(verify="full")


def test_a_question_that_fails_is_a_failed_stage(ends: Callable[..., Ends], source: Database, target: Database) -> None:
    made = ends(source, target)
    with pytest.raises(StageError, match=r"verify on .* failed") as caught:
        made.verify(said={"staging": TableName("safecopy", "없음")})
    assert (caught.value.stage, caught.value.sqlstate) == ("verify", "42P01")
    assert made.target.connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
