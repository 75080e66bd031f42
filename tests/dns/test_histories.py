"""Whatever happened before, answers are those of the records as they are now."""

import random

import pytest
from msgspec.structs import replace

from svcnet.dns.records import ABSENT, EXIST, Serving
from svcnet.dns.zone import DISABLED, INSECURE
from svcnet.feed import Entry, Known, Whole
from svcnet.model.snapshot import Endpoint
from tests.dns.world import SHAPE, Asked, external, gone, headless, lines, namespace, pod, virtual

NAMES, NAMESPACES = ("a", "b"), ("default", "a", "b")
ADDRESSES = ("10.1.1.1", "10.1.1.2", "fd00:10::7")
CENSUS = (
    *(namespace(name) for name in NAMESPACES),
    *(pod(address, place) for address in ADDRESSES[:2] for place in NAMESPACES),
)
SHAPES = (
    SHAPE,
    SHAPE._replace(serving=Serving(empty=ABSENT), pods=INSECURE),
    SHAPE._replace(serving=Serving(endpoints=False, empty=EXIST), pods=DISABLED),
)
QUESTIONS = [
    *((f"{name}.svc.", kind) for name in NAMES for kind in ("A", "AAAA", "SRV", "CNAME", "ANY")),
    *((f"{name}.{place}.svc.", kind) for name in NAMES for place in NAMESPACES for kind in ("A", "SRV")),
    *((f"_http._tcp.{name}.{place}.svc.cluster.local.", "SRV") for name in NAMES for place in NAMESPACES),
    *((f"{name}.{place}.default.svc.", "A") for name in NAMES for place in NAMES),
    *((f"{part}.svc.", "A") for part in ("_tcp.a", "default", "x.a", "10-1-1-1.a", "10-1-1-1.a.b")),
    *((f"{last}.1.1.10.in-addr.arpa.", "PTR") for last in (1, 2, 3)),
    *((f"{last}.0.0.10.in-addr.arpa.", "PTR") for last in (1, 2)),
    ("1.1.10.in-addr.arpa.", "PTR"),
    *((f"10-1-1-{last}.{place}.pod.cluster.local.", "A") for last in (1, 2) for place in NAMESPACES),
    *((f"{place}.{zone}.", "A") for place in NAMESPACES for zone in ("svc", "pod.cluster.local")),
]


def happening(chance: random.Random) -> Entry:
    """One service, new, changed or gone; endpoints may be called like services."""
    name, place = chance.choice(NAMES), chance.choice(NAMESPACES)
    match chance.randrange(5):
        case 0:
            return gone(name, place)
        case 1:
            return external(name, chance.choice(("a.svc.", "b.a.svc", "nowhere.svc", "outside.example")))
        case 2:
            addresses = chance.sample(ADDRESSES, chance.randint(0, 3))
            names = ("", "", "a", "b")
            endpoints = (Endpoint(a, 80, hostname=chance.choice(names), weight=chance.randint(0, 2)) for a in addresses)
            return headless(name, *endpoints, namespace=place)
        case _:
            return virtual(name, f"10.0.0.{chance.randint(1, 2)}", namespace=place, port=chance.randint(1, 2))


def answers(asked: Asked) -> dict[tuple[str, str], list[str]]:
    """Every question's answer but for the order and the serial."""
    found = {}
    for question in QUESTIONS:
        message = asked.ask(*question)
        negative = [str(rrset.name) for rrset in message.authority]
        found[question] = [
            message.rcode().name, *sorted(lines(message.answer)), *sorted(lines(message.additional)), *negative
        ]  # fmt: skip
    return found


@pytest.mark.parametrize("seed", range(12))
def test_changes_lead_to_the_same_answers_as_a_start_with_the_last_records(seed: int) -> None:
    chance = random.Random(seed)
    records: dict[tuple[str, str], Entry] = {}
    census: set[Known] = set()
    shape = SHAPES[seed % len(SHAPES)]
    asked = Asked(shape=shape)
    asked.responder.take(Whole(1, ()))
    for _ in range(25):
        entries = [happening(chance) for _ in range(chance.randint(1, 3))]
        known = chance.choice(CENSUS)
        census ^= {known}
        asked.change(*entries, census=(replace(known, there=known in census),))
        for entry in entries:
            records[entry.namespace, entry.name] = entry
            if entry.service is None:
                del records[entry.namespace, entry.name]
        if chance.random() < 0.1:
            asked.rev += 1
            for number, entry in enumerate(records.values(), 1):
                last = number == len(records)
                asked.responder.take(Whole(asked.rev, (entry,), last, tuple(census) if last else ()))
        fresh = Asked(shape=shape)
        fresh.responder.take(Whole(1, tuple(records.values()), census=tuple(census)))
        assert answers(asked) == answers(fresh)
