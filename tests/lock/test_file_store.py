"""The store of locks in a directory: what the one exam does not ask, because it is of files and processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pytest_mock import MockerFixture

from airflow_provider_safecopy.errors import LockLostError, LockStoreError
from airflow_provider_safecopy.lock import file_record, file_store
from airflow_provider_safecopy.lock import file_store as lock_file_store
from airflow_provider_safecopy.lock.file_record import FileRecord
from airflow_provider_safecopy.lock.file_store import FileStore
from airflow_provider_safecopy.lock.model import Contender, Holder, Lease, Promise
from airflow_provider_safecopy.lock.process import ProcessIdentity

NAME = "분석.고객"
PROMISE = Promise(stale_after=600, crash_grace=None)
PACKAGE = Path(file_store.__file__).parent


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "잠금"


@pytest.fixture
def store(directory: Path) -> Iterator[FileStore]:
    store = FileStore(directory)
    yield store
    store.close()


@pytest.fixture
def rival(directory: Path) -> Iterator[FileStore]:
    rival = FileStore(directory)
    yield rival
    rival.close()


def taken(store: FileStore, contender: Contender, name: str = NAME, promise: Promise = PROMISE) -> Lease:
    answer = store.acquire(name, contender, promise)
    assert isinstance(answer, Lease), f"busy: {answer}"
    return answer


def refused(store: FileStore, contender: Contender, name: str = NAME) -> Holder:
    answer = store.acquire(name, contender, PROMISE)
    assert isinstance(answer, Holder), f"not busy: {answer}"
    return answer


def state_file(directory: Path) -> Path:
    (path,) = directory.glob("*.state")
    return path


def rewrite(directory: Path, **facts: Any) -> None:
    path = state_file(directory)
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


# Evidence


ENDED = """
from airflow_provider_safecopy.lock.process import ProcessIdentity
import json
print(json.dumps(ProcessIdentity.read_current().as_dict()))
"""


def ended() -> ProcessIdentity:
    """A process of this machine that has ended."""
    place = ProcessIdentity.from_dict(json.loads(subprocess.check_output([sys.executable, "-c", ENDED])))
    assert place is not None
    assert place.is_gone
    return place


def test_who_is_gone_and_holds_no_flock_is_taken_over_at_once(store: FileStore, rival: FileStore) -> None:
    lease = taken(store, Contender("r1", process=ended()))
    store.close()
    took = taken(rival, Contender("r2"))
    assert took.kind == "takeover-dead"
    assert took.displaced is not None
    assert took.displaced.attempts == (str(lease.attempt),)


def test_whose_flock_is_held_is_not_gone_whatever_pid_and_start_time_say(store: FileStore, rival: FileStore) -> None:
    taken(store, Contender("r1", process=ended()))
    refused(rival, Contender("r2"))


def test_whose_process_lives_is_not_gone_though_its_flock_is_free(store: FileStore, rival: FileStore) -> None:
    taken(store, Contender("r1"))
    store.close()
    refused(rival, Contender("r2"))


def test_of_several_members_all_must_be_gone(store: FileStore, rival: FileStore, directory: Path) -> None:
    living = FileStore(directory)
    taken(store, Contender("r1", member="하나", process=ended()))
    taken(living, Contender("r1", member="둘"))
    store.close()
    refused(rival, Contender("r2"))
    # But its own task, at the same try, need not wait for it.
    assert taken(rival, Contender("r1", member="하나")).kind == "supersede"
    living.close()


def test_a_store_that_nobody_knows_any_more_holds_no_flock(directory: Path, rival: FileStore) -> None:
    store = FileStore(directory)
    taken(store, Contender("r1", process=ended()))
    del store
    assert taken(rival, Contender("r2")).kind == "takeover-dead"


# Another boot


def test_after_a_reboot_every_holder_is_gone(directory: Path, store: FileStore, rival: FileStore) -> None:
    taken(store, Contender("r1"))
    store.close()
    data = json.loads(state_file(directory).read_text())
    members = {key: each | {"boot": "부팅 0"} for key, each in data["members"].items()}
    rewrite(directory, boot="부팅 0", written_at=9e9, due_at=9e9 + 600, members=members)
    holder = rival.read_holder(NAME)
    assert holder is not None
    assert holder.seconds_to_takeover == pytest.approx(600, abs=60)
    took = taken(rival, Contender("r2"))
    assert (took.kind, took.token) == ("takeover-dead", 2)


def test_after_a_reboot_a_detached_member_holds_until_it_is_due(
    directory: Path, store: FileStore, rival: FileStore
) -> None:
    taken(store, Contender("r1", process=None, is_detached=True))
    data = json.loads(state_file(directory).read_text())
    members = {key: each | {"boot": "부팅 0"} for key, each in data["members"].items()}
    rewrite(directory, boot="부팅 0", written_at=9e9, due_at=9e9 + 600, members=members)
    assert refused(rival, Contender("r2")).seconds_to_takeover == pytest.approx(600, abs=60)
    rewrite(directory, written_wall=data["written_wall"] - 1000)
    assert taken(rival, Contender("r2")).kind == "takeover-stale"


def test_whoever_takes_it_after_a_reboot_keeps_it(directory: Path, store: FileStore, rival: FileStore) -> None:
    store.release(taken(store, Contender("r1")), at_least=0)
    rewrite(directory, boot="부팅 0", written_at=9e9, not_before=9e9)
    taken(store, Contender("r2"))
    refused(rival, Contender("r3"))


# The clock


def test_suspended_time_counts_and_the_walls_clock_does_not(
    store: FileStore, rival: FileStore, mocker: MockerFixture
) -> None:
    lease = taken(store, Contender("r1"))
    wall = mocker.patch.object(lock_file_store, "datetime", wraps=datetime)
    for years in (-30, 30):
        wall.now.return_value = datetime.now(UTC) + timedelta(days=365 * years)
        holder = refused(rival, Contender("r2"))
        assert holder.seconds_to_takeover == pytest.approx(600, abs=60)
        assert abs(holder.asked_at - wall.now.return_value) < timedelta(minutes=1)
        assert store.heartbeat(lease, phase=1, count=1) == pytest.approx(600, abs=60)
    assert abs(lock_file_store.read_boot_clock() - float(Path("/proc/uptime").read_text().split()[0])) < 1


def test_a_wall_clock_that_is_set_back_does_not_turn_the_history_round(store: FileStore, mocker: MockerFixture) -> None:
    wall = mocker.patch.object(lock_file_store, "datetime", wraps=datetime)
    wall.now.side_effect = [datetime.now(UTC) - timedelta(hours=hours) for hours in range(100)]
    lease = taken(store, Contender("r1"))
    store.record_refusal(NAME, Contender("r2"))
    store.release(lease)
    assert [event.kind for event in store.read_history()] == ["release", "refused", "grant"]


# Killed at any instruction


KILLED = """
import os, signal, sys
from pathlib import Path
from airflow_provider_safecopy.lock.file_store import FileStore
from airflow_provider_safecopy.lock.model import Contender, Lease, Promise

directory, package, least = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
os.fsync = lambda _: None  # a kill, unlike a power failure, loses nothing that was written; and the disk is slow
ours = tuple(f"{package}/{name}.py" for name in ("file_record", "file_state", "file_store", "flock"))

def die_at(step):
    def trace(frame, event, _):
        nonlocal step
        if not frame.f_code.co_filename.endswith(ours):
            return None
        step -= event == "line"
        if step == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)

def life(store):
    lease = store.acquire("잠금", Contender("r1"), Promise())
    store.heartbeat(lease, phase=1, count=1)
    store.release(lease)

step, token = 0, 0
while True:
    step += 1
    child = os.fork()
    if child == 0:
        store = FileStore(directory)
        die_at(step)
        life(store)
        sys.settrace(None)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    store = FileStore(directory)
    lease = store.acquire("잠금", Contender(f"after {step}"), Promise())
    assert isinstance(lease, Lease), f"killed at step {step}: {lease}"
    assert lease.token > token, f"killed at step {step}: token {lease.token} after {token}"
    assert store.heartbeat(lease, phase=1, count=1) > 0
    assert store.release(lease)
    assert store.read_history()[0].kind == "release"
    assert store.read_history()[0].token == lease.token
    token = lease.token
    if os.WIFEXITED(status):
        break
assert os.waitstatus_to_exitcode(status) == 0
assert step > least, step
left = sorted(path.suffix for path in directory.iterdir())
store.forget(keep=0)
assert not list(directory.glob("*.life")), left
print(step)
"""


@pytest.mark.slow
def test_killed_at_any_instruction_it_can_be_read_and_taken_at_once(directory: Path) -> None:
    program = [sys.executable, "-c", KILLED, str(directory), str(PACKAGE), "100"]
    subprocess.run(program, check=True, timeout=110, stdout=subprocess.DEVNULL)


def test_what_a_killed_process_has_half_written_is_written_over(directory: Path, store: FileStore) -> None:
    store.release(taken(store, Contender("r1")))
    beside = Path(f"{state_file(directory)}.new")
    beside.write_bytes(b'{"token": 99, "na')
    assert taken(store, Contender("r2")).token == 2
    assert not beside.exists()


@pytest.mark.parametrize("content", [b"", b"{}", b'{"layout": 2}', b"[]", b"\xff", b'{"layout": 1, "members": 3}'])
def test_a_state_that_cannot_be_read_is_told_and_never_taken_for_a_free_lock(
    directory: Path, store: FileStore, content: bytes
) -> None:
    taken(store, Contender("r1"))
    state_file(directory).write_bytes(content)
    for ask in (
        lambda: store.acquire(NAME, Contender("r2"), PROMISE),
        lambda: store.read_holder(NAME),
        store.read_holders,
        lambda: store.forget(keep=0),
    ):
        with pytest.raises(LockStoreError, match=r"\.state: ") as caught:
            ask()
        assert not caught.value.retryable
        assert "restore" in caught.value.hint
    assert state_file(directory).read_bytes() == content


def test_where_the_state_was_removed_the_holder_has_lost(directory: Path, store: FileStore) -> None:
    lease = taken(store, Contender("r1"))
    state_file(directory).unlink()
    with pytest.raises(LockLostError):
        store.heartbeat(lease, phase=1, count=1)
    assert not store.release(lease)


# Several processes


RACE = """
import json, os, sys
from pathlib import Path
from airflow_provider_safecopy.lock.file_store import FileStore
from airflow_provider_safecopy.lock.file_store import read_boot_clock
from airflow_provider_safecopy.lock.model import Contender, Lease, Promise

directory, rivals, locks = Path(sys.argv[1]), 4, 40
begin, end, done = os.pipe(), os.pipe(), [os.pipe() for _ in range(rivals)]
children = []
for rival in range(rivals):
    children.append(os.fork())
    if children[-1] == 0:
        for unused in [begin[1], end[1], *(write for other, (_, write) in enumerate(done) if other != rival)]:
            os.close(unused)
        os.read(begin[0], 1)  # until it is closed: all begin at once
        won = {"fresh": [], "stale": []}
        for what, ahead in ("fresh", 0), ("stale", 10_000):
            store = FileStore(directory, clock=lambda: read_boot_clock() + ahead)
            for lock in range(locks):
                if isinstance(store.acquire(f"{what} {lock}", Contender(f"r{rival}"), Promise(5_000)), Lease):
                    won[what].append(lock)
        os.write(done[rival][1], json.dumps(won).encode())
        os.read(end[0], 1)  # nobody has ended when anybody asks
        os._exit(0)
store = FileStore(directory)
for lock in range(locks):
    assert isinstance(store.acquire(f"stale {lock}", Contender("before"), Promise(5_000)), Lease)
for _, write in done:
    os.close(write)
os.close(begin[1])
won = [json.loads(os.read(out, 100_000)) for out, _ in done]
for what in ("fresh", "stale"):
    winners = sorted(lock for each in won for lock in each[what])
    assert winners == list(range(locks)), (what, winners)
held = {holder.name: holder.token for holder in store.read_holders()}
assert held == {f"{what} {lock}": token for what, token in (("fresh", 1), ("stale", 2)) for lock in range(locks)}, held
for child in children:
    os.kill(child, 9)
    os.wait()
print(*[len(each["stale"]) for each in won])
"""


def test_of_several_processes_one_gets_a_fresh_lock_and_one_a_stale_one(directory: Path) -> None:
    subprocess.run([sys.executable, "-c", RACE, directory], check=True, timeout=100, stdout=subprocess.DEVNULL)


FORKED = """
import os, signal, sys
from pathlib import Path
from airflow_provider_safecopy.errors import LockBusyError, LockStoreError
from airflow_provider_safecopy.lock.file_store import FileStore
from airflow_provider_safecopy.lock.living_lock import LivingLock
from airflow_provider_safecopy.lock.model import Contender, Promise

def fails(call, *args, **more):
    try:
        call(*args, **more)
    except LockStoreError as error:
        assert "forked child" in error.hint and not error.retryable
    else:
        raise AssertionError(call)

directory = Path(sys.argv[1])
lock = LivingLock("분석.고객", directory).acquire()
(lease,), store = lock.leases, lock.store
child = os.fork()
if child == 0:
    fails(store.heartbeat, lease, phase=1, count=1)
    fails(store.acquire, "다른 잠금", Contender.alone(), Promise())
    fails(store.revoke, lease)
    assert not store.release(lease)
    lock.release()  # as when a block is left that the parent entered
    try:
        LivingLock("분석.고객", directory).acquire()
    except LockBusyError:
        print(os.getpid(), flush=True)
    signal.pause()
os.wait()
"""


def test_a_forked_child_is_not_the_holder_and_does_not_outlive_it_as_such(directory: Path, rival: FileStore) -> None:
    holder = subprocess.Popen([sys.executable, "-c", FORKED, directory], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        refused(rival, Contender("r2"))
        holder.kill()
        holder.wait(100)
        assert Path(f"/proc/{child}").exists()
        assert taken(rival, Contender("r2")).kind == "takeover-dead"
    finally:
        subprocess.run(["kill", "-KILL", str(child)], check=True)
        holder.communicate()


GUARD = """
import sys
from pathlib import Path
from airflow_provider_safecopy.lock.file_record import FileRecord
with FileRecord.for_lock(Path(sys.argv[1]), sys.argv[2]).hold_guard():
    print("guarded", flush=True)
    sys.stdin.readline()
"""


def test_who_does_not_let_go_of_the_guard_is_told_of_and_others_get_it_once_it_is_free(
    directory: Path, store: FileStore, mocker: MockerFixture
) -> None:
    directory.mkdir()
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", GUARD, directory, NAME], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"guarded\n"
        assert taken(store, Contender("r1"), "다른 잠금").token == 1  # no other lock's business
        mocker.patch.object(file_record, "_GUARD_WAIT_SECONDS", 0.05)
        with pytest.raises(LockStoreError, match=r"\.guard: another process") as caught:
            store.acquire(NAME, Contender("r1"), PROMISE)
        assert caught.value.retryable
        assert "stopped" in caught.value.hint
        process.kill()
    assert taken(store, Contender("r1")).token == 1


# The directory


def test_all_of_it_is_for_this_user_alone(directory: Path, store: FileStore) -> None:
    former = os.umask(0)
    try:
        lease = taken(store, Contender("r1"))
        store.record_refusal(NAME, Contender("r2"))
        assert directory.stat().st_mode & 0o777 == 0o700
        modes = {path.suffix: path.stat().st_mode & 0o777 for path in directory.iterdir()}
        assert modes == dict.fromkeys((".guard", ".history", ".life", ".state"), 0o600)
        store.release(lease)
    finally:
        os.umask(former)


def test_a_directory_that_is_there_keeps_its_permissions(directory: Path, store: FileStore) -> None:
    directory.mkdir(mode=0o750)
    mode = directory.stat().st_mode
    taken(store, Contender("r1"))
    assert directory.stat().st_mode == mode


def test_who_has_left_or_was_displaced_leaves_no_life_behind(
    directory: Path, store: FileStore, rival: FileStore
) -> None:
    one, two = taken(store, Contender("r1", member="하나")), taken(store, Contender("r1", member="둘"))
    assert len(list(directory.glob("*.life"))) == 2
    store.release(one)
    taken(store, Contender("r1", member="둘", try_number=2))
    (life,) = directory.glob("*.life")
    assert str(two.attempt) not in life.name
    rival.force_release(NAME, reason="시험")
    assert list(directory.glob("*.life")) == []
    assert {path.suffix for path in directory.iterdir()} == {".state", ".guard", ".history"}


@pytest.mark.parametrize(
    "name", ["분석.고객", "가" * 1000, "../../etc/passwd", "/", "..", "-rf *", "😀", "\0", "\ud800", ""]
)
def test_any_name_is_a_file_in_the_directory(tmp_path: Path, name: str) -> None:
    directory = tmp_path / "어디" / "잠금"
    directory.parent.mkdir()
    store = FileStore(directory)
    attempt = uuid4()
    taken(store, Contender("r1", attempt=attempt), name)
    (path,) = directory.glob("*.state")
    assert json.loads(path.read_bytes().decode("utf-8", "surrogatepass"))["name"] == name
    assert not path.name.startswith((".", "-", "~"))
    assert max(len(os.fsencode(each.name)) for each in directory.iterdir()) < 255
    assert FileRecord.for_lock(directory, name).list_attempts() == {str(attempt)}
    assert list(directory.parent.iterdir()) == [directory]
    store.close()


def test_the_files_say_whose_they_are(directory: Path, store: FileStore) -> None:
    taken(store, Contender("r1"), "분석.고객 (야간)")
    assert state_file(directory).name.startswith("분석.고객_야간-")


def test_nothing_is_made_by_looking(directory: Path, store: FileStore) -> None:
    assert store.read_holder(NAME) is None
    assert store.read_holders() == ()
    assert store.read_history() == ()
    assert store.forget(keep=0) == 0
    assert not directory.exists()


def test_a_path_that_is_missing_or_no_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "파일").write_text("")
    for where, hint in (("없음/잠금", "make the directory"), ("파일", "not a file"), ("파일/잠금", "not a file")):
        with pytest.raises(LockStoreError, match=where) as caught:
            FileStore(tmp_path / where).acquire(NAME, Contender("r1"), PROMISE)
        assert hint in caught.value.hint
        assert not caught.value.retryable


DENIED = """
import os, sys
from airflow_provider_safecopy.errors import LockStoreError
from airflow_provider_safecopy.lock.file_store import FileStore
from airflow_provider_safecopy.lock.model import Contender, Promise
directory = sys.argv[1]
store, contender = FileStore(directory), Contender("r1")
if os.getuid() == 0:
    os.chown(directory, 65534, 65534)
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
for ask in (lambda: store.acquire("분석.고객", contender, Promise()), store.read_holders, store.read_history):
    try:
        print("answered", ask())
    except LockStoreError as error:
        print(error.retryable, error)
"""


@pytest.mark.parametrize(("mode", "answered"), [(0o500, [False, True, True]), (0o000, [False, False, False])])
def test_who_may_not_read_or_write_there_is_told(mode: int, answered: list[bool]) -> None:
    with tempfile.TemporaryDirectory() as reachable:
        Path(reachable).chmod(0o755)
        directory = Path(reachable) / "잠금"
        directory.mkdir(mode)
        told = subprocess.check_output([sys.executable, "-c", DENIED, directory], text=True).splitlines()
    assert [line.startswith("answered") for line in told] == answered
    denied = [line for line in told if not line.startswith("answered")]
    assert all(line.startswith(f"False {directory}") and "let this user" in line for line in denied)


def test_a_full_disk_changes_nothing(
    directory: Path, store: FileStore, rival: FileStore, mocker: MockerFixture
) -> None:
    lease = taken(store, Contender("r1"))
    before = state_file(directory).read_bytes()
    mocker.patch("os.fsync", side_effect=OSError(28, "No space left on device"))
    with pytest.raises(LockStoreError, match="No space") as caught:
        store.heartbeat(lease, phase=1, count=1)
    assert caught.value.retryable
    mocker.stopall()
    assert state_file(directory).read_bytes() == before
    assert store.heartbeat(lease, phase=1, count=1) > 0


def test_a_history_that_cannot_be_written_stops_nobody(
    directory: Path, store: FileStore, caplog: pytest.LogCaptureFixture
) -> None:
    record = FileRecord.for_lock(directory, NAME)
    record.history.path.mkdir(parents=True)
    lease = taken(store, Contender("r1"))
    assert "history could not be written" in caplog.text
    assert store.release(lease)


# Nothing left behind


def test_remove_on_release_leaves_nothing_behind(tmp_path: Path) -> None:
    directory = tmp_path / "잠금"
    store = FileStore(directory, remove_on_release=True)
    first = store.acquire(NAME, Contender.alone(), PROMISE)
    other = store.acquire("다른 작업", Contender.alone(), PROMISE)
    assert isinstance(first, Lease)
    assert isinstance(other, Lease)
    assert store.release(first)
    assert {path.name.split("-")[0] for path in directory.iterdir()} == {"다른_작업"}
    assert store.release(other)
    assert list(tmp_path.iterdir()) == []
    store.close()


def test_a_lock_that_others_share_is_not_removed(directory: Path) -> None:
    store = FileStore(directory, remove_on_release=True)
    first = Contender.alone()
    second = Contender(first.owner_key, member="둘째")
    leases = [store.acquire(NAME, each, PROMISE) for each in (first, second)]
    assert all(isinstance(each, Lease) for each in leases)
    assert isinstance(leases[0], Lease)
    assert not store.release(leases[0])
    assert store.read_holder(NAME) is not None
    store.close()


HAMMER = """
import sys, time
from pathlib import Path
from airflow_provider_safecopy.lock.file_store import FileStore
from airflow_provider_safecopy.lock.model import Contender, Lease, Promise
store, alone, count = FileStore(Path(sys.argv[1]), remove_on_release=True), Path(sys.argv[2]), 0
while count < 40:
    lease = store.acquire("다툼", Contender.alone(), Promise(stale_after=600, crash_grace=None))
    if isinstance(lease, Lease):
        alone.mkdir()
        alone.rmdir()
        store.release(lease)
        count += 1
"""


def test_processes_that_remove_the_files_never_hold_the_lock_together(directory: Path, tmp_path: Path) -> None:
    """Each makes a directory that may not be there yet, while it holds the lock. A guard that was removed guards nothing."""
    command = [sys.executable, "-c", HAMMER, str(directory), str(tmp_path / "홀로")]
    with subprocess.Popen(command) as first, subprocess.Popen(command) as second:
        assert (first.wait(100), second.wait(100)) == (0, 0)
    assert not directory.exists()
