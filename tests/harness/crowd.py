"""Many clients, each with an address of its own, on one minion."""

import socket
from collections.abc import Iterable
from contextlib import closing

from tests.harness.client import LONG_SECONDS, opened
from tests.harness.files import PORT, Written, service
from tests.harness.minion import VIP, VIP6, Minion

CLIENTS = {4: [f"198.18.5.{n}" for n in range(1, 251)], 6: [f"2001:db8:5::{n:x}" for n in range(1, 251)]}
IP_FREEBIND, IPV6_FREEBIND = 15, 78
Visits = dict[str, str]


def settle(minion: Minion) -> None:
    """Let every address of CLIENTS be a client's."""
    for net in ("198.18.5.0/24", "2001:db8:5::/64"):
        done = minion.run("ip", "-6" if ":" in net else "-4", "route", "add", "local", net, "dev", "lo")
        assert done.returncode == 0, done.stderr


def visit(minion: Minion, address: str, clients: Iterable[str], port: int = PORT) -> Visits:
    """One connection from each client: client → who answered."""
    return minion.inside(lambda: {client: _visit(address, client, port) for client in clients})


def _visit(address: str, client: str, port: int) -> str:
    with closing(opened(address, "tcp")) as one:
        six = ":" in client
        one.setsockopt(socket.IPPROTO_IPV6 if six else 0, IPV6_FREEBIND if six else IP_FREEBIND, 1)
        one.bind((client, 0))
        one.settimeout(LONG_SECONDS)
        one.connect((address, port))
        return one.recv(512).decode().partition(" ")[0]


def moved(before: Visits, after: Visits) -> set[str]:
    """The clients that another endpoint answers now."""
    return {client for client in before if before[client] != after[client]}


def sticky(seconds: int, **spec: object) -> Written:
    """A service of both families with session affinity."""
    return service(
        "web",
        VIP,
        VIP6,
        protocols=["TCP"],
        ipFamilyPolicy="RequireDualStack",
        sessionAffinity="ClientIP",
        sessionAffinityConfig={"clientIP": {"timeoutSeconds": seconds}},
        **spec,
    )
