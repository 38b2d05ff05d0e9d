"""What the command's process begins and ends with: nothing that a program which calls the command would notice."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from airflow_provider_safecopy import __version__
from airflow_provider_safecopy.cli import main

_OWN = """
import gc, sys
from airflow_provider_safecopy.cli import main
sys.argv = ["safecopy", *{words}]
code = main()
print(code, gc.isenabled(), gc.get_threshold()[0] > 10_000, gc.get_freeze_count() > 10_000)
"""


@pytest.mark.parametrize("words, code", [(["--version"], 0), (["cpoy"], 2)])
def test_a_process_of_its_own_looks_for_garbage_seldom_and_not_at_the_end(words: list[str], code: int) -> None:
    ran = subprocess.run([sys.executable, "-c", _OWN.format(words=words)], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == f"{code} True True True"


def test_one_that_is_called_leaves_the_caller_s_memory_alone(capsys: pytest.CaptureFixture[str]) -> None:
    before = gc.get_threshold(), gc.get_freeze_count()
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"safecopy {__version__}\n"
    assert (gc.get_threshold(), gc.get_freeze_count()) == before
