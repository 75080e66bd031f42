"""Messages of servers upstream as we read them; dnspython is the judge of what they say."""

import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svcnet.dns.reply import Reply, read
from tests.dns.world import lines

TEXTS = {
    "A": "192.0.2.7",
    "AAAA": "2001:db8::7",
    "CNAME": "a.b.example.org.",
    "MX": "10 mail.example.org.",
    "TXT": '"some text" "more"',
    "SRV": "0 0 80 a.example.",
    "SOA": "ns.example.org. root.example.org. 1 2 3 4 30",
    "NS": "ns.example.org.",
    "HTTPS": "1 . alpn=h2",
}
NAMES = ("www.example.org.", "a.b.example.org.", "example.org.", ".", "other.")
records = st.lists(
    st.tuples(st.sampled_from(NAMES), st.integers(0, 2**31 - 1), st.sampled_from(sorted(TEXTS))), max_size=4
)


@st.composite
def replies(draw: st.DrawFn) -> dns.message.Message:
    query = dns.message.make_query("www.example.org.", "A", use_edns=draw(st.booleans()))
    reply = dns.message.make_response(query)
    for section in (reply.answer, reply.authority, reply.additional):
        for name, ttl, kind in draw(records):
            section.append(dns.rrset.from_text(name, ttl, "IN", kind, TEXTS[kind]))
    return reply


def question(message: dns.message.Message) -> bytes:
    name = message.question[0].name.to_wire()
    assert name is not None
    return name + b"\0\1\0\1"


def rebuilt(reply: Reply, asked: bytes, body: bytearray) -> dns.message.Message:
    """As a client reads it."""
    return dns.message.from_wire(b"\0\0\x80\0\0\1" + reply.counts + asked + body)


@given(replies(), st.integers(0, 100_000))
@settings(deadline=None, max_examples=200)
def test_what_is_kept_says_the_same_but_for_its_time(message: dns.message.Message, seconds: int) -> None:
    asked = question(message)
    reply = read(message.to_wire(), len(asked))
    sent = rebuilt(reply, asked, reply.aged(0))
    for ours, theirs in zip(
        (sent.answer, sent.authority, sent.additional),
        (message.answer, message.authority, message.additional),
        strict=True,
    ):
        assert sorted(lines_without_ttl(ours)) == sorted(set(lines_without_ttl(theirs)))
    aged = rebuilt(reply, asked, reply.aged(seconds))
    for before, after in zip(sent.answer, aged.answer, strict=True):
        assert after.ttl == max(0, before.ttl - seconds)
    assert {rrset.ttl for rrset in rebuilt(reply, asked, reply.stale(30)).answer} <= {30}
    assert 0 <= reply.seconds <= min((rrset.ttl for rrset in message.answer), default=86400)


def lines_without_ttl(section: list[dns.rrset.RRset]) -> list[str]:
    return [" ".join([line.split(" ")[0], *line.split(" ")[3:]]) for line in lines(section)]


@given(replies(), st.data())
@settings(deadline=None, max_examples=300)
def test_a_broken_message_is_refused_or_read_never_worse(message: dns.message.Message, data: st.DataObject) -> None:
    asked = question(message)
    wire = bytearray(message.to_wire())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(12 + len(asked), len(wire)))
        wire[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        reply = read(bytes(wire), len(asked))
    except ValueError:
        return
    assert len(reply.aged(5)) == len(reply.body)
    assert wire.find(reply.body) >= 0


@pytest.mark.parametrize(
    "tail",
    [
        b"\xc0",
        b"\xc0\x0c\0\1\0\1",
        b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4\1\2\3",
        b"\xc0\x40\0\1\0\1\0\0\0\5\0\4\1\2\3\4",
        b"\xc0\x00\0\1\0\1\0\0\0\5\0\4\1\2\3\4",
        b"\x80\0\1\0\1\0\0\0\5\0\4\1\2\3\4",
        b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4\1\2\3\4rest",
    ],
    ids=["half a pointer", "no ttl", "short data", "to itself", "to the header", "label type", "rest"],
)
def test_a_record_that_is_none_spoils_the_message(tail: bytes) -> None:
    asked = b"\1a\0\0\1\0\1"
    head = b"\0\0\x81\x80\0\1\0\1\0\0\0\0" + asked
    with pytest.raises(ValueError, match=r"record|name"):
        read(head + (tail if tail[:2] != b"\xc0\x40" else b"\xc0\x13" + tail[2:]), len(asked))


def test_a_time_with_the_sign_bit_is_none() -> None:
    asked = b"\1a\0\0\1\0\1"
    head = b"\0\0\x81\x80\0\1\0\1\0\0\0\0" + asked
    reply = read(head + b"\xc0\x0c\0\1\0\1\x80\0\0\5\0\4\1\2\3\4", len(asked))
    assert reply.seconds == 0
    assert rebuilt(reply, asked, reply.aged(0)).answer[0].ttl == 0


def test_an_extended_code_is_no_answer() -> None:
    query = dns.message.make_query("a.", "A", use_edns=True)
    message = dns.message.make_response(query)
    message.set_rcode(dns.rcode.BADCOOKIE)
    asked = b"\1a\0\0\1\0\1"
    assert read(message.to_wire(), len(asked)).rcode == dns.rcode.BADCOOKIE
