"""However changes come, cut into frames and steps or many as one: answers and transfers are of one revision.

The model is a server that was just started with the records as they are. Until all of a change is there everything is
as before, to the byte; names that exist only because of others, too.
"""

import itertools
from collections.abc import Iterator, Sequence
from itertools import product

import dns.message
import hypothesis
import pytest
from hypothesis import strategies as st
from msgspec.structs import replace

from svcnet.dns.responder import Responder
from svcnet.endpoints import Networks
from svcnet.feed import Change, Entry, Known, Whole, merged
from svcnet.model.service import ServicePort
from svcnet.model.snapshot import Endpoint
from tests.dns.test_transfer import Primary
from tests.dns.world import SHAPE, Asked, gone, headless, lines, namespace, pod, virtual

APEXES = ("svc.", "cluster.local.", "0.10.in-addr.arpa.", "1.10.in-addr.arpa.")
NAMES, PLACES = ("a", "b"), ("default", "a", "b")
ADDRESSES = ("10.1.1.1", "10.1.1.2")
OWNERS = (
    *(f"{name}.{place}.svc" for name, place in product((*NAMES, "_tcp.a", "x.a", "_http._tcp.b"), PLACES)),
    *(
        f"{name}.svc"
        for name in ("a", "_tcp.a", "b.a", "a.b", "_other._tcp.b", "default", "10-1-1-1.a", "10-1-1-1.b.a")
    ),
    *(f"{last}.{net}.in-addr.arpa" for last, net in product(("1", "2"), ("1.1.10", "0.0.10"))),
    *("1.1.10.in-addr.arpa", "0.10.in-addr.arpa"),
    *(f"{name}.pod.cluster.local" for name in ("a", "10-1-1-1.a", "10-1-1-1.default")),
)
QUERIES = [
    dns.message.make_query(owner, kind, id=1, use_edns=0).to_wire()
    for owner, kind in product(OWNERS, ("A", "SRV", "PTR", "SOA"))
]
Told = tuple[tuple[Entry, ...], tuple[Known, ...]]


def two_ports(name: str, place: str, last: int) -> Entry:
    """A service below whose `_tcp` are two names."""
    one = virtual(name, f"10.0.0.{last}", namespace=place)
    assert one.service is not None
    key = one.ports[0].key._replace(port=81)
    other = replace(one.ports[0], key=key, name="other")
    return replace(
        one,
        service=replace(one.service, ports=(*one.service.ports, ServicePort(81, "other"))),
        ports=(*one.ports, other),
    )


def named(name: str, place: str, hosts: list[tuple[str, str]]) -> Entry:
    """A headless service whose endpoints may be called like services."""
    return headless(name, *(Endpoint(address, 80, hostname=host) for address, host in hosts), namespace=place)


SIZES = itertools.count()


def replies(responder: Responder) -> list[tuple[bytes, bytes]]:
    """Every query's header, and the bytes of the answer in an order that rotation does not change.

    Of clients that name another size each time, so that no reply is one that stood ready.
    """
    found = []
    size = (2048 + next(SIZES) % 30000).to_bytes(2)
    for query in (one[:-8] + size + one[-6:] for one in QUERIES):
        for _ in range(2):  # made, and found ready
            reply = responder.respond(query, stream=True)
        assert isinstance(reply, bytes)
        found.append((reply[:12], bytes(sorted(reply))))
    return found


names, places = st.sampled_from(NAMES), st.sampled_from(PLACES)
entries = st.one_of(
    st.builds(gone, names, places),
    st.builds(two_ports, names, places, st.integers(1, 2)),
    st.builds(lambda n, p, i: virtual(n, f"10.0.0.{i}", namespace=p), names, places, st.integers(1, 2)),
    st.builds(
        named,
        names,
        places,
        st.lists(st.tuples(st.sampled_from(ADDRESSES), st.sampled_from(("", "a", "b", "x"))), max_size=2),
    ),
)
census = st.one_of(
    st.builds(namespace, places, st.booleans()), st.builds(pod, st.sampled_from(ADDRESSES), places, st.booleans())
)
parts = st.tuples(st.lists(entries, max_size=3).map(tuple), st.lists(census, max_size=2).map(tuple))
happenings = st.tuples(
    st.sampled_from(("parts", "merged", "whole")),
    st.lists(parts, min_size=1, max_size=3),
    st.sets(st.sampled_from(APEXES)),
)


class Model:
    """The records as they are; `fresh` is a server that was just started with them."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str], Entry] = {}
        self.census: dict[tuple[str, str, str], Known] = {}

    def note(self, told: Sequence[Told]) -> None:
        for some, known in told:
            for entry in some:
                self.entries[entry.namespace, entry.name] = entry
            for one in known:
                self.census[one.kind, one.namespace, one.name] = one
        self.entries = {key: entry for key, entry in self.entries.items() if entry.service is not None}
        self.census = {key: one for key, one in self.census.items() if one.there}

    def whole(self, rev: int) -> list[Whole]:
        """All of it, in two frames."""
        those = tuple(self.entries.values())
        half = len(those) // 2
        return [
            Whole(rev, those[:half], last=False),
            Whole(rev, those[half:], census=tuple(self.census.values())),
        ]

    def fresh(self, rev: int) -> Primary:
        primary = Primary()
        primary.asked = Asked(shape=SHAPE)
        for frame in self.whole(rev):
            primary.asked.responder.take(frame)
        primary.transfers = type(primary.transfers)(primary.asked.responder.zone, Networks(()))
        return primary


def frames_of(how: str, rev: int, told: list[Told], model: Model) -> list[Whole | Change]:
    """The same as several frames of one change; as changes that came with one read; as everything again."""
    if how == "whole":
        return [*model.whole(rev)]
    if how == "merged":
        revs = range(rev - len(told) + 1, rev + 1)
        return [merged([Change(r, *one) for r, one in zip(revs, told, strict=True)])] if told else []
    return [Change(rev, *one, last=n == len(told)) for n, one in enumerate(told, 1)]


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(st.lists(happenings, min_size=1, max_size=4))
def test_any_changes_in_any_frames_and_steps_give_what_a_start_with_the_last_records_gives(
    history: list[tuple[str, list[Told], set[str]]],
) -> None:
    primary, model, rev = Primary(), Model(), 7
    responder = primary.asked.responder
    secondaries = {apex: primary.copy(apex) for apex in APEXES}
    for how, told, due in history:
        model.note(told)
        rev += len(told)
        before = replies(responder)
        records = primary.copy("svc.").records()
        frames = frames_of(how, rev, told, model)
        for frame in frames:
            for _ in responder.taking(frame):
                if responder.zone.serial != rev:
                    assert replies(responder) == before
            if frame is not frames[-1]:
                assert replies(responder) == before
                assert primary.copy("svc.").records() == records
                secondaries["svc."].ixfr(primary.ask)
                assert secondaries["svc."].records() == records
        fresh = model.fresh(rev)
        assert replies(responder) == replies(fresh.asked.responder)
        for apex in due:  # the others have a longer way later
            secondaries[apex].ixfr(primary.ask)
    for apex, secondary in secondaries.items():
        secondary.ixfr(primary.ask)
        assert secondary.serial == rev
        assert secondary.records() == primary.copy(apex).records()


def shown(asked: Asked, *questions: str) -> list[list[str]]:
    """Answers that did not stand ready, as these clients name another size each time."""
    found = []
    for question in questions:
        message = asked.once(question, payload=2048 + next(SIZES) % 30000)
        negative = [message.rcode().name, *(str(rrset.name) for rrset in message.authority)]
        found.append(lines(message.answer) or negative)
    return found


ABOVE = ("_tcp.fresh.svc.", "fresh.svc.", "_tcp.old.svc.", "old.svc.", "shop.svc.", "web.shop.svc.")


@pytest.mark.parametrize("steps", range(1, 5))
def test_names_above_others_are_those_of_before_until_all_is_there(steps: int) -> None:
    """What has two names below it when all is there has none before; what lost all and got one has some."""
    old = two_ports("old", "default", 1)
    shop = virtual("web", "10.0.0.9", namespace="shop")
    asked = Asked(old, shop)
    before = shown(asked, *ABOVE)
    assert before[0] == ["NXDOMAIN", "svc."]
    assert before[2] == ["NOERROR", "svc."]
    change = (
        two_ports("fresh", "default", 2),
        gone("old"),
        gone("web", "shop"),
        virtual("new", "10.0.0.3", namespace="shop"),
    )
    rows = [Change(9, change[:steps], last=False), Change(9, (*change[steps:], virtual("old", "10.0.0.1")))]
    for frame in rows:
        for _ in asked.responder.taking(frame):
            if asked.responder.zone.serial != 9:
                assert shown(asked, *ABOVE) == before
        if frame is rows[0]:
            assert shown(asked, *ABOVE) == before
    assert shown(asked, *ABOVE) == [
        ["NOERROR", "svc."],
        ["fresh.svc. 5 IN A 10.0.0.2"],
        ["NOERROR", "svc."],
        ["old.svc. 5 IN A 10.0.0.1"],
        ["NOERROR", "svc."],
        ["NXDOMAIN", "svc."],
    ]


def many(number: int, net: int) -> Iterator[Entry]:
    return (virtual(f"n{i}", f"10.0.{net}.{i}") for i in range(number))


def test_after_a_load_nothing_is_answered_from_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many change that replies are not dropped one by one, and the old ones are freed little by little."""
    monkeypatch.setattr("svcnet.dns.responder.FEW", 10)
    monkeypatch.setattr("svcnet.dns.fast.FREED", 3)
    asked = Asked(*many(20, 1))

    def ask() -> list[list[str]]:
        return [asked.text(f"n{i}.svc.") for i in range(20)]

    before = ask()
    seen = []
    for _ in asked.responder.taking(Change(8, tuple(many(20, 2)))):
        seen.append(ask())
        assert seen[-1] == (
            before
            if asked.responder.zone.serial != 8
            else [[line.replace(".0.1.", ".0.2.") for line in one] for one in before]
        )
    assert before in seen
    assert seen[-1] != before
