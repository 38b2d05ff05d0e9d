"""How much memory a copy takes, by the size of the table: it must not depend on it.

    python -m benchmarks.memory [MIB ...]

Fills one table per size on an embedded server, copies each to another in a process of its own, in both
modes, and prints every process's peak resident memory. Ends with 1 when the largest table costs more
than 20 MiB over the smallest. Sizes are of the stream, in MiB; by default 20 and 2048.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

from airflow_provider_safecopy.demo.servers import Server, installations

ALLOWED_BYTES = 20 * 1024 * 1024
_ROW_BYTES = 1024
_COPY = """
import json, sys
from airflow_provider_safecopy import pipeline
from airflow_provider_safecopy.postgres.endpoint import Endpoint
from airflow_provider_safecopy.spec import CopySpec
source, target, table, transfer = json.load(sys.stdin)
spec = CopySpec.of(source_table=table, target_table=table, transfer=transfer)
report = pipeline.copy(spec, Endpoint.from_conninfo(source), Endpoint.from_conninfo(target))
print(json.dumps(report.as_dict()))
"""


@dataclass(frozen=True)
class Measured:
    """One copy: what it moved, and the most memory and temporary disk its process had, in bytes."""

    transfer: str
    moved: int
    memory: int
    spool: int
    seconds: float


def fill(source: Server, target: Server, mib: int) -> str:
    """A table whose rows are a KiB each in the stream."""
    table = f"표_{mib}"
    shape = f'CREATE UNLOGGED TABLE "{table}" (n bigint, x text)'
    rows = mib * 1024 * 1024 // _ROW_BYTES
    source.execute("postgres", shape)
    # Text that hardly compresses, so that it is as large on disk as in the stream.
    text = "(SELECT string_agg(md5(g::text || i), '') FROM generate_series(1, 31) i)"
    source.execute("postgres", f'INSERT INTO "{table}" SELECT g, {text} FROM generate_series(1, {rows}) g')  # noqa: S608 -- names and numbers of our own
    target.execute("postgres", shape)
    return table


def measure(source: Server, target: Server, table: str, transfer: str) -> Measured:
    """Copy in a process of its own."""
    given = json.dumps([source.conninfo(), target.conninfo(), table, transfer])
    answer = subprocess.run([sys.executable, "-c", _COPY], input=given, capture_output=True, text=True, check=True)
    report = json.loads(answer.stdout)
    return Measured(transfer, report["bytes"], report["peak_rss_bytes"], report["spool_bytes"], report["seconds"])


def main(sizes: list[int]) -> int:
    """Measure, print, judge."""
    newest = installations()[0]
    worst = 0
    with (
        Server.start(newest, durable=False) as source,
        Server.start(newest, durable=False) as target,
    ):
        for transfer in ("chunked", "sequential"):
            found = [measure(source, target, fill_once(source, target, mib), transfer) for mib in sorted(sizes)]
            for each in found:
                print(  # noqa: T201 -- its purpose
                    f"{each.transfer:10}  stream {each.moved / 2**20:8.1f} MiB   peak memory {each.memory / 2**20:6.1f} MiB   "
                    f"spool {each.spool / 2**20:8.1f} MiB   {each.seconds:6.1f} s"
                )
            worst = max(worst, found[-1].memory - found[0].memory)
    print(f"most growth: {worst / 2**20:.1f} MiB (allowed: {ALLOWED_BYTES / 2**20:.0f} MiB)")  # noqa: T201 -- likewise
    return int(worst > ALLOWED_BYTES)


_filled: dict[int, str] = {}


def fill_once(source: Server, target: Server, mib: int) -> str:
    """`fill`, the first time a size is asked for."""
    if mib not in _filled:
        _filled[mib] = fill(source, target, mib)
    return _filled[mib]


if __name__ == "__main__":
    sys.exit(main([int(each) for each in sys.argv[1:]] or [20, 2048]))
