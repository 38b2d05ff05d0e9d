"""docker-compose.yaml is valid, pinned, and its databases hold what the example DAGs copy."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.spec import CopySpec
from tests.conftest import NothingLeft
from tests.support.database import Database

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docker-compose.yaml"
TOP_LEVEL = {"name", "services", "networks", "volumes", "configs", "secrets", "include"}
OF_A_SERVICE = set(
    "annotations attach blkio_config build cap_add cap_drop cgroup cgroup_parent command configs container_name "  # noqa: SIM905 - shorter
    "cpu_count cpu_percent cpu_period cpu_quota cpu_rt_period cpu_rt_runtime cpu_shares cpus cpuset "
    "credential_spec depends_on deploy develop device_cgroup_rules devices dns dns_opt dns_search domainname "
    "entrypoint env_file environment expose extends external_links extra_hosts gpus group_add healthcheck "
    "hostname image init ipc isolation label_file labels links logging mac_address mem_limit mem_reservation "
    "mem_swappiness memswap_limit models network_mode networks oom_kill_disable oom_score_adj pid pids_limit "
    "platform ports post_start pre_stop privileged profiles provider pull_policy read_only restart runtime scale "
    "secrets security_opt shm_size stdin_open stop_grace_period stop_signal storage_opt sysctls tmpfs tty ulimits "
    "use_api_socket user userns_mode uts volumes volumes_from working_dir".split()
)
_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The file as Compose reads it: variables take their defaults."""
    written = FILE.read_text()
    assert set(re.findall(r"\$\{?\w*", written)) == {match[0].split(":")[0] for match in _VARIABLE.finditer(written)}
    read = yaml.safe_load(_VARIABLE.sub(r"\2", written))
    assert isinstance(read, dict)
    return read


def test_it_holds_what_a_compose_file_may_hold(compose: dict[str, Any]) -> None:
    assert set(compose) <= TOP_LEVEL
    assert set(compose["services"]) == {"source", "target", "airflow"}
    for service in compose["services"].values():
        assert set(service) <= OF_A_SERVICE
        assert {"image", "healthcheck"} <= set(service)


def test_images_are_pinned_to_releases(compose: dict[str, Any]) -> None:
    images = [service["image"] for service in compose["services"].values()]
    assert all(re.fullmatch(r"[a-z/]+:\d+\.\d+[a-z0-9.-]*", image) for image in images)
    pins = (ROOT / ".ci/pins/airflow-3.3.txt").read_text()
    assert re.search(r"^apache-airflow==(\S+)", pins, re.MULTILINE)[1] in compose["services"]["airflow"]["image"]  # type: ignore[index]


def test_who_waits_waits_for_somebody_with_a_healthcheck(compose: dict[str, Any]) -> None:
    services = compose["services"]
    waited_for = services["airflow"]["depends_on"]
    assert set(waited_for) == {"source", "target"}
    for name, condition in waited_for.items():
        assert condition == {"condition": "service_healthy"}
        assert services[name]["healthcheck"]["test"][0] == "CMD"


def test_what_is_mounted_exists(compose: dict[str, Any]) -> None:
    for mount in compose["services"]["airflow"]["volumes"]:
        here, there, mode = mount.split(":")
        assert here.startswith(".")
        assert (ROOT / here).is_dir()
        assert there.startswith("/opt/")
        assert mode == "ro"
    for service in compose["services"].values():
        assert {each["source"] for each in service.get("configs", ())} <= set(compose["configs"])


def test_only_this_machine_is_let_in(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service["ports"]]
    assert len(ports) == 3
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)


def test_the_connections_are_those_of_the_services(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, service in (("ERP", "source"), ("DW", "target")):
        endpoint = Endpoint.from_conninfo(services["airflow"]["environment"][f"AIRFLOW_CONN_{name}"])
        environment = services[service]["environment"]
        assert endpoint.parameters == {
            "host": service,
            "port": "5432",
            "user": "postgres",
            "password": environment["POSTGRES_PASSWORD"],
            "dbname": environment["POSTGRES_DB"],
        }


@pytest.mark.slow
def test_the_example_dags_find_their_tables(
    compose: dict[str, Any], source: Database, target: Database, nothing_left: NothingLeft
) -> None:
    dags = "".join(path.read_text() for path in (ROOT / "dags").glob("*.py"))
    source.execute(compose["configs"]["erp"]["content"])
    target.execute(compose["configs"]["dw"]["content"])
    tables = [name for (name,) in source.rows("SELECT tablename FROM pg_tables WHERE schemaname = '영업'")]
    assert len(tables) == 3
    for table in tables:
        assert table in dags
        spec = CopySpec.of(source_table=("영업", table), target_table=("분석", table))
        report = pipeline.copy(spec, source.endpoint, target.endpoint)
        assert report.rows == source.value(f'SELECT count(*) FROM 영업."{table}"')
        assert source.rows(f'TABLE 영업."{table}" ORDER BY 1, 2') == target.rows(f'TABLE 분석."{table}" ORDER BY 1, 2')
    nothing_left(source, target)


def test_compose_itself_accepts_it() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no docker client with compose on this machine; the other tests here look at the essentials")
    subprocess.run([docker, "compose", "--file", FILE, "config", "--quiet"], check=True)
