"""The operator as Airflow runs it, in this process."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from airflow_provider_safecopy.errors import AbortedError, ConfigError, PlanError, Refusal, StageError, VerifyError
from tests.airflow.conftest import RunCopy, RunDag
from tests.airflow.home import TASK, AirflowHome, copying
from tests.conftest import MakePsql, NothingLeft
from tests.support.database import Database
from tests.support.fake_psql import Behaviour

NAMES = {"source_table": "영업.고객", "target_table": "분석.고객"}
RETRYING = {"retries": 1, "retry_delay": timedelta(0)}


def _operator(**parameters: Any) -> Any:
    from airflow_provider_safecopy.operators.safecopy import SafeCopyOperator

    return SafeCopyOperator(**{"task_id": TASK, "source_conn_id": "erp", "target_conn_id": "dw"} | NAMES | parameters)


def test_a_copy_succeeds_and_its_result_is_the_report(tables: tuple[Database, Database], run_copy: RunCopy) -> None:
    source, target = tables
    ran = run_copy(**NAMES)
    assert ran.state == "success"
    assert target.rows("TABLE 분석.고객 ORDER BY 1") == source.rows("TABLE 영업.고객 ORDER BY 1")
    report = ran.result
    assert (report["status"], report["rows"], report["previous_rows"]) == ("published", 3, 1)
    assert [stage["stage"] for stage in report["stages"]] == ["export", "import", "verify", "prepare", "publish"]
    assert report["digest"]


def test_the_target_knows_who_copied(tables: tuple[Database, Database], run_copy: RunCopy) -> None:
    _, target = tables
    ran = run_copy(**NAMES)
    owner = target.value("SELECT owner_key FROM safecopy.receipt WHERE token = %s", [ran.result["token"]])
    deployment, dag_id, run_id, started, task, try_number = owner.split("|")
    assert deployment
    assert dag_id.startswith("시험_")
    assert run_id.startswith("manual__")
    assert datetime.fromisoformat(started).tzinfo
    assert (task, try_number.isdigit()) == (TASK, True)


def test_a_copy_that_fails_fails_its_task_and_leaves_the_old_rows(
    tables: tuple[Database, Database], run_copy: RunCopy, nothing_left: NothingLeft
) -> None:
    source, target = tables
    target.execute("ALTER TABLE 분석.고객 ADD CHECK (번호 <> 2)")
    ran = run_copy(**NAMES)
    assert ran.state == "failed"
    assert not ran.results
    assert target.rows("TABLE 분석.고객") == [(9, "옛 고객")]
    nothing_left(source, target)


@pytest.mark.slow
def test_a_failure_that_may_pass_is_retried_and_another_is_not(
    tables: tuple[Database, Database], run_copy: RunCopy, fake_psql: MakePsql
) -> None:
    died = run_copy(psql=fake_psql(Behaviour(stage="export", die_after=1)), **RETRYING, **NAMES)
    assert (died.state, died.tries) == ("failed", {TASK: 2})
    refused = run_copy(**RETRYING, **NAMES | {"source_table": "영업.없는_표"})
    assert (refused.state, refused.tries) == ("failed", {TASK: 1})


def test_a_connection_of_another_type_fails_the_task_at_once(
    tables: tuple[Database, Database], run_copy: RunCopy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_DW", "mysql://u:p@localhost/db")
    ran = run_copy(**RETRYING, **NAMES)
    assert (ran.state, ran.tries) == ("failed", {TASK: 1})


def test_a_dry_run_plans_and_touches_nothing(tables: tuple[Database, Database], run_copy: RunCopy) -> None:
    _, target = tables
    ran = run_copy(dry_run=True, **NAMES)
    assert (ran.state, ran.result["status"], ran.result["token"]) == ("success", "planned", None)
    assert ran.result["reasons"]
    assert target.rows("TABLE 분석.고객") == [(9, "옛 고객")]
    assert target.value("SELECT count(*) FROM pg_namespace WHERE nspname = 'safecopy'") == 0


def test_a_dry_run_of_what_would_be_refused_fails(tables: tuple[Database, Database], run_copy: RunCopy) -> None:
    assert run_copy(dry_run=True, **NAMES | {"columns": ["번호", "없는 열"]}).state == "failed"


def test_airflow_s_own_dry_run_still_works(tables: tuple[Database, Database]) -> None:
    _operator(dry_run=True).dry_run()


def test_every_option_reaches_the_copy(tables: tuple[Database, Database], run_copy: RunCopy, tmp_path: Any) -> None:
    _, target = tables
    report = run_copy(
        **NAMES,
        columns={"번호": "번호"},
        where="번호 < 3",
        transfer="chunked",
        format="text",
        publish="truncate_insert",
        verify="full",
        spool_dir=str(tmp_path),
        spool_limit=1 << 20,
        lock="야간 복사",
        stale_after=900,
        connect_interval=0.01,
        **{f"{name}_timeout": 60 for name in ("connect", "export", "import", "stall", "verify", "publish")},
    ).result
    assert (report["transfer"], report["format"], report["publish"]) == ("chunked", "text", "truncate_insert")
    assert report["content_hash"]
    assert report["lock"] == "야간 복사"
    assert target.value("SELECT stale_after = '900 s' FROM safecopy.lock WHERE name = '야간 복사'")
    assert target.value("SELECT count(*) FROM safecopy.lock WHERE name LIKE 'launch %'") == 1
    assert target.rows("TABLE 분석.고객 ORDER BY 1") == [(1, None), (2, None)]


def test_an_empty_source_fails_the_task_unless_that_is_allowed(
    tables: tuple[Database, Database], run_copy: RunCopy
) -> None:
    _, target = tables
    assert run_copy(**NAMES, where="번호 < 0").state == "failed"
    assert target.rows("TABLE 분석.고객") == [(9, "옛 고객")]
    assert run_copy(**NAMES, where="번호 < 0", min_rows=0).state == "success"
    assert target.rows("TABLE 분석.고객") == []


def test_mapped_tasks_copy_a_table_each(tables: tuple[Database, Database], run_dag: RunDag) -> None:
    source, target = tables
    for number in (1, 2):
        source.execute(f'CREATE TABLE 영업."표.{number}" AS SELECT {number} AS 값')
        target.execute(f'CREATE TABLE 분석."표.{number}" (값 int)')
    ran = run_dag(f"""\
SafeCopyOperator.partial(task_id={TASK!r}, source_conn_id="erp", target_conn_id="dw").expand_kwargs(
    [{{"source_table": ("영업", name), "target_table": ("분석", name)}} for name in ("표.1", "표.2")]
)""")
    assert ran.states == {f"{TASK}[0]": "success", f"{TASK}[1]": "success"}
    assert [ran.results[f"{TASK}[{index}]"]["rows"] for index in (0, 1)] == [1, 1]
    assert [target.value(f'SELECT 값 FROM 분석."표.{number}"') for number in (1, 2)] == [1, 2]
    # They are members of one run.
    assert target.value("SELECT count(DISTINCT owner_key) FROM safecopy.lock_event") == 1
    members = target.rows("SELECT DISTINCT member_key FROM safecopy.lock_event ORDER BY 1")
    assert members == [(f"{TASK}[0]",), (f"{TASK}[1]",)]


def test_bad_arguments_of_one_mapped_task_fail_it_without_a_retry(
    tables: tuple[Database, Database], run_dag: RunDag
) -> None:
    ran = run_dag(f"""\
SafeCopyOperator.partial(
    task_id={TASK!r}, source_conn_id="erp", target_conn_id="dw", target_table="분석.고객",
    write_mode="upsert", **{RETRYING!r}
).expand(source_table=["영업.고객", "영업.고객.명부"])""")
    assert ran.states == {f"{TASK}[0]": "success", f"{TASK}[1]": "failed"}
    assert ran.tries == {f"{TASK}[0]": 1, f"{TASK}[1]": 1}


def test_an_asset_among_the_outlets_learns_what_was_copied(
    tables: tuple[Database, Database], run_dag: RunDag, airflow: AirflowHome
) -> None:
    asset = 'Asset("postgres://dw/warehouse/public/customers")'
    ran = run_dag(copying(**NAMES).replace("SafeCopyOperator(", f"SafeCopyOperator(outlets=[{asset}], "))
    *_, told = airflow.asset_events()
    essence = {word: ran.result[word] for word in ("target", "token", "rows", "bytes", "digest")}
    assert told["safecopy"] == essence


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"source_sql": "select 1"}, "either source_table or source_sql"),
        ({"source_table": None}, "either source_table or source_sql"),
        ({"target_table": "분석.고객.명부"}, "has 3 parts"),
        ({"columns": "번호"}, "must be a list or a mapping"),
        ({"columns": ["번호", "번호"]}, "twice"),
        ({"where": " "}, "blank"),
        ({"transfer": "quick"}, "transfer='quick'"),
        ({"stall_timeout": 0}, "stall_timeout=0"),
        ({"spool_limit": -1}, "spool_limit=-1"),
        ({"on_busy": "queue"}, "on_busy='queue' is not one of fail, skip, wait"),
        ({"on_busy": "wait", "wait_timeout": 0}, "wait_timeout=0 must be a positive number"),
        ({"stale_after": -1}, "stale_after=-1"),
        ({"connect_interval": True}, "connect_interval=True"),
        # What is known is judged, though a template hides the rest.
        ({"source_table": "{{ params.table }}", "target_table": "분석.고객.명부"}, "has 3 parts"),
        ({"target_table": ("{{ params.schema }}", "고객"), "publish": "swop"}, "publish='swop'"),
    ],
)
def test_arguments_that_make_no_sense_raise_when_the_dag_is_parsed(parameters: dict[str, Any], message: str) -> None:
    from airflow.providers.common.compat.sdk import AirflowFailException

    with pytest.raises(AirflowFailException, match=message) as raised:
        _operator(**parameters)
    assert isinstance(raised.value.__cause__, ConfigError)


@pytest.mark.parametrize(
    "parameters",
    [
        {"target_table": "{{ a.b.c }}.{{ d }}.e"},
        {"columns": ["{{ a }}", "{{ a }}"]},
        {"columns": {"번호": "{% if x %}a{% endif %}"}},
        {"where": "{# nothing yet #}"},
        {"source_table": None, "source_sql": "{{ sql }}"},
    ],
)
def test_what_a_template_will_say_is_not_judged_before_it_is_rendered(parameters: dict[str, Any]) -> None:
    assert _operator(**parameters).task_id == TASK


def test_nothing_but_keywords_is_taken() -> None:
    from airflow_provider_safecopy.operators.safecopy import SafeCopyOperator

    with pytest.raises(Exception, match=r"positional|keyword"):  # a TypeError, or an AirflowException before 3.0
        SafeCopyOperator("erp", "dw")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "error, kind, words",
    [
        (
            StageError("import failed", stage="import", exit_code=3, sqlstate="40001"),
            "AirflowException",
            ["sqlstate=40001"],
        ),
        (StageError("import failed", stage="import", retryable=False), "AirflowFailException", ["stage=import"]),
        (
            PlanError((Refusal("no_table", "영업.고객 is not there", hint="create it"),)),
            "AirflowFailException",
            ["create it"],
        ),
        (VerifyError("rows differ", proofs={"rows": [1, 2]}), "AirflowFailException", ["{'rows': [1, 2]}"]),
        (AbortedError("the task was killed"), "AirflowException", ["aborted: the task was killed"]),
    ],
)
def test_an_error_is_translated_once_and_keeps_its_cause_and_its_data(
    error: Exception, kind: str, words: list[str]
) -> None:
    from airflow.providers.common.compat import sdk

    from airflow_provider_safecopy.operators.common import translate_errors

    with pytest.raises(sdk.AirflowException) as raised, translate_errors():
        raise error
    assert type(raised.value) is getattr(sdk, kind)
    assert raised.value.__cause__ is error
    for word in (type(error).__name__, *words):
        assert word in str(raised.value)


@pytest.mark.parametrize("other", [KeyboardInterrupt(), SystemExit(3), ValueError("not ours")])
def test_what_is_not_ours_passes_untouched(other: BaseException) -> None:
    from airflow_provider_safecopy.operators.common import translate_errors

    with pytest.raises(type(other)) as raised, translate_errors():
        raise other
    assert raised.value is other


def test_a_task_killed_before_it_began_copies_nothing(tables: tuple[Database, Database], run_dag: RunDag) -> None:
    _, target = tables
    killing = 'SafeCopyOperator(pre_execute=lambda context: context["ti"].task.on_kill(), '
    assert run_dag(copying(**NAMES).replace("SafeCopyOperator(", killing)).state == "failed"
    assert target.rows("TABLE 분석.고객") == [(9, "옛 고객")]
