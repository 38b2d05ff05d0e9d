"""Hostile rows and directories: what others can write ends no process and proves none alive or dead."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from airflow_provider_safecopy.errors import LockBusyError, LockStoreError
from airflow_provider_safecopy.lock import liveness, schema
from airflow_provider_safecopy.lock.file_store import FileStore
from airflow_provider_safecopy.lock.liveness import Displacement, PresenceNote, end_displaced
from airflow_provider_safecopy.lock.living_lock import LivingLock
from airflow_provider_safecopy.lock.model import Contender, DisplacedHolder, Lease, Promise
from airflow_provider_safecopy.lock.postgres import PostgresStore
from airflow_provider_safecopy.lock.process import ProcessIdentity
from airflow_provider_safecopy.pipeline.reap import reap
from tests.conftest import MakeRole
from tests.support.database import Database

NAME, BAIT = "분석.고객", "미끼"
OWNER = {"dag": "영업", "run": "수동_1"}

HOLDER = """
import json, signal, sys
from uuid import UUID
from airflow_provider_safecopy.lock.living_lock import LivingLock
from airflow_provider_safecopy.lock.model import Contender, Promise
from airflow_provider_safecopy.lock.process import ProcessIdentity
given = json.loads(sys.stdin.readline())
place = ProcessIdentity.read_current(may_end=True)
contender = Contender(given["owner_key"], given["owner"], "복사", 1, UUID(given["attempt"]), place)
promise = Promise(given["stale_after"], None)
lock = LivingLock(given["name"], given["target"], contender=contender, promise=promise).acquire()
print(json.dumps(place.as_dict()), flush=True)
signal.pause()
"""


class Victim:
    """Start a process that holds the lock `NAME`, and may be ended when it is displaced."""

    def __init__(self, target: Database, *, stale_after: float = 600, name: str = NAME) -> None:
        self.attempt = uuid4()
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        given = {"owner_key": "영업|수동_1", "owner": OWNER, "attempt": str(self.attempt), "name": name}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(given | {"target": target.conninfo, "stale_after": stale_after}) + "\n")
        self.process.stdin.flush()
        self.place = json.loads(self.process.stdout.readline())

    @property
    def lives(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        (Path("/dev/shm") / f"safecopy-{os.geteuid()}" / f"{self.attempt}.json").unlink(missing_ok=True)


@pytest.fixture
def victim(target: Database) -> Iterator[Callable[..., Victim]]:
    made: list[Victim] = []

    def make(**more: float) -> Victim:
        made.append(Victim(target, **more))  # type: ignore[arg-type] # options
        return made[-1]

    with target.connect() as session:
        schema.init(session)
    yield make
    for each in made:
        each.close()


def plant(
    loader: Database, *, attempt: str, place: object, owner_key: str = "적", owner: object = None, name: str = BAIT
) -> None:
    """Write an overdue lock with any holder, as each role that copies may."""
    members = json.dumps({"복사": {"id": attempt, "try": 0, "detached": False}})
    loader.execute("DELETE FROM safecopy.member WHERE name = %s", [name])
    loader.execute(
        "INSERT INTO safecopy.lock (name, token, lease_id, owner_key, owner, members, granted_at, alive_at, due_at, stale_after)"
        " VALUES (%s, 1, gen_random_uuid(), %s, %s, %s, now() - interval '1 day', now() - interval '1 day',"
        " now() - interval '1 hour', '1 s') ON CONFLICT (name) DO UPDATE SET due_at = EXCLUDED.due_at, lease_id = gen_random_uuid(),"
        " owner_key = EXCLUDED.owner_key, owner = EXCLUDED.owner, members = EXCLUDED.members",
        [name, owner_key, json.dumps(owner or {"owner": "적"}), members],
    )
    loader.execute(
        "INSERT INTO safecopy.member (name, token, member_key, member_id, try_number, place, joined_at, heartbeat_at,"
        " progressed_at) SELECT name, token, '복사', %s, 0, %s, now(), now(), now() FROM safecopy.lock WHERE name = %s",
        [attempt, json.dumps(place), name],
    )


@pytest.fixture
def loader(target: Database, role: MakeRole, victim: object) -> Database:
    """A hostile role that may copy into the target."""
    made = role(target)
    with target.connect() as session:
        schema.init(session, grant=made.role)
    return made


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with any copy."""
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as process:
        yield process
        process.kill()


def place_of(pid: int) -> dict[str, object]:
    started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return replace(ProcessIdentity.read_current(may_end=True), pid=pid, started=started).as_dict()


def take_over(target: Database, name: str, **contender: object) -> Lease:
    made = Contender("새", {"owner": "새"}, "복사", 2) if not contender else Contender(**contender)  # type: ignore[arg-type]
    with LivingLock(name, target.endpoint, contender=made) as lock:
        return lock.leases[0]


def test_a_row_that_names_a_process_does_not_end_it(
    target: Database, loader: Database, sleeper: subprocess.Popen[bytes]
) -> None:
    """Any loader may write an overdue row with any pid, start time and boot in it; that is no proof of anything."""
    plant(loader, attempt=str(uuid4()), place=place_of(sleeper.pid))
    assert take_over(target, BAIT).kind == "takeover-stale"
    assert sleeper.poll() is None


@pytest.mark.parametrize("by", ["reap", "locks release"])
def test_nor_does_reap_or_a_release_by_hand(
    target: Database, loader: Database, sleeper: subprocess.Popen[bytes], by: str
) -> None:
    plant(loader, attempt=str(uuid4()), place=place_of(sleeper.pid))
    if by == "reap":
        assert [each.name for each in reap(target.endpoint).reaped] == [BAIT]
    else:
        release_by_hand(target, BAIT)
    assert sleeper.poll() is None


def release_by_hand(target: Database, name: str) -> tuple[int, tuple[int, ...]]:
    with closing(PostgresStore(target.endpoint)) as store:
        displaced = store.force_release(name, reason="시험")
        assert displaced is not None
        return end_displaced(store, displaced, Displacement("force-release", store.label, name))


def test_a_row_that_names_a_living_copy_does_not_end_it(
    target: Database, loader: Database, victim: Callable[..., Victim]
) -> None:
    """Attempt and place of a copy are there for all loaders to read: a row that repeats them proves nothing either."""
    alive = victim()
    for owner_key, owner in (("적", None), ("영업|수동_1", OWNER), ("새", {"owner": "새"})):
        plant(loader, attempt=str(alive.attempt), place=alive.place, owner_key=owner_key, owner=owner)
        take_over(target, BAIT)
    plant(loader, attempt=str(alive.attempt), place=alive.place)
    reap(target.endpoint)
    plant(loader, attempt=str(alive.attempt), place=alive.place)
    assert release_by_hand(target, BAIT)[1] == ()
    assert alive.lives


def test_a_row_cannot_make_a_retry_end_another_run(
    target: Database, loader: Database, victim: Callable[..., Victim]
) -> None:
    """A retry ends the try before it, only if its presence note names that run and that task."""
    alive = victim()
    mine = Contender("나|수동_9", {"dag": "나"}, "복사", 2)
    plant(loader, attempt=str(alive.attempt), place=alive.place, owner_key=mine.owner_key, owner=dict(mine.owner))
    with LivingLock(BAIT, target.endpoint, contender=mine) as lock:
        assert lock.leases[0].kind == "supersede"
    assert alive.lives


def test_making_a_living_copys_own_row_look_overdue_does_not_end_its_process(
    target: Database, loader: Database, victim: Callable[..., Victim]
) -> None:
    """Any loader may take a lock away; the process then finds out by itself, and is not ended."""
    alive = victim()
    loader.execute("UPDATE safecopy.lock SET due_at = now() - interval '1 hour' WHERE name = %s", [NAME])
    assert take_over(target, NAME).kind == "takeover-stale"
    assert alive.lives


def test_a_row_cannot_make_a_living_process_look_gone(
    target: Database, loader: Database, victim: Callable[..., Victim]
) -> None:
    """A free pid proves that a holder is gone, unless its presence note says otherwise."""
    alive = victim()
    loader.execute("UPDATE safecopy.member SET place = place || '{\"started\": 1}'")
    with pytest.raises(LockBusyError):
        take_over(target, NAME)
    alive.process.kill()
    alive.process.wait()
    assert take_over(target, NAME).kind == "takeover-dead"


def test_who_is_overdue_by_its_own_word_is_ended(target: Database, victim: Callable[..., Victim]) -> None:
    silent = victim(stale_after=1)
    lease = None
    while lease is None:
        try:
            lease = take_over(target, NAME)
        except LockBusyError:
            continue
    assert lease.kind == "takeover-stale"
    assert silent.process.wait(100) == -signal.SIGTERM


def test_a_person_who_releases_a_lock_ends_the_process_that_holds_it(
    target: Database, victim: Callable[..., Victim]
) -> None:
    holder = victim()
    assert release_by_hand(target, NAME)[1] == (holder.process.pid,)
    assert holder.process.wait(100) == -signal.SIGTERM


def test_a_retry_ends_the_try_before_it(target: Database, victim: Callable[..., Victim]) -> None:
    former = victim()
    with LivingLock(NAME, target.endpoint, contender=Contender("영업|수동_1", OWNER, "복사", 2)) as lock:
        assert lock.leases[0].kind == "supersede"
    assert former.process.wait(100) == -signal.SIGTERM


def test_a_judge_is_believed_of_the_run_it_was_asked_about_alone(
    target: Database, loader: Database, victim: Callable[..., Victim]
) -> None:
    """A judge is asked about the run in the row: the presence note of the process must name the same run."""
    alive = victim()
    loader.execute('UPDATE safecopy.lock SET owner = \'{"dag": "끝난 것"}\' WHERE name = %s', [NAME])
    judge = lambda holder: [seen.attempt for seen in holder.members]  # noqa: E731
    with LivingLock(NAME, target.endpoint, judge=judge) as lock:
        assert lock.leases[0].kind == "takeover-dead"
    assert alive.lives


# The note


def shown(**more: object) -> PresenceNote:
    made = PresenceNote(
        str(uuid4()), ProcessIdentity.read_current(), "곳", (NAME,), "r1", "복사", due=1.0, beaten=1.0, owner=OWNER
    )
    found = replace(made, **more)  # type: ignore[arg-type]
    found.write()
    return found


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the notes lie in this test: a directory that all users share."""
    tmp_path.chmod(0o1777)
    monkeypatch.setattr(liveness, "_SHARED_MEMORY", tmp_path)
    return tmp_path / f"safecopy-{os.geteuid()}"


def test_a_note_is_read_as_it_was_left_and_is_its_users_alone(memory: Path) -> None:
    one = shown()
    assert PresenceNote.read(one.attempt) == one
    assert memory.stat().st_mode & 0o777 == 0o700
    assert PresenceNote.read(str(uuid4())) is None


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"place": 1}', '{"place": {"host": "h", "pid": 1}, "names": []}', "\0"]
)
def test_a_note_that_cannot_be_read_says_nothing(memory: Path, content: str) -> None:
    one = shown()
    (memory / f"{one.attempt}.json").write_text(content)
    assert PresenceNote.read(one.attempt) is None
    assert not liveness.is_alive(one.attempt)


@pytest.mark.parametrize("attempt", ["../x", "", "no uuid"])
def test_an_attempt_that_is_no_uuid_has_no_note(memory: Path, attempt: str) -> None:
    shown()
    assert PresenceNote.read(attempt) is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("squat", ["owned", "open", "link"])
def test_a_directory_that_others_made_or_may_write_to_is_not_believed(
    memory: Path, squat: str, caplog: pytest.LogCaptureFixture
) -> None:
    one = shown()
    note = (memory / f"{one.attempt}.json").read_text()
    if squat == "owned":
        os.chown(memory, 65534, 65534)
    elif squat == "open":
        memory.chmod(0o777)
    else:
        memory.rename(memory.with_name("elsewhere"))
        memory.symlink_to(memory.with_name("elsewhere"))
    assert PresenceNote.read(one.attempt) is None
    assert not liveness.is_alive(one.attempt)
    shown()
    assert "is open to other users" in caplog.text
    assert note


def test_notes_of_processes_that_have_ended_are_swept(memory: Path, sleeper: subprocess.Popen[bytes]) -> None:
    left = shown(place=ProcessIdentity.from_dict(place_of(sleeper.pid)))
    sleeper.kill()
    sleeper.wait()
    mine = Contender("r1")
    liveness.write_note(mine, store="곳", names=(NAME,), seconds_left=1, crash_grace=None)
    assert len(list(memory.glob("*.json"))) == 2
    liveness.remove_note(mine)
    assert list(memory.iterdir()) == []
    assert PresenceNote.read(left.attempt) is None


def test_a_forked_child_neither_leaves_a_note_nor_removes_its_parents(memory: Path) -> None:
    mine = Contender("r1")
    liveness.write_note(mine, store="곳", names=(NAME,), seconds_left=1, crash_grace=None)
    child = os.fork()
    if child == 0:
        liveness.remove_note(mine)
        os._exit(0)
    os.waitpid(child, 0)
    assert PresenceNote.read(str(mine.attempt)) is not None
    assert memory.exists()


def test_where_no_note_can_be_left_everything_else_goes_on(
    memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "_note_path", lambda *_, **__: (_ for _ in ()).throw(OSError("no room")))
    with LivingLock(NAME, tmp_path / "잠금") as lock:
        assert (
            liveness.end_processes(
                DisplacedHolder("r1", {}, 1, (str(lock.contender.attempt),), ()), Displacement("stale", "", "")
            )
            == ()
        )
    assert not memory.exists()


# Directories of locks


AS_NOBODY = """
import os, sys
from pathlib import Path
from airflow_provider_safecopy.errors import LockStoreError
from airflow_provider_safecopy.lock.file_store import FileStore
from airflow_provider_safecopy.lock.model import Contender, Promise
store, contender = FileStore(Path(sys.argv[1])), Contender("r1")
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    store.acquire("고객", contender, Promise())
    store.read_holders()
except LockStoreError as error:
    print(error)
else:
    print("acquired")
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_lock_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    """Records decide which holders count as alive: only this user's are trusted, in both directions."""
    for parent in [tmp_path, *tmp_path.parents][:-2]:
        parent.chmod(parent.stat().st_mode | 0o011)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir(mode=0o755)
    theirs.mkdir(mode=0o755)
    os.chown(theirs, 65534, 65534)
    said = subprocess.check_output([sys.executable, "-c", AS_NOBODY, str(ours)], text=True)
    assert "it belongs to user 0, but this process runs as user 65534" in said
    assert subprocess.check_output([sys.executable, "-c", AS_NOBODY, str(theirs)], text=True) == "acquired\n"
    for use in every_use(theirs):
        with pytest.raises(LockStoreError, match="belongs to user 65534") as caught:
            use()
        assert not caught.value.retryable
        assert "as one user" in caught.value.hint


@pytest.mark.parametrize("mode", [0o1777, 0o770, 0o702])
def test_a_lock_directory_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "잠금"
    directory.mkdir()
    directory.chmod(mode)
    for use in every_use(directory):
        with pytest.raises(LockStoreError, match="other users may write to it") as caught:
            use()
        assert "chmod go-w" in caught.value.hint
    directory.chmod(0o755)
    for use in every_use(directory):
        use()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_record_of_another_user_in_a_directory_of_ours_is_not_believed(tmp_path: Path) -> None:
    """Left there while the directory was open to others."""
    with closing(FileStore(tmp_path / "잠금")) as store:
        store.acquire(NAME, Contender("r1"), Promise())
        (state,) = (tmp_path / "잠금").glob("*.state")
        os.chown(state, 65534, 65534)
        with pytest.raises(LockStoreError, match="it belongs to another user"):
            store.read_holder(NAME)


def every_use(directory: Path) -> list[Callable[[], object]]:
    store = FileStore(directory)
    return [
        lambda: store.acquire(NAME, Contender("r1"), Promise()),
        store.read_holders,
        lambda: store.read_holder(NAME),
        store.read_history,
        lambda: store.force_release(NAME, reason="시험"),
        lambda: store.forget(keep=1),
    ]
