"""The outcome of a batch: a report of each table, and the error of each that failed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal
from uuid import UUID

from airflow_provider_safecopy.errors import SafeCopyError
from airflow_provider_safecopy.lock.model import Lease
from airflow_provider_safecopy.publish.transaction import PublishResult
from airflow_provider_safecopy.report import CopyReport
from airflow_provider_safecopy.spec import CopySpec
from airflow_provider_safecopy.transfer.export import Exported
from airflow_provider_safecopy.transfer.load import Loaded
from airflow_provider_safecopy.transfer.verify import Verification


@dataclass(frozen=True)
class Failure:
    """A table of a batch that was not copied, and why."""

    source: str
    target: str
    error: SafeCopyError

    @classmethod
    def from_error(cls, spec: CopySpec, error: SafeCopyError) -> Failure:
        """Of the table that was asked for."""
        return cls(str(spec.source_table or "a query"), str(spec.target_table), error)

    def as_dict(self) -> dict[str, Any]:
        """It as plain JSON values."""
        return {"source": self.source, "target": self.target, "error": self.error.as_dict()}


Outcome = CopyReport | Failure
"""What came of one table."""


@dataclass(frozen=True)
class BatchReport:
    """The report of a batch. `outcomes` are in the order the tables were asked for."""

    outcomes: tuple[Outcome, ...]
    seconds: float = 0.0
    peak_rss_bytes: int = 0

    @property
    def tables(self) -> tuple[CopyReport, ...]:
        """The reports of those that did not fail."""
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, CopyReport))

    @property
    def failed(self) -> tuple[Failure, ...]:
        """Those that failed."""
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, Failure))

    @property
    def status(self) -> Literal["published", "partly", "failed", "skipped", "planned"]:
        """``partly``: some tables were published, others failed. ``failed``: none was published."""
        found = {report.status for report in self.tables}
        if self.failed:
            return "partly" if found & {"published", "already_published"} else "failed"
        if found <= {"planned", "skipped"}:
            return "planned" if "planned" in found else "skipped"
        return "published"

    def as_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {
            "status": self.status,
            "tables": [report.as_dict() for report in self.tables],
            "failed": [failure.as_dict() for failure in self.failed],
            "seconds": self.seconds,
            "peak_rss_bytes": self.peak_rss_bytes,
        }


@dataclass(frozen=True)
class BatchProgress:
    """The progress of a batch: `done` of `total` tables, `failed` of them failed, and the one it is `at`."""

    done: int
    total: int
    failed: int
    at: str

    def as_dict(self) -> dict[str, Any]:
        """It as plain JSON values."""
        return asdict(self)


Listener = Callable[[BatchProgress], None]


def build_report(
    lease: Lease,
    proofs: tuple[Exported, Loaded, Verification],
    published: PublishResult,
    takeovers: Sequence[str],
    *,
    attempt: UUID | None = None,
) -> CopyReport:
    """The report of a table that was published."""
    exported, loaded, verification = proofs
    plan, written = published.plan, published.written
    return replace(
        plan.as_report(),
        status="published",
        lock=lease.name,
        token=lease.token,
        attempt=str(attempt or lease.attempt),
        rows=written.current_rows,
        previous_rows=written.previous_rows,
        inserted=written.inserted,
        updated=written.updated,
        deleted=written.deleted,
        unchanged=written.unchanged,
        watermark=published.receipt.watermark,
        published_at=published.receipt.published_at,
        bytes=exported.bytes,
        digest=exported.digest,
        content_hash=verification.content_hash,
        warnings=(*plan.warnings, *takeovers, *published.warnings),
        stages=(*exported.reports, *loaded.reports, verification.report, *published.reports),
    )


def takeover_of(lease: Lease) -> tuple[str, ...]:
    """From whom the lock was taken over, if it was."""
    return (
        () if lease.displaced is None else (f"lock {lease.name} was taken over from {lease.displaced} ({lease.kind})",)
    )
