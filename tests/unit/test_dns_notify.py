"""NOTIFY goes out once per burst of changes, again while nobody answers, and no more after that."""

import itertools

import dns.flags
import dns.message
import dns.opcode
import dns.rdatatype

from svcnet.dns import name
from svcnet.dns.notify import FIRST_SECONDS, GATHER_SECONDS, LONGEST_SECONDS, MOST_TRIES, Outbox, message
from svcnet.dns.zone import Shape, Zone
from svcnet.feed import Whole

SVC, LOCAL = name.absolute("svc"), name.absolute("cluster.local")


class Line:
    """An outbox with a clock and ids that count up."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.now = 100.0
        self.ids = itertools.count(1)

    def changed(self, *apexes: bytes) -> None:
        self.outbox.changed(apexes, self.now)

    def wait(self, seconds: float) -> list[tuple[int, bytes]]:
        """What goes out by then."""
        end, sent = self.now + seconds, []
        while (at := self.outbox.next()) is not None and at <= end:
            self.now = max(at, self.now)
            sent += self.outbox.take(self.now, lambda: next(self.ids))
        self.now = end
        return sent

    def answer(self, ident: int, rcode: int = 0, question: bytes = b"") -> int | None:
        head = ident.to_bytes(2) + (0xA400 | rcode).to_bytes(2) + (b"\0\1" if question else b"\0\0") + bytes(6)
        return self.outbox.answered(head + question, self.now)


def test_changes_within_a_moment_are_one_message_a_zone() -> None:
    line = Line()
    for _ in range(20):
        line.changed(SVC, LOCAL)
        assert line.wait(GATHER_SECONDS / 40) == []
    assert line.wait(GATHER_SECONDS) == [(1, SVC), (2, LOCAL)]
    assert [line.answer(1), line.answer(2)] == [0, 0]
    assert line.wait(1000) == []


def test_without_an_answer_it_goes_again_ever_later_and_then_no_more() -> None:
    line = Line()
    line.changed(SVC)
    times = []
    while line.outbox.next() is not None:
        if line.wait(0.05):
            times.append(line.now)
    gaps = [round(b - a, 1) for a, b in itertools.pairwise(times)]
    assert len(times) == MOST_TRIES
    assert gaps[0] == FIRST_SECONDS
    assert gaps == sorted(gaps)
    assert gaps[-1] == LONGEST_SECONDS
    line.changed(SVC)
    assert line.wait(GATHER_SECONDS)


def test_a_change_while_nobody_answers_is_told_as_often_as_any() -> None:
    line = Line()
    line.changed(SVC)
    sent = 0
    while sent < MOST_TRIES - 1:
        sent += len(line.wait(0.05))
    line.changed(SVC)
    assert len(line.wait(2 * MOST_TRIES * LONGEST_SECONDS)) == MOST_TRIES


def test_one_that_is_silent_is_told_no_more_often_because_more_changes() -> None:
    line = Line()
    sent = 0
    for _ in range(6000):
        line.changed(SVC)
        sent += len(line.wait(0.01))
    assert sent <= 7


def test_a_change_between_a_message_and_its_answer_is_told_by_another() -> None:
    line = Line()
    line.changed(SVC)
    ((first, _),) = line.wait(GATHER_SECONDS)
    line.changed(SVC)
    assert line.answer(first) == 0
    ((second, _),) = line.wait(GATHER_SECONDS)
    assert line.answer(second) == 0
    assert line.wait(1000) == []


def test_any_code_is_an_answer_and_what_is_none_is_not_taken_for_one() -> None:
    line = Line()
    line.changed(SVC)
    ((ident, _),) = line.wait(GATHER_SECONDS)
    assert line.answer(ident + 1) is None
    assert line.answer(ident, question=LOCAL + b"\0\6\0\1") is None
    assert line.outbox.answered(b"\0\1\xa4", line.now) is None
    assert line.outbox.answered(ident.to_bytes(2) + b"\x24\0" + bytes(8), line.now) is None, "our own message"
    assert line.answer(ident, rcode=5, question=SVC.upper() + b"\0\6\0\1") == 5
    assert line.wait(1000) == []


def test_the_message_has_the_soa_of_now() -> None:
    zone = Zone(Shape())
    list(zone.taking(Whole(77, ())))
    read = dns.message.from_wire(message(0x1234, zone.soa(zone.mounts[SVC])))
    assert (read.id, read.opcode(), read.flags & dns.flags.AA) == (0x1234, dns.opcode.NOTIFY, dns.flags.AA)
    assert [str(q) for q in read.question] == ["svc. IN SOA"]
    assert [str(a) for a in read.answer] == [
        "svc. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 77 7200 1800 86400 5"
    ]
