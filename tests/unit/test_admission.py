"""Filters of listeners: the program, run as the kernel would, against what it means."""

from collections.abc import Sequence
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svcnet.proxy.admission import MOST_STEPS, NOBODY, Condition, Step, admission, admits, program
from svcnet.proxy.row import Backend, Reach, Rule, Service
from svcnet.proxy.steering import program as steering

LOOPBACK, OTHER = 1, 7
ADDRESSES = {
    4: ["10.244.1.2", "10.244.255.255", "10.245.0.0", "192.0.2.1", "203.0.113.9", "0.0.0.1"],
    6: ["fd00:244::1", "fd00:244:ffff::", "fd00:245::", "2001:db8::1", "2001:db8::1:0", "::1"],
}
NETWORKS = [
    "10.244.0.0/16",
    "10.244.1.2/32",
    "203.0.113.9/25",
    "0.0.0.0/0",
    "192.0.2.0/31",
    "fd00:244::/32",
    "2001:db8::1/128",
    "2001:db8::/111",
    "fd00:244::/33",
    "::/0",
]
conditions = st.builds(Condition, st.lists(st.sampled_from(NETWORKS), max_size=4).map(tuple), itself=st.booleans())
WEB = Service("web", {Backend("10.244.2.2", 8080): 1})


def run(steps: Sequence[Step], client: str, interface: int = OTHER) -> int:
    """Documentation/networking/filter.rst, as far as our programs go."""
    packed = ip_address(client).packed
    header = b"\0" * (12 if len(packed) == 4 else 8) + packed
    at = a = x = 0
    kept = [0] * 16
    while True:
        code, yes, no, value = steps[at]
        at += 1
        match code:
            case 0x20:
                offset = value - 0xFFF00000
                a = interface if value == 0xFFFFF008 else int.from_bytes(header[offset : offset + 4])
            case 0x02:
                kept[value] = a
            case 0x60:
                a = kept[value]
            case 0x54:
                a &= value
            case 0x15:
                at += yes if a == value else no
            case 0x05:
                at += value
            case 0x07:
                x = a
            case 0xAC:
                a ^= x
            case 0x94:
                a %= value
            case 0x06:
                return value
            case 0x16:
                return a
            case _:
                raise AssertionError(code)


@given(st.lists(conditions, max_size=3).map(tuple), st.sampled_from([4, 6]), st.data())
def test_the_program_says_what_the_conditions_mean(
    found: tuple[Condition, ...], family: int, data: st.DataObject
) -> None:
    client = data.draw(st.sampled_from(ADDRESSES[family]))
    interface = data.draw(st.sampled_from([LOOPBACK, OTHER]))
    assert bool(run(program(found, family), client, interface)) == admits(found, client, itself=interface == LOOPBACK)


def test_hundreds_of_ranges_are_one_program() -> None:
    ranges = tuple(f"10.{n // 200}.{n % 200}.0/25" for n in range(800))
    steps = program((Condition(ranges),), 4)
    assert len(steps) <= MOST_STEPS
    assert run(steps, "10.0.0.1")
    assert run(steps, "10.3.199.127")
    assert not run(steps, "10.3.199.128")


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Rule(WEB), ()),
        (Rule(WEB, Reach.NOBODY), NOBODY),
        (Rule(WEB, ranges=("192.0.2.0/24",)), (Condition(("192.0.2.0/24",)),)),
        (Rule(WEB, Reach.BY_SOURCE), (Condition(("10.244.0.0/16",), itself=True),)),
        (Rule(WEB._replace(local=WEB.targets), Reach.BY_SOURCE), ()),
        (Rule(WEB, Reach.LOCAL), ()),
    ],
)
def test_who_comes_in(rule: Rule, expected: tuple[Condition, ...]) -> None:
    assert admission(rule, ["10.244.0.0/16"]) == expected


@pytest.mark.parametrize("family", [4, 6])
def test_a_client_has_one_worker_and_each_worker_has_clients(family: int) -> None:
    clients = [f"10.1.2.{n}" if family == 4 else f"2001:db8::{n:x}" for n in range(1, 41)]
    assert {run(steering(family, 3), client) for client in clients} == {0, 1, 2}
