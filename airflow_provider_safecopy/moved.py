"""Former names of modules. Each works for one version more, and warns."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType

_PACKAGE = __name__.rpartition(".")[0]

# The former name and the new one, below the package.
MOVED = {
    "blocker": "postgres.lookout",
    "cli.columns": "cli.param_types",
    "cli.command": "cli.commands",
    "cli.declare": "cli.option",
    "cli.group": "cli.entry",
    "cli.guide": "cli.help_text",
    "cli.holder": "cli.layout",
    "cli.parameter": "cli.param_types",
    "cli.quantity": "cli.param_types",
    "cli.report": "cli.layout",
    "cli.speaking": "cli.option",
    "cli.tables": "cli.table_list",
    "demo.dag_log": "demo.run",
    "demo.installation": "demo.servers",
    "diagnosis": "postgres.diagnosis",
    "endpoint": "postgres.endpoint",
    "environment": "postgres.environment",
    "hooks.in_process": "hooks.compat",
    "hooks.judge": "hooks.dag_run_state",
    "lock.busy": "lock.refusal",
    "lock.departure": "lock.living_lock",
    "lock.disk": "lock.file_record",
    "lock.fence": "lock.postgres",
    "lock.file": "lock.file_store",
    "lock.file_fact": "lock.file_state",
    "lock.file_history": "lock.file_record",
    "lock.file_turn": "lock.file_store",
    "lock.fork": "lock.process",
    "lock.gate": "lock.connection_gate",
    "lock.living": "lock.living_lock",
    "lock.loss": "lock.refusal",
    "lock.over": "lock.liveness",
    "lock.presence": "lock.liveness",
    "lock.pulse": "lock.heartbeat",
    "lock.rows": "lock.postgres",
    "lock.several": "lock.bulk",
    "lock.takeover": "lock.schema",
    "lock.trust": "lock.schema",
    "memory": "postgres.memory",
    "operators.batch": "operators.safecopy",
    "operators.busy": "operators.common",
    "operators.contender": "operators.common",
    "operators.journal": "operators.task_log",
    "operators.lock_tasks": "operators.living_lock",
    "operators.mapping": "operators.safecopy",
    "operators.option": "operators.safecopy",
    "operators.outcome": "operators.safecopy",
    "operators.template": "operators.safecopy",
    "operators.told": "operators.common",
    "pipeline.attempt": "pipeline.run",
    "pipeline.drafting": "pipeline.planner",
    "pipeline.eviction": "pipeline.reap",
    "pipeline.line": "pipeline.copy_table",
    "pipeline.round": "pipeline.batch_rounds",
    "pipeline.transport": "pipeline.copy_table",
    "transfer.aftermath": "publish.maintenance",
    "transfer.blocker": "postgres.lookout",
    "transfer.blockers": "publish.lock_waits",
    "transfer.bounds": "planning.incremental",
    "transfer.build": "publish.clone_table",
    "transfer.bulk": "postgres.bulk",
    "transfer.bulk_catalog": "planning.bulk_catalog",
    "transfer.carry": "publish.dependents",
    "transfer.catalog": "planning.catalog",
    "transfer.choice": "publish.strategy_choice",
    "transfer.clash": "publish.merge",
    "transfer.commit": "publish.transaction",
    "transfer.content": "pipeline.planner",
    "transfer.creation": "planning.create_table",
    "transfer.cursor": "planning.incremental",
    "transfer.definition": "planning.table_definition",
    "transfer.demand": "validation",
    "transfer.difference": "publish.diff",
    "transfer.draft": "pipeline.planner",
    "transfer.drift": "publish.schema_drift",
    "transfer.driver": "transfer.small_tables",
    "transfer.ends": "pipeline.planner",
    "transfer.estimate": "planning.row_checks",
    "transfer.exchange": "planning.exchange",
    "transfer.extent": "planning.bulk_catalog",
    "transfer.finding": "planning.finding",
    "transfer.guard": "planning.row_checks",
    "transfer.inplace": "publish.target_lock",
    "transfer.job": "publish.context",
    "transfer.key": "planning.keys",
    "transfer.kind": "kind",
    "transfer.lane": "transfer.relay",
    "transfer.ledger": "planning.history",
    "transfer.lock_retry": "postgres.lock_retry",
    "transfer.lookout": "postgres.lookout",
    "transfer.manner": "pipeline.planner",
    "transfer.match": "planning.column_match",
    "transfer.mismatch": "planning.column_match",
    "transfer.model": "spec",
    "transfer.name": "postgres.names",
    "transfer.option": "option",
    "transfer.origin": "planning.source_identity",
    "transfer.original": "planning.create_table",
    "transfer.pace": "transfer.flow_control",
    "transfer.pages": "planning.page_ranges",
    "transfer.plan": "planning.plan",
    "transfer.psql": "postgres.psql",
    "transfer.publish": "publish.transaction",
    "transfer.recall": "postgres.session",
    "transfer.receipt": "publish.receipt",
    "transfer.reconcile": "publish.merge",
    "transfer.reference": "planning.keys",
    "transfer.refusal": "planning.preflight",
    "transfer.relation": "spec",
    "transfer.report": "report",
    "transfer.roster": "table_list",
    "transfer.sequence": "publish.sequences",
    "transfer.session": "postgres.session",
    "transfer.shape": "planning.source_schema",
    "transfer.shuttle": "transfer.small_tables",
    "transfer.sibling": "publish.receipt",
    "transfer.slice": "planning.history",
    "transfer.spec": "spec",
    "transfer.spelling": "planning.catalog",
    "transfer.staging": "publish.staging",
    "transfer.stdio": "postgres.psql",
    "transfer.stream": "transfer.relay",
    "transfer.swap_fallback": "publish.strategy_choice",
    "transfer.target_table": "planning.target_table",
    "transfer.timeouts": "spec",
    "transfer.transcript": "postgres.psql_output",
    "transfer.vocabulary": "planning.vocabulary",
    "transfer.wal": "transfer.wal_flush",
    "transfer.watch": "postgres.activity",
    "transfer.watermark": "publish.receipt",
    "transfer.ways": "publish.strategies",
    "transfer.widening": "planning.column_match",
    "transfer.written": "report",
    "wire": "postgres.wire",
    # `transfer.statements` is missing: that package became a module in each of several packages.
}


def find_spec(name: str) -> ModuleSpec | None:
    """Return the spec of a module that has moved, None if `name` is no former name."""
    new = MOVED.get(name.removeprefix(f"{_PACKAGE}."))
    return None if new is None else ModuleSpec(name, _MovedLoader(f"{_PACKAGE}.{new}"))


class _MovedLoader(Loader):
    """Load the module at its new place, and let the former name mean the same module."""

    def __init__(self, new: str) -> None:
        self._new = new

    def exec_module(self, module: ModuleType) -> None:
        """Import the new module and warn. Python takes what stands in `sys.modules` afterwards."""
        old = module.__name__
        sys.modules[old] = import_module(self._new)
        message = f"{old} has moved; import from {_PACKAGE} what it exports, else from {self._new}"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
