"""The plan: frozen, printable, refused as a whole, and what it shows is what runs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import PlanError, Refusal
from airflow_provider_safecopy.planning.page_ranges import PageRange
from airflow_provider_safecopy.planning.plan import CopyPlan
from airflow_provider_safecopy.spec import CopySpec
from tests.support.customers import OLD, SHAPE, fill, spec
from tests.support.database import Database

REFUSALS = (
    Refusal("column_extra", "column 메모 is not in the target", table="영업.고객", column="메모", hint="leave it out"),
    Refusal("rules", "영업.고객 has rules", table="영업.고객"),
)


@pytest.fixture
def plan(source: Database, target: Database) -> Callable[..., CopyPlan]:
    for each in (source, target):
        each.execute(SHAPE)
    fill(source, 10)
    target.execute(OLD)

    def make(**options: Any) -> CopyPlan:
        return pipeline.plan(spec(**options), source.endpoint, target.endpoint)

    return make


def test_it_is_frozen(plan: Callable[..., CopyPlan]) -> None:
    with pytest.raises(FrozenInstanceError):
        plan().format = "binary"  # type: ignore[misc]


def test_only_a_plan_without_refusals_may_be_carried_out(plan: Callable[..., CopyPlan]) -> None:
    made = plan()
    made.require_accepted()
    with pytest.raises(PlanError) as caught:
        replace(made, refusals=REFUSALS).require_accepted()
    assert caught.value.refusals == REFUSALS
    assert "leave it out" in str(caught.value)


@pytest.mark.parametrize(
    "publish, emptied, lock",
    [
        ("delete_insert", 'DELETE FROM "영업"."고객"', "SHARE ROW EXCLUSIVE"),
        ("truncate_insert", 'TRUNCATE "영업"."고객"', "ACCESS EXCLUSIVE"),
    ],
)
def test_the_steps_come_in_order_with_their_locks(
    plan: Callable[..., CopyPlan], publish: str, emptied: str, lock: str
) -> None:
    steps = plan(publish=publish).steps()
    assert [(step.stage, step.database) for step in steps] == [
        ("import", "target"),
        ("export", "source"),
        ("import", "target"),
        ("publish", "target"),
        ("publish", "target"),
        ("analyze", "target"),
    ]
    verbs = [
        "CREATE UNLOGGED TABLE",
        'COPY "영업"."고객" (',
        "COPY ",
        emptied,
        'INSERT INTO "영업"."고객"',
        'ANALYZE "영업"."고객"',
    ]
    assert all(step.sql.startswith(verb) for step, verb in zip(steps, verbs, strict=True))
    assert [step.lock for step in steps] == [
        "none on your tables",
        "ACCESS SHARE",
        "none on your tables",
        lock,
        lock,
        "SHARE UPDATE EXCLUSIVE",
    ]
    assert "<token>" in steps[0].sql


def test_a_refused_plan_has_no_steps(plan: Callable[..., CopyPlan]) -> None:
    made = plan(columns=["번호", "없는_열"])
    assert made.refusals
    assert made.steps() == ()


@pytest.mark.parametrize("publish", ["delete_insert", "truncate_insert", "delta"])
@pytest.mark.parametrize("format", ["text", "binary"])
def test_what_it_shows_is_what_runs(
    plan: Callable[..., CopyPlan], source: Database, target: Database, publish: str, format: str
) -> None:
    for each in (source, target):
        each.execute(f"ALTER DATABASE \"{each.name}\" SET log_statement = 'all'")
    # Of delta's parts only those run that have something to write: here all of them do.
    target.execute("INSERT INTO 영업.고객 VALUES (1, '다른 이름')")
    asked = {"publish": publish, "format": format, "where": "번호 < 5 -- 몇 명만", "columns": ["이름", "번호"]}
    steps = plan(**asked).steps()
    began = {name: each.server.log.stat().st_size for name, each in (("source", source), ("target", target))}
    report = pipeline.copy(spec(**asked), source.endpoint, target.endpoint)
    logs = {"source": source.server.log, "target": target.server.log}
    logged = {name: _words(log.read_bytes()[began[name] :].decode()) for name, log in logs.items()}
    for step in steps:
        drawn = f"{report.token}_{str(report.attempt)[:8]}"
        wanted = re.escape(_words(step.sql)).replace(re.escape("…__safecopy_"), "고객__safecopy_")
        wanted = wanted.replace(re.escape("<token>_<attempt>"), drawn)
        assert len(re.findall(wanted, logged[step.database])) == 1, step.sql


def _words(text: str) -> str:
    return " ".join(text.split())


def test_as_dict_is_json_and_tells_everything(plan: Callable[..., CopyPlan], source: Database) -> None:
    made = plan(columns={"번호": "번호", "이름": "이름"}, lock="야간")
    told = json.loads(json.dumps(made.as_dict(), allow_nan=False))
    assert told["source"] == f"{source.endpoint} 영업.고객"
    assert told["lock"] == "야간"
    assert told["columns"] == {"번호": "번호", "이름": "이름"}
    assert (told["format"], told["transfer"], told["publish"]) == ("text", "sequential", "swap")
    assert told["reasons"] == list(made.reasons)
    assert told["refusals"] == told["warnings"] == []
    assert [step["sql"] for step in told["steps"]] == [step.sql for step in made.steps()]
    assert isinstance(told["expected_rows"], int)


def test_as_dict_spells_refusals_out(plan: Callable[..., CopyPlan]) -> None:
    told = replace(plan(), refusals=REFUSALS).as_dict()
    assert told["steps"] == []
    assert told["refusals"][0] == {
        "code": "column_extra",
        "message": "column 메모 is not in the target",
        "table": "영업.고객",
        "column": "메모",
        "hint": "leave it out",
    }


def test_nothing_it_tells_holds_the_password(plan: Callable[..., CopyPlan], source: Database) -> None:
    password = source.endpoint.parameters["password"]
    made = plan()
    assert password not in json.dumps(made.as_dict())
    assert password not in repr(made)
    assert password not in repr(made.as_report())


def test_as_report_is_that_of_a_dry_run(plan: Callable[..., CopyPlan], target: Database) -> None:
    made = plan(publish="truncate_insert", min_rows=0)
    report = made.as_report()
    assert (report.status, report.lock, report.publish) == ("planned", "영업.고객", "truncate_insert")
    assert report.target == f"{target.endpoint} 영업.고객"
    assert (report.token, report.rows, report.stages) == (None, None, ())
    assert report.reasons == made.reasons


def test_a_query_is_shown_as_it_was_given(source: Database, target: Database) -> None:
    target.execute(SHAPE)
    query = "SELECT 1::bigint AS 번호, '이름'::varchar(40) AS 이름,\n  -- 금액은 나중에\n  0::numeric(12,2) AS 금액, now() AS 가입"
    made = pipeline.plan(CopySpec.of(source_sql=query, target_table="영업.고객"), source.endpoint, target.endpoint)
    assert made.refusals == ()
    assert made.source == f"{source.endpoint} the query"
    assert query in made.steps()[1].sql


def test_identity_columns_keep_the_sources_values(plan: Callable[..., CopyPlan], target: Database) -> None:
    assert not any("OVERRIDING" in step.sql for step in plan(publish="delete_insert").steps())
    target.execute('ALTER TABLE "영업"."고객" ALTER "번호" ADD GENERATED ALWAYS AS IDENTITY')
    assert any("OVERRIDING SYSTEM VALUE" in step.sql for step in plan(publish="delete_insert").steps())


def test_what_is_not_a_whole_table_as_it_stands_is_read_by_a_query(
    source: Database, target: Database, plan: Callable[..., CopyPlan]
) -> None:
    assert plan().build_copy_source().as_string(None).startswith('"영업"."고객" ("번호", ')
    assert plan(where='"번호" > 0').build_copy_source().as_string(None).startswith("(\nSELECT")
    assert (
        plan(source_table=None, source_sql='SELECT * FROM "영업"."고객"')
        .build_copy_source()
        .as_string(None)
        .startswith("(\nSELECT")
    )
    assert plan().build_copy_source(PageRange(0, None)).as_string(None).startswith("(\nSELECT")
    for made in (
        'CREATE VIEW "영업"."보기" AS SELECT * FROM "영업"."고객"',
        'CREATE TABLE "영업"."부모" (LIKE "영업"."고객"); CREATE TABLE "영업"."자식" () INHERITS ("영업"."부모")',
        (
            'CREATE TABLE "영업"."생성" (LIKE "영업"."고객"); ALTER TABLE "영업"."생성" DROP "금액", '
            'ADD "금액" numeric(12,2) GENERATED ALWAYS AS ("번호") STORED'
        ),
        'CREATE TABLE "영업"."분할" (LIKE "영업"."고객") PARTITION BY LIST ("번호")',
    ):
        source.execute(made)
    for name in ("보기", "부모", "생성", "분할"):
        asked = CopySpec.of(source_table=("영업", name), target_table="영업.고객", min_rows=0)
        found = pipeline.plan(asked, source.endpoint, target.endpoint)
        assert found.build_copy_source().as_string(None).startswith("(\nSELECT"), name


def test_it_prints_as_people_read_it(plan: Callable[..., CopyPlan]) -> None:
    made = plan(publish="delete_insert")
    lines = str(made).splitlines()
    assert lines[0] == "planned: nothing was touched"
    assert f"  from      {made.source}" in lines
    assert "  columns   번호, 이름, 금액, 가입" in lines
    assert "  how       sequential, text, delete_insert" in lines
    assert "  -- export, on the source; lock: ACCESS SHARE" in lines
    assert all(line in str(made) for step in made.steps() for line in step.sql.splitlines())


def test_a_refused_plan_prints_its_reasons_and_next_steps(plan: Callable[..., CopyPlan]) -> None:
    text = str(replace(plan(), refusals=REFUSALS))
    assert text.startswith("refused: nothing was touched\n")
    assert "  refused   column 메모 is not in the target [column_extra]\n  next      leave it out\n" in text
    assert "SQL, in order" not in text


def test_its_repr_is_one_short_line(plan: Callable[..., CopyPlan]) -> None:
    made = plan(publish="delete_insert")
    assert repr(made) == f"<CopyPlan {made.source} -> {made.target}: sequential, text, delete_insert>"
    assert repr(replace(made, refusals=REFUSALS)).endswith(": refused: column_extra, rules>")
