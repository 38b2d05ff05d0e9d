"""One table by Airflow's GenericTransfer, run without a DAG. Prints the seconds its `execute` took, as JSON.

python generic_transfer.py TABLE
"""

import json
import sys
import time


def main(table: str) -> None:
    """From the connection `bench_source` to `bench_target`, as the operator does it by default: 1000 rows at a time."""
    from airflow.providers.common.sql.operators.generic_transfer import GenericTransfer

    bench = GenericTransfer(
        task_id="bench",
        sql=f"SELECT * FROM {table}",  # noqa: S608 -- a name of our own
        destination_table=table,
        source_conn_id="bench_source",
        destination_conn_id="bench_target",
        preoperator=f"TRUNCATE {table}",
    )
    began = time.perf_counter()
    bench.execute({})
    sys.stdout.write("\n" + json.dumps({"seconds": time.perf_counter() - began}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
