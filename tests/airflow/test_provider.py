"""What Airflow reads of the provider."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path

import jsonschema
import pytest

from airflow_provider_safecopy.get_provider_info import get_provider_info
from tests.airflow.home import AirflowHome


def _schema() -> dict[str, object]:
    import airflow as installed

    text = Path(installed.__path__[0], "provider_info.schema.json").read_text()
    schema: dict[str, object] = json.loads(text)
    return schema


def test_the_metadata_is_what_airflow_s_own_schema_demands() -> None:
    jsonschema.validate(get_provider_info(), _schema())


def test_the_schema_would_notice_a_mistake() -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(get_provider_info() | {"name": 7}, _schema())


@pytest.mark.parametrize("kind", ["hooks", "operators", "triggers"])
def test_every_module_the_metadata_names_is_there(kind: str) -> None:
    for group in get_provider_info()[kind]:
        for module in group["python-modules"]:
            assert importlib.import_module(module).__name__ == module


def test_the_package_is_found_by_its_entry_point() -> None:
    found = [each for each in entry_points(group="apache_airflow_provider") if "safecopy" in each.value]
    assert [each.load() for each in found] == [get_provider_info]


def test_reading_the_metadata_imports_nothing_but_python_s_own() -> None:
    code = (
        "import sys; before = set(sys.modules)\n"
        "from airflow_provider_safecopy.get_provider_info import get_provider_info\n"
        "get_provider_info(); loaded = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(loaded - sys.stdlib_module_names, sum('safecopy' in name for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "{'airflow_provider_safecopy'} 2\n"


def test_parsing_a_dag_loads_few_modules_and_no_driver_of_databases() -> None:
    """Each DAG file that names the operator is parsed in a new process, again and again."""
    code = (
        "import sys; import airflow_provider_safecopy.operators.safecopy, airflow_provider_safecopy.operators.living_lock\n"
        "loaded = [name for name in sys.modules if name.partition('.')[0] in ('airflow_provider_safecopy', 'psycopg')]\n"
        "print(len(loaded), 'psycopg' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    number, driver = done.stdout.split()
    assert (int(number) <= 80, driver) == (True, "False"), done.stdout


@pytest.mark.slow
def test_airflow_shows_the_provider(airflow: AirflowHome) -> None:
    exit_code, said = airflow.run("providers", "get", "airflow-provider-safecopy", "--output", "plain")
    assert exit_code == 0, said
    assert re.search(rf"airflow-provider-safecopy\s+{re.escape(version('airflow-provider-safecopy'))}\b", said)
