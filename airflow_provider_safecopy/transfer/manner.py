"""The manner of a copy: in which format its rows travel, in how many lanes, by which psql, and through which files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from airflow_provider_safecopy import memory
from airflow_provider_safecopy.errors import ConfigError, Refusal
from airflow_provider_safecopy.transfer import pages, spool
from airflow_provider_safecopy.transfer.catalog import Column, Relation
from airflow_provider_safecopy.transfer.finding import Finding, join, refused
from airflow_provider_safecopy.transfer.match import Pair
from airflow_provider_safecopy.transfer.model import MiB, Way
from airflow_provider_safecopy.transfer.name import spell
from airflow_provider_safecopy.transfer.psql import PsqlBinary, find
from airflow_provider_safecopy.transfer.session import Session
from airflow_provider_safecopy.transfer.spec import CopySpec

SMALL_BYTES = 16 * MiB
"""Up to here `transfer="auto"` is sequential: the file is small, and the second psql may start late."""


@dataclass(frozen=True)
class Manner:
    """How the rows travel."""

    format: Literal["text", "binary"]
    transfer: Literal["sequential", "chunked"]
    lanes: pages.Lanes
    psql: PsqlBinary | None


def settle(
    spec: CopySpec,
    sessions: tuple[Session, Session],
    given: Relation | None,
    pairs: tuple[Pair, ...],
    *,
    size: int | None,
    publish: Way,
) -> Finding[Manner]:
    """Decide how about `size` bytes travel, and check what this machine needs for it. `sessions`: source and target."""
    source, target = sessions
    format_, transfer = _format(spec, source, target, pairs), _transfer(spec, given, size)
    needed = _needed(spec, transfer.value, size)
    binary = _psql(spec)
    lanes = pages.decide(spec, source, given, size, transfer=transfer.value, publish=publish)
    room = refused(spool.refusals(spec.spool_dir, needed=needed, limit=spec.spool_limit))
    said = join(format_, transfer, lanes, binary, room)
    manner = Manner(format_.value, transfer.value, lanes.value, binary.value)
    return Finding(manner, said.refusals, said.reasons, tuple(_warnings(binary.value, source, target)))


def _format(
    spec: CopySpec, source: Session, target: Session, pairs: tuple[Pair, ...]
) -> Finding[Literal["text", "binary"]]:
    unsafe = next((taken for given, taken in pairs if not _binary_safe(given, taken)), None)
    if spec.format != "auto":
        why = (f"format {spec.format}: asked for",)
        if spec.format == "text" or unsafe is None:
            return Finding(spec.format, reasons=why)
        message = f"format=binary: {unsafe.type} of column {unsafe.name} is not the same in binary on both sides"
        wrong = Refusal("binary_unsafe", message, column=unsafe.name, hint="ask for format=auto or text")
        return Finding(spec.format, (wrong,), why)
    why_text = _why_text(source, target, pairs, unsafe)
    if why_text is not None:
        return Finding("text", reasons=(f"format text: {why_text}",))
    return Finding("binary", reasons=(f"format binary: same major ({source.server.major}), built-in types only",))


def _why_text(source: Session, target: Session, pairs: tuple[Pair, ...], unsafe: Column | None) -> str | None:
    """Return why binary will not do; None if it will."""
    if other := next(((given, taken) for given, taken in pairs if given.type != taken.type), None):
        given, taken = other
        return f"column {taken.name} is {taken.type}, and {given.type} in the source"
    if source.server.major != target.server.major:
        return f"the servers' majors differ ({source.server.major} and {target.server.major})"
    if unsafe is None:
        return None
    return f"{unsafe.type} of column {unsafe.name} is not the same in binary on both sides"


def _binary_safe(given: Column, taken: Column) -> bool:
    return given.binary_safe and taken.binary_safe and given.type == taken.type


def _transfer(spec: CopySpec, given: Relation | None, size: int | None) -> Finding[Literal["sequential", "chunked"]]:
    if spec.transfer != "auto":
        return Finding(spec.transfer, reasons=(f"transfer {spec.transfer}: asked for",))
    if given is None or given.kind not in "rpm" or size is None:
        return Finding("chunked", reasons=("transfer chunked: the size is unknown beforehand",))
    if size <= SMALL_BYTES:
        return Finding("sequential", reasons=(f"transfer sequential: small, about {size / MiB:.1f} MiB",))
    return Finding("chunked", reasons=(f"transfer chunked: about {size / MiB:,.0f} MiB",))


def _psql(spec: CopySpec) -> Finding[PsqlBinary | None]:
    try:
        memory.require()
        able: tuple[Refusal, ...] = ()
    except ConfigError as error:
        able = (Refusal("no_memory_file", error.message, hint=error.hint),)
    try:
        return Finding(find(spec.psql), able)
    except ConfigError as error:
        return Finding(None, (*able, Refusal("psql", error.message, hint=error.hint)))


def _needed(spec: CopySpec, transfer: str, size: int | None) -> int:
    """Return how many bytes the spool file of a sequential copy will have; 0 where the guess is too rough to refuse by."""
    if transfer != "sequential" or spec.where is not None or spec.source_sql is not None:
        return 0
    return size or 0


def _warnings(binary: PsqlBinary | None, source: Session, target: Session) -> list[str]:
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
