"""`svcnet plan`: what a sync would change in this network namespace's kernel, without changing it.

Owns: the command. Works from any records URL against the live kernel; needs the same privilege as the daemon.
"""

import click

from svcnet.cli.context import open_store
from svcnet.cli.data_path import choose
from svcnet.cli.option import STORE, with_config
from svcnet.cli.whereabouts import Whereabouts
from svcnet.config import Loaded
from svcnet.endpoints import Networks
from svcnet.iptables.desired import rows
from svcnet.model.event import Put, Synced
from svcnet.model.meta import Key
from svcnet.model.node import Node
from svcnet.plan import diff
from svcnet.tracker import Tracker


@click.command()
@with_config(
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
def plan(loaded: Loaded) -> None:
    """Print what would change in the kernel, one line a virtual IP and port: + create, ~ update, - delete.

    "(unknown)" is a service that the records don't have any more: the kernel holds addresses, not names.
    """
    config = loaded.config
    listing = open_store(config, remember=False).list()
    tracker = Tracker(Networks(config.endpoint_deny), config.node, Networks(config.external_ips))
    keys = frozenset(record.key for record in listing.records)
    tracker.fold([*(Put(record, listing.rev) for record in listing.records), Synced(listing.rev, keys)])
    chosen = choose(config)
    if chosen.path is None:
        click.echo(f"{chosen.mode.reason}: nothing to plan", err=True)
        return
    own = tracker.get(Key("Node", "", config.node))
    wanted = rows(tracker.snapshot.ports.values(), Whereabouts(config).locate(own if isinstance(own, Node) else None))
    click.echo(diff(chosen.path.look(wanted), wanted).render())
    for problem in listing.problems:
        click.echo(f"left out: {problem.where}: {problem.what}", err=True)
    for item in tracker.left_out():
        click.echo(f"left out: {item.what}: {item.reason}", err=True)
