"""Services that ask for the userspace proxy beside a kernel path, as clients and an operator see them."""

import pytest

from tests.harness.files import Written, endpoints, service
from tests.harness.minion import A6, B6, VIP, VIP6, A, B, Minion
from tests.harness.stage import minion

__all__ = ["minion"]

pytestmark = pytest.mark.kernel
MODES = ("nftables", "iptables")


def proxied(record: Written, **annotations: str) -> Written:
    found = {f"svcnet.dev/{key.replace('_', '-')}": value for key, value in annotations.items()}
    return record | {"metadata": record["metadata"] | {"annotations": found}}


def web() -> Written:
    return service("web", VIP, VIP6, ipFamilyPolicy="PreferDualStack", ipFamilies=["IPv4", "IPv6"])


@pytest.mark.parametrize("mode", MODES)
def test_it_is_served_and_clients_never_notice_a_change(minion: Minion, mode: str) -> None:
    minion.put(web(), endpoints("web", A, B), endpoints("web", A6, B6))
    daemon = minion.daemon(f"--mode={mode}").ready()
    pod = minion.pod()
    with minion.hammer(VIP), minion.hammer(VIP6), minion.hammer(VIP, pod), minion.hammer(VIP6, pod):
        for _ in range(3):
            minion.put(proxied(web(), proxy="userspace"))
            daemon.until(lambda: "proxy worker 0" in daemon.status()["parts"])
            daemon.caught_up()
            for protocol in ("tcp", "udp"):
                assert minion.reaches(VIP, A, B, protocol=protocol)
                assert minion.reaches(VIP6, A6, B6, protocol=protocol)
            minion.put(web())
            daemon.caught_up()
            assert minion.reaches(VIP, A, B)
    assert daemon.stop() == 0
    assert minion.reaches(VIP, A, B)
    assert minion.reaches(VIP6, A6, B6)
