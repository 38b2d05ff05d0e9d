"""The rows of a lock in a database, changed by whoever may: the store answers, or says which lock and what to do.

A row that cannot be read is never taken for a free lock, and `safecopy locks release` brings it back to order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_safecopy.cli import main
from airflow_provider_safecopy.errors import FencedOutError, LockLostError, LockStoreError, SafeCopyError
from airflow_provider_safecopy.lock.bulk import BulkStore
from airflow_provider_safecopy.lock.model import Contender, Lease, Promise
from airflow_provider_safecopy.lock.postgres import PostgresStore, check_fence
from airflow_provider_safecopy.lock.process import ProcessIdentity
from tests.fuzz.depth import looking
from tests.fuzz.material import json_values
from tests.fuzz.tried import tried
from tests.support.database import Database, Servers

NAME = "분석.고객's"
MINE = Contender("r1", {"dag": "야간"}, "하나", 2, attempt=UUID("0f" * 16), process=ProcessIdentity.read_current())
OTHER = Contender("r9", {"dag": "주간"}, "둘", process=None)
MEMBERS = {"하나": {"id": str(MINE.attempt), "try": 2, "detached": False}}

# What a hand can do to the row of a lock that is held.
STRANGE = (
    *(f"members = '{value}'" for value in ("5", "[]", '"가"', "null", '{"하나": 5}', '{"하나": {"id": 5}}', "{}")),
    *(f"members = members || '{{\"둘\": {value}}}'" for value in ("5", "null", '{"id": null, "try": "x"}')),
    *(f"owner = '{value}'" for value in ("5", "[]", '{"dag": 5}', '{"dag": {"가": []}}')),
    *("token = -1", "token = 9223372036854775807", "owner_key = NULL", "lease_id = NULL"),
    *(f"{fact} = NULL" for fact in ("granted_at", "alive_at", "due_at", "stale_after", "owner", "crash_grace")),
    *(f"{fact} = '{value}'" for fact in ("granted_at", "due_at") for value in ("infinity", "-infinity")),
    *(
        "due_at = '20000-01-01'",
        "due_at = '9999-12-31 23:59:59+00'",
        "due_at = '4000-01-01 BC'",
        "alive_at = '-infinity'",
        "not_before = 'infinity'",
    ),
    *(
        "stale_after = '-1 s'",
        "last_kind = '이상한 것'",
        "prev_members = '5'",
        "lease_id = NULL, not_before = 'infinity'",
    ),
)
STRANGE_MEMBERS = (
    *(f"place = '{value}'" for value in ("5", "[]", '{"host": 5}', "null")),
    *("count = -5", "phase = -1", "try_number = -3", "progressed_at = 'infinity'", "member_key = ''", "token = -1"),
)
ASKED: dict[str, Callable[[BulkStore, Lease], Any]] = {
    "acquire": lambda store, _: store.acquire(NAME, OTHER, Promise()),
    "acquire_all": lambda store, _: store.acquire_all([NAME], OTHER, Promise()),
    "join": lambda store, _: store.acquire(NAME, Contender("r1", {}, "셋", process=None), Promise()),
    "supersede": lambda store, _: store.acquire(NAME, Contender("r1", {}, "하나", 3, process=None), Promise()),
    "heartbeat": lambda store, lease: store.heartbeat(lease, phase=1, count=1),
    "heartbeat_all": lambda store, lease: store.heartbeat_all([lease], phase=1, count=1),
    "release": lambda store, lease: store.release(lease, at_least=1),
    "revoke": lambda store, lease: store.revoke(lease),
    "reap": lambda store, _: store.reap(NAME, overdue=1),
    "holder": lambda store, _: store.read_holder(NAME),
    "holders": lambda store, _: [holder.as_dict() for holder in store.read_holders()],
    "refused": lambda store, _: store.record_refusal(NAME, OTHER),
    "history": lambda store, _: store.read_history(),
    "forget": lambda store, _: store.forget(keep=60),
}
GRANTS = ("acquire", "join", "supersede")


class Row:
    """A lock held by `MINE` anew each time, and a hand in its row."""

    def __init__(self, database: Database, store: BulkStore, hand: psycopg.Connection[Any]) -> None:
        self.database, self.store, self.hand = database, store, hand

    def held(self) -> Lease:
        self.hand.execute("DELETE FROM safecopy.lock; DELETE FROM safecopy.member; DELETE FROM safecopy.lock_event")
        lease = self.store.acquire(NAME, MINE, Promise())
        assert isinstance(lease, Lease)
        return lease

    def change(self, change: str, table: str = "lock") -> None:
        assert self.hand.execute(f"UPDATE safecopy.{table} SET {change}".encode()).rowcount == 1

    def asked(self, ask: str, lease: Lease) -> Any:
        """What the store answers. Whatever it refuses is told of this lock, with the next step; and it changes nothing."""
        changes = ask not in {"heartbeat", "heartbeat_all"}  # alive it is, as it said
        before = self.state() if changes else None
        found = tried(SafeCopyError, lambda: ASKED[ask](self.store, lease))
        if isinstance(found, LockStoreError):
            assert NAME in found.message or ask == "acquire_all"
            assert "safecopy locks release '분석.고객'\"'\"'s'" in found.hint or ask == "acquire_all", found
            assert not found.retryable
            assert not changes or self.state() == before
        else:
            assert not isinstance(found, SafeCopyError) or isinstance(found, LockLostError)
        if isinstance(found, Lease):
            assert found.token >= 0
            self.demand_fence(found)
        return found

    def demand_fence(self, lease: Lease) -> None:
        """What was granted can publish, and nothing else can."""
        with self.hand.transaction():
            check_fence(self.hand, lease)

    def state(self) -> Any:
        """All that is known of the lock, but when it was last heard of."""
        return self.hand.execute("SELECT to_jsonb(l) - 'alive_at' FROM safecopy.lock l").fetchone()


@pytest.fixture(scope="module")
def row(servers: Servers) -> Iterator[Row]:
    database = servers.create(18, "UTF8", None)
    with closing(PostgresStore(database.endpoint)) as first:
        first.acquire("다른 것", OTHER, Promise())
    with closing(BulkStore(database.endpoint)) as store, database.connect() as hand:
        yield Row(database, store, hand)
    servers.drop(database)


@pytest.mark.parametrize("change", STRANGE)
def test_a_row_changed_by_hand_is_answered_for_or_refused_by_name(row: Row, change: str) -> None:
    """Found: KeyError, TypeError, AttributeError and ValueError in whoever met it, some of them after the grant."""
    for ask in ASKED:
        lease = row.held()
        row.change(change)
        row.asked(ask, lease)


@pytest.mark.parametrize("change", STRANGE_MEMBERS)
def test_a_members_row_changed_by_hand_is_answered_for_or_refused_by_name(row: Row, change: str) -> None:
    for ask in ASKED:
        lease = row.held()
        row.change(change, "member")
        row.asked(ask, lease)


@pytest.mark.parametrize("change", STRANGE)
def test_a_row_changed_by_hand_is_released_by_the_command_it_names(
    row: Row, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Found: the release was done, and then ended in a traceback over what it had taken away."""
    lease = row.held()
    row.change(change)
    words = ["locks", "release", NAME, "--target", row.database.conninfo, "--reason", "퍼즈"]
    code, free = main(words), row.database.value("SELECT lease_id IS NULL FROM safecopy.lock")
    told = capsys.readouterr().err
    if "token = 9" in change:
        assert (code, free) == (5, False)
        assert "UPDATE safecopy.lock" in told
        return
    assert "lease_id = NULL" in change or code == 0, told
    assert free
    if "token = -1" not in change and "not_before" not in change:
        assert isinstance(row.store.acquire(NAME, OTHER, Promise()), Lease)
    with pytest.raises(FencedOutError):
        row.demand_fence(lease)


def test_a_time_at_the_end_of_the_calendar_is_refused(row: Row) -> None:
    """Found: east of Greenwich `safecopy locks` ended in an OverflowError over it."""
    row.held()
    row.change("due_at = '9999-12-31 23:59:59+00'")
    with pytest.raises(LockStoreError, match=r"9999-12-31.* is no time that can be told"):
        row.store.read_holders()


@pytest.mark.parametrize("overdue", [False, True])
def test_a_lock_with_a_token_below_zero_is_granted_to_nobody(row: Row, overdue: bool) -> None:
    """Found: it was counted on from there, and receipts of later publishes stood before those of earlier ones."""
    row.held()
    row.change("token = -5" + (", due_at = '2020-01-01'" if overdue else ", lease_id = NULL, owner_key = NULL"))
    for ask in GRANTS:
        with pytest.raises(LockStoreError, match=r"token is -5") as caught:
            ASKED[ask](row.store, Lease(NAME, -5, uuid4(), MINE))
        assert "UPDATE safecopy.lock" in caught.value.hint


def test_events_that_cannot_be_read_are_left_out(row: Row, caplog: pytest.LogCaptureFixture) -> None:
    """Found: a history with one of them could not be shown at all."""
    for change in ("owner = '5'", "detail = '[5]'", "at = 'infinity'", "token = -1", "owner = '{\"dag\": []}'"):
        row.held()
        row.store.record_refusal(NAME, OTHER)
        row.database.execute(f"UPDATE safecopy.lock_event SET {change} WHERE kind = 'refused'")
        caplog.clear()
        assert [event.kind for event in row.store.read_history()] == ["grant"], change
        assert f"lock {NAME}: an event of its history is left out" in caplog.text


@looking(0.5)
@given(
    column=st.sampled_from(("members", "owner", "prev_members", "prev_owner")),
    value=json_values | st.dictionaries(st.sampled_from(("하나", "둘", "dag")), json_values, max_size=2),
    ask=st.sampled_from(sorted(ASKED)),
    overdue=st.booleans(),
)
def test_json_of_any_kind_in_a_row_is_answered_for_or_refused_by_name(
    row: Row, column: str, value: Any, ask: str, overdue: bool
) -> None:
    lease = row.held()
    text = json.dumps(value).encode("ascii").decode()
    change = f"UPDATE safecopy.lock SET {column} = %s::jsonb" + (", due_at = '2020-01-01'" if overdue else "")
    if tried(Exception, lambda: row.database.execute(change, [text])) == 1:  # NaN, \u0000 and half a pair are no jsonb
        row.asked(ask, lease)
