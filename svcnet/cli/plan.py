"""`svcnet plan`: what a sync would change in this network namespace's kernel, without changing it.

Owns: the command. Works from any records URL against the live kernel; needs the same privilege as the daemon.
"""

import click

from svcnet.cli.data_path import choose
from svcnet.cli.in_force import in_force
from svcnet.cli.option import STORE, with_config
from svcnet.cli.status import MOST_SHOWN
from svcnet.cli.tracked import tracked
from svcnet.config import Loaded
from svcnet.iptables.desired import rows
from svcnet.plan import diff

OPTIONS = (
    *STORE,
    "node",
    "mode",
    "cluster_cidr",
    "masquerade_all",
    "masquerade_bit",
    "endpoint_deny",
    "external_ips",
    "nodeport_addresses",
)
"""What rules depend on. Those that are not given are the running daemon's."""


@click.command()
@with_config(*OPTIONS, "state_dir")
def plan(loaded: Loaded) -> None:
    """Print what would change in the kernel, one line a virtual IP and port: + create, ~ update, - delete.

    "(unknown)" is a service that the records don't have any more: the kernel holds addresses, not names.
    """
    config = in_force(loaded, OPTIONS).config
    listing, tracker, minion = tracked(config)
    chosen = choose(config)
    if chosen.path is None:
        click.echo(f"{chosen.mode.reason}: nothing to plan", err=True)
        return
    wanted = rows(tracker.snapshot.ports.values(), minion)
    click.echo(diff(chosen.path.look(wanted), wanted).render())
    left_out = [f"{problem.where}: {problem.what}" for problem in listing.problems]
    left_out += [f"{item.what}: {item.reason}" for item in tracker.left_out()]
    for line in left_out[:MOST_SHOWN]:
        click.echo(f"left out: {line}", err=True)
    if len(left_out) > MOST_SHOWN:
        click.echo(f"left out: {len(left_out) - MOST_SHOWN} more", err=True)
