"""What DNS workers are told of servers upstream and of names that may lead to private addresses."""

import pytest

from svcnet.cli.name_service import trusted, upstreams
from svcnet.option_kind import Listen, Upstream

RESOLV_CONF = "search corp.example bad..name\nnameserver 127.0.0.53\nnameserver 192.0.2.1\n"


def test_the_machines_servers_are_asked_but_never_this_one_itself() -> None:
    own = (Listen("0.0.0.0", 53),)
    assert upstreams(None, own, lambda: RESOLV_CONF) == (Upstream("192.0.2.1", 53),)
    given = (Upstream("127.0.0.1", 53), Upstream("127.0.0.1", 853, tls=True), Upstream("9.9.9.9", 53))
    assert upstreams(given, own, lambda: RESOLV_CONF) == given[1:]


def test_a_wildcard_of_one_family_is_not_what_loopback_of_the_other_leads_to() -> None:
    four, six = Upstream("127.0.0.53", 53), Upstream("::1", 53)
    assert upstreams((four, six), (Listen("::", 53),), str) == (four,)
    assert upstreams((four, six), (Listen("0.0.0.0", 53),), str) == (six,)


@pytest.mark.parametrize(
    ("given", "names"), [(None, ("corp.example",)), ((), ()), (("",), ("",)), (("lan",), ("lan",))]
)
def test_the_machines_search_domains_may_lead_to_private_addresses(
    given: tuple[str, ...] | None, names: tuple[str, ...]
) -> None:
    assert trusted(given, lambda: RESOLV_CONF) == names
