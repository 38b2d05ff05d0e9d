"""No reader sees anything but the old rows or the new ones, whatever its isolation level and the way to publish."""

from __future__ import annotations

import pytest

from airflow_provider_safecopy.spec import Publish
from tests.readers import EMPTY, MODES, TABLE, Observation, make, observe
from tests.support.database import Database
from tests.support.readers import Readers, Sight

PUBLISHES = 6


@pytest.mark.parametrize("mode", MODES)
def test_readers_see_the_old_rows_or_the_new_ones(source: Database, target: Database, mode: Publish) -> None:
    seen = observe(mode, PUBLISHES, source, target)
    assert seen.wrong == []
    assert len(seen.states) == 2
    for sight in seen.sights:
        assert sight.early or sight.states - {EMPTY} == seen.states
        assert sight.transactions >= PUBLISHES
        assert bool(sight.overtaken) == sight.early
    # That a snapshot older than a TRUNCATE finds nothing is documented, and shows that these readers' are older.
    found = {sight.isolation for sight in seen.sights if EMPTY in sight.states}
    assert found == ({"REPEATABLE READ", "SERIALIZABLE"} if mode == "truncate_insert" else set())


def test_readers_notice_half_a_table_and_an_empty_one(source: Database, target: Database) -> None:
    states = make(source, target)
    with Readers(target.conninfo, TABLE, lock_timeout=10_000) as readers:
        target.execute(f'DELETE FROM {TABLE} WHERE "번호" % 2 = 0')
        readers.look()
        target.execute(f"TRUNCATE {TABLE}")
        readers.look()
    for sight in readers.sights:
        wrong = " ".join(Observation("swap", 1, states, (sight,)).wrong)
        assert ("saw (500, " in wrong) or sight.early
        assert "saw (0, 0), which is neither" in wrong


def test_a_reader_notices_that_it_must_wait(target: Database, source: Database) -> None:
    states = make(source, target)
    with Readers(target.conninfo, TABLE, lock_timeout=5) as readers, target.connect() as holder:
        holder.execute(f"BEGIN; LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE".encode())
        readers.look()
        holder.rollback()
    wrong = Observation("delta", 1, states, readers.sights).wrong
    assert len([each for each in wrong if "LockNotAvailable" in each]) == len(readers.sights)


@pytest.mark.parametrize("isolation, told", [("READ COMMITTED", 0), ("REPEATABLE READ", 1)])
def test_a_transaction_with_one_snapshot_may_see_one_state_only(isolation: str, told: int) -> None:
    states = frozenset({(1, 5), (2, 7)})
    torn = Sight(isolation, early=False, transactions=9, overtaken=0, longest=0.1, states=states, torn=3, errors=())
    assert len(Observation("swap", 1, states, (torn,)).wrong) == told
