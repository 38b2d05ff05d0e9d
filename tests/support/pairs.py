"""Two tables in one database, `옛것` the target and `새것` the source, and the publish of one into the other."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import uuid4

from psycopg.sql import SQL

from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.lock.model import Contender, Lease
from airflow_provider_safecopy.pipeline.planner import draft
from airflow_provider_safecopy.planning.plan import CopyPlan
from airflow_provider_safecopy.postgres.session import Session, open_session
from airflow_provider_safecopy.postgres.statements import table
from airflow_provider_safecopy.publish import staging
from airflow_provider_safecopy.publish.transaction import publish
from airflow_provider_safecopy.report import StageReport, WrittenRows
from airflow_provider_safecopy.spec import CopySpec
from airflow_provider_safecopy.transfer.verify import Verification
from tests.support.content import rows_of
from tests.support.database import Database

OLD, NEW = '"자료"."옛것"', '"자료"."새것"'


class Counted(Protocol):
    """What a publish or a report says of the rows."""

    @property
    def inserted(self) -> int | None: ...
    @property
    def updated(self) -> int | None: ...
    @property
    def deleted(self) -> int | None: ...
    @property
    def unchanged(self) -> int | None: ...


def counts(of: Counted) -> tuple[int | None, int | None, int | None, int | None]:
    """Inserted, updated, deleted, unchanged."""
    return of.inserted, of.updated, of.deleted, of.unchanged


@dataclass(frozen=True)
class Pair:
    """A database in whose schema 자료 the two tables are made."""

    database: Database

    def made(self, columns: str, *, old: str = "", new: str = "", also: str = "") -> Pair:
        """Both tables, the target of `columns` and with what `also` makes, the source of the same types; and their rows."""
        self.database.execute(f"CREATE TABLE {OLD} ({columns}); {also}")
        self.database.execute(f"CREATE TABLE {NEW} AS TABLE {OLD}")
        for into, rows in ((OLD, old), (NEW, new)):
            if rows:
                given = "OVERRIDING SYSTEM VALUE" if into == OLD else ""
                self.database.execute(f"INSERT INTO {into} {given} VALUES {rows}")
        return self

    def spec(self, **options: Any) -> CopySpec:
        tables = {"source_table": ("자료", "새것"), "target_table": ("자료", "옛것")}
        return CopySpec.of(**{**tables, "publish": "delta"} | options)

    def plan(self, **options: Any) -> CopyPlan:
        with self._session(self.database) as session:
            return draft(self.spec(**options), session, session)

    def copied(self, *, by: Database | None = None, **options: Any) -> WrittenRows:
        """Publish, and demand that the target then holds what the source does."""
        written = self.copy(by=by, **options)
        assert self.same()
        return written

    def copy(self, *, by: Database | None = None, **options: Any) -> WrittenRows:
        """Plan, stage the source's rows by the shortest way, and publish them."""
        with self._session(by or self.database) as session:
            plan = draft(self.spec(**options), session, session)
            plan.require_accepted()
            schema.init(session.connection)
            attempt, token = uuid4(), secrets.randbelow(1 << 40)
            lease = Lease("시험", token, uuid4(), Contender("시험", {"owner": "시험"}, attempt=attempt))
            with staging.hold_staging(plan, session, token=token, attempt=attempt) as name:
                filled = SQL("INSERT INTO {} {}").format(table(name), plan.build_query())
                rows = session.connection.execute(filled).rowcount
                verification = Verification(name, rows, {}, None, StageReport("verify", 0.0, rows=rows))
                return publish(
                    plan, verification, lease, target=session, fence=lambda _: None, abort=AbortSwitch()
                ).written

    def same(self) -> bool:
        return rows_of(self.database, f"SELECT * FROM {OLD}") == rows_of(self.database, f"SELECT * FROM {NEW}")

    def places(self, key: str) -> dict[Any, str]:
        """Where each row lies: a row that was written lies elsewhere."""
        return dict(self.database.rows(f"SELECT {key}, tableoid || ' ' || ctid FROM {OLD}"))

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Whatever is done inside leaves the target's rows where they are."""
        before = rows_of(self.database, f"SELECT ctid, xmin, * FROM {OLD}")
        yield
        assert rows_of(self.database, f"SELECT ctid, xmin, * FROM {OLD}") == before

    @contextmanager
    def _session(self, database: Database) -> Iterator[Session]:
        with open_session(database.endpoint, application_name="safecopy:test", connect_timeout=10) as session:
            yield session
