"""The short way and the long way give the same bytes: every query to a responder that remembers, and to one that can't.

Both answer from one zone, which changes meanwhile, so that an answer that should be old would differ too.
"""

import random
from ipaddress import ip_network

import pytest

from svcnet.dns.answer import ROTATIONS
from svcnet.dns.batch import ID_BYTES
from svcnet.dns.name import absolute
from svcnet.dns.responder import Ask, Pull, Responder
from svcnet.dns.zone import Zone
from svcnet.endpoints import Networks
from svcnet.feed import Change, Entry, Known, Whole
from svcnet.model.snapshot import Endpoint
from tests.dns.world import EVERYONE, SHAPE, external, gone, headless, namespace, pod, virtual

QUERIES = 100_000
EACH, MANY, NEW = 250, 400, 20
"""Queries between two changes; how many different ones there are, and how many of them others after a change."""
WAYS = ("batch", "batch", "udp", "tcp")
SERVICES = [f"s{n}" for n in range(12)]
TYPES = (1, 1, 1, 28, 33, 12, 16, 5, 6, 2, 255, 65, 64, 97, 15)
SUFFIXES = ("svc", "default.svc", "shop.svc", "default.svc.cluster.local", "svc.cluster.local", "pod.cluster.local")
LONG = ".".join(letter * 58 for letter in "abcd") + ".svc.cluster.local"
"""Nothing is there: three aliases that lead there leave no room for an SOA in 512 bytes."""
ALIASES = (external("long", LONG), external("longer", "long.default.svc.cluster.local"))
FIRST = ("", "_http._tcp.", "_http._tcp.", "db-0.", "10-1-0-5.", "x.", "_tcp.")
WHOLE_NAMES = ("svc", "cluster.local", "dns-version.cluster.local", "ns.dns.cluster.local", "example.org", "arpa", ".")


def a_service(draw: random.Random, name: str) -> Entry:
    """Any kind of one."""
    low = draw.randint(1, 20)
    home = draw.choice(("default", "default", "shop"))
    match draw.randrange(6):
        case 0:
            return gone(name, home)
        case 1:
            hosts = ("db-0", "", "db-1")
            ends = [Endpoint(f"10.1.0.{low + n}", 80, hostname=hosts[n]) for n in range(draw.randint(0, 3))]
            return headless(name, *ends, namespace=home)
        case 2:
            ends = [Endpoint(f"10.1.{n}.{low}", 80) for n in range(draw.choice((9, 40, 90)))]
            return headless(name, *ends, namespace=home)
        case 3:
            own = f"{draw.choice(SERVICES)}.default.svc.cluster.local"
            return external(name, draw.choice(("example.org", own, "longer.default.svc.cluster.local")))
        case _:
            addresses = draw.choice(((f"10.0.0.{low}",), (f"10.0.0.{low}", f"fd00:10::{low}")))
            return virtual(name, *addresses, namespace=home)


def a_frame(draw: random.Random, rev: int) -> Change | Whole:
    """Something that changes."""
    entries = tuple(a_service(draw, name) for name in draw.sample(SERVICES, draw.choice((1, 1, 3))))
    census: tuple[Known, ...] = (
        pod(f"10.1.0.{draw.randint(1, 9)}", there=draw.random() < 0.7),
        namespace(draw.choice(("empty", "shop")), there=draw.random() < 0.5),
    )
    return Whole(rev, entries, census=census) if draw.random() < 0.02 else Change(rev, entries, census)


def a_name(draw: random.Random) -> bytes:
    """One that there may be, in any case."""
    kind = draw.random()
    if kind < 0.08:
        text = draw.choice(WHOLE_NAMES)
    elif kind < 0.2:
        text = f"{draw.randint(1, 20)}.0.{draw.choice(('0', '1'))}.10.in-addr.arpa"
    else:
        own = draw.choice((draw.choice(SERVICES), draw.choice(SERVICES), "none", "empty", "shop", "10-1-0-5"))
        text = f"{draw.choice(FIRST) if draw.random() < 0.5 else ''}{own}.{draw.choice(SUFFIXES)}"
    name = absolute(text)
    if draw.random() < 0.2:
        name = bytes(c ^ 0x20 if 97 <= c <= 122 and draw.random() < 0.5 else c for c in name)
    return name


def a_query(draw: random.Random) -> bytes:
    """Well-formed, without its id."""
    flags = draw.choice((0x0100, 0x0100, 0x0100, 0x0000, 0x0120, 0x0110))
    name = a_name(draw)
    kind = 33 if b"_tcp" in name and draw.random() < 0.7 else draw.choice(TYPES)
    question = name + kind.to_bytes(2) + b"\0\1"
    if draw.random() < 0.6:
        return flags.to_bytes(2) + b"\0\1\0\0\0\0\0\0" + question
    payload = draw.choice((1232, 1232, 4096, 512, 100)).to_bytes(2)
    options = draw.choice((b"\0\0", b"\0\0", b"\0\0", b"\0\x0c\0\x0a\0\x08cookies!"))
    opt = (
        b"\0\0\x29" + payload + b"\0" + draw.choice((b"\0", b"\0", b"\1")) + draw.choice((b"\0\0", b"\x80\0")) + options
    )
    return flags.to_bytes(2) + b"\0\1\0\0\0\0\0\1" + question + opt


def mutated(draw: random.Random, packet: bytes) -> bytes:
    """The same with something broken."""
    data = bytearray(packet)
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randrange(len(data) + 1)
        match draw.randrange(4):
            case 0:
                data[at : at + 1] = bytes((draw.randrange(256),))
            case 1:
                del data[at:]
            case 2:
                data[at:at] = draw.randbytes(draw.choice((1, 2, 11)))
            case _:
                data[at : at + 1] = bytes(c ^ 1 << draw.randrange(8) for c in data[at : at + 1])
    return bytes(data)


def replied(responder: Responder, packet: bytes, way: str) -> tuple[bytes | Ask | Pull | None, bool]:
    """What goes back by UDP or TCP, and whether it stood ready among datagrams that came together."""
    if way == "batch":
        rest = responder.ready([packet[ID_BYTES:]])[0]
        if rest is not None:
            return packet[:ID_BYTES] + rest, True
    return responder.respond(packet, way == "tcp"), False


def compare(seed: int, number: int) -> int:
    """Ask so many queries of both; return how many were found ready by their bytes alone."""
    draw = random.Random(seed)
    zone, allowed, recursion = Zone(SHAPE), Networks(map(ip_network, EVERYONE)), bool(seed % 2)
    remembers = Responder(zone, allowed, recursion)
    remembers.take(Whole(1, (*ALIASES, *(a_service(draw, name) for name in SERVICES))))
    usual = [a_query(draw) for _ in range(MANY)]
    found = 0
    for n in range(number):
        if n % EACH == 0:
            remembers.take(a_frame(draw, n + 2))
            usual = [*usual[NEW:], *(a_query(draw) for _ in range(NEW))]
        rest = draw.choice(usual)
        packet = draw.randbytes(ID_BYTES) + (mutated(draw, rest) if draw.random() < 0.25 else rest)
        way = draw.choice(WAYS)
        reply, ready = replied(remembers, packet, way)
        found += ready
        knows_nothing = Responder(zone, allowed, recursion)
        expected = knows_nothing.respond(packet, way == "tcp")
        if reply != expected:  # another order of the same addresses, or not the same
            orders = [knows_nothing.respond(packet, way == "tcp") for _ in range(ROTATIONS)]
            assert reply in orders, f"{way} {packet!r}: {reply!r} is not {expected!r}"
    return found


@pytest.mark.parametrize("seed", range(4))
def test_what_is_remembered_is_what_would_be_worked_out(seed: int) -> None:
    found = compare(seed, QUERIES // 4)
    assert found > QUERIES // 40, "the short way is hardly ever taken"
