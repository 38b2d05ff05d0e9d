"""The help texts. A backspace before a paragraph keeps click from filling its lines."""

COPY = """
Copy one table, view or query into a table of another database, and prove it before it is seen.

\b
safecopy copy --source 'host=erp dbname=erp user=reader' \\
    --target postgresql://loader@dw/dw --source-table 영업.고객 --target-table 분석.고객

\b
safecopy copy --source-sql @orders.sql --target-table 분석.주문_내역 --verify full --json

Many tables in one call, each with a lock, proofs and a receipt of its own:

\b
safecopy copy --tables-from tables.txt
"""
PLAN = """
Show what a copy would do: decisions and their reasons, refusals, lock levels, the exact SQL.

Nothing is touched. Exit code 2 when the copy would be refused.
"""
INIT = """
Create the schema safecopy in the target: locks, receipts, staging tables. May be run again.

A copy creates it by itself where its role may create schemas. Where it may not, a role that may
runs this once, and grants the role what it needs.

\b
safecopy init --target 'host=dw dbname=dw user=admin' --grant loader
"""
DOCTOR = """
Examine a pair of databases, or one of them, and this host; show all findings at once.

With --target-table and a source, that copy is examined too. Exit code 2 when a check failed.

\b
safecopy doctor --target 'host=dw dbname=dw user=loader'
"""
LOCKS = """
Show who holds which lock in a target, what became of locks before, and release one by hand.

\b
safecopy locks --target 'host=dw dbname=dw user=loader'
safecopy locks history --lock 분석.고객 --limit 20
safecopy locks release 분석.고객 --reason '밤샘 작업이 멈춤'
"""
LOCKS_LIST = """
Show who holds what, since when, the last progress, and when it will be taken if nothing moves.

Changes nothing: a role that may read lock, member and lock_event in the schema safecopy will do.
"""
LOCKS_HISTORY = """
Show what happened to locks, the newest first: grants, refusals, takeovers, releases.
"""
LOCKS_RELEASE = """
Take a lock from its holder. The reason is kept in the history.

The holder is fenced out: whatever it still does, it publishes nothing. Its sessions in the target
are ended, and on this host its process, if it is a safecopy of its own. Exit code 2 when no run
holds the lock.

\b
safecopy locks release 분석.고객 --reason '밤샘 작업이 멈춤'
"""
REAP = """
Take the locks of dead runs, and clear away what they left in the target.

Dead is who made no progress within its promise, or whose process on this host has ended. Living
runs are never touched. Their sessions in a source are not reached from here. See first what it
would do:

\b
safecopy reap --dry-run --target 'host=dw dbname=dw user=loader'
"""
DEMO = """
Copy Korean tables between two PostgreSQL servers by a real Airflow run, and compare.

Starts two embedded servers, fills one, runs the example DAG, and compares both sides. Then runs
overlap, are killed and are paused, and none publishes that may not. Leaves nothing behind. Needs
airflow-provider-safecopy[airflow,demo].

\b
safecopy demo
safecopy demo --run 'airflow tasks test 영업_복사 고객_복사'
"""
RUN = """
Run any command under a living lock, for cron, systemd and workers.

A second instance is refused with exit code 3, and the holder's process is named. Output of the
command is progress, and so is touching the file named in SAFECOPY_HEARTBEAT. A command without
progress for nearly --stale-after is ended, with exit code 124, or started again. Signals are
passed on. The exit code is the command's own; 128 and more is a signal, as in a shell.

\b
safecopy run --lock 야간_집계 -- python nightly.py
safecopy run --lock 색인 --stale-after 5min --on-stall restart --restarts 3 -- ./build-index
safecopy run --lock 정산 --target 'host=dw dbname=dw user=loader' -- ./settle

The lock is in a directory of this host, or with --target in a database, for several hosts.
Processes that leave the command's process group, as daemons do, are not part of it.
"""

NAMES = """
\b
Names are case-sensitive and taken as they are; a dot separates schema and table:
  영업.고객          schema 영업, table 고객
  '"주문.내역"'      a table whose name holds a dot, in double quotes

\b
--columns takes names, or source=target, separated by commas, and may be repeated:
  --columns 고객번호,이름
  --columns 고객번호=cust_no --columns 이름=cust_name
  --columns '"금액,원"=amount'   a name with a comma, an equals sign or a double quote
                               stands in double quotes, a double quote inside it twice

\b
--tables-from reads a line for each table: source and target, or one name for both
  영업.고객     분석.고객    # blanks or a tab between them, comments after a number sign
  영업."큰 고객"            names with blanks in them stand in double quotes
A file whose name ends in .json holds a list of names, or of objects such as
  {"source_table": "영업.고객", "target_table": "분석.고객", "where": "등급 = 'A'"}

\b
TIME is in seconds, or 90s, 15min, 4h. BYTES is a number, or 512MiB (of 1024), 2GB (of 1000).
"""
PASSWORDS = """
\b
Passwords belong in a password file (~/.pgpass, PGPASSFILE), a service file, or the variables
SAFECOPY_SOURCE and SAFECOPY_TARGET: what stands on a command line, every user of the host can read.
Other PG* variables are ignored: only the connection itself says where it goes.
"""
EXIT_CODES = """
\b
Exit codes: 0 done, 2 bad request or refused, 3 another run holds the lock, 4 the lock was lost,
5 a stage failed or timed out, 6 verification failed, 7 publish outcome unknown, 8 done, but its result
could not be written to stdout, 130 aborted, 1 a mistake in safecopy.
"""
