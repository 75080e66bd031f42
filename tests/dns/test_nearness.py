"""Of a headless service's endpoints the nearest come first: this minion's, those of its zone, the others."""

import dns.message
import pytest

from svcnet.feed import Entry, Whole
from svcnet.model.snapshot import Endpoint
from tests.dns.world import SHAPE, Asked, headless, lines

HERE = SHAPE._replace(node="m1")
FAR = [Endpoint(f"10.1.3.{i}", 80, "m3", "west") for i in range(1, 5)]
NEAR = [Endpoint(f"10.1.2.{i}", 80, "m2", "east") for i in range(1, 3)]
OWN = [Endpoint(f"10.1.1.{i}", 80, "m1", "east") for i in range(9, 12)]


def asked(entry: Entry, zone: str) -> Asked:
    found = Asked(shape=HERE)
    found.responder.take(Whole(1, (entry,), zone=zone))
    return found


def order(message: dns.message.Message) -> list[str]:
    """The networks of the addresses, in the order of the answer."""
    return [line.split()[-1].split(".")[2] for line in lines(message.answer)]


def test_own_endpoints_come_first_then_those_of_the_zone_and_each_group_in_turn() -> None:
    found = asked(headless("db", *FAR, *NEAR, *OWN), "east")
    replies = [found.once("db.svc.") for _ in range(16)]
    assert {tuple(order(reply)) for reply in replies} == {(*"111", *"22", *"3333")}
    firsts = {lines(reply.answer)[0].split()[-1] for reply in replies}
    assert firsts == {e.address for e in OWN}
    last = {lines(reply.answer)[-1].split()[-1] for reply in replies}
    assert last == {e.address for e in FAR}


def test_srv_has_the_same_order() -> None:
    found = asked(headless("db", *FAR, *NEAR, *OWN), "east")
    for _ in range(5):
        targets = [line.split()[-1] for line in lines(found.once("_http._tcp.db.svc.", "SRV", stream=True).answer)]
        assert [target.split("-")[2] for target in targets] == [*"111", *"22", *"3333"]


@pytest.mark.parametrize(("zone", "expected"), [("", "111"), ("west", "111333")])
def test_without_a_zone_only_the_minion_is_near_and_another_zone_changes_the_order(zone: str, expected: str) -> None:
    found = asked(headless("db", *FAR, *NEAR, *OWN), "east")
    found.once("db.svc.")
    found.responder.take(Whole(2, (headless("db", *FAR, *NEAR, *OWN),), zone=zone))
    for _ in range(9):
        given = order(found.once("db.svc."))
        assert "".join(given).startswith(expected)
        assert sorted(given) == [*"111", *"22", *"3333"]


def test_an_address_that_two_ports_have_is_told_once() -> None:
    entry = headless("db", *OWN)
    other = entry.ports[0].key._replace(port=81)
    twice = Endpoint(OWN[0].address, 81, "", "")
    ports = (*entry.ports, type(entry.ports[0])(other, "more", "", (twice,)))
    found = asked(Entry("default", "db", entry.service, ports), "east")
    assert len(lines(found.ask("db.svc.").answer)) == len(OWN)
