"""The doctor: everything at once, touching nothing, and never out of countenance."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_safecopy import doctor
from airflow_provider_safecopy.demo.servers import installations
from airflow_provider_safecopy.doctor import Check, examine
from airflow_provider_safecopy.lock import schema as lock
from airflow_provider_safecopy.pipeline.planner import draft
from airflow_provider_safecopy.planning.plan import CopyPlan
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from tests.conftest import MakeDatabase, MakeRole
from tests.support.customers import OLD, SHAPE, TABLE, fill, spec
from tests.support.database import Database

AWAY = Endpoint.from_conninfo("host=127.0.0.1 port=1 dbname=erp user=u")


def told(checks: tuple[Check, ...], outcome: str = "") -> list[tuple[str, str]]:
    """What was looked at and how it came out; of one outcome only, where that is asked for."""
    return [(each.name, each.outcome) for each in checks if not outcome or each.outcome == outcome]


def about(checks: tuple[Check, ...], name: str) -> Check:
    (found,) = [each for each in checks if each.name == name]
    return found


@pytest.fixture
def customers(source: Database, target: Database) -> tuple[Endpoint, Endpoint]:
    for each in (source, target):
        each.execute(SHAPE)
    fill(source, 10)
    target.execute(OLD)
    return source.endpoint, target.endpoint


def test_a_healthy_pair(source: Database, target: Database) -> None:
    checks = examine(source.endpoint, target.endpoint)
    assert told(checks) == [
        (name, "ok")
        for name in ("limits", "psql", "spool directory", "source", "target", "schema safecopy", "majors", "encodings")
    ]
    assert f"{source.endpoint}: PostgreSQL 16." in about(checks, "source").detail
    assert f"database {target.name}, UTF8, as postgres" in about(checks, "target").detail
    assert "16 and 18: text will be used" in about(checks, "majors").detail
    assert "make it on the first copy" in about(checks, "schema safecopy").detail
    assert all(each.detail for each in checks)


@pytest.mark.pair(18, 18)
def test_equal_majors_may_use_binary(source: Database, target: Database) -> None:
    assert "both 18: binary" in about(examine(source.endpoint, target.endpoint), "majors").detail


def test_it_touches_nothing(source: Database, target: Database) -> None:
    examine(source.endpoint, target.endpoint)
    for each in (source, target):
        assert each.value("SELECT to_regnamespace('safecopy')") is None


def test_with_one_endpoint_or_none_it_looks_at_what_there_is(source: Database, target: Database) -> None:
    assert told(examine(None, None)) == [("limits", "ok"), ("psql", "ok"), ("spool directory", "ok")]
    assert [name for name, _ in told(examine(source.endpoint, None))] == ["limits", "psql", "spool directory", "source"]
    assert [name for name, _ in told(examine(None, target.endpoint))][3:] == ["target", "schema safecopy"]


@pytest.mark.parametrize("away", ["source", "target"])
def test_one_that_cannot_be_reached_does_not_keep_the_other_from_being_looked_at(
    source: Database, target: Database, away: str
) -> None:
    ends = (AWAY, target.endpoint) if away == "source" else (source.endpoint, AWAY)
    checks = examine(*ends, spec=spec())
    assert told(checks, "failed") == [(away, "failed")]
    assert "cannot connect" in about(checks, away).detail
    assert about(checks, away).hint
    assert about(checks, "target" if away == "source" else "source").outcome == "ok"


def test_neither_can_be_reached() -> None:
    assert told(examine(AWAY, AWAY), "failed") == [("source", "failed"), ("target", "failed")]


def test_a_wrong_password_is_told_and_not_shown(source: Database, target: Database, role: MakeRole) -> None:
    reader = role(source)
    wrong = reader.as_role(str(reader.role), "s3cret-비밀")
    checks = examine(wrong.endpoint, target.endpoint)
    assert about(checks, "source").hint == "check the password"
    assert "s3cret" not in str(checks)


def test_everything_that_is_wrong_is_told_at_once(
    database: MakeDatabase, role: MakeRole, tmp_path: Path, source: Database
) -> None:
    old = tmp_path / "psql"
    old.write_text('#!/bin/sh\necho "psql (PostgreSQL) 12.3"\n')
    old.chmod(0o755)
    bytes_only = database(encoding="SQL_ASCII", locale="C")
    loader = role(bytes_only)
    checks = examine(source.endpoint, loader.endpoint, psql=str(old), spool_dir="/proc")
    assert told(checks, "failed") == [
        ("psql", "failed"),
        ("spool directory", "failed"),
        ("target", "failed"),
        ("schema safecopy", "failed"),
    ]
    found = {each.name: each for each in checks if each.outcome == "failed"}
    assert "12, and 14 is the oldest" in found["psql"].detail
    assert "/proc" in found["spool directory"].detail
    assert "SQL_ASCII" in found["target"].detail
    assert f"--grant {loader.role}" in found["schema safecopy"].hint
    assert all(each.hint for each in found.values())


def test_a_granted_role_may_use_the_schema(source: Database, target: Database, role: MakeRole) -> None:
    loader = role(target)
    with target.connect() as session:
        lock.init(session)
    failed = about(examine(source.endpoint, loader.endpoint), "schema safecopy")
    assert failed.outcome == "failed"
    assert failed.detail.startswith(
        f"role {loader.role} may not use the schema safecopy: it lacks USAGE on schema safecopy, "
    )
    with target.connect() as session:
        lock.init(session, grant=loader.role)
    assert about(examine(source.endpoint, loader.endpoint), "schema safecopy").outcome == "ok"


def test_a_target_that_is_read_only_is_told(source: Database, target: Database) -> None:
    reluctant = Endpoint.from_conninfo(f"{target.conninfo} options='-c default_transaction_read_only=on'")
    checks = examine(source.endpoint, reluctant)
    assert [each.detail for each in checks if each.outcome == "failed"] == [f"{reluctant}: the server is read only"]
    assert told(examine(reluctant, target.endpoint), "failed") == []


def test_an_older_psql_and_different_encodings_are_warnings(source: Database, database: MakeDatabase) -> None:
    korean = database(major=18, encoding="EUC_KR", locale="C")
    older = next(each for each in installations() if each.major < 18)
    checks = examine(source.endpoint, korean.endpoint, psql=str(older.psql))
    assert told(checks, "failed") == []
    assert told(checks, "warning") == [("psql version", "warning"), ("encodings", "warning")]
    assert f"psql {older.major} is older than the newest server, 18" in about(checks, "psql version").detail
    assert "UTF8 and EUC_KR" in about(checks, "encodings").detail


# With a copy in mind


def test_a_copy_that_will_do_is_told_with_its_reasons(customers: tuple[Endpoint, Endpoint]) -> None:
    checks = examine(*customers, spec=spec())
    reasons = [each.detail for each in checks if each.name == "plan"]
    assert [each.split()[0] for each in reasons] == ["format", "transfer", "publish", "guards"]
    assert told(checks, "failed") == []


def test_a_copy_that_will_not_do_is_told_with_every_refusal(customers: tuple[Endpoint, Endpoint]) -> None:
    checks = examine(*customers, spec=spec(columns=["번호", "없는_열"]))
    failed = [each for each in checks if each.outcome == "failed"]
    assert {each.name for each in failed} == {"plan"}
    assert len(failed) == 3  # not in the source, not in the target, and what may not be NULL is left out
    assert all(each.hint for each in failed)
    assert about(checks, "source").outcome == "ok"


def test_warnings_of_a_copy_are_told_too(customers: tuple[Endpoint, Endpoint], target: Database) -> None:
    target.execute(f"CREATE TABLE 영업.주문 (고객 bigint REFERENCES {TABLE})")
    checks = examine(*customers, spec=spec(publish="delete_insert"))
    assert told(checks, "warning") == [("plan", "warning")]
    assert "is referenced by" in next(each.detail for each in checks if each.outcome == "warning")


def test_a_table_that_is_locked_does_not_make_it_wait_for_ever(
    customers: tuple[Endpoint, Endpoint], source: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_PLAN_SECONDS", 0.3)
    with source.connect() as other, other.transaction():
        other.execute(f"LOCK TABLE {TABLE}".encode())
        checks = examine(*customers, spec=spec())
    assert told(checks, "failed") == [("plan", "failed")]
    assert "0.3 s" in about(checks, "plan").detail
    assert about(checks, "plan").hint


def test_a_server_that_goes_away_meanwhile_is_an_answer_too(
    customers: tuple[Endpoint, Endpoint], target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"

    def late(*arguments: Any) -> CopyPlan:
        target.execute(end, [target.name])
        return draft(*arguments)

    monkeypatch.setattr(doctor, "draft", late)
    checks = examine(*customers, spec=spec())
    assert told(checks, "failed") == [("plan", "failed")]
    assert about(checks, "source").outcome == about(checks, "target").outcome == "ok"


def test_a_check_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Check("psql", "ok", "psql 18").outcome = "failed"  # type: ignore[misc]
