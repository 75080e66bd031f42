"""NSD and Knot as secondaries of a daemon: they transfer its zones, hear of changes, and answer as it does."""

import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import dns.exception
import dns.message
import dns.rcode
import dns.rdatatype
import pytest

import dns.name
import dns.query
import dns.zone
from tests.dns.servers import knot, nsd
from tests.harness.daemon import Daemon
from tests.harness.files import endpoints, service
from tests.harness.minion import VIP, VIP6, A, B, Minion
from tests.harness.until import PATIENCE_SECONDS

pytestmark = pytest.mark.kernel

PRIMARY, SECONDARY = "192.0.2.1", B
ZONES = ("svc.", "cluster.local.", "0.10.in-addr.arpa.")
OPTIONS = (
    f"--dns-listen={PRIMARY}:53",
    "--mode=none",
    "--dns-upstream=off",
    "--dns-transfer-to=192.0.2.0/24",
    f"--dns-notify={SECONDARY}",
)
SECONDS, TRIES = 5.0, 6
TYPES = ("A", "AAAA", "SRV", "PTR", "TXT", "CNAME", "NS", "SOA", "MX", "TYPE65280")

Start = Callable[[Minion, str, str, tuple[str, ...]], AbstractContextManager[Path]]


def asked(minion: Minion, server: str, name: str, kind: str) -> tuple[str, list[str], list[str]]:
    """Code, answer and SOA of the authority section; ("", [], []) when nobody answers. As clients do, it asks again."""

    def query() -> tuple[str, list[str], list[str]]:
        message = dns.message.make_query(name, kind, flags=0)
        for tries_left in reversed(range(TRIES)):
            try:
                reply, _ = dns.query.udp_with_fallback(message, server, SECONDS)
                break
            except dns.exception.Timeout:
                if not tries_left:
                    return "", [], []
            except OSError:
                return "", [], []
        answer = sorted(line for rrset in reply.answer for line in str(rrset).split("\n"))
        soa = [str(rrset) for rrset in reply.authority if rrset.rdtype == dns.rdatatype.SOA]
        return dns.rcode.to_text(reply.rcode()), answer, soa

    return minion.inside(query)


def serial(minion: Minion, server: str, zone: str) -> int:
    """Of the SOA; 0 for none."""
    _, answer, _ = asked(minion, server, zone, "SOA")
    return int(answer[0].split()[6]) if answer else 0


def same_serial(minion: Minion, zone: str) -> bool:
    """Whether the secondary has ours."""
    return serial(minion, SECONDARY, zone) == serial(minion, PRIMARY, zone) > 0


def answer(minion: Minion, name: str) -> list[str]:
    """The addresses that the secondary gives."""
    return asked(minion, SECONDARY, name, "A")[1]


def transferred(zone: str) -> dns.zone.Zone:
    """All of a zone, by AXFR from us."""
    return dns.zone.from_xfr(dns.query.xfr(PRIMARY, zone, lifetime=PATIENCE_SECONDS))


def names(minion: Minion) -> Iterator[str]:
    """Every name of our zones, some that exist by what is below them alone, and some that do not exist."""
    for zone in ZONES:
        found = minion.inside(partial(transferred, zone))
        for name in found:
            whole = name.derelativize(dns.name.from_text(zone))
            yield str(whole)
            yield f"nothing.{whole}"
        yield from (f"default.{zone}", f"_tcp.web.{zone}", f"_tcp.web.default.{zone}", f"0.{zone}")


def alike(minion: Minion, daemon: Daemon, log: Path) -> None:
    """Wait until the secondary has our serial, and compare everything."""
    for zone in ZONES:
        daemon.until(partial(same_serial, minion, zone))
    for name in sorted(set(names(minion))):
        for kind in TYPES:
            ours, theirs = (asked(minion, server, name, kind) for server in (PRIMARY, SECONDARY))
            assert ours == theirs, f"{name} {kind}\n{log.read_text()}"


@pytest.mark.parametrize(
    ("start", "difference"),
    [
        pytest.param(nsd, r"svc\. received update .* of \d\d\d bytes", marks=pytest.mark.needs("nsd"), id="nsd"),
        pytest.param(knot, r"\[svc\.\] IXFR, incoming, .* finished", marks=pytest.mark.needs("knot"), id="knot"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_secondary_transfers_hears_of_changes_and_answers_as_we_do(
    minion: Minion, start: Start, difference: str, workers: int
) -> None:
    minion.put(service("web", VIP, VIP6), endpoints("web", A))
    minion.put(service("idle", clusterIP="None"), service("db", clusterIP="None"), endpoints("db", A, B))
    daemon = minion.daemon(*OPTIONS, f"--dns-workers={workers}").ready()
    daemon.until(lambda: serial(minion, PRIMARY, "svc."))
    with start(minion, SECONDARY, PRIMARY, ZONES) as log:
        alike(minion, daemon, log)
        for number in range(3):
            minion.put(service(f"new{number}", f"10.0.0.{number + 50}"))
            daemon.until(partial(answer, minion, f"new{number}.svc."))
        minion.put(endpoints("db", B))
        minion.put(endpoints("idle", A))
        minion.remove(service("web"))
        daemon.until(lambda: asked(minion, SECONDARY, "web.svc.", "A")[0] == "NXDOMAIN")
        daemon.until(lambda: asked(minion, SECONDARY, "idle.svc.", "A")[1])
        before = serial(minion, PRIMARY, "svc.")
        daemon.kill()
        minion.put(service("after", "10.0.0.99"))
        daemon = minion.daemon(*OPTIONS, f"--dns-workers={workers}").ready()
        daemon.until(lambda: serial(minion, PRIMARY, "svc.") > before)
        daemon.until(lambda: asked(minion, SECONDARY, "after.svc.", "A")[1])
        alike(minion, daemon, log)
        # What came by differences came by few bytes.
        daemon.until(lambda: re.search(difference, log.read_text()))


def test_after_a_reload_a_secondary_is_told_when_none_of_the_workers_before_answers(minion: Minion) -> None:
    """What has names is another, and whoever asks for the SOA then hears of that alone: else it would not transfer."""
    minion.put(service("web", VIP), service("db", clusterIP="None"), endpoints("db", A))
    config = minion.root / "svcnet.toml"
    config.write_text("")
    daemon = minion.daemon(*OPTIONS, f"--config={config}").ready()
    with minion.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as secondary:
        secondary.bind((SECONDARY, 53))
        secondary.settimeout(PATIENCE_SECONDS)
        assert told(secondary, 0)
        before = serial(minion, PRIMARY, "svc.")
        config.write_text("dns-endpoints = false")
        daemon.signal(signal.SIGHUP)
        now = told(secondary, before)
        assert {serial(minion, PRIMARY, "svc.") for _ in range(20)} == {now}


def told(secondary: socket.socket, before: int) -> int:
    """Answer NOTIFY until one tells of a serial after this one; return that."""
    while True:
        packet, client = secondary.recvfrom(512)
        notify = dns.message.from_wire(packet)
        secondary.sendto(dns.message.make_response(notify).to_wire(), client)
        if str(notify.question[0].name) == "svc." and (serial := int(notify.answer[0][0].serial)) > before:
            return serial
