"""The operator: one copy, or many tables, as a task."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, Asset, BaseOperator, Context

from airflow_provider_safecopy import table_list
from airflow_provider_safecopy.abort import AbortSwitch
from airflow_provider_safecopy.errors import ConfigError, LockBusyError
from airflow_provider_safecopy.hooks.compat import patch_non_latin1_ids
from airflow_provider_safecopy.operators.common import (
    WAIT_TIMEOUT,
    Mode,
    OnBusy,
    build_contender,
    default_append_key,
    format_error,
    make_liveness_check,
    translate_errors,
)
from airflow_provider_safecopy.operators.living_lock import find_lock
from airflow_provider_safecopy.operators.task_log import TaskLog
from airflow_provider_safecopy.option import LATER, Option, with_current_names
from airflow_provider_safecopy.spec import CopySpec

if TYPE_CHECKING:
    from airflow_provider_safecopy.errors import LockBusyError
    from airflow_provider_safecopy.hooks.safecopy import SafeCopyHook
    from airflow_provider_safecopy.pipeline.outcome import BatchReport
    from airflow_provider_safecopy.report import CopyReport

_TEMPLATE = re.compile(r"\{[{%#]")
# A query holds a blank, or a bracket; a file's name need not.
_SQL_FILE = re.compile(r"""[^\s{}()'"\\]+\.sql""")


def as_include(source_sql: str | None) -> str | None:
    """A template that includes the file, when `source_sql` names one: it is then found and rendered by Airflow."""
    if isinstance(source_sql, str) and _SQL_FILE.fullmatch(source_sql):
        return f'{{% include "{source_sql}" %}}'
    return source_sql


def is_plain(value: object) -> bool:
    """Return whether a value is known when the DAG is parsed: neither a template nor another task's result."""
    if isinstance(value, str):
        return _TEMPLATE.search(value) is None
    if isinstance(value, Mapping):
        return all(map(is_plain, (*value, *value.values())))
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, int | float)


_Init = TypeVar("_Init", bound=Callable[..., None])
_Parameter = inspect.Parameter


def with_options(kind: type[CopySpec]) -> Callable[[_Init], _Init]:
    """Decorate an operator's `__init__` that takes the options of `kind` as ``**options``.

    Airflow applies `default_args` and checks the arguments of `partial` by the signature, old names included.
    """

    def decorate(function: _Init) -> _Init:
        own = inspect.signature(function)
        *named, others = own.parameters.values()
        known = {each.name for each in named}
        declared = [each for each in _parameters(kind) if each.name not in known]
        function.__signature__ = own.replace(parameters=[*named, *declared, others])  # type: ignore[attr-defined]
        function.__doc__ = "\n".join(
            [inspect.getdoc(function) or "", "", *map(_describe_option, kind.options())]
        ).strip()
        return function

    return decorate


def list_templates(kind: type[CopySpec]) -> tuple[str, ...]:
    """Return the names of the options that may be templates, or results of other tasks."""
    return tuple(each.name for each in kind.options() if each.templated)


def split_options(kind: type[CopySpec], given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of `kind` among the arguments, old names included, and the others, which are Airflow's."""
    names = {each.name for each in _parameters(kind)}
    ours = {name: value for name, value in given.items() if name in names}
    return ours, {name: value for name, value in given.items() if name not in names}


def _parameters(kind: type[CopySpec]) -> Iterator[inspect.Parameter]:
    for each in kind.options():
        annotation = each.kind.written + (" | None" if each.default is None else "")
        yield _Parameter(each.name, _Parameter.KEYWORD_ONLY, default=each.default, annotation=annotation)
    for each in kind.options():
        for alias in each.aliases:
            yield _Parameter(alias.name, _Parameter.KEYWORD_ONLY, default=None, annotation="Any")


def _describe_option(each: Option) -> str:
    parts = [each.meaning, each.in_airflow]
    if each.default_text:
        parts.append(f"Default: {each.default_text}.")
    if each.templated:
        parts.append("(templated)")
    return f":param {each.name}: {' '.join(filter(None, parts))}"


def require_distinct_targets(given: Mapping[str, Any], *, mapped: frozenset[str] = frozenset()) -> None:
    """Raise `ConfigError` if every mapped instance would replace all rows of the same table.

    `mapped` are the arguments that differ between the instances, `given` the others. A template or the result of another
    task may differ as well: that is checked when the tasks run.
    """
    targets = {"target_table", "tables", "write_mode", "target_conn_id"}
    replaces = given.get("write_mode", "replace") == "replace"
    if mapped & targets or not replaces or given.get("dry_run") or given.get("target_table") is None:
        return
    if all(is_plain(given.get(each)) for each in ("target_table", "target_conn_id")):
        from airflow_provider_safecopy.publish.receipt import HINT

        raise ConfigError(f"each mapped instance would replace all rows of {given['target_table']}", hint=HINT)


def check_expansion(partial: Any) -> Any:
    """Make Airflow's `partial` check the arguments of its `expand`."""

    class _Checking(type(partial)):  # type: ignore[misc]  # Airflow 2 and 3 have it in different places
        __slots__ = ()

        def expand(self, **mapped: Any) -> Any:
            with translate_errors():
                require_distinct_targets(self.kwargs, mapped=frozenset(mapped))
            return super().expand(**mapped)

    partial._expand_called = True  # noqa: SLF001 -- else it warns that it was never expanded
    return _Checking(operator_class=partial.operator_class, kwargs=partial.kwargs, params=partial.params)


# The key of a task's result; Airflow 3's own name for it can only be imported with its models.
_RESULT = "return_value"


def push_result(context: Context, report: CopyReport | BatchReport) -> None:
    """In place of the result, which a task that skips itself has none of."""
    context["ti"].xcom_push(key=_RESULT, value=report.as_dict())


def update_assets(context: Context, outlets: Iterable[Any], report: CopyReport) -> None:
    """The report's essence, in the event of each asset among the outlets."""
    _update_events(context, outlets, _summarize(report))


def update_assets_of_all(context: Context, outlets: Iterable[Any], done: BatchReport) -> None:
    """The same of a batch: the essence of each of its tables."""
    _update_events(context, outlets, {"tables": [_summarize(report) for report in done.tables]})


def _summarize(report: CopyReport) -> dict[str, Any]:
    return {word: getattr(report, word) for word in ("target", "token", "rows", "bytes", "digest")}


def _update_events(context: Context, outlets: Iterable[Any], essence: dict[str, Any]) -> None:
    for outlet in outlets:
        if isinstance(outlet, Asset):
            context["outlet_events"][outlet].extra["safecopy"] = essence


_MAX_NAMED = 50


def run_batch(
    task: SafeCopyOperator, hook: SafeCopyHook, context: Context, abort: AbortSwitch, event: dict[str, Any] | None
) -> BatchReport:
    """Copy the task's tables, or plan them. Raises Airflow's exceptions where any was not copied."""
    from airflow_provider_safecopy.pipeline.outcome import BatchReport

    journal, specs = TaskLog(task.log), task.specs(context)
    journal.log_options_of_all(specs)
    if task.plan_only:
        return _plan_batch(hook, journal, specs)
    deadline, contender = task.on_busy.find_deadline(event), build_contender(context)
    lock = find_lock(task, hook, context, contender)
    specs = tuple(replace(spec, lock=lock) for spec in specs)

    def report_skip(error: LockBusyError) -> None:
        task.log.warning("skipped: %s", format_error(error))
        if task.do_xcom_push:
            push_result(context, BatchReport(tuple(_skip_table(spec, hook, error) for spec in specs)))

    with task.on_busy.handle_busy(task, task.target_conn_id, deadline, report_skip):
        done = hook.copy_tables(
            specs,
            contender=contender,
            judge=make_liveness_check(context, contender),
            abort=abort,
            progress=journal.log_count,
            keep_going=task.keep_going,
            on_busy=task.on_busy.mode,
        )
    journal.log_report_of_all(done)
    if done.failed:
        if task.do_xcom_push:
            push_result(context, done)
        raise build_failure(done)
    update_assets_of_all(context, task.outlets, done)
    return done


def build_failure(done: BatchReport) -> AirflowException:
    """Return the error that fails the task: which tables were not copied and why. It is worth a retry if any of them is."""
    named = [f"{failed.target}: {format_error(failed.error)}" for failed in done.failed[:_MAX_NAMED]]
    more = f"; and {len(done.failed) - _MAX_NAMED} more" if len(done.failed) > _MAX_NAMED else ""
    published = ", ".join(report.target.partition(" ")[2] for report in done.tables if report.status == "published")
    message = (
        f"{len(done.failed)} of {len(done.outcomes)} tables were not copied: {'; '.join(named)}{more}. "
        f"Published: {published or 'none'}"
    )
    retryable = any(failed.error.retryable for failed in done.failed)
    return AirflowException(message) if retryable else AirflowFailException(message)


def _plan_batch(hook: SafeCopyHook, journal: TaskLog, specs: Sequence[CopySpec]) -> BatchReport:
    from airflow_provider_safecopy.pipeline.outcome import BatchReport

    plans = hook.plan_tables(specs)
    for plan in plans:
        journal.log_plan(plan)
    for plan in plans:
        plan.require_accepted()
    return BatchReport(tuple(plan.as_report() for plan in plans))


def _skip_table(spec: CopySpec, hook: SafeCopyHook, error: LockBusyError) -> CopyReport:
    from airflow_provider_safecopy.report import CopyReport

    return CopyReport.from_busy_error(spec, hook.source, hook.target, error)


class SafeCopyOperator(BaseOperator):
    """Copies one table, or the result of one query, from one PostgreSQL database into a table of another.

    At every instant the target holds exactly the old rows or exactly the new ones. A copy that failed, or
    that was killed before it published, fails its task.

    The run holds two locks in the target while it copies: the target table's own, and `lock`, or inside a
    `LivingLockGroup` the group's. The tasks of one DAG run share them, and a retry supersedes the try before it;
    a run that lost them cannot publish any more. ``airflow tasks test`` shares them with no other run.

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
        # `dry_run` is a method of every operator: `airflow tasks test --dry-run` calls it.
        self.plan_only = dry_run
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
        # Before there was a switch to throw.
        if self._killed:
            abort.throw("the task was killed")
        try:
            with translate_errors():
                hook = SafeCopyHook(self.source_conn_id, self.target_conn_id)
                if self.tables is not None:
                    return run_batch(self, hook, context, abort, event).as_dict()
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
        from airflow_provider_safecopy.report import CopyReport

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
        """Return the specs of many tables; without a `context`, as far as they are known before templates are rendered."""
        tables = self.tables if context or is_plain(self.tables) else [LATER]
        entries = table_list.parse_entries(tables, "tables", self.spec_type)
        return table_list.build_specs(entries, self.options(context), self.spec_type)

    def options(self, context: Context | None = None) -> dict[str, Any]:
        """Return the options of any table; without a `context`, with stand-ins for what a template will say."""
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
