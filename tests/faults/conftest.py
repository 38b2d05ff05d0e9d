"""A source big enough to die in the middle of, and the one invariant every fault must leave true."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.report import CopyReport
from airflow_provider_safecopy.spec import CopySpec
from tests.conftest import MakeDatabase, NothingLeft
from tests.faults.trial import Trial
from tests.support.content import rows_of
from tests.support.database import Database, Servers

TABLE = '"영업"."주문_내역"'
ROWS = 20_000
_SHAPE = f'CREATE SCHEMA "영업"; CREATE TABLE {TABLE} ("번호" bigint PRIMARY KEY, "품목" text, "금액" numeric(12,2))'
_NEW = f"INSERT INTO {TABLE} SELECT g, '품목 ' || md5(g::text), g FROM generate_series(1, {ROWS}) g"
_OLD = f"INSERT INTO {TABLE} VALUES (-1, '옛 주문', 1), (-2, '더 옛 주문', 2)"


@dataclass(frozen=True)
class Ground:
    """Two databases, a spool directory, and what must be true of them after any fault."""

    source: Database
    target: Database
    spool: Path
    nothing_left: NothingLeft

    def spec(self, **options: Any) -> CopySpec:
        given = {"source_table": "영업.주문_내역", "target_table": "영업.주문_내역", "spool_dir": str(self.spool)}
        return CopySpec.of(**given | options)

    def copy(self, **options: Any) -> CopyReport:
        return pipeline.copy(self.spec(**options), self.source.endpoint, self.target.endpoint)

    def put_old_rows_back(self) -> None:
        """As before the first copy."""
        self.target.execute(f"DELETE FROM {TABLE}; {_OLD}")

    def staged(self) -> int:
        """How many rows a dead run has committed to its staging table."""
        query = "SELECT quote_ident(relname) FROM pg_class WHERE strpos(relname, '__safecopy_') > 0 AND relkind = 'r'"
        return sum(self.target.value(f"SELECT count(*) FROM safecopy.{name}") for (name,) in self.target.rows(query))

    def holds(self) -> str:
        """``old`` or ``new``; anything else fails."""
        held = rows_of(self.target, f"SELECT * FROM {TABLE}")
        if held == rows_of(self.source, f"SELECT * FROM {TABLE}"):
            return "new"
        assert len(held) == 2, f"neither old nor new: {len(held)} rows"
        return "old"

    def demand(self, held: str, *, swept_by_next_run: bool = False) -> None:
        """The target holds this, nothing is left, and the next run succeeds.

        What was killed itself cannot clean up: then its staging table is the next run's to sweep.
        """
        assert self.holds() == held
        if not swept_by_next_run:
            self.nothing_left(self.source, self.target, spool=self.spool)
        assert self.copy().rows == ROWS
        assert self.holds() == "new"
        self.nothing_left(self.source, self.target, spool=self.spool)


@pytest.fixture(scope="module")
def filled(servers: Servers) -> Iterator[Database]:
    """The source, the same for a whole file: no fault changes it."""
    source = servers.create(16, "UTF8", None)
    source.execute(_SHAPE)
    source.execute(_NEW)
    yield source
    servers.drop(source)


@pytest.fixture(scope="module")
def trial(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """Two databases for a whole file: after each fault the next run has to find nothing of it anyway."""
    source, target = servers.create(16, "UTF8", None), servers.create(18, "UTF8", None)
    yield Trial.prepared(source, target, tmp_path_factory.mktemp("trial") / "spool")
    servers.drop(source)
    servers.drop(target)


@pytest.fixture
def ground(filled: Database, database: MakeDatabase, tmp_path: Path, nothing_left: NothingLeft) -> Ground:
    """Where a fault is to happen."""
    target = database(major=18)
    target.execute(_SHAPE)
    target.execute(_OLD)
    spool = tmp_path / "spool"
    spool.mkdir()
    return Ground(filled, target, spool, nothing_left)
