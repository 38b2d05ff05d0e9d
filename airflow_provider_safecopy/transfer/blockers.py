"""Who is in the way of a publish: looked for while it waits, told now and then, and ended only if that was asked for.

The publish waits in short steps, so it is watched from another session, opened once a step was in vain. Where there is
none to be had, whoever holds the table afterwards is told instead, and nobody is ended.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg.rows import dict_row

from airflow_provider_safecopy import sql, wire
from airflow_provider_safecopy.diagnosis import describe
from airflow_provider_safecopy.errors import SafeCopyError, StageTimeoutError
from airflow_provider_safecopy.transfer.job import Job
from airflow_provider_safecopy.transfer.name import TableName

log = logging.getLogger(__name__)

_BLOCKERS = sql.load("blockers")
_FIRST_TOLD_SECONDS = 1.0
_TOLD_EVERY_SECONDS = 10.0
_LOOK_EVERY_SECONDS = 0.1
_LONG_AGO_SECONDS = 5.0
_ANSWER_SECONDS = 3.0
_OPEN_AGAIN_SECONDS = 10.0


# A session may serve many transactions, and many clients of a pooler: pid, and when its transaction began.
_Key = tuple[int, str | None]


@dataclass(frozen=True)
class Blocker:
    """A session in the way, as far as this role may see it; pid 0 stands for a `prepared` transaction.

    `holds`: has what is waited for in `mode`, and has not only come to the queue first. `transaction_seconds`: for how
    long its transaction has been open. `endable`: may be ended if that was asked for.
    """

    pid: int
    role: str | None
    application_name: str | None
    prepared: str | None
    state: str | None
    mode: str | None
    relation: str | None
    holds: bool
    transaction_start: str | None
    transaction_seconds: float | None
    query_start: str | None
    endable: bool

    def __str__(self) -> str:
        who = f"pid {self.pid}" if self.pid else f"the prepared transaction {self.prepared}"
        lock = f"{self.mode} on {self.relation}" if self.relation else self.mode
        seconds, query = self.transaction_seconds, self.query_start
        facts = [
            self.role,
            self.application_name or None,
            self.state,
            lock if self.holds else "waiting before us",
            None if seconds is None else f"transaction open for {seconds:.0f} s",
            None if query is None else f"query of {query}",
        ]
        return f"{who} ({', '.join(fact for fact in facts if fact)})"

    @classmethod
    def of(cls, row: dict[str, Any]) -> Self:
        """From a row of the catalog's."""
        schema, name = row.pop("schema"), row.pop("name")
        return cls(**row, relation=None if name is None else str(TableName(schema, name)))

    def as_dict(self) -> dict[str, Any]:
        """It as plain JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "endable"}


class _LookoutConnection(wire.PromptConnection):
    patience = _ANSWER_SECONDS


class Blockers:
    """Whoever is in the way of one publish, inside ``with``. Its thread looks; it is started by the first `waited`.

    `warnings` tells whom it has ended, or might not end.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self.warnings: list[str] = []  # by the thread, as are the next four
        self._seen: tuple[Blocker, ...] = ()
        self._seen_at = 0.0
        self._since: dict[_Key, float] = {}
        self._dealt_with: set[_Key] = set()
        self._began = self._told = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def waited(self) -> None:
        """A step was in vain. Tells who is in the way, now and then."""
        now = time.monotonic()
        if self._thread is None:
            self._began, self._told = now, now - _TOLD_EVERY_SECONDS + _FIRST_TOLD_SECONDS
            self._thread = threading.Thread(target=self._watch, name="safecopy blockers", daemon=True)
            self._thread.start()
        if now - self._told >= _TOLD_EVERY_SECONDS:
            self._told = now
            table, found = self._job.plan.target_name, ", ".join(map(str, self._known())) or "others"
            log.warning("publish: waiting for %s since %.0f s: %s", table, now - self._began, found)

    def too_long(self) -> StageTimeoutError:
        """What a publish ends with that waited in vain to its very end."""
        plan, found = self._job.plan, self._known()
        error = StageTimeoutError(
            f"publish: {plan.target_name} stayed locked for {plan.spec.timeouts.publish:g} s by "
            f"{', '.join(map(str, found)) or 'others'}{''.join(f'; {each}' for each in self.warnings)}",
            stage="publish",
            sqlstate="55P03",
            hint="end the session that holds it, raise publish_timeout, or set end_blockers_after",
        )
        if found:
            error.blockers = tuple(blocker.as_dict() for blocker in found)
        return error

    def _known(self) -> tuple[Blocker, ...]:
        """Who was seen last. Where nobody could look, who holds the table now. Between two tries only."""
        if self._seen and time.monotonic() - self._seen_at < _LONG_AGO_SECONDS:
            return self._seen
        plan = self._job.plan
        asked = {"target": plan.target_oid, "exclusive": plan.publish in {"truncate_insert", "swap"}}
        return tuple(Blocker.of(row) for row in self._job.target.all(_BLOCKERS["holders"], asked))

    def _watch(self) -> None:
        """The thread: look, as long as the publish is not through."""
        endpoint, name = self._job.target.endpoint, self._job.right.application_name
        while not self._stop.is_set():
            try:
                with endpoint.connect(
                    application_name=name, connect_timeout=_ANSWER_SECONDS, kind=_LookoutConnection
                ) as session:
                    session.row_factory = dict_row
                    session.execute(_BLOCKERS["own_names"])
                    while not self._stop.wait(_LOOK_EVERY_SECONDS):
                        self._look(session)
            except (SafeCopyError, psycopg.Error) as error:
                log.info("publish: who is in the way cannot be seen: %s", error)
                self._stop.wait(_OPEN_AGAIN_SECONDS)

    def _look(self, session: psycopg.Connection[Any]) -> None:
        plan, waiting = self._job.plan, {"waiting": self._job.target.server.backend}
        if session.execute(_BLOCKERS["waits"], waiting).fetchone() != {"waits": True}:
            return
        asked = {"target": plan.target_oid, "application": self._job.right.application_name} | waiting
        if found := tuple(Blocker.of(row) for row in session.execute(_BLOCKERS["in_the_way"], asked)):
            self._seen, self._seen_at = found, time.monotonic()
            self._end_those_due(session)

    def _end_those_due(self, session: psycopg.Connection[Any]) -> None:
        """Those in the way for longer than was asked, each by its own time, and each once."""
        after, now = self._job.plan.spec.end_blockers_after, time.monotonic()
        if after is None:
            return
        endable = {(blocker.pid, blocker.transaction_start): blocker for blocker in self._seen if blocker.endable}
        self._since = {key: self._since.get(key, now) for key in endable}
        for key, blocker in endable.items():
            if now - self._since[key] >= after and key not in self._dealt_with:
                self._end(session, blocker, now - self._since[key])

    def _end(self, session: psycopg.Connection[Any], blocker: Blocker, seconds: float) -> None:
        waiting, began = self._job.target.server.backend, blocker.transaction_start
        seen = {"pid": blocker.pid, "transaction_start": began, "waiting": waiting}
        try:
            if session.execute(_BLOCKERS["end"], seen).fetchone() != {"ended": True}:
                return  # the step is over: the next will show whether it is still there
            warning = f"ended {blocker}, which had held up the publish for {seconds:.1f} s"
        except psycopg.errors.InsufficientPrivilege as error:
            warning = f"{blocker} held up the publish and could not be ended: {describe(error)}"
        self._dealt_with.add((blocker.pid, began))
        self.warnings.append(warning)
        log.warning("publish: %s", warning)
