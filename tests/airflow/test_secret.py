"""The password is nowhere but in the connection."""

from __future__ import annotations

import json
from urllib.parse import quote, quote_plus

from tests.airflow.conftest import Connect
from tests.airflow.home import AirflowHome, copying
from tests.support.database import Database

PASSWORD = "p@ss:w/o%rd\\ 비밀'번호"
SPELLINGS = {
    PASSWORD,
    quote(PASSWORD),
    quote(PASSWORD, safe=""),
    quote_plus(PASSWORD),
    repr(PASSWORD)[1:-1],
    json.dumps(PASSWORD)[1:-1],
}


def test_it_is_in_no_log_no_xcom_and_no_other_place_airflow_keeps_things_in(
    airflow: AirflowHome, tables: tuple[Database, Database], connect: Connect
) -> None:
    for conn_id, database in zip(("erp", "dw"), tables, strict=True):
        role, quoted = f"비밀_{database.name}", PASSWORD.replace("'", "''")
        database.execute(f"CREATE ROLE \"{role}\" SUPERUSER LOGIN PASSWORD '{quoted}'")
        connect(conn_id, database.as_role(role, PASSWORD))
    connect("wrong", tables[0].as_role("postgres", PASSWORD))
    tasks = {
        "published": {"source_table": "영업.고객"},
        "refused": {"source_table": "영업.없는_표"},
        "unreachable": {"source_table": "영업.고객", "source_conn_id": "wrong"},
    }
    body = "\n".join(copying(task_id=task, target_table="분석.고객", **given) for task, given in tasks.items())
    with airflow.dag(body) as dag_id:
        _, said = airflow.run("dags", "test", dag_id)
        states = airflow.ran(dag_id).states
    assert states == {"published": "success", "refused": "failed", "unreachable": "failed"}, said
    assert airflow.holds(dag_id)
    assert airflow.holds(json.dumps("영업.고객")[1:-1])
    for spelling in SPELLINGS:
        assert spelling not in said
        assert not airflow.holds(spelling)
