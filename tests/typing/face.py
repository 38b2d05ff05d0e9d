"""The public face as a user types it. mypy checks this file; nothing runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_type

from airflow_provider_safecopy import (
    AbortSwitch,
    BatchReport,
    CopyPlan,
    CopyReport,
    CopySpec,
    Endpoint,
    LivingLock,
    LockBusyError,
    PlanError,
    Progress,
    Promise,
    Refusal,
    SafeCopyError,
    StageError,
    Timeouts,
    copy,
    copy_tables,
    plan,
    plan_tables,
)


def show(progress: Progress) -> None:
    assert_type(progress.bytes, int)
    assert_type(progress.expected_bytes, int | None)


source = Endpoint.from_conninfo("host=erp dbname=erp")
target = Endpoint.from_conninfo("host=dw dbname=dw")
spec = CopySpec.of(source_table="영업.고객", target_table="분석.고객", timeouts=Timeouts(export=1800, stall=60))
assert_type(source, Endpoint)
assert_type(spec, CopySpec)
assert_type(spec.timeouts, Timeouts)
assert_type(spec.timeouts.stall, float)

assert_type(plan(spec, source, target), CopyPlan)
assert_type(plan(spec, source, target).refusals, tuple[Refusal, ...])
assert_type(plan_tables([spec], source, target), tuple[CopyPlan, ...])
report = copy(spec, source, target, owner="nightly job", abort=AbortSwitch(), progress=show)
assert_type(report, CopyReport)
assert_type(report.rows, int | None)
assert_type(report.as_dict(), dict[str, Any])
assert_type(copy_tables([spec], source, target, keep_going=True, on_busy="skip"), BatchReport)

copy(spec, source)  # type: ignore[call-arg]
copy(spec, "host=erp", target)  # type: ignore[arg-type]
copy_tables([spec], source, target, on_busy="never")  # type: ignore[arg-type]

with LivingLock("야간_집계", "host=dw dbname=dw", promise=Promise(stale_after=600)) as lock:
    assert_type(lock, LivingLock)
    assert_type(lock.seconds_left, float)

try:
    copy(spec, source, target)
except LockBusyError as busy:
    assert_type(busy.holder, dict[str, Any])
except PlanError as refused:
    assert_type(refused.refusals, tuple[Refusal, ...])
except StageError as failed:
    assert_type(failed.sqlstate, str | None)
except SafeCopyError as error:
    assert_type(error.retryable, bool)
    found: Mapping[str, Any] = error.as_dict()
