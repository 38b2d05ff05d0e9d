"""`safecopy init`."""

from __future__ import annotations

import click

from airflow_provider_safecopy.cli import exitcode, help_text, option, param_types
from airflow_provider_safecopy.cli.option import endpoints, with_output
from airflow_provider_safecopy.cli.output import Output
from airflow_provider_safecopy.display import escape


@click.command(
    help=help_text.INIT, short_help="Prepare the target: create the schema safecopy.", epilog=help_text.PASSWORDS
)
@option.endpoint("target")
@click.option(
    "--grant",
    metavar="ROLE",
    multiple=True,
    callback=param_types.texts,
    help="Let this role run copies into the target. May be given several times.",
)
@option.connect_timeout
@option.output
@with_output
def init(output: Output, *, target: str | None, grant: tuple[str, ...], connect_timeout: float) -> int:
    """Make the schema."""
    from airflow_provider_safecopy.lock import schema
    from airflow_provider_safecopy.pipeline.run import name_holders
    from airflow_provider_safecopy.postgres.session import open_session

    (endpoint,) = endpoints(output, target=target)
    with (
        open_session(endpoint, application_name="safecopy", connect_timeout=connect_timeout) as session,
        name_holders(session),
        session.connection.transaction(),
    ):
        done = schema.init(session.connection, take_over=True)
        for role in grant:
            schema.init(session.connection, grant=role)
    granted = f", granted to {', '.join(map(escape, grant))}" if grant else ""
    output.result(
        {"status": "initialised", "target": str(endpoint), "grant": list(grant), "taken_over": list(done)},
        "\n".join([f"schema safecopy is ready in {escape(endpoint)}{granted}", *map(escape, done)]),
    )
    return exitcode.DONE
