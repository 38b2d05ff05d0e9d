"""A process that forks while it holds a lock: whatever becomes of the child, the lock is the parent's and stays so.

The child inherits the block, the store and the socket to the server; leaving the block there released the parent's lock,
and closing the socket ended the parent's session.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_safecopy.lock import schema
from tests.support.database import Database

HOLDER = """
import concurrent.futures, multiprocessing, os, sys, threading, warnings
from pathlib import Path
from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.errors import LockBusyError, LockLostError, LockStoreError
from airflow_provider_safecopy.lock.living_lock import LivingLock
from airflow_provider_safecopy.lock.model import Contender, Promise
from airflow_provider_safecopy.lock.heartbeat import Heartbeat
from airflow_provider_safecopy.lock.bulk import BulkStore, TableLocks

way, kind, where = sys.argv[1:]
where = Path(where) if kind == "file" else where

def lock_of_the_run():
    if kind == "several":
        contender = Contender.alone()
        store = BulkStore(Endpoint.from_conninfo(where), attempt=contender.attempt)
        locks = TableLocks("집계", store, contender=contender, terms=Promise(), liveness_check=None)
        return locks
    return LivingLock(["집계"], where, promise=Promise(crash_grace=0.5))

def ask_others():
    try:
        LivingLock("집계", where, contender=Contender.alone("다른 실행")).acquire()
    except LockBusyError:
        return
    raise AssertionError("another run got the lock")

def leave(lock):
    match way:
        case "normally":
            return
        case "exit":
            sys.exit(0)
        case "error":
            raise ValueError("in the child")
        case "heartbeat":
            lock._beaten = 0.0
            lock.heartbeat()
            assert not lock.store_answers
        case "release":
            lock.release()
            lock.release()
        case "another lock":
            ask_others()
            with LivingLock("아이", where) as own:
                own.send_heartbeat(phase=1, count=1)
        case "questions":
            for ask in (lock.store.read_holders, lambda: lock.store.read_holder("집계"), lambda: lock.store.force_release("집계", reason="x")):
                try:
                    ask()
                except LockStoreError as error:
                    assert "forked child" in error.hint and not error.retryable
                else:
                    assert kind == "file"

def worker(number):
    return os.getpid()

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    parent, child, abort = os.getpid(), None, AbortSwitch()
    try:
        with lock_of_the_run() as lock, Heartbeat(lock, abort) as pulse:
            before = lock.backends
            if way == "multiprocessing":
                context = multiprocessing.get_context("fork")
                process = context.Process(target=lock.release)
                process.start()
                process.join()
                with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
                    assert parent not in set(pool.map(worker, range(8)))
                process = context.Process(target=abort.throw, args=["ended"])
                process.start()
                process.join()
                assert not abort.is_thrown and not abort.wait(0)
            else:
                child = os.fork()
                if child == 0:
                    leave(lock)
            if os.getpid() == parent:
                if child:
                    os.waitpid(child, 0)
                for count in range(1, 4):
                    lock.send_heartbeat(phase=1, count=count)
                    assert lock.store_answers
                assert lock.backends == before
                ask_others()
    except BaseException:
        if os.getpid() == parent:
            raise
    if os.getpid() == parent:
        LivingLock("집계", where).acquire().release()
        print("held")
"""

WAYS = ["normally", "exit", "error", "heartbeat", "release", "another lock", "questions", "multiprocessing"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["postgres", "several", "file"])
def test_the_parent_keeps_its_lock_and_its_session(target: Database, tmp_path: Path, kind: str, way: str) -> None:
    with target.connect() as session:
        schema.init(session)
    where = str(tmp_path / "잠금") if kind == "file" else target.conninfo
    program = [sys.executable, "-c", HOLDER, way, kind, where]
    done = subprocess.run(program, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "held"), done.stderr
    assert "Traceback" not in done.stderr
