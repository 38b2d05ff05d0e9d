"""Endpoints: libpq's own words, the same server for psycopg and psql, and a password nobody sees."""

from __future__ import annotations

import logging
import os
import pickle
import re
import select
import socket
import subprocess
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.sql import SQL

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.errors import ConfigError, StageError
from airflow_provider_safecopy.planning.copy_script import export_script
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.postgres.psql import Psql, PsqlBinary, end_children, make_memory_file
from airflow_provider_safecopy.postgres.session import open_session
from airflow_provider_safecopy.spec import CopySpec
from tests.conftest import MakeDatabase, MakeRole, NothingLeft
from tests.support.database import PRESENT, Database

SECRET = "s3cret-비밀"


def parameters_of(database: Database) -> dict[str, Any]:
    return dict(conninfo_to_dict(database.conninfo))


def with_password(database: Database, password: str) -> Database:
    """The database as its role sees it, that role having this password."""
    assert database.role
    owner = Database(database.server, database.name)
    with owner.connect() as session:
        session.execute(
            psycopg.sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                psycopg.sql.Identifier(database.role), psycopg.sql.Literal(password)
            )
        )
    return database.as_role(database.role, password)


def start(psql: str, endpoint: Endpoint, *arguments: str, stdin: int = subprocess.DEVNULL) -> Psql:
    return Psql.start(
        "export",
        PsqlBinary(psql, 18),
        endpoint,
        nonce="0123456789abcdef",
        arguments=arguments,
        stdin=stdin,
        inherit=(),
        application_name="safecopy:test",
        connect_timeout=10,
    )


def said(psql: str, endpoint: Endpoint, query: str = "SELECT current_user || '@' || current_database()") -> str:
    """What a psql started on the endpoint answers: first to psycopg, then by the very way a stage takes."""
    with endpoint.connect(application_name="safecopy:test", connect_timeout=10) as session:
        narrowed = endpoint.narrow_to(session)
    script = make_memory_file(f"{query} AS answer \\gset\n\\warn :answer\n")
    child = start(psql, narrowed, "-f", "-", stdin=script)
    os.close(script)
    while child.read_stderr():
        assert select.select([child.stderr], [], [], 30)[0]
    child.process.wait(100)
    end_children([child])
    assert child.process.returncode == 0, child.transcript.tail
    return child.transcript.tail


# Words


@pytest.mark.parametrize(
    "conninfo, label",
    [
        ("host=db.example port=5433 dbname=영업 user=철수", "db.example:5433/영업"),
        ("postgresql://%EC%B2%A0%EC%88%98:p%40ss@db.example:5433/%EC%98%81%EC%97%85", "db.example:5433/영업"),
        ("postgres://db.example/erp", "db.example:5432/erp"),
        ("host=db.example user=erp", "db.example:5432/erp"),
        ("hostaddr=10.0.0.1 dbname=erp", "10.0.0.1:5432/erp"),
        ("host=/run/postgresql dbname=erp", "/run/postgresql:5432/erp"),
        ("host=one,two port=1,2 dbname=erp", "one,two:1,2/erp"),
        ("service=erp", "service=erp"),
        ("dbname=erp", "local:5432/erp"),
        ("", "local:5432/"),
    ],
)
def test_conninfo_and_uri_are_read_as_libpq_does(conninfo: str, label: str) -> None:
    endpoint = Endpoint.from_conninfo(conninfo)
    assert str(endpoint) == endpoint.label == label
    assert dict(endpoint.parameters) == conninfo_to_dict(conninfo)


def test_parameters_by_name_drop_what_is_not_given() -> None:
    endpoint = Endpoint.from_parameters({"host": "db", "port": 5433, "user": None, "password": "", "dbname": "erp"})
    assert dict(endpoint.parameters) == {"host": "db", "port": "5433", "dbname": "erp"}


def test_an_unknown_parameter_is_named_and_its_value_is_not() -> None:
    with pytest.raises(ConfigError, match="unknown connection parameter: pasword, schema") as caught:
        Endpoint.from_parameters({"host": "db", "schema": "public", "pasword": SECRET})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "conninfo",
    [
        f"host=db pasword={SECRET}",
        f"host=db password={SECRET} and more",
        f"host=db password='{SECRET}",
        f"postgresql://철수:{SECRET}@[db/erp",
        f"postgresql://철수:{SECRET}%zz@db/erp",
        f"postgresql://db/erp?password={SECRET}&nonsense=1",
        f"host=db pass word = {SECRET} '",
        "host=\udcff",
    ],
)
def test_what_cannot_be_read_is_refused_without_repeating_a_secret(conninfo: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Endpoint.from_conninfo(conninfo)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_what_cannot_be_read_is_told_with_an_example() -> None:
    with pytest.raises(ConfigError, match="invalid connection option") as caught:
        Endpoint.from_conninfo("hots=db")
    assert "postgresql://user@host:port/dbname" in caught.value.hint


@pytest.mark.parametrize("value", ["a\0b", "a\udcffb"])
def test_a_parameter_that_is_no_text_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="parameter dbname is not a text"):
        Endpoint.from_parameters({"dbname": value})


@pytest.mark.parametrize("password", ["two\nlines", "two\rlines"])
def test_a_password_with_a_line_break_is_refused_before_anything_is_connected_to(password: str) -> None:
    with pytest.raises(ConfigError, match="line break") as caught:
        Endpoint.from_parameters({"password": password})
    assert "lines" not in str(caught.value)


@pytest.mark.parametrize("name", ["sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"])
def test_a_secret_that_psql_could_only_get_on_its_command_line_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name) as caught:
        Endpoint.from_parameters({"host": "db", name: SECRET})
    assert SECRET not in str(caught.value)
    assert caught.value.hint


def test_every_parameter_libpq_hides_is_kept_from_the_command_line() -> None:
    hidden = [option.keyword.decode() for option in pq.Conninfo.get_defaults() if option.dispchar == b"*"]
    assert "password" in hidden
    for name in hidden:
        try:
            endpoint = Endpoint.from_parameters({"host": "db", name: SECRET})
        except ConfigError:
            continue
        assert SECRET not in endpoint.psql_conninfo()


def test_nothing_it_shows_holds_the_password() -> None:
    endpoint = Endpoint.from_parameters({"host": "db", "dbname": "erp", "user": "철수", "password": SECRET})
    for shown in (str(endpoint), repr(endpoint), f"{endpoint!r:>80}", endpoint.psql_conninfo(), repr([endpoint])):
        assert SECRET not in shown
    assert pickle.loads(pickle.dumps(endpoint)).parameters["password"] == SECRET


# The same server, database and role, for psycopg and psql


@pytest.mark.parametrize("major", PRESENT)
def test_by_conninfo(database: MakeDatabase, psql: str, major: int) -> None:
    target = database(major=major)
    assert said(psql, target.endpoint) == f"postgres@{target.name}"


def test_by_uri(target: Database, psql: str, role: MakeRole) -> None:
    reader = with_password(role(target), "p@ss/w:or?d#%")
    user, name = ("".join(f"%{byte:02X}" for byte in text.encode()) for text in (reader.role or "", target.name))
    uri = f"postgresql://{user}:p%40ss%2Fw%3Aor%3Fd%23%25@127.0.0.1:{target.server.port}/{name}?sslmode=disable"
    assert said(psql, Endpoint.from_conninfo(uri)) == f"{reader.role}@{target.name}"


@pytest.mark.parametrize(
    "password",
    [
        "a:b",
        "back\\slash",
        "\\",
        ":",
        "\\:\\\\:",
        " lead and trail ",
        "\ttab",
        "비밀번호 똠방각하",
        "비밀번호",
        'it\'s "quoted"',
        "#comment",
        "*",
        "$HOME `id` ;&|",
        "=?@/%",
        "x" * 900,
    ],
)
def test_any_password_reaches_psql(target: Database, psql: str, role: MakeRole, password: str) -> None:
    reader = with_password(role(target), password)
    assert said(psql, reader.endpoint) == f"{reader.role}@{target.name}"


@pytest.mark.parametrize(
    "name", ["이름 with blanks", "it's", 'dou"ble', "back\\slash", "a=b host=elsewhere", "postgresql://x"]
)
def test_any_database_name_reaches_psql(target: Database, psql: str, name: str) -> None:
    with target.connect() as session:
        session.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
        try:
            endpoint = Endpoint.from_parameters(parameters_of(target) | {"dbname": name})
            assert said(psql, endpoint) == f"postgres@{name}"
        finally:
            session.execute(psycopg.sql.SQL("DROP DATABASE {} WITH (FORCE)").format(psycopg.sql.Identifier(name)))


def test_by_unix_socket(target: Database, psql: str) -> None:
    endpoint = Endpoint.from_parameters(parameters_of(target) | {"host": str(target.server.socket_directory)})
    query = "SELECT coalesce(inet_server_addr()::text, 'socket')"
    assert said(psql, endpoint, query) == "socket"


def test_by_address_beside_a_name_that_does_not_resolve(target: Database, psql: str) -> None:
    endpoint = Endpoint.from_parameters(parameters_of(target) | {"host": "없음.invalid", "hostaddr": "127.0.0.1"})
    assert said(psql, endpoint) == f"postgres@{target.name}"


def test_of_several_hosts_psql_gets_the_one_that_answered(target: Database, psql: str) -> None:
    port = target.server.port
    several = {"host": "127.0.0.1,localhost,127.0.0.1", "port": f"1,{port},{port}"}
    endpoint = Endpoint.from_parameters(parameters_of(target) | several)
    with endpoint.connect(application_name="safecopy:test", connect_timeout=10) as session:
        told = conninfo_to_dict(endpoint.narrow_to(session).psql_conninfo())
    assert (told["host"], told["port"]) == ("localhost", str(port))
    assert said(psql, endpoint) == f"postgres@{target.name}"


def test_of_several_addresses_psql_gets_the_one_that_answered(target: Database, psql: str) -> None:
    port = target.server.port
    several = {"host": "one.invalid,two.invalid", "hostaddr": "127.0.0.1,127.0.0.1", "port": f"1,{port}"}
    assert said(psql, Endpoint.from_parameters(parameters_of(target) | several)) == f"postgres@{target.name}"


@pytest.fixture
def twins(source: Database, target: Database) -> Iterator[tuple[Database, Database]]:
    """Both servers' database `postgres` for one role of one password; the source's sessions are read only."""
    for each in (source, target):
        each.execute(f"CREATE ROLE 쌍둥이 LOGIN PASSWORD '{SECRET}'")
    source.execute("ALTER ROLE 쌍둥이 SET default_transaction_read_only = on")
    one, other = (Database(each.server, "postgres").as_role("쌍둥이", SECRET) for each in (source, target))
    yield one, other
    for each in (source, target):
        each.execute("DROP ROLE 쌍둥이")


@pytest.mark.parametrize("attributes, first", [("read-write", False), ("any", True), ("read-only", True)])
def test_of_several_servers_psql_gets_the_one_with_the_attributes(
    twins: tuple[Database, Database], psql: str, attributes: str, first: bool
) -> None:
    ports = [str(each.server.port) for each in twins]
    several = {"host": "127.0.0.1,127.0.0.1", "port": ",".join(ports), "target_session_attrs": attributes}
    endpoint = Endpoint.from_parameters(parameters_of(twins[0]) | several)
    assert said(psql, endpoint, "SELECT inet_server_port()") == ports[0 if first else 1]


def test_by_service(target: Database, psql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"{key}={value}" for key, value in (parameters_of(target) | {"sslmode": "disable"}).items()]
    (tmp_path / "services").write_text("\n".join(["[영업]", *lines, ""]))
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    endpoint = Endpoint.from_conninfo("service=영업")
    assert str(endpoint) == "service=영업"
    assert said(psql, endpoint) == f"postgres@{target.name}"


def test_a_service_that_is_not_there_is_a_connection_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSERVICEFILE", "/dev/null")
    with pytest.raises(StageError, match="service=없음: cannot connect") as caught:
        Endpoint.from_conninfo("service=없음").connect(application_name="safecopy:test", connect_timeout=5)
    assert caught.value.stage == "connect"


@pytest.fixture
def writer(target: Database, role: MakeRole) -> Database:
    return role(target)


@pytest.fixture
def pgpass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A password file for anybody, which is only found where a test says so."""
    monkeypatch.setenv("HOME", "/nonexistent")
    file = tmp_path / ".pgpass"
    file.write_text("*:*:*:*:co\\:lon\\\\slash 비밀\n")
    file.chmod(0o600)
    return file


@pytest.mark.parametrize("by", ["PGPASSFILE", "passfile", "PGPASSWORD", "~/.pgpass"])
def test_a_password_from_elsewhere_reaches_psql(
    writer: Database, psql: str, pgpass: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    password = "co:lon\\slash 비밀"
    reader = with_password(writer, password)
    given = {key: value for key, value in parameters_of(reader).items() if key != "password"}
    match by:
        case "PGPASSFILE":
            monkeypatch.setenv("PGPASSFILE", str(pgpass))
        case "PGPASSWORD":
            monkeypatch.setenv("PGPASSWORD", password)
        case "passfile":
            given["passfile"] = str(pgpass)
        case _:
            monkeypatch.setenv("HOME", str(pgpass.parent))
    assert said(psql, Endpoint.from_parameters(given)) == f"{reader.role}@{reader.name}"


def test_where_psycopg_used_no_password_psql_looks_for_none(
    target: Database, psql: str, pgpass: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = parameters_of(target)
    pgpass.write_text(f"*:*:*:*:{given.pop('password')}\n")
    monkeypatch.setenv("HOME", str(pgpass.parent))
    child = start(psql, Endpoint.from_parameters(given), "-c", "SELECT 1")
    assert child.process.wait(100) == 2
    end_children([child])
    assert "no password supplied" in child.transcript.tail


def test_a_role_taken_on_by_options_is_psqls_too(target: Database, psql: str, role: MakeRole) -> None:
    loader = role(target, "NOLOGIN").role
    given = parameters_of(target) | {"options": f"-c role={loader}"}
    assert said(psql, Endpoint.from_parameters(given)) == f"{loader}@{target.name}"


def test_every_session_is_named_and_speaks_utf8(target: Database, psql: str) -> None:
    asked = "SELECT current_setting('application_name') || ' ' || current_setting('client_encoding')"
    given = parameters_of(target) | {"application_name": "mine", "client_encoding": "EUC_KR"}
    endpoint = Endpoint.from_parameters(given)
    assert said(psql, endpoint, asked) == "safecopy:test UTF8"
    with endpoint.connect(application_name="safecopy:test", connect_timeout=10) as session:
        assert session.execute(asked.encode()).fetchone() == ("safecopy:test UTF8",)
        assert session.autocommit


def test_a_dead_peer_is_looked_for_unless_the_user_says_otherwise(target: Database) -> None:
    told = conninfo_to_dict(target.endpoint.psql_conninfo())
    assert (told["keepalives"], told["keepalives_idle"]) == ("1", "10")
    own = Endpoint.from_parameters(parameters_of(target) | {"keepalives_idle": "77"})
    assert conninfo_to_dict(own.psql_conninfo())["keepalives_idle"] == "77"
    with own.connect(application_name="safecopy:test", connect_timeout=10) as session:
        assert session.info.get_parameters()["keepalives_idle"] == "77"


def test_an_import_into_a_server_that_stands_still_for_a_while_is_not_cut(target: Database) -> None:
    """With `tcp_user_timeout` Linux ends a connection whose bytes wait in the sender, though the server's kernel answers.

    Seen: a COPY whose backend stood still for 45 s failed after 25 s. What stalls is for `stall_timeout` to say.
    """
    with target.endpoint.connect(application_name="safecopy:test", connect_timeout=10) as session:
        assert session.info.get_parameters()["tcp_user_timeout"] == "25000", (
            "questions are answered, or nobody is there"
        )
        reached = target.endpoint.narrow_to(session)
    assert "tcp_user_timeout" not in conninfo_to_dict(reached.psql_conninfo())
    own = Endpoint.from_parameters(parameters_of(target) | {"tcp_user_timeout": "60000"})
    with own.connect(application_name="safecopy:test", connect_timeout=10) as session:
        assert conninfo_to_dict(own.narrow_to(session).psql_conninfo())["tcp_user_timeout"] == "60000"


def test_a_server_asks_by_itself_whether_its_client_is_still_there(target: Database) -> None:
    """Else it keeps the session of a client whose machine has lost its power for two hours."""
    with open_session(target.endpoint, application_name="safecopy:test", connect_timeout=5) as session:
        asked = "SELECT current_setting('tcp_keepalives_idle'), current_setting('tcp_keepalives_count')"
        assert session.connection.execute(asked.encode()).fetchone() == ("30", "3")
    read = SQL("SELECT current_setting('tcp_keepalives_idle')")
    script = export_script(
        read, format="text", snapshot="00000003-00000001-1", output="/dev/null", nonce="0", seconds=1
    )
    assert re.search(r"tcp_keepalives_idle\W+30", script)


# Nobody sees the password


def test_neither_the_command_line_nor_the_environment_of_a_living_psql_holds_the_password(
    target: Database, psql: str, role: MakeRole, nothing_left: NothingLeft
) -> None:
    reader = with_password(role(target), SECRET)
    with reader.endpoint.connect(application_name="safecopy:test", connect_timeout=10) as session:
        narrowed = reader.endpoint.narrow_to(session)
    child = start(psql, narrowed, "-c", "\\warn ready", "-c", "SELECT pg_sleep(600)")
    while "ready" not in child.transcript.tail:
        assert select.select([child.stderr], [], [], 30)[0]
        assert child.read_stderr()
    process = Path(f"/proc/{child.pid}")
    secret = SECRET.encode()
    assert secret not in (process / "cmdline").read_bytes()
    assert secret not in (process / "environ").read_bytes()
    assert str(reader.role) in (process / "cmdline").read_bytes().decode()
    # Nor does any other process of ours, and nothing is on disk.
    assert not any(secret.decode() in " ".join(each.cmdline()) for each in psutil.Process().children(recursive=True))
    (file,) = [path for path in (process / "fd").iterdir() if "safecopy-password" in str(path.readlink())]
    assert secret in file.read_bytes()
    assert file.stat().st_mode & 0o077 == 0
    # Between its two statements it would not cancel the one it is about to send.
    deadline = time.monotonic() + 30
    while not target.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"):
        assert time.monotonic() < deadline
    end_children([child])
    nothing_left(target)


def test_the_password_file_is_gone_when_psql_has_been_started(target: Database) -> None:
    with target.endpoint.psql_environment(application_name="x", connect_timeout=5) as (environment, (descriptor,)):
        assert environment["PGPASSFILE"] == f"/proc/self/fd/{descriptor}"
        assert not os.get_inheritable(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_without_a_password_there_is_no_password_file() -> None:
    endpoint = Endpoint.from_conninfo("host=db")
    with endpoint.psql_environment(application_name="x", connect_timeout=5) as (environment, descriptors):
        assert environment["PGPASSFILE"] == f"{os.devnull}/none"
        assert descriptors == []


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_wrong_password_is_never_shown(
    source: Database, target: Database, role: MakeRole, caplog: pytest.LogCaptureFixture, side: str
) -> None:
    caplog.set_level(logging.DEBUG)
    ends = {"source": source, "target": target}
    wrong = role(ends[side])
    ends[side] = wrong.as_role(wrong.role or "", SECRET)
    spec = CopySpec.of(source_table="영업.고객", target_table="영업.고객")
    for attempt in (pipeline.plan, pipeline.copy):
        with pytest.raises(StageError, match="password authentication failed") as caught:
            attempt(spec, ends["source"].endpoint, ends["target"].endpoint)
        error = caught.value
        assert (error.stage, error.retryable, error.hint) == ("connect", False, "check the password")
        assert ends[side].name in str(error)
        shown = [str(error), repr(error), str(error.as_dict()), *traceback.format_exception(error), caplog.text]
        shown += [repr(vars(error)), repr(error.__cause__), str(error.__context__), repr(spec)]
        assert not [text for text in shown if SECRET in text]


def test_a_password_that_happens_to_be_in_the_servers_words_is_masked() -> None:
    error = Endpoint.from_conninfo("host=127.0.0.1 port=1 user=u password=refused")._unreachable(
        psycopg.OperationalError("connection refused")
    )
    assert "refused" not in str(error)
    assert "***" in str(error)


# Unreachable


def test_a_missing_password_is_told_as_that(target: Database) -> None:
    without = {key: value for key, value in parameters_of(target).items() if key != "password"}
    with pytest.raises(StageError) as caught:
        Endpoint.from_parameters(without).connect(application_name="safecopy:test", connect_timeout=5)
    assert (caught.value.hint, caught.value.retryable) == ("check the password", False)


@pytest.mark.parametrize(
    "conninfo, retryable",
    [
        ("host=127.0.0.1 port=1 dbname=erp user=u", True),
        ("host=no..such..name dbname=erp user=u", False),
        ("host=/nonexistent dbname=erp user=u", True),
    ],
)
@pytest.mark.parametrize("side", ["source", "target"])
def test_an_unreachable_server(target: Database, conninfo: str, retryable: bool, side: str) -> None:
    spec = CopySpec.of(source_table="영업.고객", target_table="영업.고객")
    away = Endpoint.from_conninfo(conninfo)
    ends = (away, target.endpoint) if side == "source" else (target.endpoint, away)
    with pytest.raises(StageError, match=f"^{away}: cannot connect: ") as caught:
        pipeline.plan(spec, *ends)
    assert (caught.value.stage, caught.value.retryable) == ("connect", retryable)
    assert caught.value.hint == "check host, port and network"


@pytest.mark.parametrize("wrong", ["dbname", "user"])
def test_a_database_or_a_role_that_is_not_there_is_not_tried_again(target: Database, wrong: str) -> None:
    with pytest.raises(StageError) as caught:
        Endpoint.from_parameters(parameters_of(target) | {wrong: "없음"}).connect(
            application_name="safecopy:test", connect_timeout=5
        )
    assert not caught.value.retryable


def test_a_server_that_never_answers_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = Endpoint.from_conninfo(f"host=127.0.0.1 port={silent.getsockname()[1]} dbname=erp user=u")
        began = time.monotonic()
        with pytest.raises(StageError, match="timeout") as caught:
            endpoint.connect(application_name="safecopy:test", connect_timeout=0.1)
        assert time.monotonic() - began < 20  # libpq counts in whole seconds, and never less than two
    assert caught.value.retryable


def test_the_connect_timeout_is_psqls_too() -> None:
    with Endpoint.from_conninfo("host=db connect_timeout=99").psql_environment(
        application_name="x", connect_timeout=7.4
    ) as (environment, _):
        assert environment["PGCONNECT_TIMEOUT"] == "7"


def test_sessions_are_prepared_for_a_transaction_pooler(target: Database) -> None:
    with target.endpoint.connect(application_name="safecopy:test", connect_timeout=10) as session:
        assert session.prepare_threshold is None


def test_a_conninfo_made_of_the_parameters_is_the_conninfo(target: Database) -> None:
    assert conninfo_to_dict(make_conninfo(**target.endpoint.parameters)) == parameters_of(target)
