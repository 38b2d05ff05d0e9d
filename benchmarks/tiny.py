"""Section `tiny`: what a copy costs when there is next to nothing to copy, and what many such tables cost in one call."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from psycopg import sql

from benchmarks.contestant import Task, psql, safecopy
from benchmarks.measure import Command, Measured, Pipeline, measure
from benchmarks.pair import Pair, environment
from benchmarks.results import Run
from benchmarks.rounds import WrongError
from benchmarks.session import Session

SECTION = "tiny"
TABLES = 500
ROWS = 10
PIPED = 50
"""So many tables the pipes copy: what each costs does not depend on how many there are."""

_MAKE = """
DO $do$ BEGIN
  FOR i IN 1..{tables} LOOP
    EXECUTE format('CREATE TABLE %I (번호 bigint PRIMARY KEY, 이름 text)', '작은_표_' || i);
    EXECUTE format('INSERT INTO %I SELECT g, ''고객 '' || g FROM generate_series(1, {rows}) g', '작은_표_' || i);
    EXECUTE format('ANALYZE %I', '작은_표_' || i);
  END LOOP;
END $do$;
CREATE FUNCTION 작은_행() RETURNS bigint LANGUAGE plpgsql AS $do$
DECLARE total bigint := 0; one bigint;
BEGIN
  FOR i IN 1..{tables} LOOP
    EXECUTE format('SELECT count(*) FROM %I', '작은_표_' || i) INTO one;
    total := total + one;
  END LOOP;
  RETURN total;
END $do$;
CREATE FUNCTION 작은_삭제() RETURNS void LANGUAGE plpgsql AS $do$
BEGIN
  FOR i IN 1..{tables} LOOP EXECUTE format('DELETE FROM %I WHERE 번호 = 1', '작은_표_' || i); END LOOP;
END $do$"""


def run(session: Session) -> None:
    """Beside the same by pipes; all in turn, after one round that is not counted."""
    pair, rounds = session.pair, session.options.rounds
    session.progress.say(f"{SECTION}: making {TABLES} tables of {ROWS} rows")
    make = sql.SQL(_MAKE).format(tables=sql.Literal(TABLES), rows=sql.Literal(ROWS)).as_string()
    for server in (pair.source, pair.target):
        server.execute(pair.database, make)
    with tempfile.TemporaryDirectory(prefix="safecopy-bench-") as directory:
        timed = _timed(session, Path(directory))
        runs: list[Run] = []
        for number in range(rounds + 1):
            for table, name, tables, pipelines in timed:
                measured = _once(pair, pipelines, tables)
                runs += [_kept(measured, table, name, number, tables)] if number else []
            session.progress.say(f"{SECTION}: round {number} of {rounds}")
    session.results.put(runs)


Timed = tuple[str, str, int, tuple[Pipeline, ...]]
"""Of which of the two tables of results, by what name, how many tables of the database, how."""


def _timed(session: Session, directory: Path) -> list[Timed]:
    tasks = [Task(*session.pair.conninfos(), f"작은_표_{number}", session.pair.psql) for number in range(1, TABLES + 1)]
    timed: list[Timed] = [
        ("start", "--help", 0, ((Command((safecopy(), "--help")),),)),
        (
            "start",
            "10 rows",
            1,
            (_ours(tasks[0], "--source-table", tasks[0].quoted, "--target-table", tasks[0].quoted),),
        ),
        ("start", "psql | psql", 1, (_piped(tasks[0]),)),
        ("tables", "psql | psql, one after the other", PIPED, tuple(map(_piped, tasks[:PIPED]))),
    ]
    if "--tables-from" not in measure([(Command((safecopy(), "copy", "--help")),)], environment()).said:
        session.note(SECTION, "this safecopy cannot copy many tables in one call")
        return timed
    for name, chosen in (("safecopy, 1 table", tasks[:1]), ("safecopy, all tables", tasks)):
        file = directory / f"{len(chosen)}.txt"
        file.write_text("".join(f"{task.quoted} {task.quoted}\n" for task in chosen), "utf-8")
        timed.append(("tables", name, len(chosen), (_ours(chosen[0], "--tables-from", str(file)),)))
    return timed


def _ours(task: Task, *options: str) -> Pipeline:
    env = {"SAFECOPY_SOURCE": task.source, "SAFECOPY_TARGET": task.target, "SAFECOPY_PSQL": task.psql}
    return (Command((safecopy(), "copy", "--json", *options), env),)


def _piped(task: Task) -> Pipeline:
    export = psql(task, task.source, f"COPY {task.quoted} TO STDOUT")
    return export, psql(
        task, task.target, "BEGIN", f"TRUNCATE {task.quoted}", f"COPY {task.quoted} FROM STDIN", "COMMIT"
    )


def _once(pair: Pair, pipelines: Sequence[Pipeline], tables: int) -> Measured:
    """One run, and that it brought the row that was missing in each table."""
    pair.target.execute(pair.database, "SELECT 작은_삭제()")
    pair.source.execute(pair.database, "CHECKPOINT")
    pair.target.execute(pair.database, "CHECKPOINT")
    measured = measure(pipelines, environment())
    rows = pair.target.execute(pair.database, "SELECT 작은_행()")[0][0]
    if rows != (wanted := TABLES * (ROWS - 1) + tables):
        raise WrongError(f"{rows} rows in the tiny tables, not {wanted}")
    return measured


def _kept(measured: Measured, table: str, name: str, number: int, tables: int) -> Run:
    return Run(
        section=SECTION,
        table=table,
        name=name,
        round=number,
        wall=measured.wall,
        client_cpu=measured.client_cpu,
        machine_cpu=measured.machine_cpu,
        peak_rss=measured.peak_rss,
        rows=ROWS * tables,
        tables=tables,
    )
