"""A finding: what one check returns. Checks return values; none appends to a list of its caller."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from airflow_provider_safecopy.errors import Refusal

# Covariant: a finding of a column is also a finding of a column or None.
Value_co = TypeVar("Value_co", covariant=True)


@dataclass(frozen=True)
class Finding(Generic[Value_co]):
    """The `value` that a check found, and what it has to say about the copy."""

    value: Value_co
    refusals: tuple[Refusal, ...] = ()
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def refuse(refusals: Iterable[Refusal]) -> Finding[None]:
    """Return a finding of refusals alone."""
    return Finding(None, tuple(refusals))


def join(*findings: Finding[Any]) -> Finding[None]:
    """Return the refusals, reasons and warnings of all findings in order, without their values."""
    return Finding(
        None,
        tuple(each for found in findings for each in found.refusals),
        tuple(each for found in findings for each in found.reasons),
        tuple(each for found in findings for each in found.warnings),
    )
