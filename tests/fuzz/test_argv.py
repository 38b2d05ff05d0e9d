"""The command line: any words end with one of our exit codes, said in our words, and never as a mistake of ours.

Words hold no NUL: no system hands one to a program. No database is there: what gets past the words fails to connect.
"""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import Callable, Iterator

import click
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_safecopy.cli import exitcode, main
from airflow_provider_safecopy.cli.entry import safecopy
from tests.fuzz.depth import looking
from tests.fuzz.material import AWKWARD, broken, numbers, spoiled

NOWHERE = ("--source", "host=/nowhere dbname=a", "--target", "host=/nowhere dbname=b")
CODES = {exitcode.DONE, exitcode.REFUSED, exitcode.ABORTED, *exitcode.ERROR_CODES.values()}


def _options(command: click.Command) -> Iterator[str]:
    yield from (word for each in command.params for word in each.opts if word.startswith("-"))
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        yield from _options(inner)


OPTIONS = sorted(set(_options(safecopy)) - {"--source", "--target"})
COMMANDS = ("copy", "plan", "doctor", "reap", "init", "locks", "history", "release", "list")
VALUES = (
    *(
        "영업.고객",
        '"',
        "a=b",
        "90",
        "0",
        "-1",
        "1e9",
        "9" * 400,
        "9" * 5000,
        "nan",
        "inf",
        "auto",
        "@-",
        "@",
        "-",
        "--",
    ),
    *(
        "",
        " ",
        "/dev/null",
        "/",
        "@/nowhere",
        "/nowhere.json",
        "\udcff",
        "{}",
        "upsert",
        "append",
        "incremental",
        "mark",
    ),
)
words_ = st.lists(
    st.sampled_from((*OPTIONS, *COMMANDS, *VALUES)) | spoiled(st.sampled_from(OPTIONS), AWKWARD) | broken | numbers,
    max_size=8,
).map(lambda words: [word.replace("\0", "") for word in words])
said_ = st.lists(st.tuples(st.sampled_from(OPTIONS), st.sampled_from(VALUES) | broken | numbers), max_size=5).map(
    lambda pairs: [word.replace("\0", "") for pair in pairs for word in pair]
)


@pytest.fixture(scope="module", autouse=True)
def _no_demo() -> Iterator[None]:
    """``safecopy demo`` starts servers, whatever its other words are: it has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(safecopy.commands, "demo")
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        yield
        assert {number: signal.getsignal(number) for number in before} == before


Ends = Callable[[list[str]], int]


@pytest.fixture
def ends(capsys: pytest.CaptureFixture[str]) -> Ends:
    """Run the command; its exit code, which must be one of those that are promised, and said in our words."""

    def run(words: list[str]) -> int:
        code = main(words)
        told = capsys.readouterr()
        assert code in CODES, (words, told.err)
        assert "internal error" not in told.err
        assert "Traceback" not in told.err or "-vv" in words
        if "--json" in words and told.out.startswith("{"):
            assert json.loads(told.out)["status"] in {"error", "ok", "failed"}
        if code == exitcode.REFUSED and "doctor" not in words:
            assert "safecopy: " in told.err or "Usage: " in told.err
        return code

    return run


@looking()
@given(words=words_)
@example(words=[])
@example(words=["copy", "--spool-limit", "9" * 400])
def test_any_words_end_with_an_exit_code_of_ours(ends: Ends, words: list[str]) -> None:
    ends(words)


@looking()
@given(
    command=st.sampled_from(("copy", "plan", "doctor")), words=said_, more=st.sampled_from(([], ["--json"], ["-vv"]))
)
def test_a_copy_with_any_options_ends_with_an_exit_code_of_ours(
    ends: Ends, command: str, words: list[str], more: list[str]
) -> None:
    tables = ["--source-table", "영업.고객", "--target-table", "분석.고객"]
    assert ends([command, *NOWHERE, *tables, *words, *more]) != exitcode.INTERNAL


@looking(0.5)
@given(
    command=st.sampled_from((["reap"], ["init"], ["locks"], ["locks", "history"], ["locks", "release"])), words=said_
)
def test_the_other_commands_end_with_an_exit_code_of_ours(ends: Ends, command: list[str], words: list[str]) -> None:
    assert ends([*command, *NOWHERE[2:], *words]) != exitcode.INTERNAL


@pytest.mark.parametrize(
    "words",
    [
        ("copy", "--spool-limit", "9" * 400),
        ("copy", "--parallel", "9" * 5000),
        ("copy", "--connect-timeout", "9" * 400),
        ("copy", "--rate-limit", "9" * 400, "--json"),
        ("reap", "--overdue", "9" * 400),
        ("init", "--connect-timeout", "1" + "0" * 300),
    ],
    ids=" ".join,
)
def test_a_number_beyond_all_measure_is_a_bad_request(ends: Ends, words: tuple[str, ...]) -> None:
    """Found: OverflowError and ValueError, shown as tracebacks."""
    assert ends([*words]) == exitcode.REFUSED


def test_a_mistake_while_words_are_read_is_told_as_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Found: what a command tells in an object of JSON was a bare traceback when it happened before the command began."""
    monkeypatch.setattr("airflow_provider_safecopy.cli.param_types.parse_bytes", lambda _: 1 / 0)
    assert main(["copy", "--json", "--spool-limit", "5"]) == exitcode.INTERNAL
    told = capsys.readouterr()
    assert json.loads(told.out)["error"]["type"] == "InternalError"
    assert "please report" in told.err
