"""The network that rows are run in: a minion, pods of its own and of another, hosts outside; as namespaces.

Owns: links, addresses, routes, and what is running there. Must not know rows or rules. Everything reaches everything
through the minion, answers too. Behind its default route a host answers for the whole service CIDR: a packet that
leaks out of the minion is answered, and so seen.
"""

import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from itertools import count
from typing import Self, TypeVar

from svcnet.lab import namespace
from tests.flows.echo import Echo
from tests.flows.places import CROWD_CIDRS, EXTERNAL_CIDRS, LISTENING, PLACES, SERVICE_CIDRS

Result = TypeVar("Result")

MINION = "minion"
MEMBERS = ("pod-a", "pod-b", "pod-c", "pod-d", "outside", "stranger")
"""The places that have a namespace of their own, beside the minion."""

CROWD = "pod-c"
"""It has the addresses of the other minion's many pods as well."""
ROUTER, HOST = "fe80::1", "fe80::2"
"""Link-local addresses of the two ends of every link."""
EVERYTHING = {4: "0.0.0.0/0", 6: "::/0"}
LENGTH = {4: 32, 6: 128}

FORWARDING = [("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")]
IPV6 = [(f"net/ipv6/conf/{which}/disable_ipv6", "0") for which in ("all", "default", "lo")]
_numbers = count(1)


TOGETHER = "net/ipv4/icmp_msgs_per_sec", "net/ipv4/icmp_msgs_burst"
"""How many ICMP errors of either family the kernel sends: by default 50 at once, of which rows would lose some."""


class Ground:
    """Made when entered, gone when left, also when making it fails half-way."""

    def __init__(self, protocols: Iterable[str], minion_answers_on: Iterable[str] = ("::",)) -> None:
        """`minion_answers_on`: addresses of the minion, all of them unless its data path needs ports of its own."""
        self._minion_answers_on = tuple(minion_answers_on)
        prefix = f"flows-{os.getpid()}-{next(_numbers)}"
        self._protocols = tuple(protocols)
        self._names = {member: f"{prefix}-{member}" for member in (MINION, *MEMBERS)}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Make everything."""
        with ExitStack() as stack:
            names = list(self._names.values())
            stack.callback(lambda: namespace.delete([n for n in names if namespace.path(n).exists()]))
            namespace.add(names)
            for name in names:
                namespace.write_settings(name, IPV6)
            namespace.write_settings(self._names[MINION], FORWARDING)
            # ICMP errors to all clients together, beside those to one; older kernels have no such count there.
            namespace.write_settings(self._names[MINION], [(path, "100000") for path in TOGETHER])
            # The minion first: it makes both ends of the links.
            namespace.run_batches([(self._names[MINION], self._minion_lines())])
            namespace.run_batches([(self._names[member], _member_lines(member)) for member in MEMBERS])
            echo = stack.enter_context(Echo())
            for member, name in self._names.items():
                where = self._minion_answers_on if member == MINION else ("::",)
                namespace.inside(name, partial(echo.listen, LISTENING, self._protocols, where))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove everything."""
        self._stack.close()

    def inside(self, place: str, act: Callable[[], Result]) -> Result:
        """Return act(), run in the namespace of a place."""
        return namespace.inside(self._names[place], act)

    def set_minion(self, settings: Iterable[tuple[str, str]]) -> None:
        """Write kernel settings, (path below /proc/sys, value), of the minion."""
        absent = namespace.write_settings(self._names[MINION], list(settings))
        assert not absent, absent

    def _minion_lines(self) -> list[str]:
        lines = ["link set lo up"]
        for family, places in PLACES.items():
            lines.append(f"addr add {places[MINION]}/{LENGTH[family]} dev lo" + " nodad" * (family == 6))
        for number, member in enumerate(MEMBERS):
            lines += [
                f"link add v{number} type veth peer name eth0 netns {self._names[member]}",
                f"link set v{number} addrgenmode none up",
                f"addr add {ROUTER}/64 dev v{number} nodad",
            ]
            for family in (4, 6):
                lines += _routes(family, member, f"v{number}")
        return lines


def _routes(family: int, member: str, device: str) -> list[str]:
    """The minion's ways to a member, by which it goes with its own address."""
    source = f"src {PLACES[family][MINION]}"
    own = PLACES[family][member]
    lines = [f"route add {own} dev {device} {source}"]
    behind = {CROWD: CROWD_CIDRS, "stranger": EVERYTHING}.get(member)
    if behind:
        lines.append(f"route add {behind[family]} via {own if family == 4 else HOST} dev {device} onlink {source}")
    return lines


def _member_lines(member: str) -> list[str]:
    lines = ["link set lo up", "link set eth0 addrgenmode none up", f"addr add {HOST}/64 dev eth0 nodad"]
    for family, places in PLACES.items():
        lines.append(f"addr add {places[member]}/{LENGTH[family]} dev eth0" + " nodad" * (family == 6))
        gateway = places[MINION] if family == 4 else ROUTER
        lines.append(f"route add {EVERYTHING[family]} via {gateway} dev eth0 onlink")
        also = {CROWD: (CROWD_CIDRS,), "stranger": (SERVICE_CIDRS, EXTERNAL_CIDRS)}.get(member, ())
        lines += [f"route add local {cidrs[family]} dev lo" for cidrs in also]
    return lines
