"""After whatever history NSD and Knot hold exactly what we do, in every zone; it leads over the serial's wrap to 0."""

import os
import random
import re
import signal
import socket
from collections.abc import Iterator
from functools import partial

import dns.exception
import dns.message
import dns.rdatatype
import pytest

import dns.query
import dns.zone
from tests.dns.secondary import Secondary
from tests.dns.servers import knot, nsd
from tests.harness.daemon import Daemon
from tests.harness.files import Written, endpoints, service
from tests.harness.minion import A6, B6, A, B, C, Minion
from tests.harness.until import PATIENCE_SECONDS, until
from tests.kernel.test_daemon_dns import workers
from tests.kernel.test_dns_one_revision import at_once

pytestmark = [pytest.mark.kernel, pytest.mark.needs("nsd"), pytest.mark.needs("knot")]

PRIMARY, NSD, KNOT = "192.0.2.1", B, C
ZONES = ("svc.", "cluster.local.", "0.10.in-addr.arpa.", "1.10.in-addr.arpa.", "0." * 21 + "1.0.0.0.0.d.f.ip6.arpa.")
OPTIONS = (
    f"--dns-listen={PRIMARY}:53",
    "--mode=none",
    "--dns-upstream=off",
    "--cluster-cidr=10.1.0.0/16",
    "--dns-transfer-to=192.0.2.0/24",
    f"--dns-notify={NSD},{KNOT}",
)
NAMES, PLACES = range(5), ("default", "shop")
PODS = ("10.1.1.1", "10.1.1.2", "10.1.1.3", "192.0.2.77")
BEFORE_THE_WRAP = (1 << 32) - 6
CHANGES = 12
SECONDS = 5.0


def happening(chance: random.Random) -> list[Written]:
    """Something becomes of a service and its endpoints."""
    place = chance.choice(PLACES)
    name = f"{place[0]}{chance.choice(NAMES)}"
    match chance.randrange(4):
        case 0:
            one = service(name, type="ExternalName", externalName=chance.choice(("d1.svc", "www.example.org")))
        case 1:
            one = service(name, f"10.0.0.{chance.randint(5, 200)}", f"fd00:10::{chance.randint(5, 99)}")
        case _:
            one = service(name, clusterIP="None", ipFamilies=["IPv4", "IPv6"], ipFamilyPolicy="RequireDualStack")
    if chance.random() < 0.2:
        one["metadata"]["annotations"] = {"svcnet.dev/ttl": chance.choice(("0", "60", "3600"))}
    slices = [
        endpoints(name, *chance.sample(PODS, chance.randint(1, 4))),
        endpoints(name, *chance.sample((A6, B6), chance.randint(1, 2))),
    ]
    for entry in slices[0]["endpoints"]:
        entry["conditions"]["ready"] = chance.random() < 0.8
        if chance.random() < 0.3:
            entry["hostname"] = chance.choice(("db-0", "db-1"))
    for record in (one, *slices):
        record["metadata"]["namespace"] = place
    return [one, *slices]


class History:
    """What happens to the records of a minion."""

    def __init__(self, minion: Minion, daemon: Daemon, seed: int) -> None:
        self._minion, self._daemon = minion, daemon
        self.chance = random.Random(seed)
        self._there: dict[str, list[Written]] = {}
        self._lasts = 0

    def go_on(self) -> None:
        """One record changes, some do, or many at once."""
        match self.chance.randrange(6):
            case 0 if self._there:
                gone = self._there.pop(self.chance.choice(sorted(self._there)))
                self._minion.remove(*gone[: self.chance.choice((1, 3))])
                self._minion.put(*gone[1:])
                self._minion.remove(*gone[1:])
            case 1:
                many = [service(f"many{n}", f"10.0.{self.chance.randint(1, 9)}.{n + 1}") for n in range(30)]
                at_once(self._minion, "many", many)
            case _:
                records = happening(self.chance)
                self._there[records[0]["metadata"]["name"]] = records
                self._minion.put(*records)

    def put_last(self) -> str:
        """Write one more record; the address that `last` has by it."""
        self._lasts += 1
        last = f"10.0.250.{self._lasts}"
        self._minion.put(service("last", last))
        return last

    def wait(self) -> None:
        """Wait until our zones have all that was written: the last of it, as they follow in order."""
        last = self.put_last()
        query = dns.message.make_query("last.svc.", "A")

        def told() -> bool:
            reply = dns.query.udp(query, PRIMARY, PATIENCE_SECONDS)
            return [str(address) for rrset in reply.answer for address in rrset] == [last]

        self._daemon.until(lambda: self._minion.inside(told))

    def alike(self) -> None:
        """Wait until the secondaries hold what we do, in every zone."""
        self.wait()
        for zone in ZONES:
            ours = self.held(PRIMARY, zone)
            assert ours
            for server in (NSD, KNOT):
                until(partial(self._holds, server, zone, ours), partial(self._difference, server, zone))

    def held(self, server: str, zone: str) -> set[str]:
        """All records that a server has of a zone."""
        return self._minion.inside(partial(transferred, server, zone))

    def _holds(self, server: str, zone: str, records: set[str]) -> bool:
        return self.held(server, zone) == records

    def _difference(self, server: str, zone: str) -> str:
        ours, theirs = self.held(PRIMARY, zone), self.held(server, zone)
        return f"{zone} of {server} lacks {sorted(ours - theirs)}, has {sorted(theirs - ours)}"


def transferred(server: str, zone: str) -> set[str]:
    """All records of a zone but the SOA, by AXFR; none while the server has it not.

    A zone in which nothing changed may have an earlier serial: nobody is told of that.
    """
    try:
        messages = dns.query.xfr(server, zone, lifetime=SECONDS, relativize=False)
        found = dns.zone.from_xfr(messages, relativize=False)
    except (OSError, EOFError, dns.exception.DNSException):
        return set()
    rdatasets = [(name, rds) for name, rds in found.iterate_rdatasets() if rds.rdtype != dns.rdatatype.SOA]
    return {line for name, rds in rdatasets for line in rds.to_text(name).split("\n")}


def without_soa(records: set[str]) -> set[str]:
    """The same as `transferred` has them."""
    return {record for record in records if record.split()[3] != "SOA"}


def ask(query: dns.message.Message) -> Iterator[bytes]:
    """All messages that come back on a connection for this query alone."""
    with socket.create_connection((PRIMARY, 53), PATIENCE_SECONDS) as asking:
        wire = query.to_wire()
        asking.sendall(len(wire).to_bytes(2) + wire)
        asking.shutdown(socket.SHUT_WR)
        with asking.makefile("rb") as messages:
            while head := messages.read(2):
                yield messages.read(int.from_bytes(head))


def restart(daemon: Daemon, history: History) -> None:
    """Kill the worker after changes that it was not told of: the journal of the next does not reach back to before."""
    (worker,) = workers(daemon)
    os.kill(worker, signal.SIGSTOP)
    seen = daemon.status()["revision_seen"]
    for _ in range(CHANGES // 4):
        history.go_on()
    history.put_last()
    daemon.until(lambda: daemon.status()["revision_seen"] > seen)
    daemon.caught_up()
    os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize("seed", [1])
def test_after_a_random_history_secondaries_hold_what_we_do(minion: Minion, seed: int) -> None:
    minion.state.mkdir()
    (minion.state / "serial").write_text(str(BEFORE_THE_WRAP))
    minion.put(service("web", "10.0.0.4", "fd00:10::4"), endpoints("web", A))
    daemon = minion.daemon(*OPTIONS).ready()
    history = History(minion, daemon, seed)
    with nsd(minion, NSD, PRIMARY, ZONES) as nsd_log, knot(minion, KNOT, PRIMARY, ZONES) as knot_log:
        history.alike()
        old = [Secondary(zone) for zone in ZONES]
        for secondary in old:
            minion.inside(partial(secondary.axfr, ask))
        begin = old[0].serial
        for _ in range(CHANGES):
            history.go_on()
            if history.chance.random() < 0.5:  # else with the next, or between two questions of a secondary
                history.wait()
        history.alike()
        for secondary in old:
            minion.inside(partial(secondary.ixfr, ask))
            assert secondary.incremental == 1, "from before the wrap"
            assert without_soa(secondary.records()) == history.held(PRIMARY, str(secondary.zone.origin))
        assert 0 < old[0].serial < begin, "it began again"
        history.alike()  # one record more
        until(lambda: re.search(r"\[svc\.\] IXFR, incoming, .* finished", knot_log.read_text()))
        # No more than what changed.
        until(lambda: re.search(r"svc\. received update .* of \d\d\d bytes", nsd_log.read_text()))
        restart(daemon, history)
        history.alike()
        for secondary in old:
            minion.inside(partial(secondary.ixfr, ask))
            assert without_soa(secondary.records()) == history.held(PRIMARY, str(secondary.zone.origin))
        assert [secondary.incremental for secondary in old] == [1] * len(old), "whole zones this time"
        until(lambda: "[svc.] IXFR, incoming, remote 192.0.2.1@53, receiving AXFR-style IXFR" in knot_log.read_text())
