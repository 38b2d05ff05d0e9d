"""One table by dlt, which is not installed where this is checked.

python dlt_copy.py SOURCE TARGET TABLE
"""

import os
import sys
import tempfile

os.environ["SCHEMA__NAMING"] = "direct"  # else Korean names are spelled in another way


def main(source: str, target: str, table: str) -> None:
    """Replace the rows of a table of the same name in the schema `dlt`."""
    import dlt
    from dlt.sources.sql_database import sql_table

    with tempfile.TemporaryDirectory(prefix="safecopy-bench-") as directory:
        pipeline = dlt.pipeline(
            pipeline_name="bench",
            destination=dlt.destinations.postgres(target),
            dataset_name="dlt",
            pipelines_dir=directory,
        )
        rows = sql_table(credentials=source, schema="public", table=table, backend="pyarrow")
        pipeline.run(rows, table_name=table, write_disposition="replace").raise_on_failed_jobs()


if __name__ == "__main__":
    main(*sys.argv[1:])
