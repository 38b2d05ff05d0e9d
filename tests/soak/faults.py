"""All single faults, each with a name, by what it strikes, and what it does there."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from airflow_provider_safecopy.demo.servers import installations
from tests.soak.ground import SIDES, Side
from tests.soak.scene import Scene
from tests.support.fake_psql import Behaviour, Stage, _stage, write

_ENDED = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE starts_with(application_name, 'safecopy:') AND datname = current_database()
"""
_DEADLY = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def nothing(_: Scene) -> list[str]:
    """No options of its own."""
    return []


@dataclass(frozen=True)
class Fault:
    """One way of breaking a run. `strike` is called in a proxy's thread at a step of the run's; without it the fault is
    there from the start, made by the options `words`."""

    name: str
    strike: Callable[[Scene], object] | None = None
    side: Side | None = None
    """The side it strikes; None: it strikes neither, and its moment is counted on either."""
    words: Callable[[Scene], list[str]] = nothing
    transfer: str | None = None
    """The only one in which it can be."""
    verify: str | None = None
    """What it takes to be found out."""
    passes: bool = False
    """Whether it lasts for the scene's pause: a run may outlast it."""


def _end_us(scene: Scene, number: signal.Signals) -> None:
    scene.us.send_signal(number)
    scene.struck()


def _stop_us(scene: Scene) -> None:
    scene.us.send_signal(signal.SIGSTOP)
    scene.struck()

    def go_on() -> None:
        scene.us.send_signal(signal.SIGCONT)
        scene.struck()  # only now can it tell

    scene.later(go_on)


def _end_psql(scene: Scene, stage: Stage, number: signal.Signals) -> None:
    scene.hunt(lambda: _psql(scene, stage), lambda found: found.send_signal(number))


def _stop_psql(scene: Scene, stage: Stage) -> None:
    def stop(found: psutil.Process) -> None:
        found.send_signal(signal.SIGSTOP)
        scene.later(lambda: found.send_signal(signal.SIGCONT))

    scene.hunt(lambda: _psql(scene, stage), stop)


def _psql(scene: Scene, stage: Stage) -> psutil.Process | None:
    """The run's psql of a stage, while there is one."""
    for child in scene.us.children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            words = child.cmdline()
            if words and Path(words[0]).name == "psql" and _stage(words[1:]) == stage:
                return child
    return None


def _end_sessions(scene: Scene) -> None:
    scene.database.execute(_ENDED)
    scene.struck()


def _cut(scene: Scene) -> None:
    scene.wire.cut_now()
    scene.struck()


def _cut_off(scene: Scene) -> None:
    _cut(scene)
    scene.later(scene.wire.mend)


def _reset(scene: Scene) -> None:
    scene.wire.reset_now()
    scene.struck()


def _half_open(scene: Scene) -> None:
    scene.wire.half_open_now()
    scene.struck()


def _orphan(scene: Scene) -> None:
    scene.wire.orphan_now()
    scene.struck()


def _stall(scene: Scene) -> None:
    scene.wire.stall_now()
    scene.struck()


def _hold_up(scene: Scene) -> None:
    _stall(scene)
    scene.later(scene.wire.mend)


def _lose_answer(scene: Scene) -> None:
    scene.wire.lose_answer_now()
    scene.struck()


def _restart(scene: Scene) -> None:
    scene.host.crash()
    scene.host.start()
    scene.struck()


def _outage(scene: Scene) -> None:
    scene.host.crash()
    scene.struck()
    scene.later(scene.host.start)


def _remove_spool(scene: Scene) -> None:
    scene.remove_spool()
    scene.struck()


def _spoil_file(scene: Scene, spoil: Callable[[Scene, Path, int], object]) -> None:
    scene.hunt(lambda: next(_spool_files(scene), None), lambda found: spoil(scene, *found))


def _spool_files(scene: Scene) -> Iterator[tuple[Path, int]]:
    """The run's spool files that hold something. They have no name any more, but descriptors."""
    try:
        descriptors = list(Path(f"/proc/{scene.us.pid}/fd").iterdir())
    except FileNotFoundError:  # it has ended: there is nothing to strike
        return
    for descriptor in descriptors:
        with suppress(OSError):
            if str(descriptor.readlink()).startswith(f"{scene.spool}/") and (size := descriptor.stat().st_size):
                yield descriptor, size


def _flip(scene: Scene, file: Path, size: int) -> None:
    with file.open("r+b", buffering=0) as opened:
        place = scene.dice.randrange(size)
        byte = os.pread(opened.fileno(), 1, place)
        os.pwrite(opened.fileno(), bytes([byte[0] ^ 1]), place) if byte else None


def _truncate(scene: Scene, file: Path, size: int) -> None:
    os.truncate(file, scene.dice.randrange(size))


def _lying(scene: Scene, behaviour: Callable[[Scene, Stage], Behaviour]) -> list[str]:
    stage: Stage = scene.dice.choice(("export", "import"))
    return ["--psql", str(write(scene.files, str(installations()[0].psql), behaviour(scene, stage)))]


_LIES: dict[str, Callable[[Scene, Stage], Behaviour]] = {
    "says nothing and exits with 0": lambda _, stage: Behaviour(stage, silent=True),
    "says a wrong number of rows": lambda scene, stage: Behaviour(stage, rows=str(scene.dice.randrange(10**6, 10**7))),
    "says no number of rows": lambda _, stage: Behaviour(stage, rows=""),
    "says all twice": lambda _, stage: Behaviour(stage, twice=True),
    "swallows the end": lambda scene, stage: Behaviour(stage, truncate=scene.dice.randrange(1, 100_000)),
    "adds a row": lambda _, stage: Behaviour(stage, trailing="9999999\t덧붙인 줄\t1\n"),
    "claims a commit": lambda _, __: Behaviour("import", forge=True),
    "dies": lambda scene, stage: Behaviour(stage, die_after=scene.dice.randrange(300_000)),
    "exits with 3": lambda scene, stage: Behaviour(stage, die_after=scene.dice.randrange(300_000), exit_code=3),
    "hangs": lambda scene, stage: Behaviour(
        stage, hang_after=scene.dice.randrange(300_000), stubborn=scene.dice.random() < 0.5
    ),
    "hangs when it is done": lambda scene, stage: Behaviour(stage, hang_at=scene.dice.choice(("eof", "exit"))),
    "floods stderr": lambda _, stage: Behaviour(stage, flood=5_000_000),
}


def _lies() -> Iterator[Fault]:
    for name, behaviour in _LIES.items():
        yield Fault(f"psql {name}", words=partial(_lying, behaviour=behaviour))
    flips: Callable[[Scene, Stage], Behaviour] = lambda scene, stage: Behaviour(  # noqa: E731 -- as those above
        stage, flip_at=scene.dice.randrange(100_000)
    )
    yield Fault("psql flips a bit", words=partial(_lying, behaviour=flips), verify="full")


def _all() -> Iterator[Fault]:
    for number in _DEADLY:
        yield Fault(f"{number.name} of our process", partial(_end_us, number=number))
    yield Fault("SIGSTOP, SIGCONT of our process", _stop_us, passes=True)
    stages: tuple[Stage, ...] = ("export", "import")
    for stage in stages:
        for number in _DEADLY:
            yield Fault(f"{number.name} of {stage} psql", partial(_end_psql, stage=stage, number=number))
        yield Fault(f"SIGSTOP, SIGCONT of {stage} psql", partial(_stop_psql, stage=stage), passes=True)
    for side in SIDES:
        yield Fault(f"{side}: sessions ended", _end_sessions, side)
        yield Fault(f"{side}: connections cut, and refused", _cut, side)
        yield Fault(f"{side}: connections refused for a while", _cut_off, side, passes=True)
        yield Fault(f"{side}: connections reset", _reset, side)
        yield Fault(f"{side}: connections half open", _half_open, side)
        yield Fault(f"{side}: sessions orphaned", _orphan, side)
        yield Fault(f"{side}: network silent", _stall, side)
        yield Fault(f"{side}: network silent for a while", _hold_up, side, passes=True)
        yield Fault(f"{side}: an answer lost", _lose_answer, side)
        yield Fault(f"{side}: server restarted", _restart, side)
        yield Fault(f"{side}: server down for a while", _outage, side, passes=True)
    yield Fault("spool directory removed", _remove_spool, transfer="sequential")
    yield Fault("spool: a bit flipped", partial(_spoil_file, spoil=_flip), transfer="sequential")
    yield Fault("spool: truncated", partial(_spoil_file, spoil=_truncate), transfer="sequential")
    yield Fault("spool: limit reached", words=lambda _: ["--spool-limit", "64KiB"], transfer="sequential")
    yield from _lies()


FAULTS = tuple(_all())
