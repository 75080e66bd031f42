"""What is told of a connection at its end: to the counts, and to the log if its turn has come.

Owns: which count an end is, and what the line of the log has. Must not know how connections end.
"""

from typing import Protocol

from svcnet.proxy.connection_log import ConnectionLog, Entry, bytes_sent
from svcnet.proxy.counts import LOG_LOST
from svcnet.proxy.header import Place as Address
from svcnet.proxy.host import Host
from svcnet.proxy.origin import NOWHERE, Origin, origin
from svcnet.proxy.place import Place
from svcnet.proxy.pump import End
from svcnet.proxy.session import Session
from svcnet.proxy.why import COUNTED, Why


class Ended(Protocol):
    """A connection, as relay.py has it."""

    client: End
    server: End | None
    session: Session
    host: Host
    origin: Origin | None
    peer: Address
    since: float
    dial_seconds: float


def settle(one: Ended, place: Place) -> None:
    """Count its end, and log it."""
    tally = one.client.tally
    if one.dial_seconds >= 0 and tally is not None:
        tally.ended(place.loop.now - one.since)
    field = COUNTED.get(one.session.why)
    if field is not None:
        (tally or one.host.own_tally).add(field)
    if place.log is not None and (one.peer is not NOWHERE or one.origin is not None):
        note(one, place.log, one.session.why, place.loop.now)


def note(one: Ended, log: ConnectionLog, why: Why, now: float) -> None:
    """Log it, if its turn has come."""
    session, server, introduction = one.session, one.server, one.host.introduction
    if one.peer is NOWHERE and (one.origin is None or not log.is_due()):
        return
    whose = one.origin or origin(one.client.sock, one.peer)
    answered = one.dial_seconds >= 0 and server is not None
    before = len(introduction(whose)) if one.origin is not None and introduction is not None else 0
    to_server = bytes_sent(server.sock) if answered and server is not None else 0
    entry = Entry(
        one.host.name,
        whose,
        session.backend,
        to_server and max(0, to_server - before),
        bytes_sent(one.client.sock),
        one.dial_seconds if answered else None,
        now - one.since,
        session.tries,
        why,
    )
    if not log.note(entry):
        (one.client.tally or one.host.own_tally).add(LOG_LOST)
