"""The ways to publish: each is found by its name, and imported only then."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest

from airflow_provider_safecopy import spec
from airflow_provider_safecopy.publish.strategies import STRATEGIES


def test_each_name_is_a_way() -> None:
    assert tuple(STRATEGIES) == get_args(spec.Strategy)
    assert len(STRATEGIES) == len(get_args(spec.Strategy))
    for name, way in STRATEGIES.items():
        assert name in STRATEGIES
        assert all(
            callable(getattr(way, each))
            for each in ("find_refusals", "find_drawback", "list_steps", "prepare", "write")
        )


def test_what_is_none_is_none() -> None:
    assert "auto" not in STRATEGIES
    with pytest.raises(KeyError):
        STRATEGIES["auto"]  # type: ignore[index]


def test_one_that_nobody_asks_for_is_not_imported() -> None:
    code = "import sys, airflow_provider_safecopy.pipeline; print([name for name in sys.modules if '.ways.' in name])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"[]\n"
