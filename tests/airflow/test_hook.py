"""From Airflow's connections to endpoints."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from airflow_provider_safecopy.errors import ConfigError, PlanError
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.spec import CopySpec
from tests.airflow.conftest import Connect
from tests.support.database import Database

SECRET = "p@ss:w/o%rd\\ 비밀"


def _endpoint(**fields: Any) -> Endpoint:
    from airflow.providers.common.compat.sdk import Connection

    from airflow_provider_safecopy.hooks.safecopy import build_endpoint

    extra = fields.pop("extra", None)
    given = {"conn_id": "erp", "conn_type": "postgres", "host": "db", "extra": json.dumps(extra) if extra else None}
    return build_endpoint(Connection(**given | fields))


def test_a_connection_s_fields_become_libpq_s_parameters() -> None:
    endpoint = _endpoint(host="db.example", port=5433, schema="영업", login="복사", password=SECRET)
    assert endpoint.parameters == {
        "host": "db.example",
        "port": "5433",
        "dbname": "영업",
        "user": "복사",
        "password": SECRET,
    }


def test_what_is_not_given_is_left_to_libpq() -> None:
    assert _endpoint(login="", schema=None).parameters == {"host": "db"}


def test_an_extra_that_libpq_knows_is_kept_in_libpq_s_spelling() -> None:
    extra = {"sslmode": "require", "options": "-c geqo=off", "keepalives": False, "keepalives_idle": 30}
    assert _endpoint(extra=extra).parameters == {
        "host": "db",
        "sslmode": "require",
        "options": "-c geqo=off",
        "keepalives": "0",
        "keepalives_idle": "30",
    }


def test_an_extra_of_postgres_hook_alone_is_ignored() -> None:
    extra = {
        "cursor": "dictcursor",
        "sqlalchemy_scheme": "postgresql+psycopg",
        "iam": False,
        "sqlalchemy_query": {"a": "b"},
    }
    assert _endpoint(extra=extra).parameters == {"host": "db"}


def test_every_extra_that_postgres_hook_ignores_is_known() -> None:
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    from airflow_provider_safecopy.hooks.safecopy import POSTGRES_HOOK_EXTRAS

    assert PostgresHook.ignored_extra_options <= POSTGRES_HOOK_EXTRAS


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"conn_type": "mysql"}, r"connection 'erp' is of type 'mysql', not 'postgres'"),
        ({"extra": {"ssl_mode": "require"}}, r"connection 'erp'.*ssl_mode"),
        ({"extra": {"sslmode": {"mode": "require"}}}, r"connection 'erp'.*'sslmode' must be a string or a number"),
        ({"extra": {"iam": True}}, r"connection 'erp' asks for an IAM token"),
        ({"password": "a\0b"}, r"connection 'erp'.*NUL"),
    ],
)
def test_a_connection_that_cannot_be_meant_is_refused_by_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _endpoint(**fields)


def test_the_password_is_in_no_repr_and_no_error() -> None:
    assert SECRET not in repr(_endpoint(password=SECRET))
    with pytest.raises(ConfigError) as refused:
        _endpoint(password=SECRET, extra={"unheard_of": SECRET})
    assert SECRET not in str(refused.value)


def test_every_spelling_of_the_password_is_masked_from_then_on() -> None:
    from airflow.providers.common.compat.sdk import redact

    _endpoint(password=SECRET)
    for spelling in ("p%40ss%3Aw%2Fo%25rd%5C%20", "p%40ss%3Aw%2Fo%25rd%5C+", "p%40ss%3Aw/o%25rd%5C%20"):
        text = f"postgres://u:{spelling}%EB%B9%84%EB%B0%80@db"
        assert spelling not in str(redact(text))


def _hook(psql: str | None = None) -> Any:
    from airflow_provider_safecopy.hooks.safecopy import SafeCopyHook

    return SafeCopyHook("erp", "dw", psql=psql)


SPEC = CopySpec.of(source_table="영업.고객", target_table="분석.고객")


def test_the_hook_copies_between_its_two_connections(tables: tuple[Database, Database]) -> None:
    source, target = tables
    report = _hook().copy(SPEC, owner="시험")
    assert (report.status, report.rows, report.previous_rows) == ("published", 3, 1)
    assert target.rows("TABLE 분석.고객 ORDER BY 1") == source.rows("TABLE 영업.고객 ORDER BY 1")


def test_the_hook_plans_and_touches_nothing(tables: tuple[Database, Database]) -> None:
    _, target = tables
    plan = _hook().plan(SPEC)
    assert not plan.refusals
    assert [step.stage for step in plan.steps()][-2:] == ["publish", "publish"]
    assert target.value("SELECT count(*) FROM pg_namespace WHERE nspname = 'safecopy'") == 0


def test_the_hook_s_psql_is_the_one_that_is_used(tables: tuple[Database, Database], tmp_path: Any) -> None:
    nowhere = str(tmp_path / "없는_psql")
    with pytest.raises(PlanError, match=re.escape(nowhere)):
        _hook(psql=nowhere).copy(SPEC)


def test_testing_the_connection_says_what_was_found(tables: tuple[Database, Database]) -> None:
    fit, found = _hook().test_connection()
    assert fit, found
    assert "psql" in found


def test_testing_the_connection_warns_of_a_name_that_other_airflows_may_have(
    tables: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW__SAFECOPY__DEPLOYMENT_ID", raising=False)
    fit, found = _hook().test_connection()
    assert fit, found
    assert "deployment: warning: " in found
    assert "deployment_id" in found
    monkeypatch.setenv("AIRFLOW__SAFECOPY__DEPLOYMENT_ID", "운영")
    assert "deployment" not in _hook().test_connection()[1]


def test_testing_the_connection_says_what_is_wrong(tables: tuple[Database, Database], connect: Connect) -> None:
    source, _ = tables
    connect("erp", source, password=SECRET)
    fit, found = _hook().test_connection()
    assert not fit
    assert "failed" in found
    assert SECRET not in found
