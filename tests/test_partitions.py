"""A partition beside its parent: rows of one are rows of the other, so their copies exclude each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import ConfigError, LockBusyError, PlanError, SafeCopyError
from airflow_provider_safecopy.lock.model import Contender
from airflow_provider_safecopy.spec import CopySpec, Progress
from tests.support.database import Database

SHAPE = """
CREATE SCHEMA 분석; CREATE TABLE 분석.매출 (날 int, 값 text) PARTITION BY RANGE (날);
CREATE TABLE 분석."1월" PARTITION OF 분석.매출 FOR VALUES FROM (100) TO (200);
CREATE TABLE 분석."2월" PARTITION OF 분석.매출 FOR VALUES FROM (200) TO (300) PARTITION BY RANGE (날);
CREATE TABLE 분석."2월 상순" PARTITION OF 분석."2월" FOR VALUES FROM (200) TO (210);
"""


@pytest.fixture
def sales(source: Database, target: Database) -> tuple[Database, Database]:
    """Old rows in the source, a table with partitions and a partition of one of these in the target."""
    source.execute(
        "CREATE SCHEMA 영업; CREATE TABLE 영업.매출 (날 int, 값 text); INSERT INTO 영업.매출 VALUES (101, 'old'), (201, 'old')"
    )
    target.execute(SHAPE)
    return source, target


def spec(target: str, **options: Any) -> CopySpec:
    where = {"1월": "날 < 200", "2월": "날 >= 200", "2월 상순": "날 >= 200"}.get(target)
    return CopySpec.of(**{"source_table": "영업.매출", "target_table": ("분석", target), "where": where} | options)


def at(stage: str, act: Callable[[], object]) -> Callable[[Progress], None]:
    """Act once, when a copy has come to `stage`: its lock is held, its snapshot taken."""
    done: list[int] = []

    def listen(progress: Progress) -> None:
        if progress.stage == stage and not done:
            done.append(1)
            act()

    return listen


@pytest.mark.parametrize("whose", ["another run", "the same run"])
@pytest.mark.parametrize(
    "outer, inner", [("매출", "1월"), ("1월", "매출"), ("매출", "2월 상순"), ("2월 상순", "매출"), ("2월 상순", "2월")]
)
def test_a_partition_and_its_parent_exclude_each_other(
    sales: tuple[Database, Database], outer: str, inner: str, whose: str
) -> None:
    """The later of two copies that share rows finds the lock of the other busy, whichever of them holds the partition;
    the older snapshot of one never overwrites the newer rows of the other."""
    source, target = sales
    owners = ["하나", "하나" if whose == "the same run" else "둘"]
    found: list[SafeCopyError] = []

    def rival() -> None:
        source.execute("UPDATE 영업.매출 SET 값 = 'new'")
        with pytest.raises(LockBusyError) as caught:
            pipeline.copy(spec(inner), source.endpoint, target.endpoint, contender=Contender(owners[1], member="나"))
        found.append(caught.value)

    pipeline.copy(
        spec(outer),
        source.endpoint,
        target.endpoint,
        contender=Contender(owners[0], member="가"),
        progress=at("publish", rival),
    )
    (error,) = found
    assert isinstance(error, LockBusyError)
    assert outer in error.lock
    pipeline.copy(spec(inner), source.endpoint, target.endpoint)
    assert {
        value
        for (value,) in target.rows(
            "SELECT DISTINCT 값 FROM 분석.매출 WHERE 날 >= 200 OR %s", ["1월" in (outer, inner)]
        )
    } <= {"old", "new"}
    assert target.value("SELECT count(*) FROM safecopy.lock WHERE lease_id IS NOT NULL") == 0


def test_siblings_are_copied_side_by_side(sales: tuple[Database, Database]) -> None:
    source, target = sales

    def sibling() -> None:
        assert pipeline.copy(spec("2월 상순"), source.endpoint, target.endpoint).rows == 1

    pipeline.copy(spec("1월"), source.endpoint, target.endpoint, progress=at("publish", sibling))
    assert target.value("SELECT count(*) FROM 분석.매출") == 2


def test_one_that_is_gone_is_fenced_out(sales: tuple[Database, Database]) -> None:
    """A dead copy into a partition does not block the parent; if it comes back, it may not publish."""
    source, target = sales

    def parent() -> None:
        # Its promise has ended, as if it had stood still for an hour.
        target.execute(
            "UPDATE safecopy.lock SET due_at = clock_timestamp() - interval '1 hour' WHERE name = '분석.1월'"
        )
        source.execute("UPDATE 영업.매출 SET 값 = 'new'")
        pipeline.copy(spec("매출"), source.endpoint, target.endpoint)

    with pytest.raises(SafeCopyError):
        pipeline.copy(spec("1월"), source.endpoint, target.endpoint, progress=at("publish", parent))
    assert target.rows("SELECT DISTINCT 값 FROM 분석.매출") == [("new",)]


@pytest.mark.parametrize("outer", ["매출", "3월"])
def test_a_table_that_is_attached_meanwhile_is_noticed(sales: tuple[Database, Database], outer: str) -> None:
    """Until it was attached nothing excluded its copy; so the publish of either looks once more, under its lock."""
    source, target = sales
    target.execute('CREATE TABLE 분석."3월" (LIKE 분석.매출)')
    pipeline.copy(spec("3월", where="날 = 0", min_rows=0), source.endpoint, target.endpoint)
    pipeline.copy(spec("매출"), source.endpoint, target.endpoint)
    attach = 'ALTER TABLE 분석.매출 ATTACH PARTITION 분석."3월" FOR VALUES FROM (300) TO (400)'
    options = {"where": "날 = 0", "min_rows": 0} if outer == "3월" else {}
    with pytest.raises(PlanError) as caught:
        pipeline.copy(
            spec(outer, publish="delete_insert", **options),
            source.endpoint,
            target.endpoint,
            progress=at("publish", lambda: target.execute(attach)),
        )
    assert ([each.code for each in caught.value.refusals], caught.value.retryable) == (["target_changed"], True)


def test_a_partition_without_copies_may_come_and_go(sales: tuple[Database, Database]) -> None:
    source, target = sales
    made = 'CREATE TABLE 분석."4월" PARTITION OF 분석.매출 FOR VALUES FROM (400) TO (500); DROP TABLE 분석."1월"; '
    made += 'CREATE TABLE 분석."1월 다시" PARTITION OF 분석.매출 FOR VALUES FROM (100) TO (200)'
    report = pipeline.copy(
        spec("매출"), source.endpoint, target.endpoint, progress=at("publish", lambda: target.execute(made))
    )
    assert report.rows == 2


def test_a_batch_of_both_is_refused_and_finds_others_busy(sales: tuple[Database, Database]) -> None:
    source, target = sales
    with pytest.raises(ConfigError, match="partition and parent"):
        pipeline.copy_tables([spec("매출"), spec("1월")], source.endpoint, target.endpoint)
    found: list[Any] = []

    def rival() -> None:
        found.append(pipeline.copy_tables([spec("1월"), spec("2월 상순")], source.endpoint, target.endpoint))

    pipeline.copy(spec("2월"), source.endpoint, target.endpoint, progress=at("publish", rival))
    (done,) = found
    assert [type(each.error) for each in done.failed] == [LockBusyError]
    assert [each.rows for each in done.tables] == [1]
