"""What minions say of their endpoints' health, by a real etcd."""

import asyncio

import pytest

from svcnet.model.event import Verdict
from svcnet.model.meta import Key
from tests.store.conftest import Etcd
from tests.store.follower import Follower, run

pytestmark = pytest.mark.needs("etcd")

WEB = Key("Service", "default", "web")
KEY = "health/m1/default/web/10.1.0.5/8080"
LEASE_SECONDS = 2
"""The least that etcd grants."""


def verdicts(reader: Follower) -> list[tuple[str, str, str]]:
    return [(e.address, e.why, e.node) for e in reader.seen if isinstance(e, Verdict)]


def test_keys_are_those_of_the_contract(etcd: Etcd) -> None:
    speaker = etcd.open().speaker("m1")
    speaker.say({})
    assert etcd.values() == {}
    speaker.say({(WEB, "10.1.0.5", 8080): "HTTP 503"})
    assert etcd.values() == {KEY: b'"HTTP 503"'}
    speaker.say({(WEB, "fd00::5", 8080): "no answer in time"})
    assert etcd.values() == {"health/m1/default/web/fd00::5/8080": b'"no answer in time"'}
    speaker.say({})
    assert etcd.values() == {}
    speaker.close()


def test_others_hear_what_a_minion_says_and_takes_back(etcd: Etcd) -> None:
    async def scenario() -> None:
        store = etcd.open()
        speaker = store.speaker("m1")
        await asyncio.to_thread(speaker.say, {(WEB, "10.1.0.5", 8080): "HTTP 503"})
        async with Follower(store) as early, Follower(etcd.open()) as late:
            for reader in (early, late):
                await reader.until(lambda r: verdicts(r) == [("10.1.0.5", "HTTP 503", "m1")])
            await asyncio.to_thread(speaker.say, {})
            await early.until(lambda r: verdicts(r)[1:] == [("10.1.0.5", "", "m1")])
        speaker.close()

    run(scenario)


def test_a_minion_that_falls_silent_is_forgotten_and_speaks_again(etcd: Etcd) -> None:
    async def scenario() -> None:
        speaker = etcd.open().speaker("m1", LEASE_SECONDS)
        failing = {(WEB, "10.1.0.5", 8080): "HTTP 503"}
        async with Follower(etcd.open()) as reader:  # before it speaks: it may be forgotten soon
            await reader.synced()
            await asyncio.to_thread(speaker.say, failing)
            await reader.until(lambda r: verdicts(r)[-1:] == [("10.1.0.5", "", "m1")])
            await asyncio.to_thread(speaker.say, failing)
            again = ("10.1.0.5", "HTTP 503", "m1")
            await reader.until(lambda r: verdicts(r).count(again) > 1)
        speaker.close()

    run(scenario)


def test_what_went_while_etcd_was_away_is_heard_of_afterwards(etcd: Etcd) -> None:
    async def scenario() -> None:
        etcd.write(f"{etcd.space.prefix}/{KEY}".encode(), b'"HTTP 503"')
        async with Follower(etcd.open()) as reader:
            await reader.until(lambda r: verdicts(r) == [("10.1.0.5", "HTTP 503", "m1")])
            etcd.lose()
            await reader.until(lambda r: r.away)
            etcd.recover()
            etcd.write(f"{etcd.space.prefix}/{KEY}".encode(), None)
            await reader.until(lambda r: verdicts(r)[1:] == [("10.1.0.5", "", "m1")])

    run(scenario)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("health/m1/default/web/10.1.0.5/8080", b"{", [("10.1.0.5", "it does not say why", "m1")]),
        ("health/m1/default/web/10.1.0.5", b'"x"', []),
        ("health/m1/default/web/10.1.0.5/http", b'"x"', []),
    ],
)
def test_what_others_write_there_harms_nothing(
    etcd: Etcd, name: str, value: bytes, expected: list[tuple[str, str, str]]
) -> None:
    async def scenario() -> None:
        etcd.write(f"{etcd.space.prefix}/{name}".encode(), value)
        async with Follower(etcd.open()) as reader:
            await reader.synced()
            assert verdicts(reader) == expected

    run(scenario)
