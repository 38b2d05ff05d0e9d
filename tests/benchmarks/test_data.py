from __future__ import annotations

import pytest

from benchmarks import data
from benchmarks.data import TABLES
from benchmarks.pair import Pair

pytestmark = pytest.mark.slow

SIZE = 4_000_000


@pytest.mark.parametrize("key", [key for key, table in TABLES.items() if table.fill])
def test_a_table_is_as_large_as_asked_for_and_the_same_on_both_sides(pair: Pair, key: str) -> None:
    made = data.make(pair, key, SIZE)
    assert SIZE * 0.97 < made.heap < SIZE * 1.1
    (here,), (there,) = (
        server.execute(
            pair.database, f"SELECT count(*), sum(hashtextextended(t::text, 0)::numeric) FROM {made.quoted} t"
        )
        for server in (pair.source, pair.target)
    )
    assert here == there
    assert here[0] == made.rows
    data.drop(pair, made)


@pytest.mark.parametrize(("key", "indexes"), [("integers", []), ("integers-keyed", [["번호"]])])
def test_only_a_keyed_table_has_an_index_and_on_both_sides(pair: Pair, key: str, indexes: list[list[str]]) -> None:
    made = data.make(pair, key, 100_000)
    for server in (pair.source, pair.target):
        found = server.execute(
            pair.database,
            "SELECT ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = indexrelid) FROM pg_index "
            "WHERE indrelid = %s::text::regclass AND indisprimary",
            [made.quoted],
        )
        assert [row[0] for row in found] == indexes
    data.drop(pair, made)


def test_no_two_columns_of_many_types_have_the_same_type(pair: Pair) -> None:
    made = data.make(pair, "types", 100_000)
    types = [
        row[0]
        for row in pair.source.execute(
            pair.database,
            "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = %s::text::regclass AND attnum > 0",
            [made.quoted],
        )
    ]
    assert len(set(types)) == len(types) == 20
    data.drop(pair, made)
