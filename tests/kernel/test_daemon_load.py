"""Many services at once: health answers while they are programmed, and what was served before goes on."""

import json

import pytest

from svcnet.status.gather import UNHEALTHY_SECONDS
from tests.harness.files import endpoints, service
from tests.harness.minion import A6, VIP, VIP6, A, B, C, Minion

pytestmark = pytest.mark.kernel

SERVICES = 5000
WEB = service("web", VIP, VIP6, ipFamilyPolicy="RequireDualStack")


def virtual_ip(n: int) -> str:
    return f"10.0.{8 + n // 250}.{n % 250 + 1}"


def write_all(minion: Minion, *ends: str) -> None:
    """One file with all records, replaced by rename."""
    numbers = range(SERVICES)
    items = [service(f"s{n}", virtual_ip(n), protocols=["TCP"]) for n in numbers]
    items += [endpoints(f"s{n}", *ends, protocols=["TCP"]) for n in numbers]
    fresh = minion.records / ".fresh"
    fresh.write_text(json.dumps({"kind": "List", "apiVersion": "v1", "items": items}))
    fresh.rename(minion.records / "many.json")


def test_health_answers_and_others_are_served_while_5000_services_load_change_and_go(minion: Minion) -> None:
    minion.put(WEB, endpoints("web", C), endpoints("web", A6))
    daemon = minion.daemon().ready()
    ends = [(A,), (B,), (A, B), (B, C)]
    with minion.hammer(VIP), minion.hammer(VIP6):
        behind = 0
        for step in range(20):
            write_all(minion, *ends[step % len(ends)])
            wanted = SERVICES * len(ends[step % len(ends)]) + 4
            while (report := daemon.status())["endpoints"] != wanted:
                code, body = daemon.get("/healthz")
                # After a minute it says that the kernel is late, as it should.
                assert (code, body) == (200, "ok\n") or daemon.status()["oldest_unapplied_seconds"] > UNHEALTHY_SECONDS
                behind += report["revision_applied"] < report["revision_seen"]
            daemon.caught_up()
            if behind and step >= len(ends) - 1:
                break
        # At least once it answered while there was something to do.
        assert behind
        for n in (0, SERVICES // 2, SERVICES - 1):
            assert minion.reaches(virtual_ip(n), *ends[step % len(ends)])
        assert minion.plan() == "0 to create, 0 to update, 0 to delete"

        # All of them at once by a start: what was served meanwhile is served still.
        daemon.kill()
        (minion.records / "many.json").rename(minion.root / "many.json")
        second = minion.daemon().ready()
        assert second.until(lambda: second.status()["store"]["held"])["missing"] == SERVICES
        assert minion.ask(virtual_ip(SERVICES - 1)) != "silence"
        assert minion.svcnet("release", f"--state-dir={minion.state}").returncode == 0
        assert minion.reaches(virtual_ip(SERVICES - 1), "silence")
    assert len(minion.elements("endpoints")) == 2
    assert second.status()["services"] == 1
