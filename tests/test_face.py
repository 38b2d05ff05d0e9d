"""The public face: complete, lazy, typed; former names of modules work and warn."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import airflow_provider_safecopy
from airflow_provider_safecopy import errors, moved

ROOT = Path(__file__).parents[1]
FACE = airflow_provider_safecopy.__all__


def _run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", FACE)
def test_every_name_of_the_face_is_the_one_that_the_package_uses(name: str) -> None:
    value = getattr(airflow_provider_safecopy, name)
    assert value is getattr(sys.modules[value.__module__], name)
    assert pickle.loads(pickle.dumps(value)) is value


def test_the_face_holds_every_error() -> None:
    found = {name for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, Exception)}
    assert found <= set(FACE)


def test_the_face_is_listed_and_imports_nothing_before_it_is_used() -> None:
    program = (
        "import sys, airflow_provider_safecopy as face; listed = set(face.__all__) <= set(dir(face))\n"
        "print(listed, sorted(name for name in sys.modules if 'safecopy' in name or 'psycopg' in name))"
    )
    assert _run(program) == "True ['airflow_provider_safecopy']\n"


def test_the_spec_and_the_errors_are_there_without_a_driver() -> None:
    program = "from airflow_provider_safecopy import CopySpec, SafeCopyError, Timeouts; import sys; print(*sys.modules)"
    assert "psycopg" not in _run(program).split()


def test_a_name_that_is_not_there_is_said_by_name() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'copy_table'"):
        _ = airflow_provider_safecopy.copy_table  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match="copy_table"):
        exec("from airflow_provider_safecopy import copy_table")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("airflow_provider_safecopy.never")


def test_the_types_of_the_face_are_those_that_users_see(tmp_path: Path) -> None:
    mypy = [sys.executable, "-m", "mypy", "--cache-dir", str(ROOT / ".mypy_cache"), "tests/typing/face.py"]
    done = subprocess.run(mypy, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_former_name_is_the_module_at_its_new_place_and_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(moved.MOVED, "transfer.mistakes", "errors")
    with pytest.warns(
        DeprecationWarning, match=r"transfer\.mistakes has moved; .* from airflow_provider_safecopy\.errors"
    ) as caught:
        found = importlib.import_module("airflow_provider_safecopy.transfer.mistakes")
    try:
        assert found is errors
        assert errors.__name__ == errors.__spec__.name == "airflow_provider_safecopy.errors"
        assert len(caught) == 1
    finally:
        del sys.modules["airflow_provider_safecopy.transfer.mistakes"]


def test_the_warning_names_the_line_that_imports(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        "from airflow_provider_safecopy import moved\n"
        "moved.MOVED['transfer.mistakes'] = 'errors'\n"
        "from airflow_provider_safecopy.transfer import mistakes\n"
        "from airflow_provider_safecopy.transfer.mistakes import SafeCopyError\n"
        "print(mistakes.SafeCopyError is SafeCopyError)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
    assert done.stderr.count("DeprecationWarning") == 1
    assert f"{script}:3: DeprecationWarning" in done.stderr


def test_every_former_name_leads_to_a_module_that_is_there() -> None:
    for old, new in moved.MOVED.items():
        importlib.import_module(f"airflow_provider_safecopy.{new}")  # Airflow, once imported, catches warnings itself
        with pytest.warns(DeprecationWarning, match=old):
            found = importlib.import_module(f"airflow_provider_safecopy.{old}")
        assert found.__name__ == f"airflow_provider_safecopy.{new}"
        del sys.modules[f"airflow_provider_safecopy.{old}"]
