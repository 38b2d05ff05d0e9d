"""Two real databases for the machine, what can go wrong in them, and two ways to run a copy between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol
from uuid import UUID, uuid4

import psycopg
from psycopg import sql

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.errors import PlanError, SafeCopyError
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.lock.model import Contender, Lease, format_application_name
from airflow_provider_safecopy.pipeline.planner import draft
from airflow_provider_safecopy.planning.plan import CopyPlan
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.postgres.session import Session, open_session
from airflow_provider_safecopy.publish import staging
from airflow_provider_safecopy.publish.transaction import publish
from airflow_provider_safecopy.report import StageReport
from airflow_provider_safecopy.spec import CopySpec, Progress
from airflow_provider_safecopy.transfer.snapshot import hold_snapshot
from airflow_provider_safecopy.transfer.verify import Verification
from tests.support.database import Database
from tests.support.proxy import Proxy

Row = tuple[int, str, int | None]
"""Number, content, cursor."""

Fault = Literal["export", "loaded", "fence", "receipt", "watermark", "commit", "killed", "answer", "after"]
"""Where a run ends. Before the rows are read; before and after the publish's transaction begins; in it, after the
receipt, after the watermark, and at COMMIT, by an error or (`killed`) with the session; with COMMIT's answer lost; after
COMMIT, before anybody is told."""

TABLE, LIST = TableName("영업", "주문"), TableName("영업", "모음")
NAME, LISTED = '"영업"."주문"', '"영업"."모음"'
KEYED = f'CREATE TABLE {NAME} ("번호" int PRIMARY KEY, "내용" text, "순번" int)'
_TARGET = f"""
CREATE SCHEMA "영업"; {KEYED}; CREATE TABLE {LISTED} ("번호" int, "내용" text, "순번" int);
CREATE SCHEMA "고장"; CREATE TABLE "고장"."때" (word text);
CREATE FUNCTION "고장".fail() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM "고장"."때" WHERE word = TG_ARGV[0]) THEN RAISE 'the fault %', TG_ARGV[0]; END IF;
    IF TG_ARGV[0] = 'commit' AND EXISTS (SELECT FROM "고장"."때" WHERE word = 'killed') THEN
        PERFORM pg_terminate_backend(pg_backend_pid());
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER fail AFTER INSERT ON safecopy.receipt FOR EACH ROW EXECUTE FUNCTION "고장".fail('receipt');
CREATE TRIGGER fail AFTER INSERT OR UPDATE OR DELETE ON safecopy.watermark FOR EACH ROW
    EXECUTE FUNCTION "고장".fail('watermark');
CREATE CONSTRAINT TRIGGER fail_late AFTER INSERT ON safecopy.receipt DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    EXECUTE FUNCTION "고장".fail('commit');
"""


class Crash(Exception):
    """The process has ended here."""


@dataclass
class World:
    """A source, a target whose ledger can fail, and a wire to it that can lose an answer."""

    source: Database
    target: Database
    wire: Proxy
    copies: int = 0
    seen: Counter[tuple[str, str, Fault | None]] = field(default_factory=Counter)
    _sessions: dict[str, psycopg.Connection[Any]] = field(default_factory=dict)

    @classmethod
    def made(cls, source: Database, target: Database) -> World:
        source.execute(f'CREATE SCHEMA "영업"; {KEYED}')
        with target.connect() as session:
            schema.init(session)
        target.execute(_TARGET)
        return cls(source, target, Proxy.before("127.0.0.1", target.server.port))

    def close(self) -> None:
        self.wire.close()
        for session in self._sessions.values():
            session.close()

    def ask(self, where: Literal["source", "target"], query: str, values: Any = None) -> list[tuple[Any, ...]]:
        """One statement, on a session that stays."""
        database = self.source if where == "source" else self.target
        if where not in self._sessions:
            self._sessions[where] = database.connect()
        cursor = self._sessions[where].execute(query.encode(), values)
        return cursor.fetchall() if cursor.description else []

    def emptied(self) -> None:
        self.ask("source", f"TRUNCATE {NAME}")
        self.ask("target", f"TRUNCATE {NAME}, {LISTED}, safecopy.receipt, safecopy.watermark")
        self.ask("target", "DELETE FROM safecopy.lock")

    @contextmanager
    def failing(self, fault: Fault | None) -> Iterator[None]:
        self.ask("target", 'DELETE FROM "고장"."때"')
        self.ask("target", 'INSERT INTO "고장"."때" VALUES (%s)', [fault])
        try:
            yield
        finally:
            self.ask("target", 'DELETE FROM "고장"."때"')
            self.wire.mend()


class Runner(Protocol):
    """How a copy is run: the status it tells. Raises what ends it."""

    def __call__(self, world: World, spec: CopySpec, fault: Fault | None, attempt: UUID) -> str: ...


def whole(world: World, spec: CopySpec, fault: Fault | None, attempt: UUID) -> str:
    """All of it: locks, psql, staging, publish."""
    told: list[str] = []

    def progress(at: Progress) -> None:
        if fault and fault == {"export": "export", "verify": "loaded", "publish": "fence"}.get(at.stage):
            raise Crash(at.stage)
        if fault == "answer" and at.stage == "publish" and not told:
            told.append(at.stage)
            world.wire.lose_answer_after(b"COMMIT\0")

    there = world.target.through(world.wire.port).endpoint
    contender = Contender(str(attempt), attempt=attempt, process=None)
    report = pipeline.copy(spec, world.source.endpoint, there, contender=contender, progress=progress)
    if fault == "after" and report.status == "published":
        raise Crash(fault)
    return report.status


def direct(world: World, spec: CopySpec, fault: Fault | None, attempt: UUID) -> str:
    """Plan, staging and publish without locks and psql, which take most of the time: staging is filled by this process."""
    name = format_application_name(attempt)
    there: Endpoint = world.target.through(world.wire.port).endpoint
    with (
        open_session(world.source.endpoint, application_name=name, connect_timeout=10, read_only=True) as ours,
        open_session(there, application_name=name, connect_timeout=10) as theirs,
        hold_snapshot(ours),
    ):
        plan = draft(spec, ours, theirs)
        plan.require_accepted()
        if plan.find_earlier_report():
            return "already_published"
        world.copies += 1
        _end(fault, "export")
        with staging.hold_staging(plan, theirs, token=world.copies, attempt=attempt) as table:
            verification = _filled(plan, ours, theirs, table)
            _end(fault, "loaded")
            lease = Lease("시험", world.copies, uuid4(), Contender("시험", {"owner": "시험"}, attempt=attempt))

            def fence(_: object) -> None:
                _end(fault, "fence")
                if fault == "answer":
                    world.wire.lose_answer_after(b"COMMIT\0")

            publish(plan, verification, lease, target=theirs, fence=fence, abort=AbortSwitch())
        _end(fault, "after")
    return "published"


def run(world: World, runner: Runner, spec: CopySpec, fault: Fault | None) -> tuple[str, bool]:
    """Run a copy to its end, whatever that is: its status, and whether it was published."""
    attempt, status = uuid4(), "crashed"
    with world.failing(fault):
        try:
            status = runner(world, spec, fault, attempt)
        except PlanError as error:
            status = error.refusals[0].code
        except (Crash, SafeCopyError) as error:
            if fault is None:
                raise AssertionError(f"it failed without a fault: {error}") from error
    ((entered,),) = world.ask("target", "SELECT count(*) FROM safecopy.receipt WHERE attempt = %s", [attempt])
    assert entered == 1 or status != "published"
    world.seen[spec.write_mode, status, fault] += 1
    return status, bool(entered)


def _end(fault: Fault | None, here: Fault) -> None:
    if fault == here:
        raise Crash(here)


def _filled(plan: CopyPlan, ours: Session, theirs: Session, table: TableName) -> Verification:
    rows = ours.connection.execute(plan.build_query()).fetchall()
    columns = sql.SQL(", ").join(map(sql.Identifier, plan.target_columns))
    into = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table.schema or "", table.name), columns)
    with theirs.connection.cursor() as cursor, cursor.copy(into) as copy:
        for row in rows:
            copy.write_row(row)
    return Verification(table, len(rows), {}, None, StageReport("verify", 0.0, rows=len(rows)))
