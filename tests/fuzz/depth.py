"""How long to look: the profile ``suite`` by itself, quick and the same each time; ``deep`` for `make fuzz`, at random.

Both are made in ``tests/conftest.py``, before any test file asks for one.
"""

from __future__ import annotations

from datetime import timedelta

from hypothesis import HealthCheck, settings

DEADLINE = timedelta(seconds=10)
"""For one example: no parser of ours may take so long over a few kilobytes, however loaded the machine is."""


def looking(weight: float = 1.0) -> settings:
    """So many examples, times `weight`, as the profile says. Quick parsers take more, whole commands fewer."""
    return settings(
        max_examples=max(1, round(weight * settings().max_examples)),
        deadline=DEADLINE,
        suppress_health_check=[
            HealthCheck.too_slow,  # a loaded machine
            HealthCheck.function_scoped_fixture,  # a directory or a patched stream that all examples may share
            HealthCheck.data_too_large,
        ],
    )
