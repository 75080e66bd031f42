"""Services that ask for the userspace proxy beside a kernel path, as clients and an operator see them."""

import json
import os
import re
import signal
import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from svcnet.cli.entrances import PORTS, Key
from svcnet.lab import namespace
from svcnet.model.snapshot import PortKey
from svcnet.probe import probe
from svcnet.proxy.row import Reach
from tests.harness import client
from tests.harness.daemon import Daemon
from tests.harness.files import TARGET_PORT, Written, endpoints, service
from tests.harness.minion import A6, B6, VIP, VIP6, A, B, C, Minion
from tests.harness.stage import minion
from tests.harness.until import PATIENCE_SECONDS, until
from tests.proxy.processes import children

__all__ = ["minion"]

pytestmark = pytest.mark.kernel
MODES = ("nftables", "iptables")
ENTRANCES = "10.0.0.0"
KEPT_PORT = 7000
"""Of a service for connections that stay open."""


def asking(record: Written, **annotations: str) -> Written:
    """A record with annotations of ours."""
    found = {f"svcnet.dev/{key.replace('_', '-')}": value for key, value in annotations.items()}
    return record | {"metadata": record["metadata"] | {"annotations": found}}


def web() -> Written:
    return service("web", VIP, VIP6, ipFamilyPolicy="PreferDualStack", ipFamilies=["IPv4", "IPv6"])


def kept(address: str) -> tuple[Written, Written]:
    """A service on the port of connections that stay open, and its endpoint."""
    ports = [{"name": "tcp", "port": KEPT_PORT, "protocol": "TCP"}]
    return service("kept", "10.0.0.9", ports=ports), endpoints("kept", address) | {"ports": ports}


def entrance(daemon: Daemon, minion: Minion, protocol: str = "tcp") -> int:
    """The port to which the kernel leads the service."""
    found: list[str] = []

    def look() -> bool:
        told = minion.svcnet("trace", *minion.options(), f"--state-dir={minion.state}", "-", f"{VIP}:80/{protocol}")
        found[:] = re.findall(rf"through the userspace proxy at {ENTRANCES}:(\d+)", told.stdout)
        return bool(found)

    daemon.until(look)
    return int(found[0])


def switch(minion: Minion, daemon: Daemon, *records: Written) -> None:
    minion.put(*records)
    daemon.caught_up()


@pytest.mark.parametrize("mode", MODES)
def test_a_change_of_the_annotation_fails_no_connection(minion: Minion, mode: str) -> None:
    minion.put(web(), endpoints("web", A, B), endpoints("web", A6, B6), *kept(C))
    daemon = minion.daemon(f"--mode={mode}").ready()
    pod = minion.pod()
    plain, through = (web(), kept(C)[0]), [asking(r, proxy="userspace") for r in (web(), kept(C)[0])]
    with (
        minion.hammer(VIP),
        minion.hammer(VIP6),
        minion.hammer(VIP, pod),
        minion.hammer(VIP6, pod),
        minion.call("10.0.0.9", C, KEPT_PORT, pod) as before,
        minion.conversation(VIP) as old,
    ):
        first = old.say()
        switch(minion, daemon, *through)
        assert entrance(daemon, minion) in PORTS
        assert before.say("still") == "still"
        assert old.say() == first
        with minion.conversation(VIP) as new, minion.conversation(VIP6) as six:
            second, third = new.say(), six.say()
            assert second in {A, B}
            assert third in {A6, B6}
            for protocol in ("tcp", "udp"):
                assert minion.reaches(VIP, A, B, protocol=protocol)
                assert minion.reaches(VIP6, A6, B6, protocol=protocol)
            switch(minion, daemon, *plain)
            assert [old.say(), new.say(), six.say()] == [first, second, third]
            assert before.say("open") == "open"
        switch(minion, daemon, *through)
        switch(minion, daemon, *plain)
        assert minion.reaches(VIP, A, B)


@pytest.mark.parametrize("mode", MODES)
def test_when_the_daemon_ends_the_kernel_translates_and_open_connections_go_on(minion: Minion, mode: str) -> None:
    minion.put(*(asking(r, proxy="userspace") for r in (web(), kept(C)[0])))
    minion.put(endpoints("web", A, B), endpoints("web", A6, B6), kept(C)[1])
    daemon = minion.daemon(f"--mode={mode}").ready()
    pod = minion.pod()
    assert entrance(daemon, minion)
    worker = daemon.until(lambda: children(daemon)).pop()
    with (
        minion.hammer(VIP),
        minion.hammer(VIP6, pod),
        minion.call("10.0.0.9", C, KEPT_PORT) as mine,
        minion.conversation(VIP) as udp,
    ):
        assert udp.say() in {A, B}
        os.kill(worker, signal.SIGTERM)  # as service managers do: every process of the service gets it
        assert daemon.stop() == 0
        for address, found in ((VIP, (A, B)), (VIP6, (A6, B6))):
            for protocol in ("tcp", "udp"):
                assert minion.reaches(address, *found, protocol=protocol)
        assert udp.say() in {A, B}
        assert mine.say("hello") == "hello"
    until(lambda: not Path(f"/proc/{worker}").exists())
    again = minion.daemon(f"--mode={mode}").ready()
    assert minion.reaches(VIP, A, B)
    again.caught_up()
    assert entrance(again, minion)


@pytest.mark.parametrize("mode", MODES)
def test_nobody_gets_to_the_proxy_but_by_the_service(minion: Minion, mode: str) -> None:
    minion.put(asking(web(), proxy="userspace"), endpoints("web", A, B), endpoints("web", A6, B6))
    daemon = minion.daemon(f"--mode={mode}").ready()
    pod = minion.pod()
    for protocol in ("tcp", "udp"):
        port = entrance(daemon, minion, protocol)
        assert minion.ask(VIP, protocol) in {A, B}
        asking_it = partial(client.ask, ENTRANCES, protocol, port, client.BRIEF_SECONDS)
        assert minion.inside(asking_it) == client.SILENCE
        assert namespace.inside(pod, asking_it) == client.SILENCE


@pytest.mark.parametrize("mode", MODES)
def test_after_a_kill_the_next_start_finds_its_rules_right(minion: Minion, mode: str) -> None:
    minion.put(asking(web(), balance="leastconn"), endpoints("web", A, B), endpoints("web", A6, B6))
    daemon = minion.daemon(f"--mode={mode}").ready()
    port = entrance(daemon, minion)
    plan = minion.svcnet("plan", *minion.options(), f"--mode={mode}")
    assert plan.stdout == "0 to create, 0 to update, 0 to delete\n", plan.stderr
    daemon.kill()
    again = minion.daemon(f"--mode={mode}").ready()
    assert entrance(again, minion) == port
    assert minion.reaches(VIP, A, B)
    assert minion.reaches(VIP6, A6, B6)


def test_each_connection_is_counted_once(minion: Minion) -> None:
    minion.put(asking(service("web", VIP), proxy="userspace"), endpoints("web", A))
    minion.put(service("plain", "10.0.0.7"), endpoints("plain", B))
    daemon = minion.daemon("--mode=nftables").ready()
    for _ in range(3):
        assert minion.ask(VIP) == A
        assert minion.ask("10.0.0.7") == B

    def counted(name: str, number: int) -> bool:
        labels = f'namespace="default",port="80",protocol="tcp",service="{name}"'
        return f"svcnet_service_connections_total{{{labels}}} {number}.0" in daemon.get("/metrics")[1]

    daemon.until(lambda: counted("web", 3) and counted("plain", 3))
    assert "svcnet_proxy_listeners 2.0" in daemon.get("/metrics")[1], "of TCP and UDP"
    minion.put(service("web", VIP))
    daemon.caught_up()
    assert minion.ask(VIP) == A
    daemon.until(lambda: counted("web", 4))


def test_what_cannot_be_is_told_and_the_kernel_translates(minion: Minion) -> None:
    minion.put(asking(service("web", VIP, protocols=["TCP"]), proxy="userspace"), endpoints("web", A))
    lame = asking(service("lame", "10.0.0.7"), send_proxy="v2")
    both = asking(service("both", "10.0.0.8"), send_proxy="v2", accept_proxy="192.0.2.0/24", proxy="userspace")
    minion.put(lame, endpoints("lame", B), both)
    key = Key(PortKey("default", "web", "TCP", 80, 4), Reach.ALL)
    first = PORTS[next(iter(probe(f"{key.owner} {key.reach.value}", len(PORTS), 0)))]
    taken = minion.inside(lambda: socket.create_server(("0.0.0.0", first)))
    with taken:
        daemon = minion.daemon("--mode=nftables").ready()
        assert entrance(daemon, minion) != first
        assert minion.ask(VIP) == A
        assert minion.ask("10.0.0.7") == B
        assert "not served" not in daemon.log, "it is, at another port"
    named = {
        "default/lame": "svcnet.dev/send-proxy: no effect in this mode, expected svcnet.dev/proxy: userspace beside it",
        "default/both": "svcnet.dev/send-proxy, svcnet.dev/accept-proxy: no effect on UDP port 80: "
        "datagrams have no PROXY header",
    }
    assert {item["what"]: item["reason"] for item in daemon.status()["left_out"]} == named
    minion.remove(lame)
    switch(minion, daemon, asking(both, proxy="userspace"))
    assert not daemon.status()["left_out"], "they left with what asked for them"


def test_policies_lead_by_the_client_and_ranges_stay_in_the_kernel(minion: Minion) -> None:
    spec: dict[str, Any] = {
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",
        "loadBalancerSourceRanges": ["192.0.2.128/30"],
        "healthCheckNodePort": 30999,
        "ports": [{"name": "tcp", "port": 80, "targetPort": TARGET_PORT, "protocol": "TCP", "nodePort": 30080}],
    }
    record = asking(service("web", VIP, **spec), proxy="userspace")
    record["status"] = {"loadBalancer": {"ingress": [{"ip": "198.51.100.80"}]}}
    here = endpoints("web", A, B, protocols=["TCP"])
    for number, one in enumerate(here["endpoints"]):
        one["nodeName"] = ("m1", "m2")[number]
    minion.put(record, here)
    daemon = minion.daemon("--mode=nftables", "--external-ips=198.51.100.0/24").ready()
    pod = minion.pod()
    for address, port in (("198.51.100.80", 80), ("192.0.2.1", 30080)):
        asking_it = partial(client.ask, address, "tcp", port, PATIENCE_SECONDS)
        assert {namespace.inside(pod, asking_it) for _ in range(8)} == {A}, (address, daemon.log)
    asking_it = partial(client.ask, "192.0.2.1", "tcp", 30080, PATIENCE_SECONDS)
    assert {minion.inside(asking_it) for _ in range(8)} == {A, B}
    assert minion.reaches(VIP, A, B)
    report = json.loads(
        minion.svcnet(
            "trace", *minion.options(), f"--state-dir={minion.state}", "-o", "json", "192.0.2.130", "198.51.100.80:80"
        ).stdout
    )
    assert report["same"], report


def test_a_reload_to_userspace_mode_and_back_fails_no_connect(minion: Minion, tmp_path: Path) -> None:
    minion.put(asking(web(), proxy="userspace"), endpoints("web", A, B), endpoints("web", A6, B6))
    file = tmp_path / "svcnet.toml"
    file.write_text('mode = "nftables"\n')
    daemon = minion.daemon(f"--config={file}").ready()
    with minion.hammer(VIP), minion.hammer(VIP6):
        for mode in ("userspace", "nftables"):
            file.write_text(f'mode = "{mode}"\n')
            daemon.signal(signal.SIGHUP)
            daemon.until(lambda m=mode: daemon.status()["mode"] == m)  # type: ignore[misc]  # bound
            daemon.caught_up()
        daemon.until(lambda: "removed what=local routes of userspace mode" in daemon.log)
        assert minion.reaches(VIP, A, B)
        assert minion.reaches(VIP6, A6, B6)
    assert entrance(daemon, minion)


def test_beyond_the_limit_of_the_proxy_the_kernel_translates(minion: Minion) -> None:
    numbers = range(80, 165)
    ports = [{"name": f"p{n}", "port": n, "targetPort": TARGET_PORT, "protocol": "TCP"} for n in numbers]
    slices = endpoints("many", A) | {"ports": [{**one, "port": TARGET_PORT} for one in ports]}
    minion.put(asking(service("many", "10.0.0.7", ports=ports), proxy="userspace"), slices)
    daemon = minion.daemon("--mode=nftables", wrap=("prlimit", "--nofile=200:200")).ready()
    left_out = daemon.status()["left_out"]
    assert 0 < len(left_out) < len(ports)
    assert "translated by the kernel, and not through the userspace proxy: the limit" in left_out[0]["reason"]
    assert {minion.ask("10.0.0.7", port=n) for n in numbers} == {A}
