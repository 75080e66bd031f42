"""Answers that are too long for a datagram: what goes out with TC."""

import dns.flags
import pytest

from svcnet.model.snapshot import Endpoint
from tests.dns.world import Asked, headless, lines


@pytest.mark.parametrize(("name", "kind", "few"), [("db.svc.", "A", 25), ("_http._tcp.db.svc.", "SRV", 6)])
def test_what_is_cut_has_other_addresses_each_time_as_some_clients_never_ask_by_tcp(
    name: str, kind: str, few: int
) -> None:
    asked = Asked(headless("db", *(Endpoint(f"10.1.1.{i}", 80) for i in range(200))))
    whole = set(lines(asked.once(name, kind, stream=True).answer))
    seen: set[str] = set()
    for payload in (None, 512, 1232):
        for _ in range(8):
            message = asked.once(name, kind, payload=payload)
            assert message.flags & dns.flags.TC
            assert not message.authority
            assert not message.additional
            told = lines(message.answer)
            assert len(told) > few
            assert set(told) <= whole
            seen |= set(told)
    assert len(seen) > 100
