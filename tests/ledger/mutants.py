"""What would break the ledger's promises, one fault at a time, and what the machine must do to notice it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from psycopg.sql import SQL, Composed

from airflow_provider_safecopy.planning import copy_script, history, incremental
from airflow_provider_safecopy.planning import history as slices
from airflow_provider_safecopy.planning.finding import Finding
from airflow_provider_safecopy.planning.history import StoredWatermark
from airflow_provider_safecopy.planning.incremental import ReadRange
from airflow_provider_safecopy.planning.source_identity import SourceIdentity
from airflow_provider_safecopy.publish import receipt
from airflow_provider_safecopy.publish.context import PublishContext
from airflow_provider_safecopy.publish.receipt import WatermarkChange
from airflow_provider_safecopy.report import WrittenRows
from tests.ledger.machine import LedgerMachine

Break = Callable[[pytest.MonkeyPatch], None]
Scene = Callable[[LedgerMachine], None]


def ties_are_not_read_again(patch: pytest.MonkeyPatch) -> None:
    original = copy_script.match_range

    def within(*words: Any, **limits: Any) -> Composed | None:
        found = original(*words, **limits)
        return found and SQL("{}").format(SQL(found.as_string(None).replace(">=", ">")))

    patch.setattr(copy_script, "match_range", within)


def late_rows_are_not_read(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(incremental, "_back", lambda _source, _cursor, mark, *_: Finding(mark))


def rows_without_a_cursor_are_not_read(patch: pytest.MonkeyPatch) -> None:
    original = copy_script.match_range
    patch.setattr(copy_script, "match_range", lambda *words, **limits: original(*words, **limits | {"nulls": False}))


def an_interval_moves_the_watermark_over_a_gap(patch: pytest.MonkeyPatch) -> None:
    original = incremental._interval

    def interval(*words: Any) -> Finding[ReadRange]:
        found = original(*words)
        return replace(found, value=replace(found.value, follows=True))

    patch.setattr(incremental, "_interval", interval)


def what_was_made_anew_is_taken_for_the_old(patch: pytest.MonkeyPatch) -> None:
    original = history._read_watermark

    def stored(*words: Any) -> StoredWatermark | None:
        found = original(*words)
        return found and replace(found, stale_reason=None)

    patch.setattr(history, "_read_watermark", stored)


def a_replace_keeps_the_watermark(patch: pytest.MonkeyPatch) -> None:
    """Neither the replace forgets it, nor does the next copy notice the receipt of the replace."""
    original = receipt.apply_change

    def carry_out(job: PublishContext, move: WatermarkChange | None, written: WrittenRows) -> None:
        if job.plan.spec.write_mode != "replace":
            original(job, move, written)

    patch.setattr(receipt, "apply_change", carry_out)
    unaware = history._WATERMARK["of_origin"].replace("since.changed", "false AS changed")
    patch.setattr(history, "_WATERMARK", {**history._WATERMARK, "of_origin": unaware})


def the_watermark_is_committed_before_the_rows(patch: pytest.MonkeyPatch) -> None:
    original = receipt.decide_change

    def decide(job: PublishContext) -> WatermarkChange | None:
        move = original(job)
        receipt.apply_change(job, move, WrittenRows(0, 0, 0, 0, 0, 0))
        return move

    patch.setattr(receipt, "decide_change", decide)


def the_watermark_is_what_was_asked_for(patch: pytest.MonkeyPatch) -> None:
    """Not what has arrived: the end of an interval, as many would write it."""
    original = receipt.decide_change

    def decide(job: PublishContext) -> WatermarkChange | None:
        move, found = original(job), job.plan.history
        end = found and found.read_range and found.read_range.end
        return WatermarkChange(move.old, end, "put") if move and end else move

    patch.setattr(receipt, "decide_change", decide)


def a_slice_is_not_looked_for(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(slices, "find_append", lambda *_, **__: None)
    patch.setattr(slices, "require_unchanged_append", lambda *_, **__: None)


def any_rows_are_the_same_slice(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SourceIdentity, "digest", "any")


def _tie(machine: LedgerMachine) -> None:
    machine.write(1, 1)
    machine.read_on()
    machine.write(2, 0)
    machine.read_on()


def _late(machine: LedgerMachine) -> None:
    machine.write(1, 2)
    machine.read_on()
    machine.write(2, -2)
    machine.read_on()


def _without_a_cursor(machine: LedgerMachine) -> None:
    machine.write(1, 1)
    machine.read_on()
    machine.write(2, None)
    machine.read_on()


def _gap(machine: LedgerMachine) -> None:
    machine.write(1, 1)
    machine.read_on()
    machine.write(2, 2)
    machine.write(3, 2)
    machine.read_an_interval(None, 0, 1)
    machine.read_on()


def _anew(machine: LedgerMachine) -> None:
    machine.write(1, 2)
    machine.read_on()
    machine.make_anew([2, 3], 1)
    machine.read_on()


def _replaced(machine: LedgerMachine) -> None:
    machine.write(8, 1)
    machine.write(1, 1)
    machine.read_on()
    machine.write_otherwise(None, "a part", 5)
    machine.read_on()


def _failed(machine: LedgerMachine) -> None:
    machine.write(1, 1)
    machine.read_on()
    machine.write(2, 1)
    machine.write(3, 1)
    machine.read_on_and_fail("receipt")
    machine.read_on()


def _interval(machine: LedgerMachine) -> None:
    machine.write(1, 1)
    machine.read_on()
    machine.read_an_interval(None, 0, 8)
    machine.write(2, 1)
    machine.read_on()


def _retried(machine: LedgerMachine) -> None:
    machine.write(1, 1)
    machine.append(None, "오전", 1)
    machine.append(None, "오전", 1)


def _taken(machine: LedgerMachine) -> None:
    machine.write(1, 1)
    machine.append(None, "오전", 1)
    machine.append(None, "오전", 0)


MUTANTS: Mapping[Break, Scene] = {
    ties_are_not_read_again: _tie,
    late_rows_are_not_read: _late,
    rows_without_a_cursor_are_not_read: _without_a_cursor,
    an_interval_moves_the_watermark_over_a_gap: _gap,
    what_was_made_anew_is_taken_for_the_old: _anew,
    a_replace_keeps_the_watermark: _replaced,
    the_watermark_is_committed_before_the_rows: _failed,
    the_watermark_is_what_was_asked_for: _interval,
    a_slice_is_not_looked_for: _retried,
    any_rows_are_the_same_slice: _taken,
}
"""Each with what must be done to see it."""
