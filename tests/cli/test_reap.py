"""`safecopy reap`: what it would do, and what it did."""

from __future__ import annotations

import re
import signal

import pytest

from tests.cli.conftest import Command, Said, wait_for_line
from tests.cli.test_documentation import demand
from tests.conftest import MakePsql, NothingLeft
from tests.support.fake_psql import Behaviour

HANGING = Behaviour("export", hang_after=100_000)


def test_a_killed_copy_is_told_first_and_then_reaped_and_a_living_one_left_alone(
    safecopy: Command, said: Said, fake_psql: MakePsql, nothing_left: NothingLeft
) -> None:
    safecopy.target.execute('CREATE TABLE "분석"."고객_사본" (LIKE "분석"."고객")')
    psql = ("--psql", fake_psql(HANGING))
    other = ("--source-table", "영업.고객", "--target-table", "분석.고객_사본")
    with (
        safecopy.started("copy", *safecopy.tables, *psql, "--owner", "밤샘") as dead,
        safecopy.started("copy", *other, *psql, "--owner", "낮") as living,
    ):
        for process in (dead, living):
            wait_for_line(process, b"export started")
        dead.kill()
        dead.wait()
        told = said("reap", "--dry-run")
        as_json = said("reap", "--dry-run", "--json").json
        assert len(said("locks", "--json").json["locks"]) == 2, "nothing was done"
        ran = said("reap", "--json")
        assert [lock["owner"]["owner"] for lock in said("locks", "--json").json["locks"]] == ["낮"]
        assert living.poll() is None
        living.send_signal(signal.SIGTERM)
        assert living.wait(100) == 130
    assert told.code == 0, told.err
    assert re.search(r"(?m)^분석\.고객 +1  gone  밤샘, host \S+ +[\d.]+ s ago$", told.out)
    assert re.search(r"(?m)^staging table safecopy\.고객__safecopy_1_[0-9a-f]{8}$", told.out)
    assert re.search(r"would take 1 lock and drop 1 staging table in \S+; nothing was done\n$", told.out)
    demand("reaping", as_json)
    demand("reaping", ran.json)
    demand("holder", ran.json["reaped"][0]["holder"])
    assert (as_json["status"], ran.json["status"]) == ("planned", "reaped")
    assert [(each["name"], each["why"]) for each in ran.json["reaped"]] == [("분석.고객", "gone")]
    assert ran.json["staging"] == as_json["staging"]
    nothing_left(safecopy.source, safecopy.target)


def test_where_there_is_nothing_to_reap_it_says_so(safecopy: Command, said: Said) -> None:
    ran = said("reap")
    assert (ran.code, ran.err) == (0, "")
    assert re.fullmatch(r"nothing to reap: \S+ has no schema safecopy\n", ran.out)
    said("init")
    assert re.match(r"took 0 locks and dropped 0 staging tables in \S+; forgot 0 old rows of history", said("reap").out)


def test_history_is_kept_for_as_long_as_is_said(safecopy: Command, said: Said) -> None:
    assert safecopy.copy("-q").code == 0
    assert said("reap", "--json").json["forgotten"] == 0
    assert said("reap", "--keep", "1ms", "--overdue", "0", "--json").json["forgotten"] == 2


@pytest.mark.parametrize("words", [("--overdue", "soon"), ("--keep", "0"), ("분석.고객",)])
def test_a_bad_request_is_2(safecopy: Command, said: Said, words: tuple[str, ...]) -> None:
    ran = said("reap", *words)
    assert (ran.code, ran.out) == (2, "")
