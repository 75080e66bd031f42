"""Take-overs and crashes beside kernel paths, and from one mode to another: what is open goes on, all is answered."""

from pathlib import Path

import pytest

from svcnet.cli.control import Line
from svcnet.model.errors import SvcnetError
from tests.harness.files import endpoints, service
from tests.harness.minion import A6, B6, VIP, VIP6, A, B, C, Minion
from tests.harness.stage import minion
from tests.harness.until import until
from tests.proxy.processes import children, serving
from tests.proxy.test_hybrid import KEPT_PORT, asking, entrance, kept, web

__all__ = ["minion"]

pytestmark = pytest.mark.kernel

TAKEOVER = "--takeover"
KEPT = "10.0.0.9"


def records(minion: Minion) -> None:
    """Services that ask for the userspace proxy, in whatever mode."""
    minion.put(*(asking(one, proxy="userspace") for one in (web(), kept(C)[0])))
    minion.put(endpoints("web", A, B), endpoints("web", A6, B6), kept(C)[1])


def gone(pids: set[int]) -> bool:
    return until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


@pytest.mark.parametrize("mode", ["nftables", "iptables"])
def test_beside_a_kernel_path_workers_serve_on_without_their_daemon(minion: Minion, mode: str) -> None:
    records(minion)
    daemon = minion.daemon(f"--mode={mode}").ready()
    port, workers = entrance(daemon, minion), serving(daemon)
    with minion.call(KEPT, C, KEPT_PORT) as call:
        with minion.hammer(VIP), minion.hammer(VIP6):
            daemon.kill()
            assert minion.reaches(VIP, A, B)
            assert minion.reaches(VIP, A, B, protocol="udp")
            again = minion.daemon(f"--mode={mode}").ready()
            assert minion.reaches(VIP6, A6, B6)
            assert entrance(again, minion) == port
        minion.put(endpoints("web", C))
        for protocol in ("tcp", "udp"):
            assert minion.reaches(VIP, C, protocol=protocol)
        assert call.say("hello") == "hello"
    assert gone(workers)


@pytest.mark.parametrize(
    ("before", "after"),
    [("nftables", "nftables"), ("nftables", "userspace"), ("userspace", "nftables"), ("nftables", "iptables")],
)
def test_a_take_over_cuts_nothing_whatever_the_modes(minion: Minion, before: str, after: str) -> None:
    records(minion)
    old = minion.daemon(f"--mode={before}").ready()
    workers = serving(old)
    with minion.call(KEPT, C, KEPT_PORT) as call:
        assert call.say("hello") == "hello"
        with minion.hammer(VIP), minion.hammer(VIP6):
            new = minion.daemon(f"--mode={after}", TAKEOVER)
            assert old.ended() == 0, old.log
            new.ready()
            assert minion.reaches(VIP, A, B)
            assert minion.reaches(VIP6, A6, B6)
        assert call.say("still") == "still"
        minion.put(endpoints("web", C))
        for protocol in ("tcp", "udp"):
            assert minion.reaches(VIP, C, protocol=protocol)
    assert gone(workers)
    assert new.status()["mode"] == after


def test_rules_that_nobody_keeps_keep_the_workers_that_they_lead_to(minion: Minion) -> None:
    records(minion)
    daemon = minion.daemon("--mode=nftables").ready()
    workers = serving(daemon)
    daemon.kill()
    without = minion.daemon("--mode=none").ready()
    assert without.stop() == 0
    assert minion.reaches(VIP, A, B)
    minion.daemon("--mode=nftables").ready()
    minion.put(endpoints("web", C))
    assert minion.reaches(VIP, C)
    assert gone(workers)


def test_services_of_the_kernel_alone_are_taken_over_without_a_worker(minion: Minion) -> None:
    minion.put(service("web", VIP), endpoints("web", A, B))
    old = minion.daemon("--mode=nftables").ready()
    with minion.hammer(VIP):
        new = minion.daemon("--mode=nftables", TAKEOVER)
        assert old.ended() == 0, old.log
        new.ready()
    minion.put(endpoints("web", C))
    assert minion.reaches(VIP, C)
    assert not children(new)


def test_a_version_that_the_old_one_does_not_know_is_refused(minion: Minion) -> None:
    minion.put(service("web", VIP), endpoints("web", A))
    old = minion.daemon("--mode=nftables").ready()
    with Line(minion.state) as line, pytest.raises(SvcnetError, match="--takeover: version 99: this version takes 1"):
        line.ask("takeover", version=99)
    minion.put(endpoints("web", C))
    assert minion.reaches(VIP, C)
    assert old.runs
