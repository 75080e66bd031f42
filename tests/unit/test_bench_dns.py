"""The DNS suite: what dnsperf is given and what is read from it, and its table."""

import pytest

from svcnet.bench.dns import QUERIES, Measured, number, questions, table
from svcnet.bench.name_servers import ZONES, address, entry
from svcnet.dns.name import absolute
from svcnet.dns.responder import Responder
from svcnet.dns.zone import Shape, Zone
from svcnet.endpoints import Networks
from svcnet.feed import Whole
from svcnet.model.errors import SvcnetError

QUICK = Measured(200_000, 5e-6, 20e-6, 100e-6, 1e-3, 0)
SLOW = Measured(100_000, 10e-6, 20e-6, 400e-6, 1e-3, 0.25)


@pytest.mark.parametrize("zone", ZONES.values())
def test_nine_of_ten_questions_are_for_services_that_exist(zone: str) -> None:
    whole = [line.split()[0] for line in questions(100, zone).splitlines()]
    names = [name.removesuffix(f".default.{zone}") for name in whole]
    assert len(names) == QUERIES
    assert sum(name.startswith("no") for name in names) * 10 == QUERIES
    assert {int(name.lstrip("nos")) for name in names} == set(range(1, 101))


@pytest.mark.parametrize("zone", ZONES.values())
def test_a_service_is_found_under_the_name_that_is_asked_and_moves(zone: str) -> None:
    responder = Responder(Zone(Shape()), Networks(()), recursion=False)
    query = b"\0\1\0\0\0\1\0\0\0\0\0\0" + absolute(f"s7.default.{zone}") + b"\0\1\0\1"
    for moved in (False, True):
        responder.take(Whole(1, (entry(7, moved),)))
        reply = responder.respond(query, stream=False)
        assert isinstance(reply, bytes)
        assert ".".join(map(str, reply[-4:])) == address(7, moved)
    assert address(7) != address(7, moved=True)


def test_what_dnsperf_says_is_read_and_missing_words_are_an_error() -> None:
    assert number(r"Queries per second: +([\d.]+)", "  Queries per second:   1234.5\n") == 1234.5
    with pytest.raises(SvcnetError):
        number(r"Queries per second: +([\d.]+)", "")


def test_ratios_are_to_dnsmasq_round_by_round() -> None:
    _, base, ours = table({"dnsmasq": [SLOW, SLOW], "svcnet": [QUICK, SLOW]}, {"dnsmasq": 3, "svcnet": 70})
    assert "1.00 (1.00-1.00)" in base
    assert ours.split()[:4] == ["svcnet", "150000", "1.50", "(1.00-2.00)"]
    assert "0.75 (0.50-1.00)" in ours
    assert "25.00" in base


def test_without_dnsmasq_there_is_no_ratio() -> None:
    _, ours = table({"svcnet": [QUICK]}, {"svcnet": 70})
    assert ours.split()[:3] == ["svcnet", "200000", "-"]
