"""TLS and passwords: what psql lacks of psycopg's is found before a copy begins, and what is in order is said nothing of."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from airflow_provider_safecopy import doctor, pipeline
from airflow_provider_safecopy.demo.home import Account
from airflow_provider_safecopy.demo.servers import Installation, Server, installations
from airflow_provider_safecopy.errors import PlanError, StageError
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.postgres.psql import find_psql, has_tls
from airflow_provider_safecopy.spec import CopySpec
from tests.support.database import Database

_SPEC = CopySpec.of(source_table="public.표", target_table="public.표")
_WITHOUT = [each for each in installations() if not has_tls(find_psql(str(each.psql)))]
_WITH = [each for each in installations() if has_tls(find_psql(str(each.psql)))]


@pytest.fixture
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that speaks TLS, of an installation that can."""
    if not _WITH or shutil.which("openssl") is None:
        pytest.skip("no PostgreSQL of this machine was built with TLS, or there is no openssl to make a certificate")
    installation: Installation = _WITH[0]
    place = Path(os.path.realpath("/tmp")) / tmp_path_factory.mktemp("tls").name
    place.mkdir(0o755)
    key, certificate, account = place / "key", place / "certificate", Account.of_servers()
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"]
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    key.chmod(0o600)
    os.chown(key, account.user, account.group)
    settings = {"ssl": "on", "ssl_cert_file": str(certificate), "ssl_key_file": str(key)}
    try:
        with Server.start(installation, durable=False, settings=settings) as server:
            yield server
    finally:
        shutil.rmtree(place)


@pytest.mark.skipif(not _WITHOUT, reason="each psql of this machine was built with TLS")
def test_a_psql_without_tls_is_found_before_the_export(secure: Server, target: Database) -> None:
    """The kind: psql is another program than the control session's library, and may know less."""
    with psycopg.connect(secure.conninfo(), autocommit=True) as session:
        session.execute("CREATE TABLE 표 (a int); INSERT INTO 표 VALUES (1)".encode())
    target.execute("CREATE TABLE 표 (a int)")
    endpoint = Endpoint.from_conninfo(f"{secure.conninfo()} sslmode=require")
    without, able = str(_WITHOUT[0].psql), str(_WITH[0].psql)
    checks = doctor.examine(endpoint, target.endpoint, psql=without)
    assert [each.outcome for each in checks if each.name == "psql TLS"] == ["failed"]
    spec = CopySpec.of(source_table="public.표", target_table="public.표", psql=without)
    for run in (pipeline.plan, pipeline.copy):
        if run is pipeline.plan:
            assert [each.code for each in run(spec, endpoint, target.endpoint).refusals] == ["psql"]
        else:
            with pytest.raises(PlanError, match="demands TLS"):
                run(spec, endpoint, target.endpoint)
    preferred = Endpoint.from_conninfo(secure.conninfo())
    assert any("unencrypted" in each for each in pipeline.copy(spec, preferred, target.endpoint).warnings)
    with_tls = CopySpec.of(source_table="public.표", target_table="public.표", psql=able)
    assert not any("unencrypted" in each for each in pipeline.copy(with_tls, endpoint, target.endpoint).warnings)


def test_without_a_password_nothing_is_said_of_files(
    source: Database, target: Database, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """The kind: what is in order is quiet. A server that trusts us needs no password file."""
    with Server.start(source.server.installation, durable=False) as server:
        rules = server.execute("postgres", "SHOW hba_file")[0][0]
        Path(rules).write_text("host all all 127.0.0.1/32 trust\n", encoding="ascii")
        server.execute("postgres", "SELECT pg_reload_conf()")
        server.execute("postgres", "CREATE TABLE 표 (a int); INSERT INTO 표 VALUES (1)")
        trusting = Endpoint.from_conninfo(f"host=127.0.0.1 port={server.port} dbname=postgres user=postgres")
        target.execute("CREATE TABLE 표 (a int)")
        with caplog.at_level(logging.DEBUG):
            assert pipeline.copy(_SPEC, trusting, target.endpoint).rows == 1
            failing = CopySpec.of(
                source_table="public.표", target_table="public.표", where="1 / (a - 1) = 1", min_rows=0
            )
            with pytest.raises(StageError) as caught:
                pipeline.copy(failing, trusting, target.endpoint)
    assert "division by zero" in str(caught.value)
    assert "/dev/null" not in f"{caught.value.as_dict()} {caplog.text} {capfd.readouterr()}"
