"""Many tables in one task, as Airflow runs it, in this process."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from airflow_provider_safecopy.errors import ConfigError
from tests.airflow.conftest import RunCopy, RunDag
from tests.airflow.home import TASK, AirflowHome, copying
from tests.conftest import NothingLeft
from tests.support.database import Database

MANY = [f"영업.표_{number}" for number in range(5)]


@pytest.fixture
def many(tables: tuple[Database, Database]) -> tuple[Database, Database]:
    """Beside ``영업.고객``: five tables of one name on both sides, whose source has two rows each."""
    source, target = tables
    target.execute("CREATE SCHEMA 영업")
    for name in MANY:
        for database in (source, target):
            database.execute(f"CREATE TABLE {name} (번호 int PRIMARY KEY, 이름 text)")
        source.execute(f"INSERT INTO {name} VALUES (1, '하나'), (2, '둘')")
    return source, target


def held(target: Database) -> list[int]:
    return [target.value(f"SELECT count(*) FROM {name}") for name in MANY]


def test_all_are_copied_and_the_result_has_a_report_of_each(
    many: tuple[Database, Database], run_copy: RunCopy, nothing_left: NothingLeft
) -> None:
    source, target = many
    ran = run_copy(tables=[*MANY, {"source_table": "영업.고객", "target_table": ("분석", "고객"), "where": "번호 < 3"}])
    assert ran.state == "success"
    assert held(target) == [2] * 5
    assert target.rows("TABLE 분석.고객 ORDER BY 1") == [(1, "김하나"), (2, None)]
    result = ran.result
    assert (result["status"], result["failed"]) == ("published", [])
    assert [report["rows"] for report in result["tables"]] == [2] * 6
    receipts = target.rows("SELECT target, token FROM safecopy.receipt ORDER BY id")
    assert receipts == [(report["lock"], report["token"]) for report in result["tables"]]
    assert target.value("SELECT count(DISTINCT owner_key) FROM safecopy.receipt") == 1
    nothing_left(source, target)


def test_a_table_that_fails_fails_the_task_with_the_others_published(
    many: tuple[Database, Database], run_copy: RunCopy, nothing_left: NothingLeft, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = many
    target.execute("ALTER TABLE 영업.표_2 ADD CHECK (번호 <> 2)")
    ran = run_copy(tables=MANY, retries=1)
    assert (ran.state, ran.tries) == ("failed", {TASK: 1})  # the same copy would meet it again
    assert held(target) == [2, 2, 0, 2, 2]
    assert ran.result["status"] == "partly"
    (failed,) = ran.result["failed"]
    assert (failed["target"], failed["error"]["sqlstate"]) == ("영업.표_2", "23514")
    told = capsys.readouterr().out
    assert "1 of 5 tables were not copied: 영업.표_2: StageError" in told
    assert "Published: 영업.표_0, 영업.표_1, 영업.표_3, 영업.표_4" in told
    nothing_left(source, target)


def test_a_refused_table_keeps_all_from_being_copied_unless_the_others_are_to_be(
    many: tuple[Database, Database], run_copy: RunCopy
) -> None:
    _, target = many
    tables = [*MANY, "영업.없는_표"]
    ran = run_copy(tables=tables)
    assert (ran.state, dict(ran.results)) == ("failed", {})
    assert held(target) == [0] * 5
    ran = run_copy(tables=tables, keep_going=True)
    assert ran.state == "failed"
    assert held(target) == [2] * 5
    assert [failed["error"]["type"] for failed in ran.result["failed"]] == ["PlanError"]


@pytest.mark.slow
def test_a_busy_table_is_skipped_when_that_is_asked_for(many: tuple[Database, Database], run_copy: RunCopy) -> None:
    _, target = many
    assert run_copy(tables=MANY).state == "success"
    with psycopg.connect(target.conninfo, application_name="safecopy:00000000-0000-0000-0000-000000000001"):
        target.execute(
            "UPDATE safecopy.lock SET lease_id = gen_random_uuid(), owner_key = '남', owner = '{\"owner\": \"남\"}', "
            'members = \'{"남": {"id": "00000000-0000-0000-0000-000000000001", "try": 1, "detached": false}}\', '
            "alive_at = now(), due_at = now() + '1 h', stale_after = '1 h' WHERE name = '영업.표_3'"
        )
        ran = run_copy(tables=MANY, on_busy="skip")
        assert ran.state == "success"
        found = {report["lock"]: report["status"] for report in ran.result["tables"]}
        assert found == {name: "skipped" if name == "영업.표_3" else "published" for name in MANY}
        assert run_copy(tables=MANY).state == "failed"


def test_a_dry_run_touches_nothing(many: tuple[Database, Database], run_copy: RunCopy) -> None:
    _, target = many
    ran = run_copy(tables=MANY, dry_run=True)
    assert ran.result["status"] == "planned"
    assert held(target) == [0] * 5
    assert target.value("SELECT to_regnamespace('safecopy') IS NULL")


def test_tables_may_be_a_template_and_an_asset_learns_of_each(
    many: tuple[Database, Database], run_dag: RunDag, airflow: AirflowHome
) -> None:
    asset = 'Asset("postgres://dw/warehouse/public/many")'
    body = copying(tables=["영업.표_{{ 1 + 1 }}", "영업.표_{{ 3 }}"])
    ran = run_dag(body.replace("SafeCopyOperator(", f"SafeCopyOperator(outlets=[{asset}], "))
    assert [report["lock"] for report in ran.result["tables"]] == ["영업.표_2", "영업.표_3"]
    *_, told = airflow.asset_events()
    assert [each["rows"] for each in told["safecopy"]["tables"]] == [2, 2]


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"tables": ["영업.표"], "target_table": "분석.표"}, "target_table and a list of tables are two ways"),
        ({"tables": "영업.표"}, "tables must be a list of tables"),
        ({"tables": []}, "the list of tables is empty"),
        ({"tables": ["영업.표", 3]}, r"tables\[1\] is neither a name nor a mapping"),
        ({"tables": ["영업.표", {"source_table": "영업.표"}]}, r"tables\[1\] names no target_table"),
        ({"tables": [{"target_table": "영업.표"}]}, r"tables\[0\]: give either source_table or source_sql"),
        ({"tables": [{"target_table": "표", "source_table": "표", "lock": "내"}]}, r"lock cannot be said of one table"),
        ({"tables": ["영업.표", '"영업"."표"']}, r"tables\[1\]: 영업.표 is the target of tables\[0\] already"),
        ({"tables": ["영업.표.셋"]}, r"tables\[0\]: .*has 3 parts"),
        ({"keep_going": True, "target_table": "표", "source_table": "표"}, "keep_going means nothing without tables"),
        ({}, "give target_table, or tables"),
    ],
)
def test_lists_that_make_no_sense_raise_when_the_dag_is_parsed(parameters: dict[str, Any], message: str) -> None:
    from airflow.providers.common.compat.sdk import AirflowFailException

    from airflow_provider_safecopy.operators.safecopy import SafeCopyOperator

    with pytest.raises(AirflowFailException, match=message) as raised:
        SafeCopyOperator(task_id=TASK, source_conn_id="erp", target_conn_id="dw", **parameters)
    assert isinstance(raised.value.__cause__, ConfigError)
