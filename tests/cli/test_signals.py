"""Signals: what the first one does, and that the second changes nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.cli.signals import raise_on_signals, throw_on_signals

ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@contextmanager
def cleaning_up_when_left(cleaned: list[str]) -> Iterator[None]:
    """What a command does on its way out, while somebody presses Ctrl-C once more."""
    try:
        yield
    finally:
        signal.raise_signal(signal.SIGINT)
        cleaned.append("all")


@pytest.mark.parametrize("number", ENDING)
def test_the_first_interrupts_and_the_second_lets_the_cleaning_up_finish(number: signal.Signals) -> None:
    cleaned: list[str] = []
    with pytest.raises(KeyboardInterrupt, match=number.name), raise_on_signals(), cleaning_up_when_left(cleaned):
        signal.raise_signal(number)
    assert cleaned == ["all"]


@pytest.mark.parametrize("number", ENDING)
def test_the_switch_is_thrown_once(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    switch = AbortSwitch()
    with throw_on_signals(switch):
        assert not switch.is_thrown
        signal.raise_signal(number)
        signal.raise_signal(signal.SIGTERM)
    assert switch.reason == number.name
    assert capfd.readouterr().err.count("stopping, please wait") == 1


def test_a_terminal_that_has_gone_does_not_keep_the_switch_from_being_thrown() -> None:
    switch = AbortSwitch()
    saved = os.dup(2)
    reading, writing = os.pipe()
    try:
        os.close(reading)
        os.dup2(writing, 2)
        with throw_on_signals(switch):
            signal.raise_signal(signal.SIGHUP)
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(writing)
    assert switch.is_thrown


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        switch = AbortSwitch()
        with raise_on_signals(), throw_on_signals(switch):
            signal.raise_signal(signal.SIGHUP)
        assert not switch.is_thrown
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
