"""A whole shop, table after table, into one that is in use: all rows arrive, and nothing that hangs on a table is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import PlanError, SafeCopyError, StageError, VerifyError
from airflow_provider_safecopy.report import CopyReport
from airflow_provider_safecopy.spec import CopySpec, Publish
from tests.conftest import NothingLeft
from tests.readers import MODES
from tests.support import rental
from tests.support.content import rows_of
from tests.support.database import Database
from tests.support.fingerprint import differences, fingerprint, sequence_values
from tests.support.rental import SCHEMA, TABLES

Shop = tuple[Database, Database]

# What speaks against a way, before anything is touched. What is not named here is published.
REFUSED: dict[Publish, dict[str, str]] = {
    "swap": {"재고": "swap_depends", "결제": "swap_kind"},
    "delta": {'회원 등급.Grade"s': "no_key"},
    "delete_insert": dict.fromkeys(["언어", "영화", "매장", "직원", "고객", "재고", "대여"], "delete_spreads"),
    "truncate_insert": dict.fromkeys(TABLES[:3] + TABLES[4:9], "referenced"),
}
# What only the rows speak against, or a trigger: it stamps each row that is updated, which is then not the source's.
FAILS: dict[Publish, dict[str, type[SafeCopyError]]] = {
    "auto": {"배우": VerifyError},
    "delta": {"배우": VerifyError},
    "delete_insert": {"배우": StageError},
}


@pytest.fixture
def shops(source: Database, target: Database) -> Iterator[Shop]:
    """Two shops, without rows."""
    with ExitStack() as stack:
        for database in (source, target):
            rental.create(database, stack.enter_context(rental.roles(database)))
        yield source, target


def published(shops: Shop, table: str, publish: Publish) -> str:
    """Copy one table and look at everything: the way it was published by."""
    source, target = shops
    hung, held = fingerprint(target, SCHEMA, table), rows(target, table)
    values = sequence_values(target, SCHEMA, table)
    report = copy(shops, table, publish)
    assert rows(source, table) == rows(target, table)
    assert differences(hung, fingerprint(target, SCHEMA, table)) == []
    found = sequence_values(target, SCHEMA, table)
    assert found.keys() == values.keys()
    assert all(found[sequence] >= value for sequence, value in values.items())
    if found and rows(target, table) != held:  # what is drawn next has not been given yet
        peak = target.value(f'SELECT max(번호) FROM {SCHEMA}."{table}"')
        assert all(last + called > peak for last, called in found.values())
    return report.publish


def not_published(shops: Shop, table: str, publish: Publish, kind: type[SafeCopyError]) -> SafeCopyError:
    """Fail to copy one table and see that nothing has changed."""
    _, target = shops
    hung, held = fingerprint(target, SCHEMA, table), rows(target, table)
    with pytest.raises(kind) as failed:
        copy(shops, table, publish)
    assert rows(target, table) == held
    assert differences(hung, fingerprint(target, SCHEMA, table)) == []
    return failed.value


def copy(shops: Shop, table: str, publish: Publish) -> CopyReport:
    spec = CopySpec.of(source_table=(SCHEMA, table), target_table=(SCHEMA, table), publish=publish)
    return pipeline.copy(spec, shops[0].endpoint, shops[1].endpoint)


def rows(database: Database, table: str) -> list[str]:
    name = table.replace('"', '""')
    return rows_of(database, f'SELECT * FROM {SCHEMA}."{name}"')


def test_the_whole_shop_arrives(shops: Shop, nothing_left: NothingLeft) -> None:
    rental.fill(shops[0], 60, seed=1)
    rental.fill(shops[1], 50)
    for table in TABLES:
        if kind := FAILS["auto"].get(table):
            not_published(shops, table, "auto", kind)
        else:
            published(shops, table, "auto")
    nothing_left(*shops)


@pytest.mark.parametrize("mode", MODES)
def test_each_way_publishes_or_says_why_not(shops: Shop, mode: Publish, nothing_left: NothingLeft) -> None:
    rental.fill(shops[0], 60, seed=1)
    rental.fill(shops[1], 60)
    for table in TABLES:
        if code := REFUSED[mode].get(table):
            refused = not_published(shops, table, mode, PlanError)
            assert isinstance(refused, PlanError)
            assert code in {refusal.code for refusal in refused.refusals}
        elif kind := FAILS.get(mode, {}).get(table):
            not_published(shops, table, mode, kind)
        else:
            assert published(shops, table, mode) == mode
    nothing_left(*shops)
