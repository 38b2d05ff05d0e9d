"""Reading in large pieces: asked for where the system can, and never in the way where it cannot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.postgres import psql
from airflow_provider_safecopy.postgres.psql import build_buffer_environment
from tests.support.customers import same, spec
from tests.support.database import Database

_READS = "import os, sys; sys.stdout.write(os.environ.get('LD_PRELOAD', '') + ' ' + os.environ.get('_STDBUF_I', ''))"


def test_it_is_the_library_that_stdbuf_itself_uses() -> None:
    if not (wanted := build_buffer_environment()):
        pytest.skip("GNU coreutils are not here")
    ran = subprocess.run(
        ["stdbuf", "-i", wanted["_STDBUF_I"], sys.executable, "-c", _READS], capture_output=True, text=True, check=True
    )
    library, size = ran.stdout.split()
    assert size == wanted["_STDBUF_I"]
    assert Path(library).resolve() == Path(wanted["LD_PRELOAD"]).resolve()


@pytest.mark.parametrize("environment", [{}, {"LD_PRELOAD": "/없는/곳/libstdbuf.so", "_STDBUF_I": "262144"}])
def test_a_copy_is_the_same_without_it(
    filled: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    source, target = filled
    monkeypatch.setattr(psql, "build_buffer_environment", lambda: environment)
    pipeline.copy(spec(), source.endpoint, target.endpoint)
    assert same(source, target)


def test_a_system_without_the_library_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psql, "_LIBRARY_PATHS", ("없는/곳",))
    build_buffer_environment.cache_clear()
    assert build_buffer_environment() == {}
    build_buffer_environment.cache_clear()
