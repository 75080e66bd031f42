"""Findings from rules: what drops, translates or splits the packets of services, in listings of iptables and nft."""

from dataclasses import replace

import pytest

from svcnet.doctor import nft_json
from svcnet.doctor.examination import State
from svcnet.doctor.facts import Way
from svcnet.doctor.packet_filter import Packet, Table, Verdict, fate, matches
from tests.unit.sound import PODS, SERVICE, SOUND, found, iptables, one

DROP = ":FORWARD DROP [0:0]\n"
RULE = "-A FORWARD -m conntrack --ctorigdst 10.0.0.0/16 -j ACCEPT\n"


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        (DROP, "iptables-legacy -A FORWARD -m conntrack --ctorigdst 10.0.0.0/16 -j ACCEPT"),
        (
            ":FORWARD ACCEPT [0:0]\n-A FORWARD -j REJECT --reject-with icmp-host-prohibited\n",
            "iptables-legacy -I FORWARD 1 ",
        ),
        (DROP + "-A FORWARD -i docker0 ! -o docker0 -j ACCEPT\n", "iptables-legacy -A FORWARD"),
        (DROP + "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n", "iptables-legacy -A FORWARD"),
        (
            ":FORWARD ACCEPT [0:0]\n:FW - [0:0]\n-A FORWARD -i lo -j ACCEPT\n-A FORWARD -j FW\n-A FW -j DROP\n",
            "-I FORWARD 2 ",
        ),
        (DROP + "-A FORWARD -g X\n-A FORWARD -j ACCEPT\n:X - [0:0]\n", "-I FORWARD 1 "),
        (DROP + "-A FORWARD ! -d 10.1.0.0/16 -j ACCEPT\n", "-A FORWARD"),
        (DROP + "-A FORWARD -m limit --limit 5/sec -j ACCEPT\n", "-A FORWARD"),
        (DROP + "-A FORWARD -p tcp -j ACCEPT\n", "-A FORWARD"),
        (
            ":FORWARD ACCEPT [0:0]\n-A FORWARD -p 17 --dport 5 -j DROP\n-A FORWARD -p 6 -j DROP\n-A FORWARD -j DROP\n",
            "-I FORWARD 2 ",
        ),
        # The answers are stopped.
        (DROP + "-A FORWARD -m conntrack --ctstate NEW -j ACCEPT\n", "-A FORWARD"),
    ],
)
def test_a_filter_that_drops_services_is_opened_before_it_drops(text: str, mend: str) -> None:
    facts = replace(SOUND, tables=iptables("*filter\n" + text + "COMMIT\n"))
    assert mend in one(facts, "filter").mend[0]


@pytest.mark.parametrize(
    "text",
    [
        ":FORWARD ACCEPT [0:0]\n",
        DROP + RULE,
        DROP + "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT\n",
        DROP + "-A FORWARD -s 10.1.0.0/16 -j ACCEPT\n-A FORWARD -d 10.0.0.0/8 -j ACCEPT\n",
        DROP + ':FW - [0:0]\n-A FORWARD -m comment --comment "all of it" -j FW\n-A FW -j ACCEPT\n',
        ":FORWARD ACCEPT [0:0]\n-A FORWARD -m state --state INVALID -j DROP\n-A FORWARD -s 192.0.2.0/24 -j DROP\n",
        ":FORWARD ACCEPT [0:0]\n:SVCNET-FORWARD - [0:0]\n-A FORWARD -j SVCNET-FORWARD\n-A SVCNET-FORWARD -j DROP\n",
        ":INPUT DROP [0:0]\n",
    ],
)
def test_a_filter_that_lets_services_pass_is_well(text: str) -> None:
    facts = replace(SOUND, tables=iptables("*filter\n" + text + "COMMIT\n"))
    assert found(facts, "filter").findings == ()


def test_userspace_mode_asks_the_input_chain() -> None:
    facts = replace(SOUND, mode="userspace", tables=iptables("*filter\n:INPUT DROP [0:0]\nCOMMIT\n"))
    assert one(facts, "filter").mend == ("iptables-legacy -A INPUT -d 10.0.0.0/16 -j ACCEPT",)


def test_services_through_the_proxy_beside_a_kernel_mode_pass_the_input_chain_too() -> None:
    report = {"parts": {"proxy worker 0": "running: at most 1000 connections"}}
    facts = replace(SOUND, report=report, tables=iptables("*filter\n:INPUT DROP [0:0]\nCOMMIT\n"))
    assert one(facts, "filter").mend == ("iptables-legacy -A INPUT -m conntrack --ctorigdst 10.0.0.0/16 -j ACCEPT",)


def nft(family: str, *rules: list[object], policy: str = "drop", kind: str = "filter", hook: str = "forward") -> Table:
    chain = {"name": "c", "hook": hook, "type": kind, "policy": policy}
    items = [{"rule": {"chain": "c", "handle": 4 + n, "expr": expr}} for n, expr in enumerate(rules)]
    read = nft_json.table([{"table": {"family": family, "name": "t"}}, {"chain": chain}, *items])
    assert read is not None
    return read


def test_nft_chains_with_policy_drop_are_told_with_their_command() -> None:
    facts = replace(SOUND, tables=(nft("inet"),))
    assert one(facts, "filter").mend == ("nft add rule inet t c ct original ip daddr 10.0.0.0/16 accept",)
    last = nft("inet", [{"counter": {}}, {"reject": {"type": "icmpx"}}], policy="accept")
    assert one(replace(SOUND, tables=(last,)), "filter").mend == (
        "nft insert rule inet t c handle 4 ct original ip daddr 10.0.0.0/16 accept",
    )
    assert found(replace(SOUND, tables=(nft("ip6"),)), "filter").state is State.OK


def match(left: object, right: object, op: str = "==") -> dict[str, object]:
    return {"match": {"op": op, "left": left, "right": right}}


DADDR = {"payload": {"protocol": "ip", "field": "daddr"}}


@pytest.mark.parametrize(
    ("statement", "hit"),
    [
        (match({"ct": {"key": "state"}}, ["established", "new"], "in"), True),
        (match({"ct": {"key": "state"}}, {"set": ["related", "established"]}), False),
        (match({"ct": {"key": "status"}}, "dnat", "in"), True),
        (match({"ct": {"key": "ip daddr", "dir": "original"}}, {"prefix": {"addr": "10.0.0.0", "len": 16}}), True),
        (match(DADDR, {"set": [{"prefix": {"addr": "10.0.0.0", "len": 8}}, "1.2.3.4"]}), True),
        (match(DADDR, {"range": ["10.2.0.0", "10.2.0.9"]}), False),
        (match({"meta": {"key": "l4proto"}}, {"set": ["udp", "tcp"]}), True),
        (match({"meta": {"key": "l4proto"}}, "icmp"), False),
        (match(DADDR, "10.1.0.9"), None),
        (match(DADDR, "10.1.0.9", "!="), None),
        (match(DADDR, "@somewhere"), None),
        (match({"payload": {"protocol": "ip6", "field": "daddr"}}, "fd00::1", "!="), False),
        (match({"meta": {"key": "nfproto"}}, "ipv6"), False),
        (match({"meta": {"key": "iifname"}}, "lo"), None),
        ({"xt": None}, None),
    ],
)
def test_what_nft_asks_of_a_translated_packet(statement: dict[str, object], hit: bool | None) -> None:
    packet = Packet(4, "new", destinations=(PODS,), wanted=(SERVICE,), translated=True, protocol="tcp")
    assert matches(nft_json.rule({"expr": [statement, {"accept": None}]}), packet) is hit


def test_a_reject_of_the_other_family_stops_nothing() -> None:
    table = nft("inet", [{"reject": {"type": "icmpv6"}}], policy="accept")
    assert fate(table, table.chains["c"], Packet(4, "new")).verdict is Verdict.ACCEPT


NAT = "*nat\n:PREROUTING ACCEPT [0:0]\n"


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ("-A PREROUTING -d 10.0.0.5/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 192.0.2.9\n", True),
        ("-A PREROUTING -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 3128\n", True),
        (":D - [0:0]\n-A PREROUTING -i eth0 -j D\n-A D -j DNAT --to-destination 192.0.2.9\n", True),
        ("-A PREROUTING -d 192.0.2.1/32 -j DNAT --to-destination 192.0.2.9\n", False),
        ("-A PREROUTING ! -d 10.0.0.0/16 -p tcp -j REDIRECT --to-ports 3128\n", False),
        (":D - [0:0]\n-A PREROUTING -m addrtype --dst-type LOCAL -j D\n-A D -j DNAT --to-destination 1.1.1.1\n", False),
        ("-A PREROUTING -d 10.0.0.0/16 -j RETURN\n-A PREROUTING -p tcp -j REDIRECT --to-ports 3128\n", False),
        (
            ":SVCNET-SERVICES - [0:0]\n-A PREROUTING -j SVCNET-SERVICES\n-A PREROUTING -j REDIRECT --to-ports 3128\n",
            False,
        ),
        ("-A PREROUTING -j MASQUERADE\n", False),
    ],
)
def test_translation_of_virtual_ips_by_others_is_found(text: str, mend: bool) -> None:
    result = found(replace(SOUND, tables=iptables(NAT + text + "COMMIT\n")), "nat")
    assert bool(result.findings) is mend
    assert all(f.mend[0].startswith("iptables-legacy -t nat -D ") for f in result.findings)


def test_dockers_published_ports_meet_virtual_ips_in_userspace_mode() -> None:
    text = NAT + ":DOCKER - [0:0]\n-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n"
    text += "-A DOCKER ! -i docker0 -p tcp -m tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80\nCOMMIT\n"
    assert found(replace(SOUND, tables=iptables(text)), "nat").findings == ()
    userspace = replace(SOUND, mode="userspace", tables=iptables(text), ways=(Way(SERVICE, "local", "lo"),))
    assert one(userspace, "nat").mend == (
        "iptables-legacy -t nat -D DOCKER ! -i docker0 -p tcp -m tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80",
    )


def test_kube_proxys_rules_are_one_finding() -> None:
    text = NAT + ":KUBE-SERVICES - [0:0]\n:KUBE-SVC-A - [0:0]\n-A PREROUTING -j KUBE-SERVICES\n"
    text += "".join(f"-A KUBE-SERVICES -d 10.0.0.{n}/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-A\n" for n in range(1, 4))
    text += "-A KUBE-SVC-A -j DNAT --to-destination 10.1.0.3:80\nCOMMIT\n"
    assert one(replace(SOUND, tables=iptables(text)), "nat").mend == ("kube-proxy --cleanup",)


def test_a_mix_of_tables_is_moved_to_one_kind() -> None:
    legacy = iptables("*filter\n:FORWARD DROP [0:0]\nCOMMIT\n")
    rule = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -i x -j ACCEPT\nCOMMIT\n"
    mend = one(replace(SOUND, tables=(*legacy, *iptables(rule, "iptables-nft"))), "mix").mend
    assert mend[:2] == (
        "iptables-legacy-save | iptables-nft-restore --noflush",
        "iptables-legacy -t filter -P FORWARD ACCEPT",
    )
    assert found(replace(SOUND, tables=legacy), "mix").state is State.OK
    empty = iptables("*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n", "iptables-nft")
    assert found(replace(SOUND, tables=(*legacy, *empty)), "mix").state is State.OK
