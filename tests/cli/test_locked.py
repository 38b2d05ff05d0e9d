"""A command that waits for a lock names the holder on stderr, even with --quiet."""

from __future__ import annotations

import pytest

from tests.cli.conftest import SOURCE_TABLE, TARGET_TABLE, Command, wait_for_line

TABLES = ("--source-table", SOURCE_TABLE, "--target-table", TARGET_TABLE)
COMMANDS = {
    "copy": ("copy", *TABLES),
    "quiet": ("copy", "-q", "--json", *TABLES),
    "plan": ("plan", *TABLES),
    "doctor": ("doctor", *TABLES),
}


@pytest.mark.parametrize("which", COMMANDS)
def test_a_line_names_who_has_the_table(safecopy: Command, which: str) -> None:
    with safecopy.source.connect() as holder:
        holder.execute("SELECT set_config('application_name', 'migration', false)")
        holder.execute("BEGIN")
        holder.execute('LOCK TABLE "영업"."고객" IN ACCESS EXCLUSIVE MODE')
        with safecopy.started(*COMMANDS[which]) as process:
            said = wait_for_line(process, b"waiting for ").decode()
            assert f"waiting for AccessShareLock on {SOURCE_TABLE} for " in said
            assert f"pid {holder.info.backend_pid} (postgres, migration, idle in transaction, " in said
            holder.execute("COMMIT")
            process.wait(60)
            assert process.returncode == 0


def test_init_names_who_keeps_it_waiting(safecopy: Command) -> None:
    """Two commands that create the schema at once wait for each other, and the first may be stuck."""
    with safecopy.target.connect() as holder:
        holder.execute("BEGIN")
        holder.execute("SELECT pg_advisory_xact_lock(hashtextextended('safecopy.schema', 0))")
        with safecopy.started("init") as process:
            said = wait_for_line(process, b"waiting for ").decode()
            assert f"pid {holder.info.backend_pid} (postgres, " in said
            holder.execute("COMMIT")
            process.wait(60)
            assert process.returncode == 0
