"""`safecopy doctor`: all findings at once, with their next steps."""

from __future__ import annotations

import re

import pytest

from tests.cli.conftest import Command
from tests.support.database import Database


def test_a_sound_pair_is_0(safecopy: Command) -> None:
    ran = safecopy.run("doctor", *safecopy.tables)
    assert (ran.code, ran.err) == (0, "")
    assert re.search(r"^ok +source +127\.0\.0\.1:\d+/시험_", ran.out, re.MULTILINE)
    assert re.search(r"^\d+ ok, 0 warning, 0 failed$", ran.out, re.MULTILINE)


@pytest.mark.parametrize("which", ["source", "target"])
def test_one_endpoint_alone_is_examined(safecopy: Command, which: str) -> None:
    other = {"source": "SAFECOPY_TARGET", "target": "SAFECOPY_SOURCE"}[which]
    checks = safecopy.run("doctor", "--json", **{other: None}).json["checks"]
    assert {which} == {check["name"] for check in checks} & {"source", "target"}


def test_everything_that_fails_is_told_at_once(safecopy: Command) -> None:
    ran = safecopy.run(
        *("doctor", "--source-table", "영업.고객", "--target-table", "분석.거래처"),
        *("--psql", "/nowhere/psql", "--spool-dir", "/nowhere/spool"),
    )
    assert ran.code == 2
    assert len(re.findall(r"^failed ", ran.out, re.MULTILINE)) >= 3
    for words in ("/nowhere/psql", "/nowhere/spool", "분석.거래처: no such table"):
        assert words in ran.out
    assert len(re.findall(r"^ +next: \S", ran.out, re.MULTILINE)) >= 2


def test_an_unreachable_server_is_a_finding_too(safecopy: Command) -> None:
    ran = safecopy.run("doctor", "--json", SAFECOPY_SOURCE="host=/nowhere")
    assert ran.code == 2
    outcomes = {check["name"]: check["outcome"] for check in ran.json["checks"]}
    assert (outcomes["source"], outcomes["target"]) == ("failed", "ok")


def test_a_wrong_password_is_never_shown(safecopy: Command, source: Database) -> None:
    ran = safecopy.run("doctor", SAFECOPY_SOURCE=re.sub(r"password=\S+", "password=틀린-비밀", source.conninfo))
    assert ran.code == 2
    assert "틀린-비밀" not in ran.out + ran.err


def test_nothing_to_examine_is_a_bad_request(safecopy: Command) -> None:
    assert safecopy.run("doctor", SAFECOPY_SOURCE=None, SAFECOPY_TARGET=None).code == 2
    assert "--target-table" in safecopy.run("doctor", "--source-table", "영업.고객").err
