"""Where a process is, whether it is gone, and how it is ended: real processes, gone, undead, stopped and recycled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from airflow_provider_safecopy.lock import process as process_module
from airflow_provider_safecopy.lock.process import ProcessIdentity
from tests.support.until import until

LIVE = """
import json, signal, sys
from airflow_provider_safecopy.lock.process import ProcessIdentity
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(json.dumps(ProcessIdentity.read_current(may_end=True).as_dict()), flush=True)
signal.pause()
"""


class Living:
    """A process that says where it is, and sleeps."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", LIVE, *arguments], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        place = ProcessIdentity.from_dict(json.loads(self.process.stdout.readline()))
        assert place is not None
        self.place = place

    def ended_by(self) -> int:
        return -self.process.wait(100)


@pytest.fixture
def living() -> Iterator[Callable[..., Living]]:
    made: list[Living] = []

    def live(*arguments: str) -> Living:
        made.append(Living(*arguments))
        return made[-1]

    yield live
    for each in made:
        each.process.kill()
        each.process.communicate()


Live = Callable[..., Living]


def test_a_place_is_this_process_and_survives_json() -> None:
    here = ProcessIdentity.read_current()
    assert here.pid == os.getpid()
    assert here.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert ProcessIdentity.from_dict(json.loads(json.dumps(here.as_dict()))) == here
    assert ProcessIdentity.from_dict(None) is None
    assert not here.may_end
    assert ProcessIdentity.read_current(may_end=True) == replace(here, may_end=True)
    assert not here.is_gone


def test_who_lives_is_not_gone_and_who_was_killed_is(living: Live) -> None:
    one = living()
    assert not one.place.is_gone
    one.process.kill()
    one.process.wait(100)
    assert one.place.is_gone


def test_a_zombie_is_gone(living: Live) -> None:
    one = living()
    one.process.kill()
    os.waitid(os.P_PID, one.place.pid, os.WEXITED | os.WNOWAIT)  # ended, and not yet forgotten
    assert Path(f"/proc/{one.place.pid}").exists()
    assert one.place.is_gone


def test_a_stopped_process_is_not_gone(living: Live) -> None:
    one = living()
    one.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, one.place.pid, os.WSTOPPED | os.WNOWAIT)
    assert not one.place.is_gone


def test_another_process_with_the_same_pid_is_not_the_one_meant(living: Live) -> None:
    one = living()
    former = replace(one.place, started=(one.place.started or 0) - 1)
    assert former.is_gone
    assert not former.end()
    assert not one.place.is_gone


@pytest.mark.parametrize(
    "elsewhere",
    [{"boot_id": "다른 부팅"}, {"namespace": 1}, {"boot_id": None}, {"namespace": None}, {"started": None}],
    ids=str,
)
def test_of_another_boot_or_namespace_nothing_is_known_and_nobody_is_ended(
    living: Live, elsewhere: dict[str, object]
) -> None:
    one = living()
    there = ProcessIdentity(**(one.place.as_dict() | elsewhere))
    assert not there.is_gone
    assert not there.end()
    one.process.kill()
    one.process.wait(100)
    assert not there.is_gone
    assert not there.end()


def test_another_host_name_is_no_other_machine(living: Live) -> None:
    one = living()
    renamed = replace(one.place, host="새-이름")
    one.process.kill()
    one.process.wait(100)
    assert renamed.is_gone


def test_who_is_hidden_by_proc_is_not_gone(living: Live, mocker: MockerFixture) -> None:
    one = living()
    mocker.patch.object(process_module, "_read_stat", return_value=[])  # as with hidepid, of another user's process
    assert not one.place.is_gone
    one.process.kill()
    one.process.wait(100)
    assert one.place.is_gone


def test_where_there_is_no_proc_nothing_is_known(living: Live, mocker: MockerFixture) -> None:
    one = living()
    mocker.patch.object(process_module, "_read_boot_and_namespace", return_value=(None, None))
    mocker.patch.object(process_module, "_read_stat", return_value=[])
    assert (
        ProcessIdentity.read_current().boot_id,
        ProcessIdentity.read_current().namespace,
        ProcessIdentity.read_current().started,
    ) == (None, None, None)
    assert not ProcessIdentity.read_current().is_gone
    assert not one.place.is_gone
    assert not one.place.end()


def test_a_process_is_asked_to_end(living: Live) -> None:
    one = living()
    assert one.place.end()
    assert one.ended_by() == signal.SIGTERM
    assert not one.place.end()


def test_who_does_not_listen_is_killed(living: Live, mocker: MockerFixture) -> None:
    one = living("deaf")
    mocker.patch.object(process_module, "_GRACE_SECONDS", 0.2)
    assert one.place.end()
    assert one.ended_by() == signal.SIGKILL


def test_a_stopped_process_is_ended_without_waiting_for_it(living: Live, mocker: MockerFixture) -> None:
    one = living()
    one.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, one.place.pid, os.WSTOPPED | os.WNOWAIT)
    mocker.patch.object(process_module, "_GRACE_SECONDS", 60)
    began = time.monotonic()
    assert one.place.end()
    assert time.monotonic() - began < 50
    assert one.ended_by() == signal.SIGKILL


def test_only_who_may_be_ended_is(living: Live) -> None:
    one = living()
    assert not replace(one.place, may_end=False).end()
    assert one.process.poll() is None


def test_nobody_ends_itself() -> None:
    assert not ProcessIdentity.read_current(may_end=True).end()


DENIED = """
import json, os, sys
from airflow_provider_safecopy.lock.process import ProcessIdentity
place = ProcessIdentity(**json.loads(sys.argv[1]))
ProcessIdentity.read_current()  # what is imported late may be out of reach later
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
print(place.is_gone, place.end(), place.is_gone)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_who_has_no_right_to_signal_ends_nobody(living: Live) -> None:
    one = living()
    program = [sys.executable, "-c", DENIED, json.dumps(one.place.as_dict())]
    assert subprocess.check_output(program, text=True) == "False False False\n"
    assert one.process.poll() is None


def test_a_name_with_brackets_and_blanks_is_read_past(tmp_path: Path) -> None:
    program = tmp_path / "a) S 1 (b"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "100"]) as process:
        started: list[int | None] = []
        until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "a) S 1 (b\n")
        started.append(process_module._read_start_time(process.pid))
        process.kill()
    uptime = float(Path("/proc/uptime").read_text().split()[0]) * os.sysconf("SC_CLK_TCK")
    assert started[0] is not None
    assert 0 <= uptime - started[0] < 60 * os.sysconf("SC_CLK_TCK")
