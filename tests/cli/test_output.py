"""Where words go: the result to stdout, all else to stderr."""

from __future__ import annotations

import json
import logging

import pytest

from airflow_provider_safecopy.cli.output import Output
from airflow_provider_safecopy.errors import StageError

LOG = logging.getLogger("airflow_provider_safecopy.transfer.export")


def told(output: Output, capfd: pytest.CaptureFixture[str]) -> list[str]:
    with output.logging():
        LOG.debug("a detail")
        LOG.info("export started (PID 1) \x1b[2J")
        LOG.warning("a warning")
    LOG.warning("afterwards, nobody listens")
    return capfd.readouterr().err.splitlines()


def test_the_log_goes_to_stderr_while_a_command_runs(capfd: pytest.CaptureFixture[str]) -> None:
    assert told(Output(), capfd) == ["export started (PID 1) \\x1b[2J", "a warning"]


def test_quiet_leaves_the_warnings(capfd: pytest.CaptureFixture[str]) -> None:
    assert told(Output(quiet=True), capfd) == ["a warning"]


def test_verbose_adds_times_and_twice_details(capfd: pytest.CaptureFixture[str]) -> None:
    assert [line.split()[-1] for line in told(Output(verbose=1), capfd)] == ["\\x1b[2J", "warning"]
    lines = told(Output(verbose=2), capfd)
    assert [line.split()[-1] for line in lines] == ["detail", "\\x1b[2J", "warning"]
    assert all(line[:2] == "20" for line in lines)


def test_a_lone_surrogate_is_json_all_the_same(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    Output(as_json=True).result({"표": "고객 \udcff"}, "for people")
    out = capfdbinary.readouterr().out
    assert "고객".encode() in out
    assert json.loads(out) == {"표": "고객 \udcff"}


def test_a_result_is_said_once_to_whom_it_is_for(capfd: pytest.CaptureFixture[str]) -> None:
    Output().result({"a": 1}, "for people")
    assert capfd.readouterr().out == "for people\n"
    Output(quiet=True).result({"a": 1}, "for people")
    assert capfd.readouterr().out == ""
    Output(quiet=True, as_json=True).result({"a": 1}, "for people")
    assert capfd.readouterr().out == '{"a": 1}\n'


def test_an_error_is_told_to_people_and_machines(capfd: pytest.CaptureFixture[str]) -> None:
    error = StageError("gone", stage="import", sqlstate="57P01")
    assert Output(as_json=True).fail(error, subject="a -> b") == 5
    out, err = capfd.readouterr()
    assert json.loads(out)["error"]["sqlstate"] == "57P01"
    assert err.startswith("safecopy: import failed: gone\n")
    assert Output(verbose=2).fail(error) == 5
    assert "StageError" in capfd.readouterr().err
