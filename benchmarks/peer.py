"""Tools that people would pick instead: how each is told to replace the rows of one table."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from benchmarks import shelf
from benchmarks.contestant import Contestant, Task, psql
from benchmarks.measure import Command, Pipeline
from benchmarks.shelf import MissingError, Shelf

_HERE = Path(__file__).parent
_QUIET = {"RUNTIME__DLTHUB_TELEMETRY": "false", "DISABLE_TELEMETRY": "true", "SLING_DISABLE_TELEMETRY": "TRUE"}


@dataclass(frozen=True)
class Peer:
    """A tool that is there, of this version."""

    contestant: Contestant
    version: str
    note: str = ""


def uri(conninfo: str, scheme: str = "postgresql", rest: str = "") -> str:
    """A connection string in the form the tools take."""
    of = conninfo_to_dict(conninfo)
    return f"{scheme}://{of['user']}:{of['password']}@{of['host']}:{of['port']}/{of['dbname']}{rest}"


def pg_dump(_: Shelf, binaries: Path) -> Peer:
    """`pg_dump -a | psql`, in one transaction with the TRUNCATE."""

    def pipelines(task: Task) -> tuple[Pipeline, ...]:
        load = psql(task, task.target, f"TRUNCATE {task.quoted}")
        into = Command((*load.words, "--single-transaction", "-f", "-"))
        return ((_dump(binaries, task, "-Fp"), into),)

    return Peer(Contestant("pg_dump -a | psql", pipelines), _of_postgres(binaries, "pg_dump"))


def pg_restore(_: Shelf, binaries: Path) -> Peer:
    """`pg_dump -Fc | pg_restore`; readers see the emptied table meanwhile."""

    def pipelines(task: Task) -> tuple[Pipeline, ...]:
        restore = Command((str(binaries / "pg_restore"), "-a", "--single-transaction", "-d", task.target))
        return ((psql(task, task.target, f"TRUNCATE {task.quoted}"),), (_dump(binaries, task, "-Fc"), restore))

    told = "empties the table in a transaction of its own, before: readers see it empty"
    return Peer(Contestant("pg_dump -Fc | pg_restore", pipelines), _of_postgres(binaries, "pg_restore"), told)


def postgres_fdw(_: Shelf, binaries: Path) -> Peer:
    """INSERT from a foreign table, fetched 10,000 rows at a time: with 100, as by default, it is slower.

    Raises `MissingError` where the server has no such extension.
    """
    if not has_extension(binaries, "postgres_fdw"):
        raise MissingError("this PostgreSQL has no extension postgres_fdw")

    def pipelines(task: Task) -> tuple[Pipeline, ...]:
        insert = f'INSERT INTO {task.quoted} SELECT * FROM elsewhere."{task.name}"'  # noqa: S608 -- names of our own
        return ((psql(task, task.target, "BEGIN", f"TRUNCATE {task.quoted}", insert, "COMMIT"),),)

    return Peer(Contestant("postgres_fdw", pipelines), _of_postgres(binaries, "postgres"))


def pgcopydb(kept: Shelf, binaries: Path) -> Peer:
    """The whole database, which holds this table alone: dropped, made anew, and vacuumed and analyzed as well."""
    place = kept.debian("pgcopydb", "pgcopydb", "libpq5")
    program, work = str(place / "usr" / "bin" / "pgcopydb"), kept.home.absolute() / "pgcopydb"
    env = shelf.libraries(place) | {"PATH": os.pathsep.join([str(binaries), os.environ.get("PATH", os.defpath)])}
    words = (program, "clone", "--drop-if-exists", "--no-owner", "--no-acl", "--restart", "--dir", str(work))
    jobs = ("--table-jobs", "1", "--index-jobs", "1")

    def pipelines(task: Task) -> tuple[Pipeline, ...]:
        return ((Command((*words, *jobs, "--source", uri(task.source), "--target", uri(task.target)), env),),)

    told = shelf.version(r"version ([\d.]+)", program, "--version", env=env)
    return Peer(
        Contestant("pgcopydb clone", pipelines), told, "drops the table, and makes, vacuums and analyzes it anew"
    )


def pgloader(kept: Shelf, _: Path) -> Peer:
    place = kept.debian("pgloader", "pgloader", "libsybdb5", "libct4", "freetds-common")
    program, env = str(place / "usr" / "bin" / "pgloader"), shelf.libraries(place)
    words = [program, *(word for each in ("data only", "truncate", "create no tables") for word in ("--with", each))]

    def pipelines(task: Task) -> tuple[Pipeline, ...]:
        return ((Command((*words, uri(task.source), uri(task.target)), env),),)

    return Peer(Contestant("pgloader", pipelines), shelf.version(r'version "([^"]+)"', program, "--version", env=env))


def ingestr(kept: Shelf, _: Path) -> Peer:
    """Before 1.0: later ones fetch their program from elsewhere when they are first run."""
    place = kept.python("ingestr", "ingestr<1")
    words = (str(place / "bin" / "ingestr"), "ingest", "--yes", "--incremental-strategy", "replace")

    def pipelines(task: Task) -> tuple[Pipeline, ...]:
        table = f"public.{task.name}"
        source = ("--source-uri", uri(task.source), "--source-table", table)
        target = ("--dest-uri", uri(task.target), "--dest-table", table)
        return ((Command((*words, *source, *target), _QUIET | {"HOME": str(kept.home.absolute())}),),)

    return Peer(Contestant("ingestr", pipelines), shelf.package_version(place, "ingestr"))


def sling(kept: Shelf, _: Path) -> Peer:
    """Of the package that holds the program: the one named `sling` fetches it from elsewhere."""
    place = kept.python("sling", "sling-linux-amd64")
    found = [path for path in place.glob("lib/python*/site-packages/sling_linux_amd64/bin/sling*") if path.is_file()]
    if not found:
        raise MissingError("the package holds no program")
    words = (str(found[0]), "run", "--mode", "truncate")

    def pipelines(task: Task) -> tuple[Pipeline, ...]:
        table, plain = f"public.{task.name}", "?sslmode=disable"
        source = ("--src-conn", uri(task.source, rest=plain), "--src-stream", table)
        target = ("--tgt-conn", uri(task.target, rest=plain), "--tgt-object", table)
        return ((Command((*words, *source, *target), _QUIET | {"HOME": str(kept.home.absolute())}),),)

    return Peer(Contestant("sling", pipelines), shelf.package_version(place, "sling-linux-amd64"))


def dlt(kept: Shelf, _: Path) -> Peer:
    """With Arrow, its quicker way, into a table of its own, to which it adds columns."""
    place = kept.python("dlt", "dlt[postgres,parquet]", "sqlalchemy", "psycopg2-binary")
    words = (str(place / "bin" / "python"), str(_HERE / "dlt_copy.py"))

    def pipelines(task: Task) -> tuple[Pipeline, ...]:
        source, target = uri(task.source, "postgresql+psycopg2"), uri(task.target)
        return ((Command((*words, source, target, task.name), _QUIET | {"HOME": str(kept.home.absolute())}),),)

    contestant = Contestant("dlt", pipelines, lands=lambda task: f'dlt."{task.name}"')
    return Peer(
        contestant, shelf.package_version(place, "dlt"), "with Arrow, into a table of its own with two more columns"
    )


def generic_transfer(kept: Shelf, _: Path) -> Peer:
    """Airflow's own operator, of the environment the tests run in. Its `execute` alone is timed, not Airflow's start."""
    python = _HERE.parent / ".venv" / "bin" / "python"
    told = shelf.version(
        r"(\d+\.\d+\.\d+)", str(python), "-c", "import importlib.metadata as m; print(m.version('apache-airflow'))"
    )

    def pipelines(task: Task) -> tuple[Pipeline, ...]:
        env = {
            "AIRFLOW_CONN_BENCH_SOURCE": uri(task.source, "postgres"),
            "AIRFLOW_CONN_BENCH_TARGET": uri(task.target, "postgres"),
            "AIRFLOW_HOME": str(kept.home.absolute() / "airflow"),
            "PYTHONPATH": "",
        }
        return ((Command((str(python), str(_HERE / "generic_transfer.py"), task.quoted), env),),)

    def said(words: str) -> dict[str, float]:
        return {"wall": float(json.loads(words.splitlines()[-1])["seconds"])}

    note = "its execute alone is timed, without Airflow's start; processor and memory are of the whole process"
    return Peer(Contestant("Airflow GenericTransfer", pipelines, said), told, note)


Find = Callable[[Shelf, Path], Peer]
"""Given where tools are kept and PostgreSQL's binaries. Raises `MissingError`."""

FAST: dict[str, Find] = {"pg_dump": pg_dump, "pg_restore": pg_restore, "pgcopydb": pgcopydb}
"""Those that use COPY from end to end."""

SLOW: dict[str, Find] = {
    "pgloader": pgloader,
    "ingestr": ingestr,
    "sling": sling,
    "dlt": dlt,
}


def has_extension(binaries: Path, name: str) -> bool:
    """Whether servers of this installation can make it."""
    try:
        shared = shelf.said(str(binaries / "pg_config"), "--sharedir").strip()
    except MissingError:
        return False
    return (Path(shared) / "extension" / f"{name}.control").is_file()


def _dump(binaries: Path, task: Task, form: str) -> Command:
    return Command((str(binaries / "pg_dump"), "-a", form, "-t", task.quoted, "-d", task.source))


def _of_postgres(binaries: Path, program: str) -> str:
    return shelf.version(r"\(PostgreSQL\) (\S+)", str(binaries / program), "--version")
