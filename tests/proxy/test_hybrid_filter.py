"""A firewall of the host that stops what rules lead to the proxy, and the command that doctor has against it."""

import pytest

from tests.harness.files import endpoints
from tests.harness.minion import VIP, A, B, Minion
from tests.harness.stage import minion
from tests.proxy.test_hybrid import asking, entrance, web

__all__ = ["minion"]

pytestmark = pytest.mark.kernel

FIREWALL = (
    "add table inet fw",
    "add chain inet fw input { type filter hook input priority 0; policy drop; }",
    "add rule inet fw input ct state established accept",
    "add rule inet fw input tcp dport 10256 accept",
    "add rule inet fw input tcp dport 8080 accept",
)


def test_doctor_names_the_command_that_lets_clients_through(minion: Minion) -> None:
    minion.put(asking(web(), proxy="userspace"), endpoints("web", A, B))
    entrance(minion.daemon("--mode=nftables").ready(), minion)
    for line in FIREWALL:
        assert minion.run("nft", line).returncode == 0
    assert minion.ask(VIP) == "silence"
    said = minion.svcnet("doctor", *minion.options(), "--mode=nftables").stdout
    (mend, *_) = [line.strip() for line in said.splitlines() if "nft add rule inet fw input ct original ip " in line]
    assert minion.run(*mend[mend.index("nft ") :].split()).returncode == 0
    assert minion.reaches(VIP, A, B)
