from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_provider_safecopy.demo.servers import installations
from benchmarks import pair as pairs
from benchmarks.pair import Pair


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with pairs.running(installations()[0], {"fsync": "off"}) as running:
        yield running
