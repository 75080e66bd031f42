"""Bursts, kills, switches and ends with services of every kind: no connect fails, nothing of ours stays."""

import json
import random
import time
from contextlib import ExitStack

import pytest

from tests.harness.daemon import Daemon
from tests.harness.files import endpoints, service
from tests.harness.minion import VIP, VIP6, A, B, C, Minion
from tests.harness.until import until
from tests.kernel.every_kind import ALLOWED, CLUSTER, EXTERNAL, EXTERNAL6, everything, furnish, records, use

pytestmark = [pytest.mark.kernel, pytest.mark.needs("iptables"), pytest.mark.needs("ipset")]

PATHS = [("nftables", "nft"), ("iptables", "legacy"), ("iptables", "nft")]
DONE = "0 to create, 0 to update, 0 to delete"
SERVICES, KILLS = 2000, 6


def start(minion: Minion, mode: str) -> Daemon:
    return minion.daemon(f"--mode={mode}", ALLOWED, CLUSTER).ready()


def plan(minion: Minion) -> str:
    done = minion.svcnet("plan", *minion.options(), ALLOWED, CLUSTER, f"--state-dir={minion.state}")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(("mode", "variant"), PATHS)
def test_cleanup_leaves_everything_as_it_was_found(minion: Minion, mode: str, variant: str) -> None:
    furnish(minion, variant)
    before = everything(minion)
    minion.put(*records())
    daemon = start(minion, mode)
    use(minion)
    assert plan(minion) == DONE
    assert everything(minion) != before
    assert daemon.stop() == 0
    cleanup = minion.daemon("--cleanup")
    assert cleanup.ended() == 0
    assert everything(minion) == before


@pytest.mark.parametrize("variant", ["legacy", "nft"])
def test_switches_of_mode_fail_no_connect_and_leave_nothing_of_the_old(minion: Minion, variant: str) -> None:
    furnish(minion, variant)
    before = everything(minion)
    minion.put(*records())
    start(minion, "nftables").stop()
    use(minion)
    alone = everything(minion)
    with ExitStack() as clients:
        hammers = [clients.enter_context(minion.hammer(at)) for at in (VIP, VIP6, EXTERNAL, EXTERNAL6)]
        for mode in ("iptables", "nftables"):
            daemon = start(minion, mode)
            asked = [hammer.answers for hammer in hammers]
            until(lambda asked=asked: all(h.answers > n + 30 for h, n in zip(hammers, asked, strict=True)))  # type: ignore[misc] # mypy can't infer defaults
            assert plan(minion) == DONE
            daemon.stop()
    # Of the rules of our own the counters and the notes of clients differ.
    until(
        lambda: (
            {c: t for c, t in everything(minion).items() if not c.startswith("nft ")}
            == {c: t for c, t in alone.items() if not c.startswith("nft ")}
        )
    )
    assert minion.daemon("--cleanup").ended() == 0
    assert everything(minion) == before


@pytest.mark.parametrize("mode", ["nftables", "iptables"])
def test_500_slice_updates_in_a_burst_end_in_the_last_state_with_few_commits(minion: Minion, mode: str) -> None:
    names = [f"s{n}" for n in range(50)]
    minion.put(*(service(name, f"10.0.1.{n}", protocols=("TCP",)) for n, name in enumerate(names, 1)))
    daemon = start(minion, mode).caught_up()
    minion.put(endpoints("s0", A, protocols=("TCP",)))
    assert minion.reaches("10.0.1.1", A)
    before, begin = syncs(daemon), time.monotonic()
    for step in range(10):
        minion.put(*(endpoints(name, (A, B, C)[step % 3], protocols=("TCP",)) for name in names))
    for n in (1, 25, 50):
        assert minion.reaches(f"10.0.1.{n}", A)
    assert plan(minion) == DONE
    # At most one for each 100 ms once it goes on, and some at its begin, however long the files took to be written; a
    # machine that was so slow that the daemon had quiet times between them has seen no burst.
    assert syncs(daemon) - before < max(125, 10 * (time.monotonic() - begin))


def syncs(daemon: Daemon) -> int:
    lines = daemon.get("/metrics")[1].splitlines()
    name = "svcnet_sync_proxy_rules_duration_seconds_count "
    return int(float(next(line.removeprefix(name) for line in lines if line.startswith(name))))


@pytest.mark.parametrize("mode", ["nftables", "iptables"])
def test_no_connect_fails_while_loads_of_2000_services_are_killed(minion: Minion, mode: str) -> None:
    chance = random.Random(20140606)
    minion.put(*records())
    start(minion, mode).stop()
    with ExitStack() as clients:
        hammers = [clients.enter_context(minion.hammer(at)) for at in (VIP, VIP6, EXTERNAL)]
        for step in range(KILLS):
            load(minion, (A, B, C)[step % 3])
            daemon = minion.daemon(f"--mode={mode}", ALLOWED, CLUSTER)
            daemon.until(lambda daemon=daemon: "starting node=" in daemon.log)  # type: ignore[misc] # mypy can't infer defaults
            enough = hammers[0].answers + chance.randrange(400)
            until(lambda enough=enough: hammers[0].answers >= enough)  # type: ignore[misc] # as above
            daemon.kill()
        start(minion, mode).caught_up()
        assert plan(minion) == DONE
        assert minion.ask("10.0.8.1") == C


def load(minion: Minion, address: str) -> None:
    """2,000 services in one file, put in place by rename."""
    numbers = range(SERVICES)
    items = [service(f"n{n}", f"10.0.{8 + n // 250}.{n % 250 + 1}", protocols=["TCP"]) for n in numbers]
    items += [endpoints(f"n{n}", address, protocols=["TCP"]) for n in numbers]
    fresh = minion.records / ".fresh"
    fresh.write_text(json.dumps({"kind": "List", "apiVersion": "v1", "items": items}))
    fresh.rename(minion.records / "many.json")
