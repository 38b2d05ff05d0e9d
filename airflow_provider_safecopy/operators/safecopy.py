"""The operator: one copy, as a task."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    Asset,
    BaseOperator,
    Context,
    conf,
)

from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.errors import SafeCopyError
from airflow_provider_safecopy.hooks.safecopy import SafeCopyHook
from airflow_provider_safecopy.operators.in_process import carry_any_id
from airflow_provider_safecopy.operators.journal import Journal
from airflow_provider_safecopy.transfer.model import CopyReport, CopySpec, Format, Publish, Timeouts, Transfer, Verify

Name = str | Sequence[str]

# Options a template or another task's result may settle later, and what stands in for each until then.
_STAND_INS: Mapping[str, Any] = {
    "source_table": "later",
    "source_sql": "later",
    "target_table": "later",
    "columns": None,
    "where": None,
    "lock": None,
    "spool_dir": None,
}
_SETTLED = ("transfer", "format", "publish", "verify", "timeouts", "spool_limit", "allow_empty")
_TEMPLATE = re.compile(r"\{[{%#]")
# A query holds a blank, or a bracket; a file's name need not.
_SQL_FILE = re.compile(r"""[^\s{}()'"\\]+\.sql""")


class SafeCopyOperator(BaseOperator):
    """Copies one table, or the result of one query, from one PostgreSQL database into a table of another.

    At every instant the target holds exactly the old rows or exactly the new ones. A copy that failed, or
    that was killed before it published, fails its task.

    :param source_conn_id: connection of type ``postgres`` to read from. (templated)
    :param target_conn_id: connection of type ``postgres`` to write to. (templated)
    :param source_table: ``영업.고객``, or a pair ``("영업", "고객")``, which is taken as it stands. (templated)
    :param source_sql: instead of `source_table`: a query, or the path of a ``.sql`` file found as Airflow
        finds templates. Names in it must carry their schema. (templated)
    :param target_table: the table whose rows are replaced; it must exist. (templated)
    :param columns: a list of columns, or ``{source column: target column}``; default: all, by name. (templated)
    :param where: filters the source's rows; names in it must carry their schema. (templated)
    :param transfer: ``auto``, ``sequential`` or ``chunked``.
    :param format: ``auto``, ``text`` or ``binary``.
    :param publish: ``auto``, ``delete_insert`` or ``truncate_insert``.
    :param verify: ``counts``, or ``full`` to compare a hash of the content of both sides as well.
    :param connect_timeout: seconds, as are all of these; none can be switched off. Default 10.
    :param export_timeout: for the export. Default 4 hours.
    :param import_timeout: for the import. Default 4 hours.
    :param stall_timeout: without a single byte moved. Default 300.
    :param verify_timeout: for the proofs. Default 1 hour.
    :param publish_timeout: for the publishing transaction, waiting for locks included. Default 1 hour.
    :param spool_dir: where temporary files go; default: the system's. (templated)
    :param spool_limit: bytes of temporary disk at most; default: 1 GiB for chunked, none for sequential.
    :param lock: the name the run holds; default: the target table's. (templated)
    :param allow_empty: publish even when the source is empty, which otherwise fails the task.
    :param psql: path of the psql to use; default: ``SAFECOPY_PSQL``, else the one that is found.
    :param dry_run: log the decisions and the exact SQL, touch nothing, answer ``status="planned"``.

    The task's result (XCom) is the report as plain JSON values; `docs/report.md` has its schema. The event
    of each asset among the task's outlets carries its essence in ``extra["safecopy"]``.

    Arguments that make no sense raise when the DAG is parsed, unless they hang on a template. Errors that
    the same copy would meet again raise `AirflowFailException`, others `AirflowException`, to be retried.
    """

    template_fields: Sequence[str] = ("source_conn_id", "target_conn_id", *_STAND_INS)
    template_fields_renderers: ClassVar[dict[str, str]] = {"source_sql": "sql", "where": "sql", "columns": "json"}
    # A table may well be called x.sql, so only `source_sql` is ever taken for a file: see `_as_include`.
    template_ext: Sequence[str] = ()
    ui_color = "#cfe8dc"

    _abort: AbortSwitch | None = None
    _killed = False

    def __init__(
        self,
        *,
        source_conn_id: str,
        target_conn_id: str,
        target_table: Name,
        source_table: Name | None = None,
        source_sql: str | None = None,
        columns: Sequence[str] | Mapping[str, str] | None = None,
        where: str | None = None,
        transfer: Transfer = "auto",
        format: Format = "auto",  # noqa: A002 -- the word PostgreSQL and the command line use
        publish: Publish = "auto",
        verify: Verify = "counts",
        connect_timeout: float = Timeouts.connect,
        export_timeout: float = Timeouts.export,
        import_timeout: float = Timeouts.import_,
        stall_timeout: float = Timeouts.stall,
        verify_timeout: float = Timeouts.verify,
        publish_timeout: float = Timeouts.publish,
        spool_dir: str | None = None,
        spool_limit: int | None = None,
        lock: str | None = None,
        allow_empty: bool = False,
        psql: str | None = None,
        dry_run: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source_conn_id = source_conn_id
        self.target_conn_id = target_conn_id
        self.source_table = source_table
        self.source_sql = _as_include(source_sql)
        self.target_table = target_table
        self.columns = columns
        self.where = where
        self.transfer = transfer
        self.format = format
        self.publish = publish
        self.verify = verify
        self.spool_dir = spool_dir
        self.spool_limit = spool_limit
        self.lock = lock
        self.allow_empty = allow_empty
        self.psql = psql
        self.plan_only = dry_run  # `dry_run` is a method of every operator: `airflow tasks test --dry-run` calls it
        with _told_to_airflow():
            self.timeouts = Timeouts(
                connect_timeout, export_timeout, import_timeout, stall_timeout, verify_timeout, publish_timeout
            )
            self._spec(until_rendered=True)

    def execute(self, context: Context) -> dict[str, Any]:
        """Copy, or plan, and answer the report. Raises Airflow's exceptions, with ours as their cause."""
        carry_any_id()
        abort = self._abort = AbortSwitch()
        if self._killed:  # before there was a switch to throw
            abort.throw("the task was killed")
        try:
            with _told_to_airflow():
                hook = SafeCopyHook(self.source_conn_id, self.target_conn_id, psql=self.psql)
                report = self._plan(hook) if self.plan_only else self._copy(hook, context, abort)
        finally:
            self._abort = None
        return report.as_dict()

    def on_kill(self) -> None:
        """Stop the copy. Airflow 3 lets `execute` go on after this: the pipeline sees the switch and raises."""
        self._killed = True
        if self._abort is not None:
            self._abort.throw("the task was killed")

    def _copy(self, hook: SafeCopyHook, context: Context, abort: AbortSwitch) -> CopyReport:
        spec, journal = self._spec(), Journal(self.log)
        journal.asked(spec)
        with journal.copying() as progress:
            report = hook.copy(spec, owner=_owner(context), abort=abort, progress=progress)
        journal.report(report)
        self._tell_outlets(context, report)
        return report

    def _plan(self, hook: SafeCopyHook) -> CopyReport:
        spec, journal = self._spec(), Journal(self.log)
        journal.asked(spec)
        plan = hook.plan(spec)
        journal.plan(plan)
        plan.require()
        return plan.as_report()

    def _spec(self, *, until_rendered: bool = False) -> CopySpec:
        options = {option: getattr(self, option) for option in (*_STAND_INS, *_SETTLED)}
        if until_rendered:
            options |= {option: _STAND_INS[option] for option in _STAND_INS if not _is_plain(options[option])}
        return CopySpec.of(**options)

    def _tell_outlets(self, context: Context, report: CopyReport) -> None:
        essence = {word: getattr(report, word) for word in ("target", "token", "rows", "bytes", "digest")}
        for outlet in self.outlets:
            if isinstance(outlet, Asset):
                context["outlet_events"][outlet].extra["safecopy"] = essence


@contextmanager
def _told_to_airflow() -> Iterator[None]:
    """Translate our errors, once, into the exceptions by which Airflow decides about a retry."""
    try:
        yield
    except SafeCopyError as error:
        kind = AirflowException if error.retryable else AirflowFailException
        raise kind(_told(error)) from error


def _told(error: SafeCopyError) -> str:
    """The error's name, message and data. What psql said last is in the message already."""
    data = error.as_dict()
    shown = {key: data[key] for key in data if key not in ("type", "message", "hint", "refusals", "stderr_tail")}
    return f"{type(error).__name__}: {error} [{', '.join(f'{key}={value}' for key, value in shown.items())}]"


def _owner(context: Context) -> str:
    """Who copies, for the people who will read it in the target: ``deployment|dag_id|run_id|task|try``."""
    ti = context["ti"]
    deployment = conf.get("safecopy", "deployment_id", fallback="") or conf.get("api", "base_url", fallback="")
    task = ti.task_id if ti.map_index is None or ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]"
    return "|".join([deployment or "airflow", ti.dag_id, ti.run_id, task, str(ti.try_number)])


def _as_include(source_sql: str | None) -> str | None:
    """A template that includes the file, when `source_sql` names one: it is then found and rendered by Airflow."""
    if isinstance(source_sql, str) and _SQL_FILE.fullmatch(source_sql):
        return f'{{% include "{source_sql}" %}}'
    return source_sql


def _is_plain(value: object) -> bool:
    """Whether a value is known when the DAG is parsed: neither a template nor another task's result."""
    if isinstance(value, str):
        return _TEMPLATE.search(value) is None
    if isinstance(value, Mapping):
        return all(map(_is_plain, (*value, *value.values())))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, int | float)
