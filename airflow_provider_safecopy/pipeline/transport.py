"""Export and import of one run, lane by lane: psql started in turn, the stream run, and nothing left when it fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from airflow_provider_safecopy.pipeline.attempt import name_blockers, see_them_gone
from airflow_provider_safecopy.pipeline.run import PHASES, Run
from airflow_provider_safecopy.transfer import export, load
from airflow_provider_safecopy.transfer.export import Export, Exported
from airflow_provider_safecopy.transfer.lane import Pipe
from airflow_provider_safecopy.transfer.load import Load, Loaded
from airflow_provider_safecopy.transfer.model import MiB
from airflow_provider_safecopy.transfer.name import TableName
from airflow_provider_safecopy.transfer.pace import RateLimit
from airflow_provider_safecopy.transfer.pages import PageRange
from airflow_provider_safecopy.transfer.plan import CopyPlan
from airflow_provider_safecopy.transfer.snapshot import require_no_deadlock
from airflow_provider_safecopy.transfer.spool import Spool, choose_directory
from airflow_provider_safecopy.transfer.stream import Relay
from airflow_provider_safecopy.transfer.wal import WalFlush

WINDOW_BYTES = 8 * MiB
"""What is held in memory between export and import before it goes to disk."""

CHUNKED_SPOOL_BYTES = 1024 * MiB
"""`spool_limit` for chunked when none is given: how far the source may be ahead of the target."""

_UNBOUNDED = 1 << 62


def transfer_table(run: Run, table: TableName, spools: Sequence[Spool]) -> tuple[Exported, Loaded]:
    """Export and import. When it fails, the children are ended, and their server sessions seen gone."""
    plan, throttle = run.plan, RateLimit(run.plan.spec.rate_limit)
    lanes: list[Pipe] = []
    stream = Relay(
        lanes,
        overlaps=plan.transfer == "chunked",
        abort=run.abort,
        wal=WalFlush(run.target),
        on_progress=lambda at: run.progress(
            replace(at, expected_rows=plan.expected_rows, expected_bytes=plan.expected_bytes)
        ),
        on_export=lambda: _let_go(run),
        on_move=lambda size: run.pulse.advance(PHASES["export"], size),
        on_silence=lambda readers: require_no_deadlock(run.source, readers=readers),
        on_idle=(run.source.lookout.look, run.target.lookout.look),
    )
    try:
        for pages, spool in zip(plan.page_ranges, spools, strict=True):
            lanes.append(
                Pipe(
                    _exporting(run, pages),
                    lambda: _loading(run, table),
                    spool=spool,
                    rate_limit=throttle,
                    timeouts=plan.spec.timeouts,
                )
            )
        with name_blockers(run.source, run.target):
            return stream.run()
    except BaseException as error:
        stream.close()
        see_them_gone(error, run.asked, run.lock, run.source, run.target)
        raise
    finally:
        stream.close()


def _exporting(run: Run, pages: PageRange | None) -> Export:
    """Start the export, when it is its turn to connect. No thread of ours may live while psql is forked."""
    asked, source = run.asked, run.source.endpoint
    with asked.gate(run.lock, source).wait_turn(run.abort, on_wait=run.pulse.count_step):
        with run.pulse.pause():
            running = export.start(run.plan, source, pages=pages, snapshot=run.snapshot, application_name=asked.name)
        if asked.spec.connect_interval is not None:
            export.wait_for_session(running, seconds=asked.spec.timeouts.connect, abort=asked.abort)
    return running


def _loading(run: Run, table: TableName) -> Load:
    with run.pulse.pause():
        return load.start(run.plan, run.target.endpoint, table, application_name=run.asked.name)


def _let_go(run: Run) -> None:
    """End the source's transaction as soon as nothing needs its snapshot."""
    if run.plan.spec.verify != "full":
        run.source.end_transaction()


def spools_of(decided: CopyPlan) -> list[Spool]:
    """One for each lane; they share what disk there may be."""
    chunked = decided.transfer == "chunked"
    limit = decided.spec.spool_limit or (CHUNKED_SPOOL_BYTES if chunked else _UNBOUNDED)
    return [
        Spool(
            choose_directory(decided.spec.spool_dir),
            limit=limit // len(decided.page_ranges),
            memory=WINDOW_BYTES if chunked else 0,
        )
        for _ in decided.page_ranges
    ]
