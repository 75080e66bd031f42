"""The PROXY header as HAProxy's proxy-protocol.txt has it, built and read."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svcnet.proxy.header import (
    LOCAL,
    LONGEST_BYTES,
    NO_ADDRESSES,
    SIGNATURE,
    BadHeaderError,
    Header,
    crc32c,
    read,
    v1,
    v2,
)

ONE, TWO = ("192.0.2.1", 56324), ("198.51.100.7", 443)
SIX, SEVEN = ("2001:db8::1", 56324), ("2001:db8::7", 443)

ports = st.integers(0, 65535)
fours = st.tuples(st.integers(0, 2**32 - 1).map(lambda n: str(IPv4Address(n))), ports)
sixes = st.tuples(st.integers(0, 2**128 - 1).map(lambda n: str(IPv6Address(n))), ports)
pairs = st.one_of(st.tuples(fours, fours), st.tuples(sixes, sixes))
tlvs = st.lists(st.tuples(st.integers(0, 255).filter(lambda kind: kind not in {3, 4}), st.binary(max_size=60))).map(
    lambda found: b"".join(bytes([kind]) + len(value).to_bytes(2) + value for kind, value in found)
)


def test_text_is_a_line() -> None:
    assert v1(ONE, TWO) == b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"
    assert v1(SIX, SEVEN) == b"PROXY TCP6 2001:db8::1 2001:db8::7 56324 443\r\n"


def test_binary_is_a_signature_addresses_and_ports() -> None:
    assert v2(ONE, TWO) == SIGNATURE + bytes.fromhex("21 11 000c c0000201 c6336407 dc04 01bb")
    assert v2(SIX, SEVEN) == SIGNATURE + bytes.fromhex(
        "21 21 0024 20010db8000000000000000000000001 20010db8000000000000000000000007 dc04 01bb"
    )
    assert SIGNATURE + bytes.fromhex("20 00 0000") == LOCAL


def test_a_client_of_another_family_than_what_it_dialled_is_mapped() -> None:
    assert v1(ONE, SEVEN).startswith(b"PROXY TCP6 ::ffff:")
    assert read(v2(SIX, TWO)) == (Header(SIX, ("::ffff:c633:6407", 443)), 52)


@given(pairs, tlvs, st.binary(max_size=20))
def test_what_is_built_is_read(pair: tuple[tuple[str, int], tuple[str, int]], more: bytes, payload: bytes) -> None:
    text, binary = v1(*pair), v2(*pair, more)
    assert len(text) <= 107
    assert read(text + payload) == (Header(*pair), len(text))
    assert read(binary + payload) == (Header(*pair, more), len(binary))


@given(pairs, tlvs)
def test_no_part_of_a_header_is_one(pair: tuple[tuple[str, int], tuple[str, int]], more: bytes) -> None:
    for whole in (v1(*pair), v2(*pair, more)):
        assert [read(whole[:length]) for length in range(len(whole))] == [None] * len(whole)


@given(st.binary(max_size=300))
def test_whatever_comes_is_a_header_an_error_or_too_little(data: bytes) -> None:
    for begin in (b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11", SIGNATURE + b"\x21\x11\0\x20"):
        try:
            found = read(begin + data)
        except BadHeaderError:
            continue
        assert found is None or 0 < found[1] <= min(LONGEST_BYTES, len(begin + data))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"PROXYTCP4",
        b"proxy TCP4 192.0.2.1 198.51.100.7 56324 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 56324\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443 1\r\n",
        b"PROXY TCP4  192.0.2.1 198.51.100.7 56324 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 65536\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 0443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 +443\r\n",
        b"PROXY TCP4 192.0.2.01 198.51.100.7 56324 443\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::7 56324 443\r\n",
        b"PROXY TCP6 192.0.2.1 198.51.100.7 56324 443\r\n",
        b"PROXY TCP6 fe80::1%eth0 fe80::2 56324 443\r\n",
        b"PROXY TCP4 192.0.2.1\xff 198.51.100.7 56324 443\r\n",
        b"PROXY UDP4 192.0.2.1 198.51.100.7 56324 443\r\n",
        b"PROXY " + b"x" * 101,
        SIGNATURE + bytes.fromhex("11 11 000c"),
        SIGNATURE + bytes.fromhex("22 11 000c"),
        SIGNATURE + bytes.fromhex("21 41 000c"),
        SIGNATURE + bytes.fromhex("21 13 000c"),
        SIGNATURE + bytes.fromhex("21 11 000b"),
        SIGNATURE + bytes.fromhex("21 21 000c"),
        SIGNATURE + bytes.fromhex("21 11 ffff"),
        v2(ONE, TWO, b"\1\0"),
        v2(ONE, TWO, b"\1\0\5abc"),
    ],
)
def test_what_is_no_header_is_refused(data: bytes) -> None:
    with pytest.raises(BadHeaderError):
        read(data)


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
        LOCAL,
        SIGNATURE + bytes.fromhex("20 11 000c") + bytes(12),
        SIGNATURE + bytes.fromhex("21 00 0003 aabbcc"),
        SIGNATURE + bytes.fromhex("21 31 00d8") + bytes(216),
        SIGNATURE + bytes.fromhex("21 12 000c") + bytes(12),
    ],
)
def test_without_addresses_that_can_be_used_the_socket_s_count(data: bytes) -> None:
    assert read(data + b"x") == (NO_ADDRESSES, len(data))


def test_a_checksum_is_verified_and_not_passed_on_as_it_is_of_that_header() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    hollow = v2(ONE, TWO, b"\x04\0\2xx\x03\0\4" + bytes(4) + b"\2\0\4name")
    at = hollow.index(b"\x03\0\4") + 3
    whole = hollow[:at] + crc32c(hollow).to_bytes(4) + hollow[at + 4 :]
    assert read(whole) == (Header(ONE, TWO, b"\2\0\4name"), len(whole))
    with pytest.raises(BadHeaderError, match="checksum"):
        read(hollow)
