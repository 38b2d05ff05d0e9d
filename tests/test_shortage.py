"""Shortages: an error of this machine's limits is told as that, names the limit, and may pass."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest

from airflow_provider_safecopy import pipeline, shortage
from airflow_provider_safecopy.errors import PlanError, StageError
from airflow_provider_safecopy.spec import Progress
from tests.conftest import MakePsql, NothingLeft
from tests.support.customers import spec
from tests.support.database import Database
from tests.support.fake_psql import Behaviour, Stage


@contextmanager
def few_descriptors(left: int) -> Iterator[None]:
    """Leave this process so many descriptors to open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        probe = os.open(os.devnull, os.O_RDONLY)
        os.close(probe)
        most = max(int(each.name) for each in Path("/proc/self/fd").iterdir()) + 1
        while probe < most:  # no gap is left below
            probe = os.open(os.devnull, os.O_RDONLY)
            stack.callback(os.close, probe)
        resource.setrlimit(resource.RLIMIT_NOFILE, (probe + 1 + left, before[1]))
        yield


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.EMFILE, "x"), "open_files"),
        (OSError(errno.ENFILE, "x"), "open_files"),
        (OSError(errno.ENOMEM, "x"), "memory"),
        (MemoryError(), "memory"),
        (RuntimeError("can't start new thread"), "processes"),
        (BlockingIOError(errno.EAGAIN, "x"), None),
        (RuntimeError("dictionary changed size during iteration"), None),
        (FileNotFoundError(errno.ENOENT, "x"), None),
        (OSError("without a number"), None),
    ],
    ids=repr,
)
def test_only_an_error_of_a_limit_is_one(error: Exception, code: str | None) -> None:
    found = shortage.find(error)
    assert (found and found.code) == code
    if found is None:
        with pytest.raises(type(error)), shortage.translate("plan"):
            raise error
        return
    with pytest.raises(StageError) as caught, shortage.translate("plan"):
        raise error
    assert (caught.value.retryable, caught.value.stage) == (True, "plan")
    assert caught.value.hint


def test_a_process_that_cannot_be_started_is_one_though_eagain_says_something_else_elsewhere() -> None:
    found = shortage.find(BlockingIOError(errno.EAGAIN, "x"), starting=True)
    assert found is not None
    assert found.code == "processes"


def test_the_limit_of_a_control_group_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mine = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    line = next(line for line in mine if line.split(":")[1] in {"", "pids"})
    group = tmp_path / line.split(":")[1] / line.split(":")[2].lstrip("/")
    group.mkdir(parents=True, exist_ok=True)
    (group / "pids.max").write_text("5\n")
    monkeypatch.setattr(shortage, "_CONTROL_GROUPS", tmp_path)
    found = shortage.find(RuntimeError("can't start new thread"))
    assert found is not None
    assert "pids.max 5" in found.message


def test_a_copy_that_has_too_few_descriptors_is_refused_and_may_be_tried_again(
    filled: tuple[Database, Database], nothing_left: NothingLeft
) -> None:
    source, target = filled
    ends = source.endpoint, target.endpoint
    for ask in (
        lambda: pipeline.copy(spec(), *ends),
        lambda: pipeline.plan(spec(), *ends),
        lambda: pipeline.copy_tables([spec()], *ends),
        lambda: pipeline.plan_tables([spec()], *ends),
    ):
        with few_descriptors(10), pytest.raises(PlanError, match="RLIMIT_NOFILE") as caught:
            ask()
        assert caught.value.retryable
    nothing_left(source, target)


@pytest.mark.parametrize("at", ["export", "import", "verify", "publish"])
def test_no_thread_more_at_any_time_is_told_as_that(
    filled: tuple[Database, Database], nothing_left: NothingLeft, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """What was seen: "cannot join thread before it is started", and no word of a limit."""
    source, target = filled

    def refuse(*_: object, **__: object) -> int:
        raise RuntimeError("can't start new thread")

    def reach(progress: Progress) -> None:
        if progress.stage == at:
            monkeypatch.setattr("threading._start_new_thread", refuse)
            monkeypatch.setattr("threading._start_joinable_thread", refuse, raising=False)

    with pytest.raises(StageError, match="no more processes and threads") as caught:
        pipeline.copy(spec(publish="swap"), source.endpoint, target.endpoint, progress=reach)
    assert caught.value.retryable
    nothing_left(source, target)


@pytest.mark.parametrize("most", range(3))
def test_a_look_for_threads_that_fails_ends_those_that_were_started(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Found: it waited for them for ever."""
    start, before = threading.Thread.start, threading.active_count()

    def start_few(thread: threading.Thread) -> None:
        if threading.active_count() - before >= most:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_few)
    assert [each.code for each in shortage.check()] == ["processes"]
    assert threading.active_count() == before


# SIGCHLD


@pytest.fixture
def _sigchld_ignored() -> Iterator[None]:
    """The system is told to report no child's end, as some parents do."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.usefixtures("_sigchld_ignored")
@pytest.mark.parametrize("stage", ["export", "import"])
def test_a_psql_that_was_killed_is_told_as_killed_though_sigchld_was_ignored(
    filled: tuple[Database, Database], nothing_left: NothingLeft, fake_psql: MakePsql, stage: Stage
) -> None:
    source, target = filled
    dying = fake_psql(Behaviour(stage, die_after=100))
    with pytest.raises(StageError) as caught:
        pipeline.copy(spec(psql=dying), source.endpoint, target.endpoint)
    assert (caught.value.stage, caught.value.exit_code) == (stage, -signal.SIGKILL)
    nothing_left(source, target)


@pytest.mark.usefixtures("_sigchld_ignored")
def test_outside_the_main_thread_it_is_refused_since_only_that_may_change_it(
    filled: tuple[Database, Database], psql: str, tmp_path: Path
) -> None:
    source, target = filled
    own = shutil.copytree(Path(psql).parent, tmp_path / "bin", symlinks=True) / "psql"  # not asked before
    with ThreadPoolExecutor(1) as executor:
        plan = executor.submit(pipeline.plan, spec(psql=str(own)), source.endpoint, target.endpoint).result()
    (refused,) = plan.refusals
    assert "SIGCHLD" in refused.message
    assert "main thread" in refused.hint


# The server's answers


def test_a_session_whose_answer_cannot_be_waited_for_is_closed(
    target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the answer would be taken for that of the next question."""
    from airflow_provider_safecopy.postgres.session import open_session

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with open_session(target.endpoint, application_name="safecopy:test", connect_timeout=10) as session:
        monkeypatch.setattr("psycopg.connection.waiting.wait", refuse)
        with pytest.raises(psycopg.OperationalError, match="RLIMIT_NOFILE"):
            session.fetch_value("SELECT 1")
        assert session.connection.closed
