"""Memory does not grow with the table. The exam with 2 GiB is `make memory`; this is its quick form."""

from __future__ import annotations

import pytest

from airflow_provider_safecopy.demo.servers import Server, installations
from benchmarks import memory

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("transfer", ["chunked", "sequential"])
def test_peak_memory_is_the_same_for_a_small_and_a_large_table(transfer: str) -> None:
    newest = installations()[0]
    with Server.start(newest, durable=False) as source, Server.start(newest, durable=False) as target:
        small, large = (memory.measure(source, target, memory.fill(source, target, mib), transfer) for mib in (10, 150))
    assert large.moved > 10 * small.moved
    assert large.memory - small.memory < memory.ALLOWED_BYTES
    if transfer == "chunked":
        assert large.spool < large.moved, "what the target has taken is given back"
