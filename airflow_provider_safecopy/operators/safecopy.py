"""The operator: one copy, as a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from airflow.providers.common.compat.sdk import BaseOperator, Context

from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.errors import ConfigError, LockBusyError
from airflow_provider_safecopy.hooks.in_process import carry_any_id
from airflow_provider_safecopy.hooks.safecopy import SafeCopyHook
from airflow_provider_safecopy.operators import batch
from airflow_provider_safecopy.operators.busy import WAIT_TIMEOUT, Mode, OnBusy
from airflow_provider_safecopy.operators.contender import contender_of, make_judge, slice_of
from airflow_provider_safecopy.operators.journal import Journal
from airflow_provider_safecopy.operators.living_lock import lock_of
from airflow_provider_safecopy.operators.mapping import check_expansion, require_apart
from airflow_provider_safecopy.operators.option import LATER, SETTLED, STAND_INS, timeouts_of
from airflow_provider_safecopy.operators.outcome import push_result, tell_assets
from airflow_provider_safecopy.operators.template import as_include, is_plain
from airflow_provider_safecopy.operators.told import told, told_to_airflow
from airflow_provider_safecopy.transfer import roster
from airflow_provider_safecopy.transfer.model import (
    Drift,
    Format,
    Missing,
    Publish,
    Transfer,
    Verify,
    WriteMode,
)
from airflow_provider_safecopy.transfer.report import CopyReport
from airflow_provider_safecopy.transfer.spec import CopySpec
from airflow_provider_safecopy.transfer.timeouts import Timeouts

Name = str | Sequence[str]


class SafeCopyOperator(BaseOperator):
    """Copies one table, or the result of one query, from one PostgreSQL database into a table of another.

    At every instant the target holds exactly the old rows or exactly the new ones. A copy that failed, or
    that was killed before it published, fails its task.

    The run holds two locks in the target while it copies: the target table's own, and `lock`, or inside a
    `LivingLockGroup` the group's. The tasks of one DAG run share them, and a retry supersedes the try before it;
    a run that lost them cannot publish any more. ``airflow tasks test`` shares them with nobody.

    :param source_conn_id: connection of type ``postgres`` to read from. (templated)
    :param target_conn_id: connection of type ``postgres`` to write to. (templated)
    :param source_table: ``영업.고객``, or a pair ``("영업", "고객")``, which is taken as it stands. (templated)
    :param source_sql: instead of `source_table`: a query, or the path of a ``.sql`` file found as Airflow
        finds templates. Names in it must carry their schema. (templated)
    :param target_table: the table to publish into; it must exist unless `create_target`. (templated)
    :param tables: instead of these three, many tables in one task: a list of names, or of mappings with `source_table`,
        `target_table` and what else is to hold for that table alone. Each has its own lock, proofs and receipt. (templated)
    :param keep_going: copy the other tables though some are refused; default: copy none then.
    :param columns: a list of columns, or ``{source column: target column}``; default: all, by name. (templated)
    :param where: filters the source's rows; names in it must carry their schema. (templated)
    :param transfer: ``auto``, ``sequential`` or ``chunked``.
    :param format: ``auto``, ``text`` or ``binary``.
    :param write_mode: ``replace`` all rows, ``append`` a slice once, ``upsert`` by key, or ``incremental``: upsert
        what lies beyond the watermark of `cursor_column`. `docs/publish.md` has the details of this and what follows.
    :param key_columns: columns of the target that name a row; default: its primary key. (templated)
    :param cursor_column: incremental: the source's column that grows with every change.
    :param lookback: incremental: how far before the watermark to read again, ``2 days`` or a number.
    :param interval_start: incremental: read from here instead of the watermark, such as
        ``{{ data_interval_start }}``. (templated)
    :param interval_end: incremental: up to here, itself not included. (templated)
    :param slice: append: what this is; the same slice is never appended twice. Default: this task in this DAG run,
        so that a retry appends nothing twice. (templated)
    :param missing: upsert: rows the source has no more are ``keep``, ``delete`` or ``mark``.
    :param missing_column: the target's column that marks them: a timestamp or a boolean.
    :param publish: ``auto``, ``swap``, ``delta``, ``delete_insert`` or ``truncate_insert``; for ``replace`` alone.
    :param drift: columns only the source has: ``fail``, ``ignore_extra`` or ``add_columns``.
    :param create_target: make the target table if there is none.
    :param min_rows: refuse fewer rows from the source; default: 1 for ``replace``, else 0.
    :param max_shrink: refuse to lose more than so many percent of the target's rows.
    :param max_null_share: percent of NULLs at most, by target column.
    :param refresh_views: refresh dependent materialized views after the publish.
    :param end_blockers_after: seconds after which sessions that hold up the publish are ended; default: never.
    :param swap_patience: seconds after which a swap that ``publish="auto"`` chose, and that waits for readers, gives way
        to a way that does not. Default 30.
    :param verify: ``counts``, or ``full`` to compare a hash of the content of both sides as well.
    :param connect_timeout: seconds, as are all of these; none can be switched off. Default 10.
    :param export_timeout: for the export. Default 4 hours.
    :param import_timeout: for the import. Default 4 hours.
    :param stall_timeout: without a single byte moved. Default 300.
    :param verify_timeout: for the proofs. Default 1 hour.
    :param publish_timeout: for the publishing transaction, waiting for locks included. Default 1 hour.
    :param lock_wait_timeout: for any wait for a lock that another session holds, in any stage. Default 3 minutes.
    :param parallel: streams that copy one table at once, or ``auto``.
    :param rate_limit: bytes a second at most from the source; default: as fast as it goes.
    :param spool_dir: where temporary files go; default: the system's. (templated)
    :param spool_limit: bytes of temporary disk at most; default: 1 GiB for chunked, none for sequential.
    :param lock: the name of the lock the run holds beside the target table's; default: that of the `LivingLockGroup`
        around it, if there is one. (templated)
    :param on_busy: when another run holds a lock: ``fail``, to be retried; ``skip``, the task's result then being a
        report with ``status="skipped"`` and the `holder`; or ``wait``, deferred, without a worker's slot.
    :param wait_timeout: seconds to wait at most, counted from the first attempt of each try. Default 1 hour.
    :param stale_after: seconds without progress after which others may take the locks over. Default 10 minutes, or
        twice the stall timeout where that is longer.
    :param launch_interval: open connections to the source one after the other, so many seconds apart, however many
        tasks copy from it into this target. Default: as they come.
    :param allow_empty: publish even when the source is empty, which otherwise fails the task.
    :param psql: path of the psql to use; default: ``SAFECOPY_PSQL``, else the one that is found.
    :param show_rows: let errors show the rows they are about; default: only the constraint, the column and the line.
    :param dry_run: log the decisions and the exact SQL, touch nothing, answer ``status="planned"``.

    The task's result (XCom) is the report (with `tables` one of all) as plain JSON values; `docs/report.md` has its schema. The event
    of each asset among the task's outlets carries its essence in ``extra["safecopy"]``.

    Arguments that make no sense raise when the DAG is parsed, unless they hang on a template. Errors that
    the same copy would meet again raise `AirflowFailException`, others `AirflowException`, to be retried.
    """

    template_fields: Sequence[str] = ("source_conn_id", "target_conn_id", "tables", *STAND_INS)
    template_fields_renderers: ClassVar[dict[str, str]] = {"source_sql": "sql", "where": "sql", "columns": "json"}
    # A table may well be called x.sql, so only `source_sql` is ever taken for a file: see `template`.
    template_ext: Sequence[str] = ()
    ui_color = "#cfe8dc"

    @classmethod
    def partial(cls, **kwargs: Any) -> Any:
        """Return the operator's partial; its `expand` refuses parts of one table that overwrite each other."""
        return check_expansion(super().partial(**kwargs))

    _abort: AbortSwitch | None = None
    _killed = False

    def __init__(
        self,
        *,
        source_conn_id: str,
        target_conn_id: str,
        target_table: Name | None = None,
        source_table: Name | None = None,
        source_sql: str | None = None,
        tables: Sequence[str | Mapping[str, Any]] | None = None,
        keep_going: bool = False,
        columns: Sequence[str] | Mapping[str, str] | None = None,
        where: str | None = None,
        transfer: Transfer = "auto",
        format: Format = "auto",  # noqa: A002 -- the word PostgreSQL and the command line use
        write_mode: WriteMode = "replace",
        key_columns: Sequence[str] | None = None,
        cursor_column: str | None = None,
        lookback: str | float | None = None,
        interval_start: str | None = None,
        interval_end: str | None = None,
        slice: str | None = None,  # noqa: A002 -- the word of receipt and report
        missing: Missing = "keep",
        missing_column: str | None = None,
        publish: Publish = "auto",
        drift: Drift = "fail",
        create_target: bool = False,
        min_rows: int | None = None,
        max_shrink: float | None = None,
        max_null_share: Mapping[str, float] | None = None,
        refresh_views: bool = False,
        end_blockers_after: float | None = None,
        swap_patience: float = CopySpec.swap_patience,
        verify: Verify = "counts",
        connect_timeout: float = Timeouts.connect,
        export_timeout: float = Timeouts.export,
        import_timeout: float = Timeouts.import_,
        stall_timeout: float = Timeouts.stall,
        verify_timeout: float = Timeouts.verify,
        publish_timeout: float = Timeouts.publish,
        lock_wait_timeout: float = Timeouts.lock_wait,
        parallel: int | Literal["auto"] = 1,
        rate_limit: int | None = None,
        spool_dir: str | None = None,
        spool_limit: int | None = None,
        lock: str | None = None,
        on_busy: Mode = "fail",
        wait_timeout: float = WAIT_TIMEOUT,
        stale_after: float | None = None,
        launch_interval: float | None = None,
        allow_empty: bool = False,
        psql: str | None = None,
        show_rows: bool = False,
        dry_run: bool = False,
        **kwargs: Any,
    ) -> None:
        given = locals()
        super().__init__(**kwargs)
        self.source_conn_id = source_conn_id
        self.target_conn_id = target_conn_id
        self.source_table = source_table
        self.source_sql = as_include(source_sql)
        self.target_table = target_table
        self.tables = tables
        self.keep_going = keep_going
        self.columns = columns
        self.where = where
        self.key_columns = key_columns
        self.interval_start = interval_start
        self.interval_end = interval_end
        self.slice = slice
        self.spool_dir = spool_dir
        self.lock = lock
        self.psql = psql
        self.plan_only = dry_run  # `dry_run` is a method of every operator: `airflow tasks test --dry-run` calls it
        with told_to_airflow():
            self.on_busy = OnBusy(on_busy, wait_timeout)
            self.settled = {option: given[option] for option in SETTLED} | {"timeouts": timeouts_of(given)}
            self._demand_sense()
            if self.get_closest_mapped_task_group() is not None:
                apart = {each: getattr(self, each) for each in ("target_table", "target_conn_id")}
                require_apart(apart | {"write_mode": write_mode, "dry_run": dry_run})

    def execute(self, context: Context) -> dict[str, Any]:
        """Copy, or plan, and answer the report. Raises Airflow's exceptions, with ours as their cause."""
        return self.resume(context)

    def resume(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, Any]:
        """Try, or try again after having waited for a lock."""
        carry_any_id()
        abort = self._abort = AbortSwitch()
        if self._killed:  # before there was a switch to throw
            abort.throw("the task was killed")
        try:
            with told_to_airflow():
                hook = SafeCopyHook(self.source_conn_id, self.target_conn_id, psql=self.psql)
                if self.tables is not None:
                    return batch.run(self, hook, context, abort, event).as_dict()
                if self.plan_only:
                    return self._plan(hook, context).as_dict()
                return self._copy(hook, context, abort, event).as_dict()
        finally:
            self._abort = None

    def on_kill(self) -> None:
        """Stop the copy. Airflow 3 lets `execute` go on after this: the pipeline sees the switch and raises."""
        self._killed = True
        if self._abort is not None:
            self._abort.throw("the task was killed")

    def _copy(
        self, hook: SafeCopyHook, context: Context, abort: AbortSwitch, event: dict[str, Any] | None
    ) -> CopyReport:
        deadline, contender, journal = self.on_busy.deadline(event), contender_of(context), Journal(self.log)
        spec = replace(self._spec(context), lock=lock_of(self, hook, context, contender))
        journal.asked(spec)

        def skipped(error: LockBusyError) -> None:
            self.log.warning("skipped: %s", told(error))
            if self.do_xcom_push:
                push_result(context, CopyReport.skipped(spec, hook.source, hook.target, error))

        with self.on_busy.answering(self, self.target_conn_id, deadline, skipped), journal.copying() as progress:
            report = hook.copy(
                spec, contender=contender, judge=make_judge(context, contender), abort=abort, progress=progress
            )
        journal.report(report)
        tell_assets(context, self.outlets, report)
        return report

    def _plan(self, hook: SafeCopyHook, context: Context) -> CopyReport:
        spec, journal = self._spec(context), Journal(self.log)
        journal.asked(spec)
        plan = hook.plan(spec)
        journal.plan(plan)
        plan.require()
        return plan.as_report()

    def _spec(self, context: Context) -> CopySpec:
        return CopySpec.of(**self.options(context))

    def specs(self, context: Context | None = None) -> tuple[CopySpec, ...]:
        """What is asked for of many tables; without a `context`, as far as that can be said before templates are."""
        tables = self.tables if context or is_plain(self.tables) else [LATER]
        return roster.specs_of(roster.entries_of(tables, "tables"), self.options(context))

    def options(self, context: Context | None = None) -> dict[str, Any]:
        """What is asked for of any table; without a `context`, with stand-ins for what a template will say."""
        options = {option: getattr(self, option) for option in STAND_INS} | self.settled
        if context is None:
            options |= {option: STAND_INS[option] for option in STAND_INS if not is_plain(options[option])}
        if options["write_mode"] == "append" and options["slice"] is None:
            options["slice"] = slice_of(context) if context else STAND_INS["slice"]
        return options

    def _demand_sense(self) -> None:
        """Raises `ConfigError` when the DAG is parsed, rather than when it runs."""
        if self.tables is not None:
            self.specs()
            return
        if self.keep_going or self.target_table is None:
            lone = "keep_going means nothing without tables"
            raise ConfigError(lone if self.keep_going else "give target_table, or tables with a list of them")
        CopySpec.of(**self.options())
