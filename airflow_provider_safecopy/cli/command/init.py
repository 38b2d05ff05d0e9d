"""`safecopy init`."""

from __future__ import annotations

import click

from airflow_provider_safecopy.cli import exitcode, guide, option, parameter
from airflow_provider_safecopy.cli.encoding import shown
from airflow_provider_safecopy.cli.output import Output
from airflow_provider_safecopy.cli.speaking import endpoints, speaking


@click.command(help=guide.INIT, short_help="Prepare the target: create the schema safecopy.", epilog=guide.PASSWORDS)
@option.endpoint("target")
@click.option(
    "--grant",
    metavar="ROLE",
    multiple=True,
    callback=parameter.texts,
    help="Let this role run copies into the target. May be given several times.",
)
@option.connect_timeout
@option.output
@speaking
def init(output: Output, *, target: str | None, grant: tuple[str, ...], connect_timeout: float) -> int:
    """Make the schema."""
    from airflow_provider_safecopy.lock import schema

    (endpoint,) = endpoints(output, target=target)
    with (
        endpoint.connect(application_name="safecopy", connect_timeout=connect_timeout) as connection,
        connection.transaction(),
    ):
        schema.init(connection)
        for role in grant:
            schema.init(connection, grant=role)
    granted = f", granted to {', '.join(map(shown, grant))}" if grant else ""
    output.result(
        {"status": "initialised", "target": str(endpoint), "grant": list(grant)},
        f"schema safecopy is ready in {shown(endpoint)}{granted}",
    )
    return exitcode.DONE
