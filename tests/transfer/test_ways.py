"""The ways to publish: each is found by its name, and imported only then."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest

from airflow_provider_safecopy.transfer import model
from airflow_provider_safecopy.transfer.ways import WAYS


def test_each_name_is_a_way() -> None:
    assert tuple(WAYS) == get_args(model.Way)
    assert len(WAYS) == len(get_args(model.Way))
    for name, way in WAYS.items():
        assert name in WAYS
        assert all(callable(getattr(way, each)) for each in ("refusals", "reluctance", "steps", "prepare", "write"))


def test_what_is_none_is_none() -> None:
    assert "auto" not in WAYS
    with pytest.raises(KeyError):
        WAYS["auto"]  # type: ignore[index]


def test_one_that_nobody_asks_for_is_not_imported() -> None:
    code = "import sys, airflow_provider_safecopy.pipeline; print([name for name in sys.modules if '.ways.' in name])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"[]\n"
