"""Where the command begins: help, version, usage errors; quickly, and without what it does not need."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from collections.abc import Callable

import pytest

from airflow_provider_safecopy import __version__
from airflow_provider_safecopy.cli.entry import main
from airflow_provider_safecopy.spec import Timeouts
from tests.cli.conftest import Ran

Bare = Callable[..., Ran]
COMMANDS = ("copy", "plan", "init", "doctor", "locks", "reap", "demo")


def test_help_names_every_command_and_exit_code(bare: Bare) -> None:
    for ran in (bare("--help"), bare("-h")):
        assert (ran.code, ran.err) == (0, "")
        assert all(re.search(rf"^  {command} ", ran.out, re.MULTILINE) for command in COMMANDS)
        assert all(f"{code} " in ran.out.partition("Exit codes:")[2] for code in (0, 2, 3, 4, 5, 6, 7, 8, 130, 1))


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself_with_an_example(bare: Bare, command: str) -> None:
    ran = bare(command, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert f"safecopy {command}" in ran.out.partition("Options:")[0].partition("\n\n")[2] or command == "plan"


def test_help_shows_the_defaults(bare: Bare) -> None:
    text = re.sub(r"\s+", " ", bare("copy", "--help").out)
    assert (Timeouts.connect, Timeouts.export, Timeouts.stall) == (10, 4 * 3600, 300)
    for shown in ("[default: 10 s]", "[default: 4 h]", "[default: 5 min]", "[default: auto]", "[default: counts]"):
        assert shown in text
    for variable in ("SAFECOPY_SOURCE", "SAFECOPY_TARGET", "SAFECOPY_PSQL", "PGPASSFILE"):
        assert variable in text


def test_the_version_is_the_package_s(bare: Bare) -> None:
    assert bare("--version").out == f"safecopy {__version__}\n"


def test_no_command_is_a_bad_request_that_gets_the_help(bare: Bare) -> None:
    ran = bare()
    assert (ran.code, ran.out) == (2, "")
    assert "Usage: safecopy" in ran.err


@pytest.mark.parametrize("words", [("cpoy",), ("copy", "--nope"), ("copy",), ("init", "extra"), ("demo", "--run")])
def test_a_usage_error_is_2_and_names_the_help(bare: Bare, words: tuple[str, ...]) -> None:
    ran = bare(*words)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("safecopy: bad request: ")
    assert re.search(r"\n  next  see safecopy( \w+)? --help\n$", ran.err)


def test_a_usage_error_is_json_where_json_was_asked_for(bare: Bare) -> None:
    ran = bare("copy", "--json", "--nope")
    assert ran.code == 2
    error = ran.json["error"]
    assert ran.json["status"] == "error"
    assert error.pop("message").startswith("No such option '--nope'.")
    assert error == {"type": "ConfigError", "hint": "see safecopy copy --help", "retryable": False}


def test_help_is_quick(bare: Bare) -> None:
    """Count its own time on a processor, which other work does not lengthen."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        bare("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.4  # about 0.1


@pytest.mark.parametrize(
    "words", [["--help"], ["copy", "--help"], ["--version"], ["copy", "--nope"], ["locks", "--help"]]
)
def test_nothing_heavy_is_imported_for_it(words: list[str]) -> None:
    code = (
        "import sys\nfrom airflow_provider_safecopy.cli import main\n"
        f"main({words!r})\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stderr.splitlines()[-1].split()
    assert "click" in loaded
    assert not {"airflow", "psycopg", "rich", "xxhash", "subprocess", "ctypes"} & set(loaded)


def test_no_command_imports_airflow(bare: Bare) -> None:
    code = (
        "import sys\nfrom airflow_provider_safecopy.cli import main\n"
        "codes = [main(['doctor', '--target', 'host=/nowhere', '--source', 'host=/nowhere']),"
        " main(['copy', '--source', 'host=/nowhere', '--target', 'host=/nowhere', '--source-table', 't', '--target-table', 't'])]\n"
        "import airflow_provider_safecopy.demo.tour\n"
        "print(codes, 'psycopg' in sys.modules, 'airflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[2, 5] True False"


def test_a_mistake_of_ours_is_1_and_one_line_its_traceback_is_for_those_who_ask(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("this should never happen")

    monkeypatch.setattr("airflow_provider_safecopy.pipeline.plan", broken)
    words = ["plan", "--source", "host=a", "--target", "host=b", "--source-table", "t", "--target-table", "t"]
    assert main(words) == 1
    told = capfd.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert "ZeroDivisionError: this should never happen" in told.err
    assert "please report" in told.err
    assert "-vv" in told.err
    for verbose in (["-vv"], ["-v", "-v"]):
        assert main([*words, *verbose]) == 1
        assert "Traceback" in capfd.readouterr().err
    assert main([*words, "--json"]) == 1
    assert '"type": "InternalError"' in capfd.readouterr().out
