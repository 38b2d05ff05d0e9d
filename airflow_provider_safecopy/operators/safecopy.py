"""The operator: one copy, as a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import BaseOperator, Context

from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.errors import ConfigError, LockBusyError
from airflow_provider_safecopy.hooks.in_process import patch_non_latin1_ids
from airflow_provider_safecopy.operators import batch
from airflow_provider_safecopy.operators.busy import WAIT_TIMEOUT, Mode, OnBusy
from airflow_provider_safecopy.operators.contender import build_contender, default_append_key, make_liveness_check
from airflow_provider_safecopy.operators.journal import TaskLog
from airflow_provider_safecopy.operators.living_lock import find_lock
from airflow_provider_safecopy.operators.mapping import check_expansion, require_distinct_targets
from airflow_provider_safecopy.operators.option import list_templates, split_options, with_options
from airflow_provider_safecopy.operators.outcome import push_result, update_assets
from airflow_provider_safecopy.operators.template import as_include, is_plain
from airflow_provider_safecopy.operators.told import format_error, translate_errors
from airflow_provider_safecopy.transfer import roster
from airflow_provider_safecopy.transfer.option import LATER, with_current_names
from airflow_provider_safecopy.transfer.spec import CopySpec

if TYPE_CHECKING:
    from airflow_provider_safecopy.hooks.safecopy import SafeCopyHook
    from airflow_provider_safecopy.transfer.report import CopyReport


class SafeCopyOperator(BaseOperator):
    """Copies one table, or the result of one query, from one PostgreSQL database into a table of another.

    At every instant the target holds exactly the old rows or exactly the new ones. A copy that failed, or
    that was killed before it published, fails its task.

    The run holds two locks in the target while it copies: the target table's own, and `lock`, or inside a
    `LivingLockGroup` the group's. The tasks of one DAG run share them, and a retry supersedes the try before it;
    a run that lost them cannot publish any more. ``airflow tasks test`` shares them with nobody.

    :param source_conn_id: connection of type ``postgres`` to read from. (templated)
    :param target_conn_id: connection of type ``postgres`` to write to. (templated)
    :param tables: many tables in one task, instead of one: a list of names, or of mappings with `source_table`,
        `target_table` and what else is to hold for that table alone. Each has its own lock, proofs and receipt. (templated)
    :param keep_going: copy the other tables though some are refused; default: copy none then.
    :param on_busy: when another run holds a lock: ``fail``, to be retried; ``skip``, the task's result then being a
        report with ``status="skipped"`` and the `holder`; or ``wait``, deferred, without a worker's slot.
    :param wait_timeout: seconds to wait at most, counted from the first attempt of each try. Default 1 hour.
    :param dry_run: log the decisions and the exact SQL, touch nothing, answer ``status="planned"``.

    All other parameters are the options of a copy, declared in `CopySpec`: ``help(SafeCopyOperator.__init__)`` and
    `docs/reference/options.md` describe each.

    The task's result (XCom) is the report (with `tables` one of all) as plain JSON values; `docs/report.md` has its schema. The event
    of each asset among the task's outlets carries its essence in ``extra["safecopy"]``.

    Arguments that make no sense raise when the DAG is parsed, unless they hang on a template. Errors that
    the same copy would meet again raise `AirflowFailException`, others `AirflowException`, to be retried.
    """

    template_fields: Sequence[str] = ("source_conn_id", "target_conn_id", "tables", *list_templates(CopySpec))
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

    spec_type: ClassVar[type[CopySpec]] = CopySpec
    """Declares the options this operator takes."""
    target_table: Any

    @with_options(CopySpec)
    def __init__(
        self,
        *,
        source_conn_id: str,
        target_conn_id: str,
        tables: Sequence[str | Mapping[str, Any]] | None = None,
        keep_going: bool = False,
        on_busy: Mode = "fail",
        wait_timeout: float = WAIT_TIMEOUT,
        dry_run: bool = False,
        **options: Any,
    ) -> None:
        ours, others = split_options(self.spec_type, options)
        super().__init__(**others)
        self.source_conn_id = source_conn_id
        self.target_conn_id = target_conn_id
        self.tables = tables
        self.keep_going = keep_going
        self.plan_only = dry_run  # `dry_run` is a method of every operator: `airflow tasks test --dry-run` calls it
        with translate_errors():
            self.on_busy = OnBusy(on_busy, wait_timeout)
            self._take(with_current_names(ours, self.spec_type.options()))
            self._check_options()
            if self.get_closest_mapped_task_group() is not None:
                apart = {each: getattr(self, each) for each in ("target_table", "target_conn_id")}
                require_distinct_targets(
                    apart | {"write_mode": self.settled.get("write_mode", "replace"), "dry_run": dry_run}
                )

    def _take(self, given: Mapping[str, Any]) -> None:
        """Keep templated options as attributes, where Airflow renders them, and the others as they are."""
        names = list_templates(self.spec_type)
        for name in names:
            value = given.get(name)
            setattr(self, name, as_include(value) if name == "source_sql" else value)
        self.settled = {name: value for name, value in given.items() if name not in names}

    def execute(self, context: Context) -> dict[str, Any]:
        """Copy, or plan, and answer the report. Raises Airflow's exceptions, with ours as their cause."""
        return self.resume(context)

    def resume(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, Any]:
        """Try, or try again after having waited for a lock."""
        from airflow_provider_safecopy.hooks.safecopy import SafeCopyHook

        patch_non_latin1_ids()
        abort = self._abort = AbortSwitch()
        if self._killed:  # before there was a switch to throw
            abort.throw("the task was killed")
        try:
            with translate_errors():
                hook = SafeCopyHook(self.source_conn_id, self.target_conn_id)
                if self.tables is not None:
                    return batch.run_batch(self, hook, context, abort, event).as_dict()
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
        from airflow_provider_safecopy.transfer.report import CopyReport

        deadline, contender, journal = self.on_busy.find_deadline(event), build_contender(context), TaskLog(self.log)
        spec = replace(self._spec(context), lock=find_lock(self, hook, context, contender))
        journal.log_options(spec)

        def report_skip(error: LockBusyError) -> None:
            self.log.warning("skipped: %s", format_error(error))
            if self.do_xcom_push:
                push_result(context, CopyReport.from_busy_error(spec, hook.source, hook.target, error))

        with (
            self.on_busy.handle_busy(self, self.target_conn_id, deadline, report_skip),
            journal.open_copy() as progress,
        ):
            report = hook.copy(
                spec, contender=contender, judge=make_liveness_check(context, contender), abort=abort, progress=progress
            )
        journal.log_report(report)
        update_assets(context, self.outlets, report)
        return report

    def _plan(self, hook: SafeCopyHook, context: Context) -> CopyReport:
        spec, journal = self._spec(context), TaskLog(self.log)
        journal.log_options(spec)
        plan = hook.plan(spec)
        journal.log_plan(plan)
        plan.require_accepted()
        return plan.as_report()

    def _spec(self, context: Context) -> CopySpec:
        return self.spec_type.of(**self.options(context))

    def specs(self, context: Context | None = None) -> tuple[CopySpec, ...]:
        """What is asked for of many tables; without a `context`, as far as that can be said before templates are."""
        tables = self.tables if context or is_plain(self.tables) else [LATER]
        entries = roster.parse_entries(tables, "tables", self.spec_type)
        return roster.build_specs(entries, self.options(context), self.spec_type)

    def options(self, context: Context | None = None) -> dict[str, Any]:
        """What is asked for of any table; without a `context`, with stand-ins for what a template will say."""
        templated = [each for each in self.spec_type.options() if each.templated]
        options = {each.name: getattr(self, each.name) for each in templated} | self.settled
        if context is None:
            options |= {each.name: each.stand_in for each in templated if not is_plain(options[each.name])}
        if options.get("write_mode") == "append" and options["append_key"] is None:
            options["append_key"] = default_append_key(context) if context else LATER
        return options

    def _check_options(self) -> None:
        """Raises `ConfigError` when the DAG is parsed, rather than when it runs."""
        if self.tables is not None:
            self.specs()
            return
        if self.keep_going or self.target_table is None:
            lone = "keep_going means nothing without tables"
            raise ConfigError(lone if self.keep_going else "give target_table, or tables with a list of them")
        self.spec_type.of(**self.options())
