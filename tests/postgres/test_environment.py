"""The environment never decides where a session goes, nor as whom, nor how: the connection alone does.

A worker's variables are its owner's, or left from another job: libpq would fill in with them whatever a connection
leaves open, and both ends of a copy would go elsewhere.
"""

from __future__ import annotations

import os
import pwd
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from psycopg import pq

from airflow_provider_safecopy import doctor, pipeline
from airflow_provider_safecopy.errors import StageError
from airflow_provider_safecopy.lock.living_lock import LivingLock
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.postgres.environment import find_ignored_variables, shield_from_environment
from tests.conftest import MakeDatabase, MakeRole, NothingLeft
from tests.postgres.test_endpoint import parameters_of, said
from tests.support.customers import same, spec
from tests.support.database import Database

SECRETS = {"PGPASSWORD", "PGPASSFILE"}
OURS = {"PGAPPNAME", "PGCLIENTENCODING", "PGCONNECT_TIMEOUT"}
VARIABLES = {option.envvar.decode() for option in pq.Conninfo.get_defaults() if option.envvar} | {"PGREQUIRESSL"}
ELSEWHERE = {
    "PGHOST": "203.0.113.1",
    "PGHOSTADDR": "203.0.113.1",
    "PGPORT": "1",
    "PGDATABASE": "없는_곳",
    "PGUSER": "아무개",
    "PGSERVICE": "없는_서비스",
    "PGOPTIONS": "-c search_path=없음 -c default_transaction_read_only=on -c role=아무개",
    "PGTARGETSESSIONATTRS": "standby",
    "PGLOADBALANCEHOSTS": "random",
    "PGSSLMODE": "verify-full",
    "PGREQUIRESSL": "1",
    "PGREQUIREAUTH": "none",
    "PGCHANNELBINDING": "require",
    "PGGSSENCMODE": "require",
}
"""What leads elsewhere, or keeps from where it should go. All others are set to a text that libpq cannot read."""

Set = Callable[..., None]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Set:
    def set_all(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_all


def _backend(endpoint: Endpoint) -> tuple[int, str, str, str]:
    with endpoint.connect(application_name="safecopy:test", connect_timeout=10) as session:
        asked = b"SELECT inet_server_port(), current_database(), session_user, current_setting('search_path')"
        found = session.execute(asked).fetchone()
        assert found is not None
        port, database, user, path = found
        return port, database, user, path


@pytest.mark.parametrize("variable", sorted(VARIABLES - SECRETS))
def test_no_variable_has_a_say_in_a_connection_that_is_given_in_full(
    target: Database, psql: str, environment: Set, variable: str
) -> None:
    usual = _backend(target.endpoint)
    environment(**{variable: ELSEWHERE.get(variable, "무엇")})
    assert _backend(target.endpoint) == usual
    assert said(psql, target.endpoint) == f"postgres@{target.name}"
    assert os.environ[variable] == ELSEWHERE.get(variable, "무엇")


def test_nor_have_all_of_them_at_once(
    filled: tuple[Database, Database], environment: Set, nothing_left: NothingLeft
) -> None:
    """Of a copy and of a lock: of its control sessions, its psql, its lock's session, its watches."""
    source, target = filled
    plain = [(each, each.endpoint) for each in filled]
    environment(**{name: ELSEWHERE.get(name, "무엇") for name in VARIABLES - SECRETS})
    report = pipeline.copy(spec(), source.endpoint, target.endpoint)
    assert report.rows == 2000
    with LivingLock("집계", target.conninfo) as lock:
        lock.heartbeat()
    for name in VARIABLES - SECRETS:
        os.environ.pop(name, None)  # the test's own sessions obey them
    assert same(source, target)
    assert [endpoint.ignored for _, endpoint in plain] == [(), ()]
    nothing_left(source, target)


def test_a_parameter_that_is_left_open_is_libpqs_own_default(environment: Set) -> None:
    """Not what the environment says: the usual port, and the user and the database of that name."""
    environment(PGHOST="a", PGPORT="1", PGUSER="b", PGDATABASE="c", PGSSLMODE="disable")
    with shield_from_environment({}) as said_instead:
        user = pwd.getpwuid(os.geteuid()).pw_name
        assert said_instead == {"host": "", "port": "5432", "user": user, "dbname": "", "sslmode": "prefer"}


def test_what_is_ignored_is_named_once_in_plan_report_and_doctor(
    filled: tuple[Database, Database], environment: Set
) -> None:
    source, target = filled
    environment(PGHOSTADDR="203.0.113.1", PGOPTIONS="-c role=x", PGHOST="203.0.113.1", PGPASSWORD="x")
    told = "PGHOSTADDR, PGOPTIONS in the environment: ignored; only the connection says where it goes"
    plan = pipeline.plan(spec(), source.endpoint, target.endpoint)
    assert [warning for warning in plan.warnings if "PG" in warning] == [told]
    (planned,) = pipeline.plan_tables([spec()], source.endpoint, target.endpoint)
    assert told in planned.warnings
    assert told in pipeline.copy(spec(), source.endpoint, target.endpoint).warnings
    checks = {check.name: check for check in doctor.examine(source.endpoint, target.endpoint)}
    assert checks["source environment"].outcome == checks["target environment"].outcome == "warning"
    assert checks["source environment"].detail == told


def test_a_connection_that_fails_says_that_the_environment_has_no_say(environment: Set) -> None:
    environment(PGHOST="127.0.0.1", PGPORT="1")
    with pytest.raises(StageError) as caught:
        Endpoint.from_conninfo("dbname=x user=y").connect(application_name="safecopy:test", connect_timeout=5)
    assert "PGHOST, PGPORT in the environment" in caught.value.hint


@pytest.fixture
def service(target: Database, tmp_path: Path, environment: Set) -> Path:
    """A service that says all but the options."""
    file = tmp_path / "services"
    lines = [f"{key}={value}" for key, value in parameters_of(target).items()]
    file.write_text("\n".join(["[영업]", *lines, ""]))
    environment(PGSERVICEFILE=str(file))
    return file


@pytest.mark.usefixtures("service")
def test_a_service_that_the_connection_names_says_what_the_variables_may_not(
    target: Database, psql: str, environment: Set
) -> None:
    environment(**{name: ELSEWHERE.get(name, "무엇") for name in VARIABLES - SECRETS})
    endpoint = Endpoint.from_conninfo("service=영업")
    assert said(psql, endpoint) == f"postgres@{target.name}"
    assert {"PGPORT", "PGOPTIONS"} <= {*endpoint.ignored}
    assert "PGSERVICE" not in endpoint.ignored
    assert os.environ["PGPORT"] == "1"


@pytest.mark.usefixtures("service")
def test_a_service_that_only_the_environment_names_is_none(
    target: Database, database: MakeDatabase, psql: str, environment: Set
) -> None:
    """Though all it says is known: another database, another role."""
    other = database(major=target.major)
    environment(PGSERVICE="영업")
    assert said(psql, other.endpoint) == f"postgres@{other.name}"


def test_of_several_hosts_the_connection_says_which_one_is_wanted(
    database: MakeDatabase, psql: str, environment: Set
) -> None:
    """A preference is tried in two rounds, the second of which psycopg leaves to libpq."""
    one = database()
    given = parameters_of(one)
    several = {"host": "127.0.0.1,127.0.0.1", "port": f"1,{given['port']}", "target_session_attrs": "prefer-standby"}
    environment(PGTARGETSESSIONATTRS="standby", PGLOADBALANCEHOSTS="random")
    assert said(psql, Endpoint.from_parameters(given | several)) == f"postgres@{one.name}"


def test_passwords_may_still_come_from_the_environment(target: Database, role: MakeRole, environment: Set) -> None:
    reader = role(target)
    environment(PGPASSWORD=reader.password or "", PGUSER="아무개")
    given = {key: value for key, value in parameters_of(reader).items() if key != "password"}
    endpoint = Endpoint.from_parameters(given)
    assert _backend(endpoint)[2] == reader.role
    assert endpoint.ignored == ()


def test_a_password_of_the_environment_never_replaces_one_that_is_given(
    target: Database, psql: str, environment: Set, tmp_path: Path
) -> None:
    wrong = tmp_path / "pgpass"
    wrong.write_text("*:*:*:*:틀림\n")
    wrong.chmod(0o600)
    environment(PGPASSWORD="틀림", PGPASSFILE=str(wrong))
    assert said(psql, target.endpoint) == f"postgres@{target.name}"


def test_what_is_hidden_by_several_threads_is_put_back_by_the_last(environment: Set) -> None:
    environment(PGSERVICE="밖")
    inside, leave = threading.Barrier(9), threading.Event()

    def hide() -> None:
        with shield_from_environment({"host": "a"}):
            assert "PGSERVICE" not in os.environ
            inside.wait(100)
            assert leave.wait(100)

    threads = [threading.Thread(target=hide) for _ in range(8)]
    for thread in threads:
        thread.start()
    inside.wait(100)
    with shield_from_environment({"host": "a"}):
        pass
    assert "PGSERVICE" not in os.environ
    leave.set()
    for thread in threads:
        thread.join(100)
    assert os.environ["PGSERVICE"] == "밖"


def test_without_any_variable_nothing_is_added() -> None:
    with shield_from_environment({"host": "a"}) as said_instead:
        assert said_instead == {}
    assert find_ignored_variables({"host": "a"}) == ()
