"""The manner of a copy: in which format its rows travel, in how many lanes, by which psql, and through which files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from airflow_provider_safecopy import memory
from airflow_provider_safecopy.errors import ConfigError, Refusal
from airflow_provider_safecopy.transfer import pages, spool
from airflow_provider_safecopy.transfer.catalog import Column, Relation
from airflow_provider_safecopy.transfer.finding import Finding, join, refuse
from airflow_provider_safecopy.transfer.match import ColumnPair
from airflow_provider_safecopy.transfer.model import MiB, Strategy
from airflow_provider_safecopy.transfer.name import spell
from airflow_provider_safecopy.transfer.psql import PsqlBinary, find_psql
from airflow_provider_safecopy.transfer.session import Session
from airflow_provider_safecopy.transfer.spec import CopySpec

SMALL_BYTES = 16 * MiB
"""Up to here `transfer="auto"` is sequential: the file is small, and the second psql may start late."""


@dataclass(frozen=True)
class TransferMethod:
    """How the rows travel."""

    format: Literal["text", "binary"]
    transfer: Literal["sequential", "chunked"]
    page_ranges: pages.PageRanges
    psql: PsqlBinary | None


def choose_method(
    spec: CopySpec,
    sessions: tuple[Session, Session],
    source_relation: Relation | None,
    pairs: tuple[ColumnPair, ...],
    *,
    size: int | None,
    publish: Strategy,
) -> Finding[TransferMethod]:
    """Decide how about `size` bytes travel, and check what this machine needs for it. `sessions`: source and target."""
    source, target = sessions
    format_, transfer = _choose_format(spec, source, target, pairs), _choose_transfer(spec, source_relation, size)
    needed = _estimate_spool(spec, transfer.value, size)
    binary = _find_psql(spec)
    lanes = pages.choose_page_ranges(spec, source, source_relation, size, transfer=transfer.value, publish=publish)
    room = refuse(spool.find_refusals(spec.spool_dir, needed=needed, limit=spec.spool_limit))
    said = join(format_, transfer, lanes, binary, room)
    manner = TransferMethod(format_.value, transfer.value, lanes.value, binary.value)
    return Finding(manner, said.refusals, said.reasons, tuple(_find_warnings(binary.value, source, target)))


def _choose_format(
    spec: CopySpec, source: Session, target: Session, pairs: tuple[ColumnPair, ...]
) -> Finding[Literal["text", "binary"]]:
    unsafe = next((taken for given, taken in pairs if not _is_binary_safe(given, taken)), None)
    if spec.format != "auto":
        why = (f"format {spec.format}: asked for",)
        if spec.format == "text" or unsafe is None:
            return Finding(spec.format, reasons=why)
        message = f"format=binary: {unsafe.type} of column {unsafe.name} is not the same in binary on both sides"
        wrong = Refusal("binary_unsafe", message, column=unsafe.name, hint="ask for format=auto or text")
        return Finding(spec.format, (wrong,), why)
    why_text = _explain_text(source, target, pairs, unsafe)
    if why_text is not None:
        return Finding("text", reasons=(f"format text: {why_text}",))
    return Finding("binary", reasons=(f"format binary: same major ({source.server.major}), built-in types only",))


def _explain_text(source: Session, target: Session, pairs: tuple[ColumnPair, ...], unsafe: Column | None) -> str | None:
    """Return why binary will not do; None if it will."""
    if other := next(((given, taken) for given, taken in pairs if given.type != taken.type), None):
        given, taken = other
        return f"column {taken.name} is {taken.type}, and {given.type} in the source"
    if source.server.major != target.server.major:
        return f"the servers' majors differ ({source.server.major} and {target.server.major})"
    if unsafe is None:
        return None
    return f"{unsafe.type} of column {unsafe.name} is not the same in binary on both sides"


def _is_binary_safe(source_column: Column, target_column: Column) -> bool:
    return source_column.binary_safe and target_column.binary_safe and source_column.type == target_column.type


def _choose_transfer(
    spec: CopySpec, source_relation: Relation | None, size: int | None
) -> Finding[Literal["sequential", "chunked"]]:
    if spec.transfer != "auto":
        return Finding(spec.transfer, reasons=(f"transfer {spec.transfer}: asked for",))
    if source_relation is None or source_relation.kind not in "rpm" or size is None:
        return Finding("chunked", reasons=("transfer chunked: the size is unknown beforehand",))
    if size <= SMALL_BYTES:
        return Finding("sequential", reasons=(f"transfer sequential: small, about {size / MiB:.1f} MiB",))
    return Finding("chunked", reasons=(f"transfer chunked: about {size / MiB:,.0f} MiB",))


def _find_psql(spec: CopySpec) -> Finding[PsqlBinary | None]:
    try:
        memory.require()
        able: tuple[Refusal, ...] = ()
    except ConfigError as error:
        able = (Refusal("no_memory_file", error.message, hint=error.hint),)
    try:
        return Finding(find_psql(spec.psql), able)
    except ConfigError as error:
        return Finding(None, (*able, Refusal("psql", error.message, hint=error.hint)))


def _estimate_spool(spec: CopySpec, transfer: str, size: int | None) -> int:
    """Return how many bytes the spool file of a sequential copy will have; 0 where the guess is too rough to refuse by."""
    if transfer != "sequential" or spec.where is not None or spec.source_sql is not None:
        return 0
    return size or 0


def _find_warnings(binary: PsqlBinary | None, source: Session, target: Session) -> list[str]:
    found, newest = [], max(source.server.major, target.server.major)
    if binary and binary.major < newest:
        found.append(f"psql {binary.major} is older than the server ({newest}); it will do, a newer one is better")
    if ignored := sorted({*source.endpoint.ignored, *target.endpoint.ignored}):
        found.append(f"{', '.join(ignored)} in the environment: ignored; only the connection says where it goes")
    if target.server.publications:
        found.append(describe_publications(target.server.publications))
    return found


def describe_publications(publications: tuple[str, ...]) -> str:
    """Return the warning about publications that send the schema safecopy to subscribers."""
    return (
        f"the target publishes the tables of the schema safecopy by {', '.join(map(spell, publications))}: a subscriber "
        "without them stops at the first copy; name the tables to publish, or make the schema safecopy there too"
    )
