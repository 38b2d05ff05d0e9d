"""How long a call will take, roughly: told before it begins, so that nobody waits unknowing."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks import growth, peers, release
from benchmarks.contestant import MAIN, WARM_UP
from benchmarks.session import Options

_BYTES_A_SECOND = 80_000_000
"""Of a table copied once, its checkpoint included, on two cores."""

_MAKING = 3
"""Making a table takes as long as copying it so many times."""

_SLOW_TOOLS = 40
"""All slow tools together take so many times as long as a copy."""


def seconds(options: Options, sections: Iterable[str]) -> float:
    """Of all these sections together."""
    return sum(_SECONDS[name](options) for name in sections if name in _SECONDS)


def _ratios(options: Options) -> float:
    return _copies(options.size, len(options.tables) * (len(MAIN) * options.rounds + len(WARM_UP) + _MAKING))


def _parallel(options: Options) -> float:
    return _copies(options.size, len(growth.STREAMS) * options.rounds + 1 + _MAKING)


def _growth(options: Options) -> float:
    return _copies(sum(options.growth), min(options.rounds, growth.MOST_ROUNDS) + 1 + _MAKING)


def _tiny(options: Options) -> float:
    return 10.0 * (options.rounds + 1)


def _release(options: Options) -> float:
    rounds = min(options.rounds, release.MOST_ROUNDS)
    return _copies(options.size, len(release.TABLES) * (rounds * release.SLOWER / 2 + _MAKING))


def _peers(options: Options) -> float:
    rounds = min(options.rounds, peers.MOST_ROUNDS) + 1
    return _copies(options.peer_size * peers.LARGER, 12 * rounds) + _copies(options.peer_size, _SLOW_TOOLS * rounds)


def _copies(size: int, number: float) -> float:
    return size * number / _BYTES_A_SECOND


_SECONDS = {
    "ratios": _ratios,
    "parallel": _parallel,
    "growth": _growth,
    "tiny": _tiny,
    "release": _release,
    "peers": _peers,
}
