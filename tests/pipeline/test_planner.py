"""Drafting: what is decided, and why, from what both ends say; and nothing but looking is done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.demo.servers import installations
from airflow_provider_safecopy.doctor import examine
from airflow_provider_safecopy.errors import AbortedError, PlanError, StageError
from airflow_provider_safecopy.pipeline import planner
from airflow_provider_safecopy.planning.plan import CopyPlan
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.postgres.psql import find_psql
from airflow_provider_safecopy.spec import CopySpec
from airflow_provider_safecopy.transfer import spool
from tests.conftest import MakeDatabase
from tests.support.customers import OLD, SHAPE, TABLE, fill, spec
from tests.support.database import Database


@pytest.fixture
def plan(source: Database, target: Database) -> Callable[..., CopyPlan]:
    """Plan a copy of customers: ``plan(format="binary")``."""
    for each in (source, target):
        each.execute(SHAPE)
    fill(source, 100)
    target.execute(OLD)
    source.execute(f"ANALYZE {TABLE}")

    def make(**options: Any) -> CopyPlan:
        asked = CopySpec.of(target_table="영업.고객", **options) if "source_sql" in options else spec(**options)
        return pipeline.plan(asked, source.endpoint, target.endpoint)

    return make


def reason(plan: CopyPlan, word: str) -> str:
    (found,) = [each for each in plan.reasons if each.startswith(word)]
    return found


# Format


@pytest.mark.pair(18, 18)
def test_binary_between_equal_majors_of_built_in_types(plan: Callable[..., CopyPlan]) -> None:
    made = plan()
    assert made.format == "binary"
    assert reason(made, "format") == "format binary: same major (18), built-in types only"


@pytest.mark.pair(16, 18)
def test_text_between_different_majors(plan: Callable[..., CopyPlan]) -> None:
    made = plan()
    assert made.format == "text"
    assert reason(made, "format") == "format text: the servers' majors differ (16 and 18)"


@pytest.mark.pair(18, 18)
def test_text_where_a_type_means_something_only_on_its_own_server(
    plan: Callable[..., CopyPlan], source: Database, target: Database
) -> None:
    for each in (source, target):
        each.execute(f"CREATE TYPE 영업.등급 AS ENUM ('금', '은'); ALTER TABLE {TABLE} ADD 등급 영업.등급")
    made = plan()
    assert (made.format, made.refusals) == ("text", ())
    assert "column 등급" in reason(made, "format")
    # A column that is not copied has no say.
    assert plan(columns=["번호", "이름"]).format == "binary"
    (refused,) = plan(format="binary").refusals
    assert (refused.code, refused.column) == ("binary_unsafe", "등급")
    assert "auto or text" in refused.hint


@pytest.mark.pair(16, 18)
@pytest.mark.parametrize("format", ["text", "binary"])
def test_a_format_is_taken_when_asked_for(plan: Callable[..., CopyPlan], format: str) -> None:
    made = plan(format=format)
    assert (made.format, made.refusals) == (format, ())
    assert reason(made, "format") == f"format {format}: asked for"


# Transfer


def test_a_small_table_goes_one_after_the_other(plan: Callable[..., CopyPlan]) -> None:
    made = plan()
    assert made.transfer == "sequential"
    assert reason(made, "transfer").startswith("transfer sequential: small, about 0.0 MiB")


def test_a_larger_table_goes_in_chunks(plan: Callable[..., CopyPlan], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "SMALL_BYTES", 100)
    made = plan()
    assert made.transfer == "chunked"
    assert reason(made, "transfer").startswith("transfer chunked: about")


@pytest.mark.parametrize(
    "options", [{"source_sql": f"SELECT * FROM {TABLE}"}, {"source_table": "영업.보기"}], ids=["query", "view"]
)
def test_what_nobody_knows_the_size_of_goes_in_chunks(
    plan: Callable[..., CopyPlan], source: Database, options: dict[str, str]
) -> None:
    source.execute(f"CREATE VIEW 영업.보기 AS TABLE {TABLE}")
    made = plan(**options)
    assert (made.transfer, made.refusals) == ("chunked", ())
    assert "the size is unknown" in reason(made, "transfer")


@pytest.mark.parametrize("transfer", ["sequential", "chunked"])
def test_a_transfer_is_taken_when_asked_for(plan: Callable[..., CopyPlan], transfer: str) -> None:
    made = plan(transfer=transfer)
    assert made.transfer == transfer
    assert reason(made, "transfer") == f"transfer {transfer}: asked for"


# Publish


def test_the_best_that_is_safe_is_chosen_unless_something_else_is_asked_for(
    plan: Callable[..., CopyPlan], target: Database
) -> None:
    assert plan().publish == "swap"
    assert "every reader" in reason(plan(), "publish")
    target.execute(f"CREATE MATERIALIZED VIEW 영업.모음 AS TABLE {TABLE}")
    assert plan().publish == "delta"
    assert "every reader" in reason(plan(), "publish")
    assert any(each.startswith("not swap: ") for each in plan().reasons)
    target.execute(f'ALTER TABLE {TABLE} DROP CONSTRAINT "고객_pkey"')
    assert plan().publish == "delete_insert"
    assert "every reader" in reason(plan(), "publish")
    assert any(each.startswith("not delta: ") for each in plan().reasons)
    assert reason(plan(publish="delete_insert"), "publish") == "publish delete_insert: asked for"
    made = plan(publish="truncate_insert")
    assert made.publish == "truncate_insert"
    assert "may see an empty table" in reason(made, "publish")


# Columns


def test_columns_are_paired_by_name_whatever_their_order(
    plan: Callable[..., CopyPlan], source: Database, target: Database
) -> None:
    source.execute("CREATE TABLE 영업.표 (나 text, 가 int, 다 date); INSERT INTO 영업.표 VALUES ('a', 1, now())")
    target.execute("CREATE TABLE 영업.표 (가 int, 다 date, 나 text)")
    made = plan(source_table="영업.표", target_table="영업.표")
    assert made.source_columns == made.target_columns == ("나", "가", "다")


def test_columns_are_chosen_reordered_and_renamed(plan: Callable[..., CopyPlan], target: Database) -> None:
    target.execute("CREATE TABLE 영업.표 (name varchar(40), id bigint, extra text)")
    made = plan(target_table="영업.표", columns={"이름": "name", "번호": "id"})
    assert (made.refusals, made.source_columns, made.target_columns) == ((), ("이름", "번호"), ("name", "id"))


# Expectations


def test_what_is_expected_is_the_planners_guess(plan: Callable[..., CopyPlan]) -> None:
    made = plan()
    assert made.expected_rows == 100
    assert made.expected_bytes is not None
    assert 100 * 20 < made.expected_bytes < 100 * 200


def test_a_condition_changes_what_is_expected(plan: Callable[..., CopyPlan]) -> None:
    made = plan(where="번호 <= 10")
    assert made.expected_rows is not None
    assert 5 <= made.expected_rows <= 15


def test_a_condition_or_a_query_is_never_refused_for_its_guessed_size(
    plan: Callable[..., CopyPlan], tmp_path: Path
) -> None:
    options = {"transfer": "sequential", "spool_limit": 10, "spool_dir": str(tmp_path)}
    assert [each.code for each in plan(**options).refusals] == ["spool_limit"]
    assert plan(**options, where="true").refusals == ()
    assert plan(**options, source_sql=f"SELECT * FROM {TABLE}").refusals == ()


# Names, lock and psql


def test_a_name_without_schema_is_completed(plan: Callable[..., CopyPlan], source: Database, target: Database) -> None:
    for each in (source, target):
        each.execute(f'ALTER DATABASE "{each.name}" SET search_path = 영업')
    made = plan(source_table="고객", target_table="고객")
    assert made.refusals == ()
    assert made.target_name == TableName("영업", "고객")
    assert (made.source, made.target) == (f"{source.endpoint} 영업.고객", f"{target.endpoint} 영업.고객")
    assert made.lock == "영업.고객"


def test_the_lock_is_the_target_tables_name_unless_another_is_given(plan: Callable[..., CopyPlan]) -> None:
    assert plan().lock == "영업.고객"
    assert plan(lock="야간 배치").lock == "야간 배치"


def test_the_psql_is_the_one_that_is_found_or_given(plan: Callable[..., CopyPlan]) -> None:
    assert plan().psql == find_psql()
    oldest = str(installations()[-1].psql)
    assert plan(psql=oldest).psql == find_psql(oldest)


# Warnings


def test_an_older_psql_is_a_warning(plan: Callable[..., CopyPlan]) -> None:
    assert plan().warnings == ()
    older = next(each for each in installations() if each.major < 18)
    (warned,) = plan(psql=str(older.psql)).warnings
    assert warned.startswith(f"psql {older.major} is older than the server (18)")


def test_inbound_keys_are_a_warning_and_identity_columns_are_none(
    plan: Callable[..., CopyPlan], source: Database, target: Database
) -> None:
    target.execute(f"CREATE TABLE 영업.주문 (고객 bigint CONSTRAINT 누구의 REFERENCES {TABLE})")
    target.execute(f"ALTER TABLE {TABLE} ALTER 번호 ADD GENERATED ALWAYS AS IDENTITY")
    made = plan(publish="delete_insert")
    assert made.refusals == ()
    (referenced,) = made.warnings
    assert referenced.startswith("영업.고객 is referenced by 누구의 on ")
    assert made.keeps_identity
    for other in (plan(publish="delta"), plan(write_mode="upsert"), plan(write_mode="append", append_key="하나")):
        assert other.warnings == (), "these publish though rows are referred to"


@pytest.mark.parametrize("event", ["BEFORE INSERT", "AFTER DELETE"])
def test_triggers_that_a_swap_would_not_fire_are_a_warning(
    plan: Callable[..., CopyPlan], target: Database, event: str
) -> None:
    """A swap writes no row of the old table, so its triggers do not fire: that is a warning, not only a reason."""
    target.execute(
        "CREATE FUNCTION 영업.그대로() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN COALESCE(NEW, OLD); END'"
    )
    target.execute(f"CREATE TRIGGER 손질 {event} ON {TABLE} FOR EACH ROW EXECUTE FUNCTION 영업.그대로()")
    (warned,) = plan(publish="swap").warnings
    assert "triggers do not fire in a swap (손질)" in warned
    assert plan(publish="delete_insert").warnings == ()
    chosen = plan()
    assert (chosen.publish == "swap") == any("do not fire" in each for each in chosen.warnings)
    target.execute(f"ALTER TABLE {TABLE} DISABLE TRIGGER 손질")
    assert plan(publish="swap").warnings == ()


@pytest.mark.parametrize("what", ["ALL TABLES", "TABLES IN SCHEMA safecopy", "TABLE safecopy.lock_event"])
def test_a_publication_of_our_own_tables_is_a_warning(
    plan: Callable[..., CopyPlan], source: Database, target: Database, what: str
) -> None:
    """A subscriber that lacks the tables of the schema safecopy stops at the first row of them: plan and doctor say so."""
    target.execute(
        f'CREATE SCHEMA IF NOT EXISTS safecopy; CREATE TABLE safecopy.lock_event (); CREATE PUBLICATION "모두" FOR {what}'
    )
    warned = [each for each in plan(publish="delta").warnings if "schema safecopy" in each]
    assert len(warned) == 1
    assert "모두" in warned[0]
    checks = [each for each in examine(source.endpoint, target.endpoint) if each.name == "publications"]
    assert [each.outcome for each in checks] == ["warning"]
    assert [each for each in examine(target.endpoint, source.endpoint) if each.name == "publications"] == []


def test_a_full_spool_directory_is_worth_a_retry(
    plan: Callable[..., CopyPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What may pass by itself is retryable, unless something else is refused as well; the hint says what helps."""
    monkeypatch.setattr(spool, "CHUNK_BYTES", 1 << 60)
    for others, retryable in (({}, True), ({"columns": ["없음"]}, False)):
        with pytest.raises(PlanError) as caught:
            plan(transfer="chunked", **others).require_accepted()
        assert caught.value.retryable == retryable
        assert "free space in" in str(caught.value)


# Looking only


def test_drafting_leaves_no_trace_in_either_database(
    plan: Callable[..., CopyPlan], source: Database, target: Database
) -> None:
    counted = "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_all_tables WHERE schemaname = '영업'"
    relations = "SELECT array_agg(oid ORDER BY oid) FROM pg_class WHERE relpersistence <> 't'"
    before = [(each.value(counted), each.value(relations)) for each in (source, target)]
    plan(verify="full", publish="truncate_insert")
    assert [(each.value(counted), each.value(relations)) for each in (source, target)] == before


def test_drafting_locks_nothing_that_anybody_else_could_not_share(
    plan: Callable[..., CopyPlan], source: Database, target: Database
) -> None:
    with source.connect() as one, target.connect() as other, one.transaction(), other.transaction():
        for session in (one, other):
            session.execute(f"LOCK TABLE {TABLE} IN EXCLUSIVE MODE".encode())
        assert plan().refusals == ()


def test_between_databases_of_different_encodings(database: MakeDatabase) -> None:
    korean, target = database(encoding="EUC_KR", locale="C"), database()
    for each in (korean, target):
        each.execute(SHAPE)
    fill(korean, 3)
    made = pipeline.plan(spec(), korean.endpoint, target.endpoint)
    assert (made.refusals, made.format) == ((), "binary")


# Interrupted


@pytest.mark.parametrize("by", ["an abort", "a lost connection"])
def test_what_interrupts_it_is_no_refusal_of_the_table(
    plan: Callable[..., CopyPlan], source: Database, target: Database, by: str
) -> None:
    assert plan().refusals == ()
    abort = AbortSwitch()

    def interrupt() -> None:
        waiting = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
        deadline = time.monotonic() + 30
        while not (found := source.rows(waiting, [source.name])) and time.monotonic() < deadline:
            pass
        if by == "an abort":
            abort.throw("SIGTERM")
        else:
            source.execute("SELECT pg_terminate_backend(%s)", [found[0][0]])

    thread = threading.Thread(target=interrupt)
    with source.connect() as other, other.transaction():
        other.execute(f"LOCK TABLE {TABLE}".encode())
        thread.start()
        with pytest.raises(AbortedError if by == "an abort" else StageError) as caught:
            pipeline.copy(spec(), source.endpoint, target.endpoint, abort=abort)
        thread.join()
    assert caught.value.retryable
    assert target.value(f"SELECT count(*) FROM {TABLE}") == 2
