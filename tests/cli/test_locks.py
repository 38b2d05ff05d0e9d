"""`safecopy locks`: who holds what, what happened, and a release by hand."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import Popen

import pytest

from airflow_provider_safecopy.display import count_places
from airflow_provider_safecopy.lock.model import Contender, Lease, Promise
from airflow_provider_safecopy.lock.postgres import PostgresStore
from tests.cli.conftest import Command, Said, ended, wait_for_line
from tests.cli.test_documentation import demand
from tests.conftest import MakePsql, MakeRole, NothingLeft
from tests.support.fake_psql import Behaviour

HANGING = Behaviour("export", hang_after=100_000)


@pytest.fixture
def store(safecopy: Command, said: Said) -> Iterator[PostgresStore]:
    """The locks of an initialised target."""
    assert said("init").code == 0
    store = PostgresStore(safecopy.target.endpoint)
    yield store
    store.close()


def granted(store: PostgresStore, name: str, owner: str) -> Lease:
    lease = store.acquire(name, Contender.alone(owner), Promise())
    assert isinstance(lease, Lease)
    return lease


@contextmanager
def holding(safecopy: Command, psql: str) -> Iterator[Popen[bytes]]:
    """A copy in another process that holds the lock."""
    words = ("--psql", psql, "--owner", "밤샘", "--json")
    with safecopy.started("copy", *safecopy.tables, *words) as process:
        wait_for_line(process, b"export started")
        yield process


# list


def test_a_running_copy_is_listed_with_its_process(safecopy: Command, said: Said, fake_psql: MakePsql) -> None:
    with holding(safecopy, fake_psql(HANGING)) as process:
        ran = said("locks")
        told = said("locks", "list", "--json").json
    assert (ran.code, ran.err) == (0, "")
    head, row, member = ran.out.splitlines()
    assert head.split("  ")[0] == "lock"
    assert re.match(r"분석\.고객 +1  밤샘, host \S+ +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  [\d.]+ s ago +in 10 min +0$", row)
    assert re.match(rf" +main, try 1, pid {process.pid} on \S+ +[\d.]+ s ago$", member)
    demand("locks", told)
    (held,) = told["locks"]
    demand("holder", held)
    assert (held["name"], held["token"], held["owner"]["owner"], held["stale"]) == ("분석.고객", 1, "밤샘", False)


def test_columns_are_aligned_by_what_they_take_on_a_terminal(
    safecopy: Command, said: Said, store: PostgresStore
) -> None:
    for name, owner in (("분석.고객", "밤"), ("a", "아주 긴 이름의 야간 적재"), ("월별지역별", "b")):
        granted(store, name, owner)
    lines = said("locks").out.splitlines()
    starts = {count_places(line[: line.index(", host")]) - count_places(owner) for line, owner in _owners(lines)}
    assert len(starts) == 1
    places = {count_places(line[: match.start()]) for line in lines if (match := re.search(r"\d{4}-\d\d-\d\d", line))}
    assert len(places) == 1


def _owners(lines: list[str]) -> Iterator[tuple[str, str]]:
    for owner in ("밤", "아주 긴 이름의 야간 적재", "b"):
        (line,) = [line for line in lines if f"  {owner}, host" in line]
        yield line, owner


def test_a_stale_lock_says_so(safecopy: Command, said: Said, store: PostgresStore) -> None:
    granted(store, "집계", "밤샘")
    safecopy.target.execute("UPDATE safecopy.lock SET due_at = now() - interval '5 minutes'")
    assert "stale since 5 min" in said("locks").out
    assert said("locks", "--json").json["locks"][0]["stale"]


def test_where_nobody_holds_anything_it_says_so_and_why(safecopy: Command, said: Said) -> None:
    ran = said("locks")
    assert (ran.code, ran.err) == (0, "")
    assert re.match(r"no lock is held in 127\.0\.0\.1:\d+/\S+: the schema safecopy is not there", ran.out)
    told = said("locks", "--json").json
    demand("locks", told)
    assert (told["initialised"], told["locks"]) == (False, [])
    assert "nothing has happened yet" in said("locks", "history").out
    assert not safecopy.target.value("SELECT to_regnamespace('safecopy') IS NOT NULL")
    said("init")
    assert re.fullmatch(r"no lock is held in \S+\n", said("locks").out)
    assert said("locks", "--json").json["initialised"] is True


def test_a_role_that_may_only_read_sees_the_locks_and_releases_none(
    safecopy: Command, said: Said, store: PostgresStore, role: MakeRole
) -> None:
    granted(store, "집계", "밤샘")
    watcher = role(safecopy.target)
    refused = said("locks", "--json", SAFECOPY_TARGET=watcher.conninfo)
    assert (refused.code, refused.json["error"]["sqlstate"]) == (5, "42501")
    safecopy.target.execute(
        f'GRANT USAGE ON SCHEMA safecopy TO "{watcher.role}"; '
        f'GRANT SELECT ON safecopy.lock, safecopy.member, safecopy.lock_event TO "{watcher.role}"'
    )
    assert "집계" in said("locks", SAFECOPY_TARGET=watcher.conninfo).out
    assert "grant" in said("locks", "history", SAFECOPY_TARGET=watcher.conninfo).out
    words = ("locks", "release", "집계", "--reason", "해 보기")
    assert said(*words, SAFECOPY_TARGET=watcher.conninfo).code == 5
    assert len(store.read_holders()) == 1


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8"])
def test_korean_names_are_printed_under_any_locale(safecopy: Command, store: PostgresStore, locale: str) -> None:
    granted(store, "월별.집계", "야간 적재")
    ran = safecopy.run("locks", LC_ALL=locale, PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    assert ran.code == 0, ran.err
    told = ran.out if locale == "C.UTF-8" else ran.out.encode().decode("unicode_escape")
    assert "월별.집계" in told
    assert "야간 적재" in told
    told = safecopy.run("locks", "--json", LC_ALL=locale, PYTHONCOERCECLOCALE="0", PYTHONUTF8="0").json
    assert told["locks"][0]["name"] == "월별.집계"


def test_a_name_cannot_steer_the_terminal(safecopy: Command, said: Said, store: PostgresStore) -> None:
    granted(store, "집계\x1b[2J", "밤샘\x1b]0;gone\x07")
    out = said("locks").out + said("locks", "history").out
    assert "\x1b" not in out
    assert "\\x1b[2J" in out


# history


def test_what_happened_is_told_the_newest_first(safecopy: Command, said: Said, store: PostgresStore) -> None:
    store.release(granted(store, "집계", "밤샘"))
    granted(store, "다른 것", "낮")
    assert said("locks", "release", "다른 것", "--reason", "멈춰 있음").code == 0
    ran = said("locks", "history")
    kinds = [re.split(r"  +", line)[3] for line in ran.out.splitlines()[1:]]
    assert kinds == ["force-release", "grant", "release", "grant"]
    assert "멈춰 있음, from 낮, host" in ran.out
    told = said("locks", "history", "--json").json
    demand("events", told)
    assert [event["kind"] for event in told["events"]] == kinds
    assert told["events"][0]["detail"]["reason"] == "멈춰 있음"
    alone = said("locks", "history", "--lock", "집계", "--limit", "1", "--json").json["events"]
    assert [(event["name"], event["kind"]) for event in alone] == [("집계", "release")]


def test_the_history_of_an_unknown_lock_names_those_that_look_alike(
    safecopy: Command, said: Said, store: PostgresStore
) -> None:
    granted(store, "Nightly", "밤샘")
    ran = said("locks", "history", "--lock", "nightly")
    assert ran.code == 2
    assert re.search(r"next +there is Nightly; give the name exactly as it is", ran.err)


# release


@pytest.mark.slow
def test_a_release_takes_the_lock_from_a_running_copy_which_publishes_nothing(
    safecopy: Command, said: Said, fake_psql: MakePsql, nothing_left: NothingLeft
) -> None:
    with holding(safecopy, fake_psql(HANGING)) as process:
        ran = said("locks", "release", "분석.고객", "--reason", "밤샘 작업이 멈춤", "--json")
        copy = ended(process)
    assert ran.code == 0, ran.err
    demand("release", ran.json)
    assert (ran.json["owner"]["owner"], ran.json["token"]) == ("밤샘", 1)
    assert ran.json["sessions_ended"] > 0
    assert ran.json["processes_ended"] == [process.pid]
    assert copy.code in {4, 5, 130}, copy.err
    assert safecopy.copy("-q").code == 0
    assert safecopy.holds() == "new"
    nothing_left(safecopy.source, safecopy.target)


def test_a_stopped_process_is_ended_by_a_release(safecopy: Command, said: Said, fake_psql: MakePsql) -> None:
    with holding(safecopy, fake_psql(HANGING)) as process:
        process.send_signal(signal.SIGSTOP)
        ran = said("locks", "release", "분석.고객", "--reason", "멈춤")
        assert process.wait(100) == -signal.SIGKILL
    assert re.search(
        r"lock 분석\.고객 is free: taken from 밤샘, host \S+ \(token 1\), who may publish no more", ran.out
    )
    assert f"process {process.pid} ended" in ran.out


def test_a_release_demands_a_reason(safecopy: Command, said: Said, store: PostgresStore) -> None:
    granted(store, "집계", "밤샘")
    for words in ((), ("--reason", ""), ("--reason", "  ")):
        ran = said("locks", "release", "집계", *words)
        assert (ran.code, "--reason" in ran.err) == (2, True)
    assert len(store.read_holders()) == 1


def test_a_release_of_what_nobody_holds_is_2(safecopy: Command, said: Said, store: PostgresStore) -> None:
    store.release(granted(store, "분석.고객", "밤샘"))
    ran = said("locks", "release", "분석.고객", "--reason", "정리")
    assert (ran.code, "the lock 분석.고객 is free in" in ran.err) == (2, True)
    wrong = said("locks", "release", "분석.고개", "--reason", "정리")
    assert wrong.code == 2
    assert "there is no lock 분석.고개 in " in wrong.err
    assert re.search(r"next +there is 분석\.고객; give the name exactly as it is", wrong.err)
    assert [event.kind for event in store.read_history()] == ["release", "grant"]


def test_a_release_where_nothing_was_ever_made_is_2(safecopy: Command, said: Said) -> None:
    ran = said("locks", "release", "집계", "--reason", "정리", "--json")
    assert (ran.code, ran.json["error"]["type"]) == (2, "ConfigError")


# The group


@pytest.mark.parametrize("words", [("hisotry",), ("list", "집계"), ("release",), ("history", "--limit", "0")])
def test_a_usage_error_is_2(safecopy: Command, said: Said, words: tuple[str, ...]) -> None:
    ran = said("locks", *words)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("safecopy: bad request: ")


def test_the_help_names_the_commands(safecopy: Command, said: Said) -> None:
    out = said("locks", "--help").out
    assert all(re.search(rf"(?m)^  {command} ", out) for command in ("list", "history", "release"))
