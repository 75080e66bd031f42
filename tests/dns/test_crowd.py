"""Who has to go when many are connected."""

import pytest

from svcnet.dns.crowd import MOST_CONNECTIONS, SHARE_OF_ONE, Crowd

MANY_FILES = 1 << 20


@pytest.mark.parametrize(
    "addresses",
    [["10.1.1.9"], ["fd00::1", "fd00::ffff:2", "fd00::3"], ["fe80::1%eth0", "fe80::2%eth1"]],
    ids=["one address", "one /64", "one link"],
)
def test_a_client_has_its_share_and_its_oldest_goes(addresses: list[str]) -> None:
    crowd: Crowd[int] = Crowd()
    share = MOST_CONNECTIONS // SHARE_OF_ONE
    for number in range(3 * share):
        _, first = crowd.enter(addresses[number % len(addresses)], number, MANY_FILES)
        assert (first.connection if first else None) == (number - share if number >= share else None)


def test_who_waits_for_an_answer_goes_after_who_is_idle() -> None:
    crowd: Crowd[str] = Crowd()
    for name in "ab":
        guest, _ = crowd.enter("10.1.1.9", name, 32)
        guest.busy = int(name == "a")
    _, first = crowd.enter("10.1.1.9", "c", 32)
    assert first is not None
    assert first.connection == "b"


def test_when_all_is_full_the_client_with_most_makes_room_even_for_its_own() -> None:
    crowd: Crowd[str] = Crowd()
    gone = []
    for number in range(MOST_CONNECTIONS + 20):
        address = "10.1.1.9" if number % 8 == 0 else f"10.2.{number // 256}.{number % 256}"
        _, first = crowd.enter(address, address, MANY_FILES)
        gone += [first.connection] if first else []
    assert gone == ["10.1.1.9"] * 20
