"""A watcher: a role that default privileges let into each table that the loader makes. It never sees a row of staging."""

from __future__ import annotations

import psycopg
import pytest
from pytest_mock import MockerFixture

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.lock import schema
from airflow_provider_safecopy.pipeline import batch_rounds as rounds
from airflow_provider_safecopy.planning.plan import CopyPlan
from airflow_provider_safecopy.postgres.names import TableName
from airflow_provider_safecopy.postgres.session import Session
from airflow_provider_safecopy.publish import staging, transaction
from airflow_provider_safecopy.spec import Progress
from tests.conftest import MakeRole
from tests.support.customers import TABLE, spec
from tests.support.database import Database

_STAGING = """
SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE strpos(tablename, '__safecopy_') > 0
"""
MODES: dict[str, dict[str, str]] = {
    "delta": {"publish": "delta"},
    "delete_insert": {"publish": "delete_insert"},
    "truncate_insert": {"publish": "truncate_insert"},
    "swap": {"publish": "swap"},
    "append": {"write_mode": "append", "append_key": "오늘"},
    "upsert": {"write_mode": "upsert", "missing": "delete"},
}
TRIED = ("SELECT * FROM {}", "TABLE {} LIMIT 1", "DELETE FROM {}", "TRUNCATE {}", "UPDATE {} SET \"이름\" = 'x'")


@pytest.fixture
def watcher(filled: tuple[Database, Database], role: MakeRole) -> Database:
    """A role without rights on the target table, with those that default privileges give on new ones."""
    _, target = filled
    made = role(target)
    with target.connect() as session:
        schema.init(session)
        session.execute(f"GRANT USAGE ON SCHEMA safecopy TO {made.role}".encode())
    return made


def grant(target: Database, watcher: Database, *, to: str, within: str) -> None:
    target.execute(f"ALTER DEFAULT PRIVILEGES {within} GRANT ALL ON TABLES TO {to or watcher.role}")


def seen(target: Database, watcher: Database) -> list[str]:
    """What the watcher could do with the staging tables that are there now."""
    tables = [name for (name,) in target.rows(_STAGING)]
    assert tables, "there is no staging table to look at"
    done = []
    with watcher.connect() as session:
        for statement in (each.format(name) for name in tables for each in TRIED):
            try:
                found = session.execute(statement.encode())
            except psycopg.errors.InsufficientPrivilege:
                continue
            if found.rowcount or statement.startswith("TRUNCATE"):
                done.append(statement)
    return done


@pytest.mark.parametrize("to, within", [("", ""), ("PUBLIC", ""), ("", "IN SCHEMA safecopy")])
@pytest.mark.parametrize("mode", MODES)
def test_default_privileges_let_no_one_into_staging(
    filled: tuple[Database, Database], watcher: Database, mode: str, to: str, within: str
) -> None:
    """What default privileges grant on a table of the loader's is taken back in the transaction that makes it."""
    source, target = filled
    grant(target, watcher, to=to, within=within)
    found: list[str] = []
    looked: list[str] = []

    def look(at: Progress) -> None:
        if at.stage in {"verify", "publish"}:
            looked.append(at.stage)
            found.extend(seen(target, watcher))

    pipeline.copy(spec(**MODES[mode]), source.endpoint, target.endpoint, progress=look)
    assert (found, looked) == ([], ["verify", "publish"])
    assert target.value(f"SELECT count(*) >= 2000 FROM {TABLE}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        watcher.rows(f"TABLE {TABLE}")


@pytest.mark.parametrize("to, within", [("", ""), ("PUBLIC", "")])
def test_nor_into_that_of_a_batch(
    filled: tuple[Database, Database], watcher: Database, mocker: MockerFixture, to: str, within: str
) -> None:
    """There psql itself makes the table."""
    source, target = filled
    grant(target, watcher, to=to, within=within)
    found: list[list[str]] = []

    def look(*args: object, **options: object) -> object:
        found.append(seen(target, watcher))
        return transaction.publish(*args, **options)  # type: ignore[arg-type]

    mocker.patch.object(rounds, "publish", side_effect=look)
    report = pipeline.copy_tables([spec()], source.endpoint, target.endpoint)
    assert report.status == "published"
    assert found == [[]]


@pytest.mark.parametrize("mode", ["delta", "append"])
def test_what_is_granted_by_default_while_a_copy_is_under_way_shows_no_row(
    filled: tuple[Database, Database], watcher: Database, mocker: MockerFixture, mode: str
) -> None:
    """A role that the session knew nothing of when it began finds a table with row security, and no rows."""
    source, target = filled
    found: list[str] = []
    create = staging._create_table

    def late(plan: CopyPlan, session: Session, name: TableName) -> None:
        target.execute(f"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {watcher.role}")
        create(plan, session, name)

    def look(at: Progress) -> None:
        if at.stage == "verify":
            found.extend(seen(target, watcher))

    mocker.patch.object(staging, "_create_table", side_effect=late)
    pipeline.copy(spec(**MODES[mode]), source.endpoint, target.endpoint, progress=look)
    assert found == []
