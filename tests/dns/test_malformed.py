"""What is no sound query: never an answer with data, never a crash. dnspython says what is one.

A packet of any bytes goes to a worker by UDP and by TCP. If dnspython can't read it as a query, no record comes back;
if it can, the answer is that to the plain query that dnspython makes of the same question.
"""

import socket
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import dns.flags
import dns.message
import dns.opcode
import dns.rdataclass
import dns.rdatatype
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dns.edns
import dns.query
from svcnet.dns.settings import Settings
from svcnet.model.snapshot import Endpoint
from tests.dns.serving import HOST, PATIENCE_SECONDS, Served, worker
from tests.dns.world import REVERSE, external, headless, lines, virtual
from tests.harness.until import until

RECORDS = (
    virtual("tomcat", "10.0.0.5", "fd00:10::5"),
    headless("db", Endpoint("10.1.1.2", 80, hostname="a"), Endpoint("10.1.1.3", 80)),
    external("java", "tomcat.svc"),
)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with worker(Settings(reverse=REVERSE, servers=("192.0.2.1",)), RECORDS) as running:
        until(lambda: running.udp("tomcat.svc.").answer)
        yield running


HEAD = b"\x12\x34\1\0\0\1\0\0\0\0\0\0"
QUESTION = b"\6tomcat\3svc\0\0\1\0\1"
OPT = b"\0\0\x29\x10\0\0\0\0\0\0\0"
IXFR = HEAD[:9] + b"\1" + HEAD[10:] + QUESTION[:-4] + b"\0\xfb\0\1" + QUESTION[:-4] + b"\0\6\0\1\0\0\0\0"
MALFORMED = {
    "no question": (HEAD[:4] + bytes(8), "FORMERR"),
    "a question that isn't there": (HEAD, "FORMERR"),
    "two questions": (HEAD[:5] + b"\2" + HEAD[6:] + QUESTION * 2, "FORMERR"),
    "a question without a class": (HEAD + QUESTION[:-2], "FORMERR"),
    "a label that runs off": (HEAD + b"\x3ftomcat", "FORMERR"),
    "a pointer to itself": (HEAD + b"\xc0\x0c\0\1\0\1", "FORMERR"),
    "a pointer after a label": (HEAD + b"\6tomcat\xc0\x0c\0\1\0\1", "FORMERR"),
    "a label of type 01": (HEAD + b"\x46tomcat" + bytes(70) + b"\3svc\0\0\1\0\1", "FORMERR"),
    "a label of type 10": (HEAD + b"\x86tomcat\3svc\0\0\1\0\1", "FORMERR"),
    "a name of 256 bytes": (HEAD + b"\x3f" + b"a" * 63 + (b"\x3f" + b"b" * 63) * 3 + b"\0\0\1\0\1", "FORMERR"),
    "a name of one byte too many": (
        HEAD + (b"\x3f" + b"a" * 63) * 3 + b"\x3a" + b"b" * 58 + b"\3svc\0\0\1\0\1",
        "FORMERR",
    ),
    "the longest name": (HEAD + (b"\x3f" + b"a" * 63) * 3 + b"\x39" + b"b" * 57 + b"\1x\1y\0\0\1\0\1", "REFUSED"),
    "a pointer to the header": (HEAD + b"\xc0\x04\0\1\0\1", "FORMERR"),
    "a label of 64 bytes": (HEAD + b"\x40" + b"a" * 64 + b"\3svc\0\0\1\0\1", "FORMERR"),
    "cut short, as it says": (HEAD[:2] + b"\3" + HEAD[3:] + QUESTION, "FORMERR"),
    "a query that failed": (HEAD[:3] + b"\2" + HEAD[4:] + QUESTION, "FORMERR"),
    "bytes behind the question": (HEAD + QUESTION + b"x", "FORMERR"),
    "an answer in the query": (HEAD[:7] + b"\1" + HEAD[8:] + QUESTION + QUESTION + bytes(6), "FORMERR"),
    "an authority in the query": (HEAD[:9] + b"\1" + HEAD[10:] + QUESTION + QUESTION + bytes(6), "FORMERR"),
    "an address behind the question": (HEAD[:11] + b"\1" + QUESTION + QUESTION + b"\0\0\0\5\0\4abcd", "FORMERR"),
    "type NXNAME": (HEAD + QUESTION[:-4] + b"\0\x80\0\1", "FORMERR"),
    "type 0": (HEAD + QUESTION[:-4] + b"\0\0\0\1", "FORMERR"),
    "type OPT": (HEAD + QUESTION[:-4] + b"\0\x29\0\1", "FORMERR"),
    "an additional record that isn't there": (HEAD[:11] + b"\1" + QUESTION, "FORMERR"),
    "two OPT": (HEAD[:11] + b"\2" + QUESTION + OPT + OPT, "FORMERR"),
    "OPT of another name": (HEAD[:11] + b"\1" + QUESTION + b"\1x" + OPT, "FORMERR"),
    "OPT that runs off": (HEAD[:11] + b"\1" + QUESTION + OPT[:-1] + b"\x09", "FORMERR"),
    "OPT with half an option": (HEAD[:11] + b"\1" + QUESTION + OPT[:-1] + b"\5\0\x0a\0\x08a", "FORMERR"),
    "OPT with an option's head cut": (HEAD[:11] + b"\1" + QUESTION + OPT[:-1] + b"\3\0\x0a\0", "FORMERR"),
    "a cookie of 4 bytes": (HEAD[:11] + b"\1" + QUESTION + OPT[:-1] + b"\x08\0\x0a\0\4abcd", "FORMERR"),
    "a cookie of 41 bytes": (HEAD[:11] + b"\1" + QUESTION + OPT[:-1] + b"\x2d\0\x0a\0\x29" + b"c" * 41, "FORMERR"),
    "a client subnet with a scope too long": (
        HEAD[:11] + b"\1" + QUESTION + OPT[:-1] + b"\x09\0\x08\0\5\0\1\x08\x21a",
        "FORMERR",
    ),
    "a client subnet with a bit too many": (
        HEAD[:11] + b"\1" + QUESTION + OPT[:-1] + b"\x09\0\x08\0\5\0\1\1\0\xc0",
        "FORMERR",
    ),
    "a client subnet of no family": (HEAD[:11] + b"\1" + QUESTION + OPT[:-1] + b"\x08\0\x08\0\4\0\7\0\0", "FORMERR"),
    "a client subnet too long": (HEAD[:11] + b"\1" + QUESTION + OPT[:-1] + b"\x09\0\x08\0\5\0\1\x21\0a", "FORMERR"),
    "bytes behind OPT": (HEAD[:11] + b"\1" + QUESTION + OPT + b"x", "FORMERR"),
    "EDNS version 1": (HEAD[:11] + b"\1" + QUESTION + OPT[:6] + b"\1" + OPT[7:], "BADVERS"),
    "EDNS version 255 with half an option": (
        HEAD[:11] + b"\1" + QUESTION + OPT[:6] + b"\xff" + OPT[7:-1] + b"\1x",
        "BADVERS",
    ),
    "opcode IQUERY": (HEAD[:2] + b"\x08\0" + HEAD[4:] + QUESTION, "NOTIMP"),
    "opcode NOTIFY": (HEAD[:2] + b"\x20\0" + HEAD[4:] + QUESTION, "NOTIMP"),
    "opcode 15": (HEAD[:2] + b"\x78\0" + HEAD[4:] + QUESTION, "NOTIMP"),
    "opcode STATUS": (HEAD[:2] + b"\x10\0" + HEAD[4:] + QUESTION, "NOTIMP"),
    "opcode UPDATE": (HEAD[:2] + b"\x28\0" + HEAD[4:] + QUESTION, "NOTIMP"),
    "class CH": (HEAD + QUESTION[:-1] + b"\3", "REFUSED"),
    "class ANY": (HEAD + QUESTION[:-1] + b"\xff", "REFUSED"),
    "type MAILB": (HEAD + QUESTION[:-4] + b"\0\xfd\0\1", "REFUSED"),
    "AXFR of what is no zone": (HEAD + QUESTION[:-4] + b"\0\xfc\0\1", "NOTAUTH"),
    "IXFR with an SOA that says that it is longer": (IXFR + b"\0\x17\0\0" + bytes(21), "FORMERR"),
    "IXFR with an SOA that says that it is shorter": (IXFR + b"\0\x15\0\0" + bytes(20), "FORMERR"),
    "IXFR with an SOA that is cut": (IXFR + b"\0\x16\0\0" + bytes(19), "FORMERR"),
    "IXFR with a name of 256 bytes in its SOA": (
        IXFR + b"\1\x16" + (b"\x3f" + b"a" * 63) * 4 + b"\0\0" + bytes(20),
        "FORMERR",
    ),
    "IXFR with a name in its SOA that runs off": (IXFR + b"\0\x16\0\x3fab", "FORMERR"),
    "IXFR with what it needs": (IXFR + b"\0\x16\0\0" + bytes(20), "NOTAUTH"),
    "IXFR without a serial": (HEAD + QUESTION[:-4] + b"\0\xfb\0\1", "FORMERR"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_query_gets_an_error_and_no_data(served: Served, name: str) -> None:
    packet, expected = MALFORMED[name]
    reply = by_udp(served, packet)
    assert reply is not None
    message = dns.message.from_wire(reply)
    assert (message.id, message.rcode().name) == (0x1234, expected)
    assert records(message) == []
    assert message.edns == (0 if QUESTION + OPT[:5] in packet else -1), "who sent an OPT gets one (RFC 6891 §7)"
    assert by_tcp(served, packet) == reply


@pytest.mark.parametrize("bits", [0x0040, 0x0020, 0x0010, 0x0080, 0x0400, 0x04F0])
def test_bits_that_ask_nothing_change_nothing_and_the_reserved_one_is_not_sent_back(served: Served, bits: int) -> None:
    packet = b"\x12\x34" + (0x0100 | bits).to_bytes(2) + HEAD[4:] + QUESTION
    reply = by_udp(served, packet)
    assert reply is not None
    message = dns.message.from_wire(reply)
    assert lines(message.answer) == ["tomcat.svc. 5 IN A 10.0.0.5"]
    assert not int(message.flags) & 0x0040


def test_what_is_no_query_gets_no_answer(served: Served) -> None:
    response = HEAD[:2] + b"\x81\x80" + HEAD[4:] + QUESTION
    for packet in (b"", b"\0", (HEAD + QUESTION)[:11], response):
        assert by_udp(served, packet) is None
        assert by_tcp(served, packet) is None


T = TypeVar("T")


def mostly(usual: st.SearchStrategy[T], odd: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    return st.sampled_from([usual] * 7 + [odd]).flatmap(lambda which: which)


KNOWN = st.builds(
    lambda name, kind: name + kind + b"\0\1",
    st.sampled_from([b"\6TomCat\3svc\0", b"\2db\3svc\0", b"\4java\7default\3svc\7cluster\5local\0"]),
    st.sampled_from([b"\0\1", b"\0\x1c", b"\0\x21", b"\0\xff"]),
)
LABELS = st.sampled_from(
    [b"\6tomcat", b"\6TomCat", b"\2db", b"\1a", b"\4java", b"\5_http", b"\4_tcp", b"\7default", b"\x3f" + b"x" * 63]
) | st.binary(max_size=70).map(lambda data: bytes((len(data),)) + data)
ENDS = st.sampled_from(
    [b"\3svc\0", b"\3svc\7cluster\5local\0", b"\0010\00210\7in-addr\4arpa\0", b"\0", b"\xc0\x0c", b"\xc0\4", b""]
)
NAMES = st.builds(lambda labels, end: b"".join(labels) + end, st.lists(LABELS, max_size=3), ENDS)
NUMBERS = st.integers(0, 0xFFFF).map(lambda n: n.to_bytes(2))
TYPES = st.sampled_from([b"\0\1", b"\0\x1c", b"\0\x21", b"\0\x0c", b"\0\6", b"\0\xff", b"\0\x29", b"\0\xfc"]) | NUMBERS
CLASSES = st.sampled_from([b"\0\1", b"\0\1", b"\0\1", b"\0\3", b"\0\xff", b"\0\xfe"]) | NUMBERS
QUESTIONS = mostly(KNOWN, st.builds(lambda *parts: b"".join(parts), NAMES, TYPES, CLASSES))
OPTIONS = st.builds(
    lambda code, data, more: code.to_bytes(2) + max(len(data) + more, 0).to_bytes(2) + data,
    st.sampled_from([3, 8, 10, 11, 12, 15, 65001]) | st.integers(0, 0xFFFF),
    st.binary(max_size=41),
    st.sampled_from([0, 0, 0, 0, 1, -1]),
)
OPTS = st.builds(
    lambda owner, size, ttl, options, more: (
        owner + b"\0\x29" + size + ttl + max(len(options) + more, 0).to_bytes(2) + options
    ),
    st.sampled_from([b"\0", b"\0", b"\0", b"\1x\0", b"\xc0\x0c"]),
    st.sampled_from([b"\0\0", b"\2\0", b"\4\xd0", b"\xff\xff"]),
    st.sampled_from([bytes(4), bytes(4), b"\0\0\x80\0", b"\0\1\0\0", b"\7\0\0\1"]),
    st.lists(OPTIONS, max_size=2).map(b"".join),
    st.sampled_from([0, 0, 0, 0, 1, -1]),
)
RECORD = st.builds(lambda q, data: q + bytes(4) + len(data).to_bytes(2) + data, QUESTIONS, st.binary(max_size=8))


@st.composite
def packets(draw: st.DrawFn) -> bytes:
    """Mostly what a client sends, with something wrong here and there."""
    usual_flags = st.sampled_from([b"\1\0", b"\1\0", b"\0\0", b"\1\x20", b"\1\x40", b"\3\0", b"\1\2"])
    flags = draw(mostly(usual_flags, NUMBERS))
    questions = draw(mostly(st.lists(QUESTIONS, min_size=1, max_size=1), st.lists(QUESTIONS, max_size=2)))
    extra = draw(mostly(st.lists(OPTS, max_size=1), st.lists(OPTS | RECORD, max_size=2)))
    sizes = [len(questions), 0, 0, len(extra)]
    counts = draw(mostly(st.just(sizes), st.lists(st.integers(0, 2), min_size=4, max_size=4)))
    body = b"".join(questions) + b"".join(extra) + draw(mostly(st.just(b""), st.binary(max_size=4)))
    packet = bytearray(b"\x12\x34" + flags + b"".join(n.to_bytes(2) for n in counts) + body)
    changes = st.lists(st.tuples(st.integers(2, 60), st.integers(0, 255)), max_size=3)
    for at, value in draw(mostly(st.just([]), changes)):
        if at < len(packet):
            packet[at] = value
    return bytes(packet[: draw(mostly(st.just(len(packet)), st.integers(0, len(packet))))])


@settings(max_examples=400, deadline=None)
@given(packet=packets())
def test_data_come_for_a_sound_query_alone_and_are_those_of_the_plain_one(served: Served, packet: bytes) -> None:
    replies = by_udp(served, packet), by_tcp(served, packet)
    if len(packet) < 12 or packet[2] & 0x80:
        assert replies == (None, None)
        return
    question = asks(packet)
    plain = None if question is None or question.type in NOT_ASKED else expected(served, question)
    for reply in replies:
        assert reply is not None
        message = dns.message.from_wire(reply)
        assert message.flags & dns.flags.QR
        assert message.id == 0x1234
        if plain is None:
            assert message.rcode().name in {"FORMERR", "NOTIMP", "BADVERS"}
            assert records(message) == []
        elif not message.flags & dns.flags.TC:
            assert (message.rcode(), sorted(lines(message.answer))) == (plain.rcode(), sorted(lines(plain.answer)))
    assert served.process.poll() is None


class Question(NamedTuple):
    """What a sound query asks."""

    name: dns.name.Name
    type: dns.rdatatype.RdataType
    klass: dns.rdataclass.RdataClass


NOT_ASKED = {0, 41, 128}
"""No type, OPT and NXNAME are no types to ask for, though dnspython reads them."""
ONLY_ANSWERS_HAVE = [code for code in dns.edns._type_to_class if code not in {3, 8, 10}]
"""Options that say nothing to a server: their content is not looked at (RFC 6891 §6.1.2, RFC 8914 §2)."""


@pytest.fixture(scope="module", autouse=True)
def _options_of_queries() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for code in ONLY_ANSWERS_HAVE:
            patch.delitem(dns.edns._type_to_class, code)
        yield


def asks(packet: bytes) -> Question | None:
    """The one question of a packet that dnspython can read as a query, and that has nothing else but an OPT."""
    try:
        message = dns.message.from_wire(packet)
        (question,) = message.question
    except Exception:  # noqa: BLE001 (dnspython has no one error for what it can't read)
        return None
    flags = int(message.flags)
    others = message.answer or message.authority or message.additional or message.edns > 0
    if message.opcode() != dns.opcode.QUERY or flags & 0x020F or others:
        return None
    if not packet[12:].startswith(
        question.name.to_wire() or b""
    ):  # by a pointer: into the header, as nothing else is there
        return None
    return Question(question.name, question.rdtype, question.rdclass)


def expected(served: Served, question: Question) -> dns.message.Message:
    """The answer to the plain query with this question."""
    query = dns.message.make_query(question.name, question.type, question.klass)
    return dns.query.tcp(query, HOST, PATIENCE_SECONDS, served.port)


def records(message: dns.message.Message) -> list[str]:
    """All records of a message but OPT."""
    return [*lines(message.answer), *lines(message.authority), *lines(message.additional)]


def by_udp(served: Served, packet: bytes) -> bytes | None:
    """The reply; None when the next query is answered and this one was not."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(PATIENCE_SECONDS)
        client.connect((HOST, served.port))
        client.send(packet)
        client.send(b"\x77\x77" + HEAD[2:] + QUESTION)
        first = client.recv(65535)
        return None if first[:2] == b"\x77\x77" else first


def by_tcp(served: Served, packet: bytes) -> bytes | None:
    """The reply; None when the connection ends without one."""
    with socket.create_connection((HOST, served.port), PATIENCE_SECONDS) as client:
        client.sendall(len(packet).to_bytes(2) + packet)
        client.shutdown(socket.SHUT_WR)
        data = b"".join(iter(lambda: client.recv(65535), b""))
    assert len(data) == 2 + int.from_bytes(data[:2]) if data else True
    return data[2:] or None
