"""`svcnet env`: the variables that lead to services, for a shell, a container or a unit.

Owns: the command. Names, values and formats are svcnet.env's.
"""

import click

from svcnet.cli import candidate
from svcnet.cli.context import open_store
from svcnet.cli.get import report
from svcnet.cli.kind import absent
from svcnet.cli.option import STORE, with_config
from svcnet.config import Loaded
from svcnet.env import FORMATS, environment, render, size_warning
from svcnet.model.service import Service


@click.command()
@click.argument("names", nargs=-1, metavar="[SERVICE]…", shell_complete=candidate.services)
@click.option(
    "-n", "--namespace", default="default", show_default=True, metavar="NS", shell_complete=candidate.namespaces
)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="shell",
    show_default=True,
    help="shell: export lines; dotenv: assignments; docker: for --env-file; systemd: for EnvironmentFile=.",
)
@click.option("--docker-links", is_flag=True, help="Also the variables of docker --link: TOMCAT_PORT=tcp://….")
@with_config(*STORE)
def env(loaded: Loaded, names: tuple[str, ...], namespace: str, form: str, docker_links: bool) -> int:
    """Print the environment of a namespace's services, or of those named: eval "$(svcnet env)"."""
    listing = open_store(loaded.config, remember=False).list()
    report(listing.problems)
    services = [
        record
        for record in listing.records
        if isinstance(record, Service)
        and record.meta.namespace == namespace
        and (not names or record.meta.name in names)
    ]
    keys = [record.key for record in listing.records]
    missing = absent(keys, {service.meta.name for service in services}, namespace, names)
    for what in missing:
        click.echo(f"svcnet: {what}", err=True)
    found = environment(services, docker_links)
    for note in (*found.problems, size_warning(found.variables, len(services))):
        if note:
            click.echo(f"svcnet: {note}", err=True)
    click.echo(render(found.variables, form), nl=False)
    return 1 if missing else 0
