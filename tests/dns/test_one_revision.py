"""One revision: what is told together comes from the same records, whatever changes meanwhile and whoever restarts."""

import itertools
import socket
import threading
from collections.abc import Callable, Iterator

import dns.message
import dns.rcode
import dns.rdatatype
import pytest

import dns.query
from svcnet.dns.settings import Settings
from svcnet.feed import CHUNK, Change, Entry, Whole
from svcnet.model.snapshot import Endpoint
from tests.dns.serving import HOST, PATIENCE_SECONDS, Served, worker
from tests.dns.world import Asked, external, gone, headless, pod, virtual
from tests.harness.until import until

SETTINGS = Settings(reverse=("10.0.0.0/8",), servers=(HOST,))
FLIPS = 300
STATES = (("10.0.0.1", 1001), ("10.0.0.2", 1002))
Question = tuple[str, str, str]
"""Name, type, transport."""
SRV = "_http._tcp.flip.default.svc.cluster.local."


def flip(state: int) -> Entry:
    """The service that has one address and port, or the other."""
    address, port = STATES[state]
    return virtual("flip", address, port=port)


def state_of(message: dns.message.Message) -> set[int]:
    """Which states the records of one answer are of: port, address and serial of a state n are those of n."""
    found = set()
    for rrset in (*message.answer, *message.additional, *message.authority):
        for rr in rrset:
            match rrset.rdtype:
                case dns.rdatatype.SRV:
                    found.add(rr.port - 1001)
                case dns.rdatatype.A:
                    found.add([address for address, _ in STATES].index(rr.address))
                case dns.rdatatype.SOA:
                    found.add(rr.serial % 2)
    return found


def asking(served: Served, question: Question, over: threading.Event, seen: list[set[int]], wrong: list[str]) -> None:
    """Ask without a pause until it is over, on one socket."""
    name, kind, transport = question
    wire = dns.message.make_query(name, kind).to_wire()
    stream = transport == "tcp"
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM) as client:
        client.settimeout(PATIENCE_SECONDS)
        client.connect((HOST, served.port))
        while not over.is_set():
            client.sendall(len(wire).to_bytes(2) + wire if stream else wire)
            size = int.from_bytes(client.recv(2, socket.MSG_WAITALL)) if stream else 4096
            message = dns.message.from_wire(client.recv(size, socket.MSG_WAITALL if stream else 0))
            if message.rcode() not in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
                wrong.append(dns.rcode.to_text(message.rcode()))
            seen.append(state_of(message))


def test_an_answer_never_mixes_two_revisions_while_a_service_flips() -> None:
    """A, SRV with its address, and PTR: where an address leads to nothing, the serial is of the state that lacks it."""
    with worker(SETTINGS, [flip(0)]) as served:
        served.tell(Change(2, (flip(0),)))
        over = threading.Event()
        names = (("flip.svc.", "A"), (SRV, "SRV"), ("1.0.0.10.in-addr.arpa.", "PTR"))
        seen: dict[Question, list[set[int]]] = {(*name, how): [] for name in names for how in ("udp", "tcp")}
        wrong: list[str] = []
        threads = [
            threading.Thread(target=asking, args=(served, question, over, states, wrong))
            for question, states in seen.items()
        ]
        for thread in threads:
            thread.start()
        for rev in range(3, 3 + FLIPS):
            frame = Change(rev, (flip(rev % 2),))
            whole = Whole(rev, (flip(rev % 2), *others(rev)), last=True)
            served.tell(whole if rev % 10 == 0 else frame)
        last = (2 + FLIPS) % 2
        until(lambda: served.udp("svc.", "SOA").answer[0][0].serial == 2 + FLIPS)
        heard = [len(states) for states in seen.values()]
        until(lambda: all(len(states) > before + 1 for states, before in zip(seen.values(), heard, strict=True)))
        over.set()
        for thread in threads:
            thread.join()
        assert not wrong
        mixed = [
            (question, states) for question, all_states in seen.items() for states in all_states if len(states) > 1
        ]
        assert not mixed
        for how in ("udp", "tcp"):
            assert seen[SRV, "SRV", how][-1] == {last}
            assert all(states == {1} for states in seen["1.0.0.10.in-addr.arpa.", "PTR", how] if states)


def others(rev: int) -> Iterator[Entry]:
    """So many that they are taken in step by step."""
    return (virtual(f"other{n}", f"10.2.{rev % 200}.{n}") for n in range(CHUNK))


@pytest.mark.parametrize("frames", [1, 7])
def test_of_a_load_nothing_is_told_before_all_of_it_is_there(frames: int) -> None:
    old = [
        virtual("target", "10.0.0.1"),
        external("alias", "target.default.svc.cluster.local"),
        virtual("a", "10.0.0.9"),
    ]
    asked = Asked(*old, census=(pod("10.1.1.2"),))
    new = [virtual("target", "10.0.0.2"), virtual("b", "10.0.0.9"), headless("deep", Endpoint("10.1.9.9", 80))]
    new += [virtual(f"n{n}", f"10.0.1.{n}") for n in range(CHUNK)]

    def told() -> list[list[str]]:
        names = ("alias.svc.", "target.svc.", "a.svc.", "b.svc.", "deep.svc.", "10-1-9-9.deep.svc.", "svc.")
        own = [asked.text(name, "SOA" if name == "svc." else "A") for name in names]
        return [*own, asked.text("9.0.0.10.in-addr.arpa.", "PTR"), asked.text("9.9.1.10.in-addr.arpa.", "PTR")]

    before = told()
    steps: list[Callable[[], Iterator[None]]] = []
    size = -(-len(new) // frames)
    for at in range(0, len(new), size):
        frame = Whole(20, tuple(new[at : at + size]), last=at + size >= len(new))
        steps.append(lambda frame=frame: asked.responder.taking(frame))  # type: ignore[misc]  # a default binds it now
    for taking in steps:
        for _ in taking():
            assert told() == before
        if taking is not steps[-1]:
            assert told() == before
    assert asked.text("target.svc.") == ["target.svc. 5 IN A 10.0.0.2"]
    assert asked.text("alias.svc.") == ["NXDOMAIN", "svc."]
    assert asked.text("9.0.0.10.in-addr.arpa.", "PTR") == [
        "9.0.0.10.in-addr.arpa. 5 IN PTR b.default.svc.cluster.local."
    ]
    assert "20" in asked.text("svc.", "SOA")[0].split()
    fresh = Asked(*new, rev=20)
    for name in ("a.svc.", "b.svc.", "deep.svc.", "n7.svc.", "10-1-9-9.deep.svc.", "default.svc.", "shop.svc."):
        assert asked.text(name) == fresh.text(name)


def test_a_change_of_many_services_is_one_revision_too() -> None:
    asked = Asked(*(virtual(f"s{n}", f"10.0.0.{n}") for n in range(100)))
    taking = asked.responder.taking(Change(8, (*(virtual(f"s{n}", f"10.0.1.{n}") for n in range(99)), gone("s99"))))
    number = 0
    for _ in taking:
        number += 1
        assert asked.text("s0.svc.") == ["s0.svc. 5 IN A 10.0.0.0"]
        assert asked.text("s99.svc.") == ["s99.svc. 5 IN A 10.0.0.99"]
    assert number > 2
    assert asked.text("s0.svc.") == ["s0.svc. 5 IN A 10.0.1.0"]
    assert asked.text("s99.svc.") == ["NXDOMAIN", "svc."]


def test_a_worker_that_is_started_again_begins_with_what_is_now() -> None:
    for state in itertools.islice(itertools.cycle((0, 1)), 3):
        with worker(SETTINGS, [flip(state)]) as served:
            query = dns.message.make_query(SRV, "SRV")
            message = dns.query.udp(query, HOST, PATIENCE_SECONDS, served.port)
            assert state_of(message) == {state}, "the first answer is of the records that it was started with"
