"""A bare Airflow for the whole suite, connected to the databases of each test."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.airflow.home import AirflowHome, Ran, copying
from tests.support.database import Database

HERE = Path(__file__).parent
Connect = Callable[..., None]
RunDag = Callable[..., Ran]
RunCopy = Callable[..., Ran]
RunFile = Callable[..., Ran]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Airflow, and what it stands on, warns about itself when it runs in our process. We may not.

    It also takes the alarm clock for itself while it reads a DAG file: only a thread can watch over a test.
    """
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.filterwarnings("ignore", "error:::airflow_provider_safecopy"))
            item.add_marker(pytest.mark.timeout(300, method="thread"))


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowHome]:
    """Airflow's home, its database made. From here on Airflow may be imported, inside tests."""
    home = AirflowHome(tmp_path_factory.mktemp("airflow"))
    home.dags.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in home.environment().items():
            patch.setenv(name, value)
        shared = "PYTEST_XDIST_WORKER" in os.environ
        home.fill(tmp_path_factory.getbasetemp().parent if shared else tmp_path_factory.mktemp("migrated"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import airflow.models  # noqa: F401 -- what it warns of while it is imported is not ours
        _make_the_api_once(patch)
        yield home


def _make_the_api_once(patch: pytest.MonkeyPatch) -> None:
    """As Airflow 3.3 does. Airflow 3.2 makes its API anew for each task of ``dag.test()``, for seconds each."""
    if importlib.util.find_spec("airflow.sdk") is not None:
        supervisor = importlib.import_module("airflow.sdk.execution_time.supervisor")
        patch.setattr(supervisor, "in_process_api_server", cache(supervisor.in_process_api_server))


@pytest.fixture(autouse=True)
def _airflow(airflow: AirflowHome) -> None:
    """Every test here may import Airflow."""


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Make an Airflow connection of a database: ``connect("erp", source)``."""

    def make(conn_id: str, database: Database, **others: Any) -> None:
        given = conninfo_to_dict(database.conninfo)
        fields = {"host": given["host"], "port": given["port"], "schema": given["dbname"]}
        fields |= {"login": given["user"], "password": given["password"], "conn_type": "postgres"}
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields | others))

    return make


@pytest.fixture
def tables(source: Database, target: Database, connect: Connect) -> tuple[Database, Database]:
    """``영업.고객`` with three rows in `source`, ``분석.고객`` with one old row in `target`; connections erp and dw."""
    source.execute("CREATE SCHEMA 영업; CREATE TABLE 영업.고객 (번호 bigint PRIMARY KEY, 이름 text)")
    source.execute("INSERT INTO 영업.고객 VALUES (1, '김하나'), (2, NULL), (3, '똠방각하 \\N')")
    target.execute("CREATE SCHEMA 분석; CREATE TABLE 분석.고객 (번호 bigint PRIMARY KEY, 이름 text)")
    target.execute("INSERT INTO 분석.고객 VALUES (9, '옛 고객')")
    connect("erp", source)
    connect("dw", target)
    return source, target


@pytest.fixture
def run_dag(airflow: AirflowHome) -> RunDag:
    """Run a DAG of one's own body by ``dag.test()``, in this process."""

    def run(body: str, **dag: Any) -> Ran:
        with airflow.dag(body, **dag) as dag_id:
            return _ran(airflow, dag_id)

    return run


@pytest.fixture
def run_file(airflow: AirflowHome) -> RunFile:
    """Run a DAG of a given file by ``dag.test()``, in this process, for a given logical date."""

    def run(file: Path, dag_id: str, at: datetime | None = None) -> Ran:
        copied = airflow.dags / file.name
        shutil.copyfile(file, copied)
        try:
            return _ran(airflow, dag_id, at)
        finally:
            copied.unlink()

    return run


@pytest.fixture
def run_copy(run_dag: RunDag) -> RunCopy:
    """Run a DAG of one `SafeCopyOperator`, task id ``복사``, from erp to dw."""

    def run(**parameters: Any) -> Ran:
        return run_dag(copying(**parameters))

    return run


def dag_bag(folder: Path) -> Any:
    """The DAGs of a folder, wherever this Airflow keeps its DagBag."""
    try:
        module = importlib.import_module("airflow.dag_processing.dagbag")
    except ImportError:  # Airflow 2
        module = importlib.import_module("airflow.models.dagbag")
    return module.DagBag(str(folder))


def _ran(airflow: AirflowHome, dag_id: str, at: datetime | None = None) -> Ran:
    from airflow.providers.common.compat.sdk import AirflowTaskTimeout

    found = dag_bag(airflow.dags)
    assert not found.import_errors, found.import_errors
    dag = found.dags[dag_id]
    date = "logical_date"
    if hasattr(dag, "sync_to_db"):  # Airflow 2 does not do so by itself, and knows no dataset before
        dag.sync_to_db()
        date = "execution_date"
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.suppress(AirflowTaskTimeout):  # Airflow 2 lets it out, when the task has failed
            dag.test(**({date: at} if at else {}))
    finally:
        signal.signal(signal.SIGTERM, terminate)  # Airflow leaves its own there, and nobody could end the suite
    return airflow.ran(dag_id)
