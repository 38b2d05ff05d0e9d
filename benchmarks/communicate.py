"""The whole table in memory: `communicate()` with an exporting psql, then with an importing one. What many DAGs do.

python communicate.py PSQL SOURCE TARGET TABLE
"""

import subprocess
import sys


def main(psql: str, source: str, target: str, table: str) -> None:
    """Two processes, one after the other; all rows are in this one in between."""
    words = [psql, "-X", "-q", "-v", "ON_ERROR_STOP=1"]
    export = [*words, source, "-c", f"COPY {table} TO STDOUT"]
    rows = subprocess.run(export, stdout=subprocess.PIPE, check=True).stdout
    load = [*words, target, "-c", "BEGIN", "-c", f"TRUNCATE {table}", "-c", f"COPY {table} FROM STDIN", "-c", "COMMIT"]
    subprocess.run(load, input=rows, check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
