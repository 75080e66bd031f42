"""From a file in a directory to an answer through a virtual IP, by the real daemon in a real kernel."""

import pytest

from tests.harness.files import endpoints, service
from tests.harness.minion import A6, B6, VIP, VIP6, A, B, C, Minion

pytestmark = pytest.mark.kernel

WEB = service("web", VIP, VIP6, ipFamilyPolicy="RequireDualStack")


def test_a_record_becomes_an_answer_over_tcp_and_udp_in_both_families(minion: Minion) -> None:
    minion.put(WEB, endpoints("web", A), endpoints("web", A6))
    daemon = minion.daemon().ready()
    for protocol in ("tcp", "udp"):
        assert minion.ask(VIP, protocol) == A
        assert minion.ask(VIP6, protocol) == A6
    assert minion.ask(VIP, port=81) == "refused"
    assert minion.ask("10.0.0.200") == "silence"

    # A changed file moves the next connection; more endpoints are all used; fewer too.
    minion.put(endpoints("web", B), endpoints("web", B6))
    for protocol in ("tcp", "udp"):
        assert minion.reaches(VIP, B, protocol=protocol)
        assert minion.reaches(VIP6, B6, protocol=protocol)
    minion.put(endpoints("web", A, B, C))
    assert minion.reaches(VIP, A, B, C)
    minion.put(endpoints("web", A, C))
    assert minion.reaches(VIP, A, C)
    minion.put(endpoints("web"))
    assert minion.reaches(VIP, "refused")
    assert minion.reaches(VIP, "refused", protocol="udp")

    minion.remove(WEB)
    assert minion.reaches(VIP, "silence")
    assert daemon.stop() == 0
