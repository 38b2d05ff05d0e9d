"""A machine that does to a source whatever may be done to it, copies it in each write mode, and lets copies fail anywhere.

What must come of it is told by a model of a few lines, which knows nothing of watermarks: after an incremental copy the
target holds every row of the source as it is; a row that is committed late is never older than the lookback.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, get_args

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from airflow_provider_safecopy.spec import CopySpec
from tests.ledger.world import KEYED, LIST, LISTED, NAME, TABLE, Fault, Row, Runner, World, run

LOOKBACK = 3
"""At most; each example has one of its own."""
FAULTS: st.SearchStrategy[Fault] = st.sampled_from(get_args(Fault))
MAYBE = st.none() | FAULTS
NUMBERS, STEPS = st.integers(1, 8), st.sampled_from([2, 1, 0, -1, -2, -3, None])
SLICES, PARTS = st.sampled_from(["오전", "오후"]), st.integers(0, 1)


@dataclass
class Model:
    """The source, what the target must hold, and what each slice has added. `top` is the greatest cursor ever used."""

    source: dict[int, Row] = field(default_factory=dict)
    target: dict[int, Row] = field(default_factory=dict)
    slices: dict[str, tuple[int, list[Row]]] = field(default_factory=dict)
    top: int = 10


class LedgerMachine(RuleBasedStateMachine):
    """One target, some slices, and a source that never rests."""

    world: World
    runner: Runner

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.changes = 0
        self.lookback = 0

    @initialize(lookback=st.integers(0, LOOKBACK))
    def empty(self, lookback: int) -> None:
        self.lookback = lookback
        self.world.emptied()

    # What becomes of the source

    @rule(number=NUMBERS, step=STEPS)
    def write(self, number: int, step: int | None) -> None:
        """A row comes, or changes: later than all, beside the last, late, or without a cursor."""
        if step is None:
            self._put(number, None)
            return
        self.model.top += max(step, 0)
        self._put(number, self.model.top - min(max(-step, 0), self.lookback))

    @rule(number=NUMBERS, last=st.booleans())
    def remove(self, number: int, *, last: bool) -> None:
        """A row; or all that the watermark stands for."""
        rows = self.model.source.values()
        top = max((row[2] for row in rows if row[2] is not None), default=None)
        for gone in [row[0] for row in rows if (row[2] == top if last else row[0] == number)]:
            del self.model.source[gone]
            self._source(f'DELETE FROM {NAME} WHERE "번호" = %s', gone)

    @rule(numbers=st.none() | st.lists(NUMBERS, max_size=3), cursor=st.integers(0, 12))
    def make_anew(self, numbers: list[int] | None, cursor: int) -> None:
        """The target is emptied; or another table takes the source's name, its cursors begin where they like."""
        if numbers is None:
            self.model.target.clear()
            self.world.ask("target", f"TRUNCATE {NAME}")
            return
        self._source(f"DROP TABLE {NAME}")
        self._source(KEYED)
        self.model.source.clear()
        self.model.top = cursor
        for number in numbers:
            self._put(number, cursor)

    # Copies

    @rule()
    def read_on(self) -> None:
        self._read_on(None)

    @rule(fault=FAULTS)
    def read_on_and_fail(self, fault: Fault) -> None:
        self._read_on(fault)

    @rule(fault=MAYBE, start=st.integers(-4, 3), length=st.integers(1, 8))
    def read_an_interval(self, fault: Fault | None, start: int, length: int) -> None:
        first, end = self.model.top + start, self.model.top + start + length
        bounds = {"interval_start": str(first), "interval_end": str(end)}
        if self._run(fault, write_mode="incremental", cursor_column="순번", **bounds):
            inside = (row for row in self.model.source.values() if row[2] is None or first <= row[2] < end)
            self.model.target |= {row[0]: row for row in inside}

    @rule(fault=MAYBE, how=st.sampled_from(["all", "all that is left", "a part"]), limit=NUMBERS)
    def write_otherwise(self, fault: Fault | None, how: str, limit: int) -> None:
        """Beside the incremental copies: by key, with or without what is missing; or a part in the place of all."""
        source, way = self.model.source, "delete_insert" if limit % 2 else "auto"
        part = {"where": f'"번호" < {limit}', "publish": way}
        by_key = {"write_mode": "upsert", "missing": "keep" if how == "all" else "delete"}
        if self._run(fault, min_rows=0, **part if how == "a part" else by_key):
            kept = self.model.target if how == "all" else {}
            new = {number: row for number, row in source.items() if number < limit} if how == "a part" else source
            self.model.target = kept | new

    @rule(fault=MAYBE, name=SLICES, part=PARTS)
    def append(self, fault: Fault | None, name: str, part: int) -> None:
        rows = [row for row in self.model.source.values() if row[0] % 2 == part]
        options = {"target_table": LIST, "write_mode": "append", "append_key": name, "where": f'"번호" % 2 = {part}'}
        status, published = self._ran(fault, **options)
        if name not in self.model.slices:
            assert status in {"published", "crashed"}
            self.model.slices |= {name: (part, rows)} if published else {}
        else:
            assert not published
            there = "already_published" if self.model.slices[name][0] == part else "slice_taken"
            assert status == there

    @precondition(lambda self: self.model.slices)
    @rule(other=st.booleans())
    def append_again(self, *, other: bool) -> None:
        """A retry; or a slice whose name is taken by other rows."""
        name, (part, _) = next(iter(self.model.slices.items()))
        self.append(None, name, 1 - part if other else part)

    # What must hold

    @invariant()
    def the_target_is_the_model(self) -> None:
        rows = self.world.ask("target", f"TABLE {NAME}")
        assert {row[0]: row for row in rows} == self.model.target
        assert len(rows) == len(self.model.target)

    @invariant()
    def each_slice_is_there_once(self) -> None:
        appended = [row for _, rows in self.model.slices.values() for row in rows]
        assert Counter(self.world.ask("target", f"TABLE {LISTED}")) == Counter(appended)

    def _put(self, number: int, cursor: int | None) -> None:
        self.changes += 1
        row = (number, f"내용 {self.changes}", cursor)
        self.model.source[number] = row
        update = 'UPDATE SET "내용" = EXCLUDED."내용", "순번" = EXCLUDED."순번"'
        self._source(f'INSERT INTO {NAME} VALUES (%s, %s, %s) ON CONFLICT ("번호") DO {update}', *row)

    def _source(self, statement: str, *values: Any) -> None:
        self.world.ask("source", statement, values)

    def _read_on(self, fault: Fault | None) -> None:
        lookback = {"lookback": self.lookback} if self.lookback else {}
        if self._run(fault, write_mode="incremental", cursor_column="순번", **lookback):
            self.model.target |= self.model.source

    def _run(self, fault: Fault | None, **options: Any) -> bool:
        """Whether it was published: it is never refused."""
        status, published = self._ran(fault, **options)
        assert status in {"published", "crashed"}, status
        return published

    def _ran(self, fault: Fault | None, **options: Any) -> tuple[str, bool]:
        asked = CopySpec.of(**{"source_table": TABLE, "target_table": TABLE} | options)
        return run(self.world, self.runner, asked, fault)
