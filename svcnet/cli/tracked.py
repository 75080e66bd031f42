"""All records of a store as this minion's daemon would serve them, for commands that need no daemon.

Owns: the way from a listing to a tracker, and to the minion as rules see it.
"""

from typing import NamedTuple

from svcnet.cli.context import open_store
from svcnet.cli.control import ask
from svcnet.cli.whereabouts import Whereabouts
from svcnet.config import Config
from svcnet.endpoints import Networks
from svcnet.iptables.desired import Minion
from svcnet.model.errors import SvcnetError
from svcnet.model.event import Put, Synced, Verdict
from svcnet.model.meta import Key
from svcnet.model.node import Node
from svcnet.store.protocol import Listing
from svcnet.tracker import Tracker


class Tracked(NamedTuple):
    """The records, what follows from them, and where."""

    listing: Listing
    tracker: Tracker
    minion: Minion


def tracked(config: Config) -> Tracked:
    """Read the store once. StoreError."""
    listing = open_store(config, remember=False).list()
    tracker = Tracker(Networks(config.endpoint_deny), config.node, Networks(config.external_ips))
    keys = frozenset(record.key for record in listing.records)
    tracker.fold([*(Put(record, listing.rev) for record in listing.records), Synced(listing.rev, keys)])
    tracker.fold(_verdicts(config))
    own = tracker.get(Key("Node", "", config.node))
    return Tracked(listing, tracker, Whereabouts(config).locate(own if isinstance(own, Node) else None))


def _verdicts(config: Config) -> list[Verdict]:
    """What the running daemon's health checks say; nothing where none runs."""
    try:
        told = ask(config.state_dir, "verdicts").get("verdicts", [])
    except SvcnetError:
        return []
    return [Verdict(Key("Service", *service), address, port, why) for *service, address, port, why in told]
