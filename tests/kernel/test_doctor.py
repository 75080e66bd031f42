"""Doctor at the bedside: a fault is made, clients hang, doctor names it, what it printed is typed, all is well."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.harness.client import SILENCE, Conversation
from tests.harness.files import TARGET_PORT
from tests.harness.minion import A, Minion
from tests.kernel.ward import FAR, OTHER, POD, TO_FAR, TO_OTHER, TO_POD, UNREACHABLE, Ward

pytestmark = pytest.mark.kernel


@pytest.fixture
def ward(minion: Minion) -> Iterator[Ward]:
    with Ward(minion) as made:
        yield made


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    """One ward for all faults: what the last one left of rules and routes is taken away after each."""
    with Minion("clinic", tmp_path_factory.mktemp("clinic")) as minion, Ward(minion) as made:
        made.start("--mode=nftables")
        yield made


HEALED = (
    *(
        f"iptables-{kind} -P {chain} ACCEPT; iptables-{kind} -F {chain}"
        for kind in ("legacy", "nft")
        for chain in ("FORWARD", "OUTPUT")
    ),
    "for table in 'inet fw' 'ip fw' 'ip other'; do nft delete table $table 2>/dev/null || :; done",
    "ip route del 10.0.0.0/16 2>/dev/null; ip route replace default dev out src 192.0.2.1",
)


class Fault(NamedTuple):
    """What is done to the minion, and who suffers."""

    check: str
    made: tuple[str, ...]
    client: Callable[[Ward, str], str]
    asks: str
    gets: str
    instead_of: str


NFT_DROP = "add table inet fw; add chain inet fw passing { type filter hook forward priority 0; policy drop; }"
NFT_REJECT = (
    "add table ip fw; add chain ip fw passing { type filter hook forward priority 0; policy accept; };"
    " add rule ip fw passing meta mark 7 accept; add rule ip fw passing counter reject with tcp reset"
)
NFT_DNAT = (
    "add table ip other; add chain ip other pre { type nat hook prerouting priority -110; policy accept; };"
    f" add rule ip other pre ip daddr {TO_OTHER} tcp dport 80 dnat to 198.51.100.99:80"
)
FAULTS = {
    "ip_forward": Fault("forwarding", ("sysctl -w net.ipv4.ip_forward=0",), Ward.from_pod, TO_FAR, SILENCE, FAR),
    "forwarding of one interface": Fault(
        "forwarding", ("sysctl -w net.ipv4.conf.cbr0.forwarding=0",), Ward.from_pod, TO_FAR, SILENCE, FAR
    ),
    "bridge-nf-call": Fault(
        "bridge", ("sysctl -w net.bridge.bridge-nf-call-iptables=0",), Ward.from_pod, TO_OTHER, SILENCE, OTHER
    ),
    "hairpin": Fault("bridge", ("bridge link set dev v0 hairpin off",), Ward.from_pod, TO_POD, SILENCE, POD),
    "legacy policy": Fault("filter", ("iptables-legacy -P FORWARD DROP",), Ward.from_pod, TO_FAR, SILENCE, FAR),
    "nft variant's policy, with rules": Fault(
        "filter",
        ("iptables-nft -P FORWARD DROP", "iptables-nft -A FORWARD -i docker0 -j ACCEPT"),
        Ward.from_pod,
        TO_FAR,
        SILENCE,
        FAR,
    ),
    "a reject at the end": Fault(
        "filter",
        ("iptables-nft -A FORWARD -p tcp -j REJECT --reject-with tcp-reset", "iptables-nft -A FORWARD -j DROP"),
        Ward.from_pod,
        TO_FAR,
        SILENCE,
        FAR,
    ),
    "nft policy": Fault("filter", (f"nft '{NFT_DROP}'",), Ward.from_pod, TO_FAR, SILENCE, FAR),
    "nft reject": Fault("filter", (f"nft '{NFT_REJECT}'",), Ward.from_pod, TO_FAR, SILENCE, FAR),
    "output policy": Fault(
        "filter",
        ("iptables-legacy -A OUTPUT -o lo -j ACCEPT", "iptables-legacy -P OUTPUT DROP"),
        Ward.from_minion,
        TO_FAR,
        SILENCE,
        FAR,
    ),
    "nft translation": Fault("nat", (f"nft '{NFT_DNAT}'",), Ward.from_pod, TO_OTHER, SILENCE, OTHER),
    "no route": Fault("route", ("ip route del default",), Ward.from_minion, TO_FAR, UNREACHABLE, FAR),
    "strict rp_filter": Fault(
        "rp_filter", ("sysctl -w net.ipv4.conf.far1.rp_filter=1",), Ward.from_far, TO_POD, SILENCE, POD
    ),
}  # fmt: skip


@pytest.mark.needs("iptables", "bridge-nf")
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named_and_mended_by_the_command_that_is_printed(clinic: Ward, fault: Fault) -> None:
    assert fault.client(clinic, fault.asks) == fault.instead_of
    assert clinic.doctor().code == 0
    clinic.mend(list(fault.made))
    assert fault.client(clinic, fault.asks) == fault.gets
    said = clinic.doctor()
    assert (said.code, list(said.mend)) == (1, [fault.check])
    clinic.mend(said.mend[fault.check])
    assert clinic.doctor().code == 0
    assert fault.client(clinic, fault.asks) == fault.instead_of
    clinic.mend(list(HEALED))


@pytest.mark.needs("iptables", "bridge-nf")
@pytest.mark.parametrize(
    ("check", "made"),
    [
        ("forwarding", "sysctl -w net.ipv6.conf.all.forwarding=0"),
        ("ports", "sysctl -w net.ipv4.ip_local_port_range='1024 65535'"),
        ("mix", "iptables-legacy -A INPUT -i docker0 -j ACCEPT; iptables-nft -A INPUT -i lo -j ACCEPT"),
        (
            "nat",
            f"iptables-nft -t nat -A OUTPUT -d {TO_POD} -p tcp -m tcp --dport 80 -j DNAT --to-destination 192.0.2.9",
        ),
    ],
)
def test_what_hangs_only_some_day_is_mended_likewise(ward: Ward, check: str, made: str) -> None:
    ward.start("--mode=nftables")
    ward.mend([made])
    said = ward.doctor()
    assert (said.code, list(said.mend)) == (1, [check])
    ward.mend(said.mend[check])
    assert ward.doctor().code == 0


@pytest.mark.needs("iptables", "bridge-nf")
def test_userspace_mode_is_asked_for_what_it_needs(ward: Ward) -> None:
    ward.start("--mode=userspace")
    ward.mend(["sysctl -w net.ipv4.ip_forward=0", "iptables-legacy -P FORWARD DROP"])
    assert ward.doctor().code == 0
    ward.mend(["iptables-legacy -A INPUT -i lo -j ACCEPT", "iptables-legacy -P INPUT DROP"])
    assert ward.from_pod(TO_OTHER) == SILENCE
    said = ward.doctor()
    assert list(said.mend) == ["filter"]
    ward.mend([*said.mend["filter"], "iptables-legacy -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT"])
    assert ward.doctor().code == 0
    assert ward.from_pod(TO_OTHER) == OTHER
    ward.kill()
    assert list(ward.doctor().mend) == ["daemon"]


@pytest.mark.needs("iptables", "bridge-nf")
def test_rules_of_iptables_mode_are_no_finding(ward: Ward) -> None:
    ward.start("--mode=iptables")
    assert ward.doctor().code == 0
    ward.mend(["iptables -P FORWARD DROP"])
    said = ward.doctor()
    ward.mend(said.mend["filter"])
    assert ward.doctor().code == 0
    assert ward.from_pod(TO_FAR) == FAR


@pytest.mark.needs("iptables", "bridge-nf")
def test_a_daemon_that_is_killed_is_missed(ward: Ward) -> None:
    ward.start()
    assert ward.doctor().code == 0
    ward.kill()
    said = ward.doctor()
    assert list(said.mend) == ["daemon"]
    (start,) = said.mend["daemon"]
    assert start.startswith(f"svcnet-proxy --records=dir:{ward.minion.records} --node=m1 --service-cidr=10.0.0.0/16,")
    ward.start()
    assert ward.doctor().code == 0


@pytest.mark.needs("iptables")
def test_nothing_is_changed_and_nothing_comes_into_being(minion: Minion) -> None:
    def state() -> tuple[str, ...]:
        names = ("ip_tables_names", "ip6_tables_names")
        commands = ("nft list ruleset", *(f"cat /proc/thread-self/net/{n}" for n in names), "ip route show table all")
        return tuple(
            minion.run("sh", "-c", command).stdout
            for command in (*commands, "sysctl -a 2>/dev/null | grep -E 'filter|forward'")
        )

    before = state()
    assert before[:3] == ("", "", "")
    assert minion.svcnet("doctor", *minion.options()).returncode == 1
    assert state() == before


@pytest.mark.needs("iptables", "bridge-nf")
def test_an_ordinary_user_gets_what_can_be_read_and_is_told_what_is_missing(ward: Ward) -> None:
    ward.start("--mode=nftables")
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all,+dac_read_search",
              "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search", "--")  # fmt: skip
    said = ward.doctor(*nobody)
    assert said.code == 5
    assert {check for check, state in said.state.items() if state == "not permitted"} == {"filter", "nat", "mix"}
    assert "CAP_NET_ADMIN" in said.unread["rules"]
    assert "CAP_NET_ADMIN" in said.unread[""]
    ward.mend(["sysctl -w net.ipv4.ip_forward=0"])
    assert ward.doctor(*nobody).code == 1


def test_a_full_connection_table_is_given_room(ward: Ward, tmp_path: Path) -> None:
    """The limit belongs to the whole machine: a file stands in for it."""
    ward.start("--mode=nftables")
    limit = tmp_path / "nf_conntrack_max"
    limit.write_text("1")
    script = f'mount --bind {limit} /proc/sys/net/netfilter/nf_conntrack_max && exec "$@"'
    wrap = ("unshare", "-m", "sh", "-ec", script, "sh")
    # At least one entry is in the table as long as this lasts.
    with ward.minion.inside(lambda: Conversation(A, TARGET_PORT)) as talk:
        assert talk.say() == A
        said = ward.doctor(*wrap)
    (command,) = said.mend["conntrack"]
    assert command == "sysctl -w net.netfilter.nf_conntrack_max=4"


def test_people_read_a_table_and_then_what_was_found(minion: Minion) -> None:
    done = minion.svcnet("doctor", *minion.options(), "--dns-listen=off")
    assert done.returncode == 1
    table, _, found = done.stdout.partition("\n\n")
    assert table.splitlines()[1].split() == ["CHECK", "STATE", "WHAT"]
    assert "  As root:\n    sysctl -w net.ipv4.ip_forward=1\n" in found
    assert "\x1b" not in done.stdout
    assert done.stderr == ""
