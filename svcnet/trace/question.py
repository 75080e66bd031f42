"""`SRC DST:PORT[/udp]` → the packet that is meant. Pure.

Owns: the words that a source and a destination may be given in. Whose address that is, addressee.py says.
"""

from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from typing import NamedTuple

from svcnet.iptables.tracer import Packet
from svcnet.model.errors import SvcnetError
from svcnet.model.meta import Key
from svcnet.model.pod import Pod
from svcnet.model.record import Record
from svcnet.model.service import Service

HERE = frozenset({"minion", "-"})
PROTOCOLS = ("tcp", "udp", "sctp")
EXPECTED_TARGET = (
    "expected ADDRESS:PORT, [ADDRESS6]:PORT or [NAMESPACE/]SERVICE:PORT, then /udp or /sctp if it is not tcp"
)


class QuestionError(SvcnetError):
    """What was asked can't be understood; the text says what was expected."""

    exit_code = 2


class Machine(NamedTuple):
    """The machine as a client: its addresses, and by which of them it would go to another (None: no way)."""

    addresses: frozenset[str]
    own: Callable[[str], str | None]
    node_addresses: tuple[str, ...] = ()
    """Where node ports answer."""


class Question(NamedTuple):
    """A packet, and its ends in words."""

    packet: Packet
    source: str
    destination: str


class _Target(NamedTuple):
    addresses: tuple[str, ...]
    protocol: str
    port: int
    text: str


def question(
    source: str, destination: str, namespace: str, records: Mapping[Key, Record], machine: Machine
) -> Question:
    """Understand both; names without a namespace are in `namespace`. QuestionError."""
    clients = _clients(source, namespace, records)
    target = _target(destination, namespace, records, machine)
    for address in target.addresses:
        if clients is None:
            own = machine.own(address)
            mine: tuple[str, ...] = () if own is None else (own,)
        else:
            mine = tuple(a for a in clients if (":" in a) == (":" in address))
        if mine:
            outgoing = clients is None or mine[0] in machine.addresses
            packet = Packet(mine[0], address, target.protocol, target.port, outgoing)
            return Question(packet, _said(source, mine[0], records, here=outgoing), target.text)
    family = "IPv6" if ":" in target.addresses[0] else "IPv4"
    why = "this machine has no way to it" if clients is None else f"{source} has no {family} address"
    raise QuestionError(f"{destination} is {', '.join(target.addresses)}: {why}, expected ends of one family")


def _clients(text: str, namespace: str, records: Mapping[Key, Record]) -> tuple[str, ...] | None:
    """Addresses of a source; None for this machine."""
    if text in HERE:
        return None
    if (address := canonical(text)) is not None:
        return (address,)
    where, name = _name(text, namespace)
    pod = records.get(Key("Pod", where, name))
    if not isinstance(pod, Pod):
        raise QuestionError(f"no pod {where}/{name}, expected an address, a pod's name, or `minion` for this machine")
    if not pod.ips:
        raise QuestionError(f"pod {where}/{name} has no address yet, expected one that has")
    return pod.ips


def _target(text: str, namespace: str, records: Mapping[Key, Record], machine: Machine) -> _Target:
    host, colon, rest = text.rpartition(":")
    port, slash, given = rest.partition("/")
    if not colon or not host or not port or (":" in host) != host.startswith("["):
        raise QuestionError(f"{text!r}: {EXPECTED_TARGET}")
    protocol = given.lower()
    if slash and protocol not in PROTOCOLS:
        raise QuestionError(f"{text!r}: {given!r} is no protocol, expected one of {', '.join(PROTOCOLS)}")
    address = canonical(host.strip("[]"))
    if address is not None:
        return _Target((address,), protocol or "tcp", _number(port), address)
    if host in HERE:
        if not machine.node_addresses:
            raise QuestionError(f"{text!r}: node ports answer on no address of this machine (--nodeport-addresses)")
        return _Target(machine.node_addresses, protocol or "tcp", _number(port), "this minion")
    where, name = _name(host, namespace)
    service = records.get(Key("Service", where, name))
    if not isinstance(service, Service):
        raise QuestionError(f"no service {where}/{name}, {EXPECTED_TARGET}")
    if service.headless or not service.cluster_ips:
        kind = "is headless" if service.headless else f"is of type {service.type} and has none"
        raise QuestionError(f"service {where}/{name} has no virtual IP: it {kind}, expected an endpoint's address")
    number, known = _port(service, port, protocol)
    return _Target(service.cluster_ips, known, number, f"{where}/{name}")


def _port(service: Service, text: str, protocol: str) -> tuple[int, str]:
    """(number, protocol) of a port that is given by number or by name."""
    if text.isascii() and text.isdecimal():
        return _number(text), protocol or "tcp"
    for port in service.ports:
        if port.name == text and protocol in {"", port.protocol.lower()}:
            return port.port, port.protocol.lower()
    raise QuestionError(f"{service.key} has no port {text!r}, expected one of {ports_of(service.ports)}")


def ports_of(ports: Iterable[object]) -> str:
    """Ports of a service record, as a person would type them."""
    shown = []
    for port in ports:
        number, protocol, name = (getattr(port, field) for field in ("port", "protocol", "name"))
        shown.append(f"{number}/{protocol.lower()}" + (f" ({name})" if name else ""))
    return ", ".join(shown) or "none"


def _number(text: str) -> int:
    if text.isascii() and text.isdecimal() and 0 < int(text) < 1 << 16:
        return int(text)
    raise QuestionError(f"{text!r} is no port, expected 1..65535")


def _name(text: str, namespace: str) -> tuple[str, str]:
    where, _, name = text.rpartition("/")
    return where or namespace, name


def canonical(text: str) -> str | None:
    """An address in the text form that records have; None for what is none."""
    try:
        return str(ip_address(text))
    except ValueError:
        return None


def _said(text: str, address: str, records: Mapping[Key, Record], *, here: bool) -> str:
    if here:
        return "this minion"
    pod = pod_at(address, records)
    return f"pod {pod.meta.namespace}/{pod.meta.name}" if pod else "" if text == address else text


def pod_at(address: str, records: Mapping[Key, Record]) -> Pod | None:
    """Whose address it is; of several pods one that has not ended."""
    found = [r for r in records.values() if isinstance(r, Pod) and address in r.ips]
    return next((pod for pod in found if pod.phase not in {"Succeeded", "Failed"}), found[0] if found else None)
