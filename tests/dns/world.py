"""Services as values, and answers as dnspython reads them: what the tests of DNS share.

Owns: builders. Must not know our own codec of names: dnspython is the judge.
"""

from collections.abc import Iterable
from ipaddress import ip_network

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype

from svcnet.dns.responder import Ask, Responder
from svcnet.dns.zone import Shape, Zone
from svcnet.endpoints import Networks
from svcnet.feed import Change, Entry, Known, Whole
from svcnet.model.meta import Meta, Pairs
from svcnet.model.service import Service, ServicePort
from svcnet.model.snapshot import Endpoint, PortKey, ServedPort

EVERYONE = ("0.0.0.0/0", "::/0")
REVERSE = ("10.0.0.0/16", "10.1.0.0/16", "fd00:10::/112")
SHAPE = Shape(("svc",), "cluster.local", tuple(map(ip_network, REVERSE)), ("127.0.0.1",))


def virtual(name: str, *addresses: str, namespace: str = "default", port: int = 8080, notes: Pairs = ()) -> Entry:
    """A service with one port named http and a virtual IP of each address."""
    meta = Meta(name, namespace, annotations=notes)
    service = Service(meta, (ServicePort(port, "http"),), cluster_ips=addresses)
    ports = tuple(
        ServedPort(PortKey(namespace, name, "TCP", port, 6 if ":" in address else 4), "http", address, ())
        for address in addresses
    )
    return Entry(namespace, name, service, ports)


def headless(name: str, *endpoints: Endpoint, namespace: str = "default") -> Entry:
    """A headless service with one port named http."""
    service = Service(Meta(name, namespace), (ServicePort(80, "http"),), cluster_ips=("None",))
    ports = []
    for family in (4, 6):
        those = tuple(e for e in endpoints if (":" in e.address) == (family == 6))
        ports.append(ServedPort(PortKey(namespace, name, "TCP", 80, family), "http", "", those))
    return Entry(namespace, name, service, tuple(ports))


def external(name: str, target: str) -> Entry:
    """An ExternalName service."""
    return Entry("default", name, Service(Meta(name, "default"), type="ExternalName", external_name=target))


def gone(name: str, namespace: str = "default") -> Entry:
    """A service that was deleted."""
    return Entry(namespace, name, None)


def pod(address: str, namespace: str = "default", there: bool = True) -> Known:
    """An address that a pod has, or no longer has."""
    return Known("Address", namespace, address, there)


def namespace(name: str, there: bool = True) -> Known:
    """A namespace that exists, or no longer does."""
    return Known("Namespace", "", name, there)


class Asked:
    """A responder, asked and answered in the text of zone files."""

    def __init__(
        self,
        *entries: Entry,
        recursion: bool = False,
        shape: Shape = SHAPE,
        rev: int = 7,
        census: tuple[Known, ...] = (),
    ) -> None:
        self.responder = Responder(Zone(shape), Networks(map(ip_network, EVERYONE)), recursion)
        self.rev = rev
        if entries or census:
            self.responder.take(Whole(rev, entries, census=census))

    def change(self, *entries: Entry, census: tuple[Known, ...] = ()) -> None:
        """Take a change in."""
        self.rev += 1
        self.responder.take(Change(self.rev, entries, census))

    def ask(self, name: str, kind: str = "A", stream: bool = False, payload: int | None = None) -> dns.message.Message:
        """Ask twice, as the first answer is made and the second found ready; return the second."""
        first, second = (self.once(name, kind, stream, payload) for _ in range(2))
        assert first.rcode() == second.rcode()
        assert sorted(lines(first.answer)) == sorted(lines(second.answer))
        return second

    def once(self, name: str, kind: str = "A", stream: bool = False, payload: int | None = None) -> dns.message.Message:
        """Ask; the reply must be one to this very question."""
        query = dns.message.make_query(name, kind, use_edns=payload is not None, payload=payload or 1232)
        reply = self.responder.respond(query.to_wire(), stream)
        assert isinstance(reply, bytes), reply
        message = dns.message.from_wire(reply)
        assert query.is_response(message)
        return message

    def forwards(self, name: str, kind: str = "A") -> Ask:
        """What is asked upstream for this question."""
        found = self.responder.respond(dns.message.make_query(name, kind).to_wire(), False)
        assert isinstance(found, Ask)
        return found

    def text(self, name: str, kind: str = "A") -> list[str]:
        """The answer section, sorted; the code and the SOA's owner when it is empty."""
        message = self.ask(name, kind)
        if message.answer:
            return sorted(lines(message.answer))
        owners = [str(rrset.name) for rrset in message.authority if rrset.rdtype == dns.rdatatype.SOA]
        return [dns.rcode.to_text(message.rcode()), *owners]


def lines(section: Iterable[object]) -> list[str]:
    """Each record as a line: NAME TTL IN TYPE DATA."""
    return [line for rrset in section for line in str(rrset).split("\n")]
