"""`safecopy doctor`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from airflow_provider_safecopy.cli import exitcode, help_text, option
from airflow_provider_safecopy.cli.option import endpoints, with_output
from airflow_provider_safecopy.cli.output import Output

if TYPE_CHECKING:
    from airflow_provider_safecopy.spec import CopySpec


@click.command(
    help=help_text.DOCTOR,
    short_help="Examine databases and host, all at once.",
    epilog=help_text.NAMES + help_text.PASSWORDS,
)
@option.endpoint("source")
@option.endpoint("target")
@option.table
@option.manner
@option.output
@with_output
def doctor(output: Output, *, source: str | None, target: str | None, **options: Any) -> int:
    """Print what is found."""
    from airflow_provider_safecopy.cli import layout
    from airflow_provider_safecopy.doctor import examine

    given = {which: text for which, text in (("source", source), ("target", target)) if text}
    if not given:
        raise click.UsageError("Give --source, --target, or both.")
    found = dict(zip(given, endpoints(output, **given), strict=True))
    checks = examine(
        found.get("source"),
        found.get("target"),
        spec=_spec(output, options),
        psql=options["psql"],
        spool_dir=options["spool_dir"],
    )
    failed = any(check.outcome == "failed" for check in checks)
    output.result(
        {"status": "failed" if failed else "ok", "checks": [asdict(check) for check in checks]},
        layout.format_checks(checks),
    )
    return exitcode.REFUSED if failed else exitcode.DONE


def _spec(output: Output, options: dict[str, Any]) -> CopySpec | None:
    """The copy to examine; None when no table is named."""
    named = [name for name in ("source_table", "source_sql", "target_table") if options[name]]
    if named and "target_table" not in named:
        raise click.UsageError("To have a copy examined, give --target-table as well.")
    return option.spec_of(output, options) if named else None
