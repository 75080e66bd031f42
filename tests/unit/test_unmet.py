"""Annotations that have no effect where their service is served, as `/status` names them."""

import pytest

from svcnet.cli.unmet import Unmet, in_kernel, in_userspace
from svcnet.iptables.desired import Treatment
from svcnet.iptables.ruleset import Class
from svcnet.model.frontend import Frontend
from svcnet.model.snapshot import LeftOut, PortKey
from svcnet.model.terms import Terms
from svcnet.plan import diff

FRONT, OTHER = Frontend(4, "10.0.0.5", "udp", 53), Frontend(4, "192.0.2.1", "udp", 53)


def asking(protocol: str = "UDP", **terms: object) -> Treatment:
    return Treatment(Class.CLUSTER, PortKey("default", "web", protocol, 53, 4), terms=Terms(**terms))  # type: ignore[arg-type]  # of any term


@pytest.mark.parametrize(
    ("treatment", "userspace", "kernel"),
    [
        (asking(), "", ""),
        (asking("TCP", send_proxy="v2", userspace=True), "", ""),
        (asking("TCP", send_proxy="v2"), "", "svcnet.dev/send-proxy: no effect in this mode"),
        (asking(send_proxy="v1", userspace=True), *["svcnet.dev/send-proxy: no effect on UDP port 53"] * 2),
        (
            asking(accept_proxy=("192.0.2.0/24",)),
            "svcnet.dev/accept-proxy: no effect on UDP",
            "svcnet.dev/accept-proxy",
        ),
        (asking(idle_seconds=3.0), "", "svcnet.dev/idle-timeout: no effect in this mode"),
        (asking("SCTP", userspace=True), "", "the userspace proxy has no SCTP"),
    ],
)
def test_what_has_no_effect_where_it_is_served(treatment: Treatment, userspace: str, kernel: str) -> None:
    for found, expected in ((in_userspace(treatment), userspace), (in_kernel(treatment), kernel)):
        assert bool(found) == bool(expected)
        assert found.startswith(expected)


def test_a_service_is_named_once_as_long_as_one_of_its_addresses_asks_in_vain() -> None:
    unmet = Unmet(in_userspace)
    both = dict.fromkeys((FRONT, OTHER), asking(send_proxy="v2"))
    why = "svcnet.dev/send-proxy: no effect on UDP port 53: datagrams have no PROXY header"
    unmet.renew(both)
    assert unmet.left_out() == (LeftOut("default/web", why),)
    one = {FRONT: both[FRONT]}
    unmet.follow(diff(both, one))
    assert unmet.left_out() == (LeftOut("default/web", why),)
    unmet.follow(diff(one, {FRONT: asking()}))
    assert unmet.left_out() == ()
    unmet.follow(diff({}, one))
    unmet.renew({})
    assert unmet.left_out() == ()
