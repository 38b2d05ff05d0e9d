"""The abort switch: thrown once, from anywhere, and everything that hangs on it ends."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.errors import AbortedError


@pytest.fixture
def on_signal() -> Iterator[Callable[[AbortSwitch], None]]:
    """Throw a switch from a handler of SIGUSR1."""
    before = signal.getsignal(signal.SIGUSR1)

    def throw_by_signal(switch: AbortSwitch) -> None:
        def handle(number: int, _frame: FrameType | None) -> None:
            switch.throw(signal.Signals(number).name)

        signal.signal(signal.SIGUSR1, handle)

    yield throw_by_signal
    signal.signal(signal.SIGUSR1, before)


def readable(switch: AbortSwitch, seconds: float = 0) -> bool:
    return bool(select.select([switch], [], [], seconds)[0])


def test_an_unthrown_switch_stops_nothing() -> None:
    switch = AbortSwitch()
    switch.check()
    assert not switch.is_thrown
    assert switch.reason is None
    assert not readable(switch)


def test_a_thrown_switch_stays_thrown() -> None:
    switch = AbortSwitch()
    switch.throw("operator cleared the task")
    assert switch.is_thrown
    for _ in range(3):
        assert readable(switch)
        with pytest.raises(AbortedError, match="operator cleared the task"):
            switch.check()


def test_the_first_reason_counts_and_the_second_throw_ends_nothing_again() -> None:
    switch, ended = AbortSwitch(), list[str]()
    with switch.hang(lambda: ended.append("child")):
        switch.throw("SIGTERM")
        switch.throw("SIGINT")
    assert switch.reason == "SIGTERM"
    assert ended == ["child"]


def test_throwing_often_never_blocks_although_nobody_reads() -> None:
    switch = AbortSwitch()
    for _ in range(100_000):  # more than a pipe holds
        switch.throw("again")
    assert readable(switch)


def test_a_signal_handler_may_throw_while_the_main_thread_waits(
    on_signal: Callable[[AbortSwitch], None],
) -> None:
    switch, ended = AbortSwitch(), list[int]()
    on_signal(switch)
    sender = threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    with switch.hang(lambda: ended.append(threading.get_ident())):
        sender.start()
        assert readable(switch, 30)  # PEP 475 resumes the wait; the byte in the pipe ends it
    sender.join()
    assert switch.reason == "SIGUSR1"
    assert ended == [threading.main_thread().ident]


def test_a_signal_handler_may_throw_while_the_main_thread_throws(on_signal: Callable[[AbortSwitch], None]) -> None:
    switch, ended = AbortSwitch(), list[str]()
    on_signal(switch)

    def end() -> None:
        ended.append("child")
        signal.raise_signal(signal.SIGUSR1)  # in the midst of the first throw

    with switch.hang(end), switch.hang(lambda: ended.append("session")):
        switch.throw("first")
    assert switch.reason == "first"
    assert ended == ["child", "session"]


def test_another_thread_may_throw() -> None:
    switch = AbortSwitch()
    ended = threading.Event()
    with switch.hang(ended.set):
        thread = threading.Thread(target=switch.throw, args=["from afar"])
        thread.start()
        assert readable(switch, 30)
        thread.join()
    assert ended.is_set()
    with pytest.raises(AbortedError, match="from afar"):
        switch.check()


def test_a_wait_lasts_its_time_at_most_and_ends_with_the_throw() -> None:
    switch = AbortSwitch()
    began = time.monotonic()
    assert not switch.wait(0.05)
    assert time.monotonic() - began >= 0.05
    assert not switch.wait(0)
    assert not switch.wait(-1)
    thrower = threading.Timer(0.05, switch.throw, args=["from afar"])
    thrower.start()
    assert switch.wait(100)
    thrower.join()
    assert switch.wait(0)


def test_what_hangs_inside_ends_and_what_hung_before_does_not() -> None:
    switch, ended = AbortSwitch(), list[str]()
    with switch.hang(lambda: ended.append("outer")):
        with switch.hang(lambda: ended.append("before")):
            pass
        with switch.hang(lambda: ended.append("inner")):
            switch.throw("stop")
    assert ended == ["outer", "inner"]


def test_what_is_hung_on_a_thrown_switch_ends_at_once() -> None:
    switch, ended = AbortSwitch(), list[str]()
    switch.throw("stop")
    with switch.hang(lambda: ended.append("late")):
        assert ended == ["late"]
    assert ended == ["late"]


def test_what_hung_in_a_block_that_failed_is_forgotten() -> None:
    switch, ended = AbortSwitch(), list[str]()

    def fail() -> None:
        with switch.hang(lambda: ended.append("child")):
            raise KeyError("영업")

    with pytest.raises(KeyError):
        fail()
    switch.throw("stop")
    assert ended == []


def test_the_same_thing_may_hang_twice() -> None:
    switch, ended = AbortSwitch(), list[str]()

    def end() -> None:
        ended.append("child")

    with switch.hang(end):
        with switch.hang(end):
            pass
        switch.throw("stop")
    assert ended == ["child"]


def test_its_descriptors_are_closed_with_it_and_never_inherited() -> None:
    switch = AbortSwitch()
    descriptors = {switch._wake_read, switch._wake_write}
    assert not any(os.get_inheritable(each) for each in descriptors)
    assert not os.get_blocking(switch._wake_write)
    pipe = _link(Path(f"/proc/self/fd/{switch.fileno()}"))
    assert pipe is not None
    del switch
    assert pipe not in {_link(path) for path in Path("/proc/self/fd").iterdir()}


def _link(path: Path) -> str | None:
    try:
        return str(path.readlink())
    except FileNotFoundError:  # the listing's own descriptor
        return None
