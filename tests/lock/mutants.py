"""The lock's SQL with one fault each: whatever holds the lock to its rules has to notice every one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from airflow_provider_safecopy import sql
from tests.lock.examples import EXAMPLES
from tests.lock.machine import LockMachine
from tests.lock.world import Statements, World, changed


@dataclass(frozen=True)
class Mutant:
    """`old` of the statement `statement` in `sql/<file>.sql`, replaced by `new` wherever it stands."""

    fault: str
    statement: str
    old: str
    new: str
    file: str = "lock"

    def changes(self) -> dict[str, Statements]:
        """The file's statements with this fault. Raises `LookupError` when there is no such text any more."""
        real = sql.load(self.file)
        return {self.file: {**real, self.statement: changed(real[self.statement], self.old, self.new)}}


MUTANTS = (
    Mutant("the fence holds no row", "fence", "FOR KEY SHARE OF l, m", ""),
    Mutant("the fence holds the member's row alone", "fence", "OF l, m", "OF m"),
    Mutant("the fence holds the lock's row alone", "fence", "OF l, m", "OF l"),
    Mutant("the fence asks for no attempt", "fence", "AND m.member_id = %(attempt)s::uuid", ""),
    Mutant("the fence asks for the token alone", "fence", "AND l.lease_id = %(lease_id)s::uuid", ""),
    Mutant("token and lease are no key of the lock", "lock", ", UNIQUE (name, token, lease_id)", "", "schema"),
    Mutant(
        "the attempt is no key of the member", "member", ", UNIQUE (name, token, member_key, member_id)", "", "schema"
    ),
    Mutant("a release asks for no attempt", "release", "AND l.members->%(member_key)s::text->>'id' = %(attempt)s::text", ""),
    Mutant("a release asks for no lease", "release", "AND l.lease_id = %(lease_id)s::uuid", ""),
    Mutant("a release begins the tokens anew", "release", "SET members =", "SET token = 0, members ="),
    Mutant("the first member to leave frees the lock", "release", "l.members - %(member_key)s::text = '{}'::jsonb", "true"),
    Mutant("a release forgets the rest", "release", "l.granted_at + %(at_least)s::interval", "l.granted_at"),
    Mutant("the rest is not kept", "acquire", "THEN l.not_before <= clock_timestamp()", "THEN true"),
    Mutant("the try has no say", "acquire", "::int, -1) < %(try)s", "::int, -1) <= %(try)s"),
    Mutant("any try but the same supersedes", "acquire", "::int, -1) < %(try)s", "::int, -1) <> %(try)s"),
    Mutant("a new owner keeps the token", "acquire", "ELSE l.token + 1 END", "ELSE GREATEST(l.token, 1) END"),
    Mutant("a new owner keeps the lease", "acquire", "ELSE %(lease_id)s::uuid END", "ELSE COALESCE(l.lease_id, %(lease_id)s::uuid) END"),
    Mutant("members of the former owner stay", "acquire", "THEN l.members ELSE '{}'::jsonb END", "THEN l.members ELSE l.members END"),
    Mutant(
        "the contender's promise decides what is stale",
        "acquire",
        "WHEN l.due_at < clock_timestamp() THEN true",
        "WHEN l.alive_at + %(stale_after)s::interval < clock_timestamp() THEN true",
    ),
    Mutant("who joins shortens the promise", "acquire", "stale_after = GREATEST(CASE WHEN l.owner_key = %(owner_key)s THEN l.stale_after END, %(stale_after)s::interval)", "stale_after = %(stale_after)s::interval"),
    Mutant("one dead member is enough", "acquire", "NOT EXISTS (SELECT FROM jsonb_each(l.members) e WHERE e.value->>'id' <> ALL (%(dead)s::text[]))", "EXISTS (SELECT FROM jsonb_each(l.members) e WHERE e.value->>'id' = ANY (%(dead)s::text[]))"),
    Mutant("a detached member has crashed", "acquire", "WHERE (e.value->>'detached')::bool OR EXISTS", "WHERE EXISTS"),
    Mutant("a session is no sign of life", "acquire", "OR EXISTS (SELECT FROM pg_stat_get_activity(NULL) a WHERE a.application_name = 'safecopy:' || (e.value->>'id'))", ""),
    Mutant("who is superseded leaves its progress behind", "acquire", ", phase = 0, count = 0", ""),
    Mutant("a heartbeat without progress extends", "heartbeat", "CASE WHEN (%(phase)s::int, %(count)s::bigint) > (m.phase, m.count) THEN GREATEST", "CASE WHEN (%(phase)s::int, %(count)s::bigint) >= (m.phase, m.count) THEN GREATEST"),
    Mutant("a heartbeat asks for no attempt", "heartbeat", "AND m.member_id = %(attempt)s::uuid AND l.name", "AND l.name"),
    Mutant("a heartbeat is no sign of life", "heartbeat", "alive_at = clock_timestamp()", "alive_at = l.alive_at"),
    Mutant("a heartbeat may shorten the promise", "heartbeat", "GREATEST(l.due_at, clock_timestamp() + l.stale_after)", "clock_timestamp()"),
    Mutant("who revokes stays", "revoke", "member_id = gen_random_uuid()", "member_id = member_id"),
    Mutant("a forced release keeps the token", "force_release", "token = l.token + 1", "token = l.token"),
    Mutant("a reap asks for nothing", "force_release", "(%(kind)s = 'force-release'", "(true"),
    Mutant("who has revived is ended", "terminate", "ELSE %(any_holder)s::bool OR l.due_at < clock_timestamp()", "ELSE true"),
)  # fmt: skip


def killed_by(
    changes: dict[str, Statements], made: Callable[[dict[str, Statements]], World], examples: int
) -> list[str]:
    """Who notices the changes: names of examples, and "the machine". Nobody may, where nothing is changed."""
    world = made(changes)
    try:
        trials: list[Callable[[], object]] = [lambda example=example: example(world) for example in EXAMPLES]  # type: ignore[misc]
        found = [example.__name__ for example, trial in zip(EXAMPLES, trials, strict=True) if _fails(trial)]
        machine = type("LockMachine", (LockMachine,), {"world": world})
        # Dead already: the machine is asked out of curiosity only.
        enough = bounded(examples // 5 if found else examples, shrinks=False)
        if _fails(lambda: run_state_machine_as_test(machine, settings=enough)):
            found.append("the machine")
        return found
    finally:
        world.close()


def bounded(examples: int, *, shrinks: bool = True) -> settings:
    """The same examples every time, as many as there is time for."""
    return settings(
        max_examples=examples,
        stateful_step_count=40,
        derandomize=True,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if shrinks else [])],
        suppress_health_check=list(HealthCheck),
    )


def _fails(trial: Callable[[], object]) -> bool:
    """Whether it fails, by an assertion or by an error of the server's."""
    try:
        trial()
    except (Exception, pytest.fail.Exception):  # noqa: BLE001 -- whatever a fault of the SQL leads to
        return True
    return False
