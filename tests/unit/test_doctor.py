"""Findings from facts: what is told of each setting, when, and with which command."""

import re
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from svcnet.doctor.examination import CHECKS, State, examine
from svcnet.doctor.facts import RULES, Home, Link, Way
from svcnet.doctor.finding import Level, sysctl
from tests.unit.sound import SERVICE, SERVICE_6, SOUND, found, iptables, one, with_settings


def test_nothing_is_found_on_a_machine_where_all_is_well() -> None:
    assert [(r.check.name, r.findings) for r in examine(SOUND) if r.findings] == []
    assert {r.state for r in examine(SOUND)} == {State.OK, State.UNNEEDED}


def test_every_finding_is_explained_in_two_sentences() -> None:
    broken = replace(
        SOUND,
        mode="nftables",
        report=None,
        settings={"net/ipv4/ip_local_port_range": "1024 65535", "net/ipv4/ip_forward": "0"},
        links=(
            Link("lo", is_loopback=True),
            Link("br0", "bridge"),
            *(Link(f"v{n}", "veth", "br0", is_far=True) for n in "ab"),
        ),
        homes=(Home(ip_address("10.1.1.1"), "br0"),),
        ways=(Way(SERVICE, error="Network is unreachable"),),
        name_servers=(),
    )
    findings = [finding for result in examine(broken) for finding in result.findings]
    assert len(findings) >= 5
    for finding in findings:
        assert finding.why.endswith(".")
        assert len(finding.why.replace("e.g.", "").split(". ")) == 2, finding.why
        assert finding.mend, finding.what


def test_forwarding_off_is_told_per_family_and_per_interface() -> None:
    assert one(with_settings(net__ipv4__ip_forward="0"), "forwarding").mend == ("sysctl -w net.ipv4.ip_forward=1",)
    one_interface = one(with_settings(net__ipv4__conf__eth0__forwarding="0"), "forwarding")
    assert one_interface.mend == ("sysctl -w net.ipv4.conf.eth0.forwarding=1",)
    assert found(with_settings(net__ipv4__conf__lo__forwarding="0"), "forwarding").state is State.OK
    six = replace(
        with_settings(net__ipv6__conf__all__forwarding="0"), service_cidr=(SERVICE_6,), advertised=frozenset({"eth0"})
    )
    assert one(six, "forwarding").mend == (
        "sysctl -w net.ipv6.conf.eth0.accept_ra=2",
        "sysctl -w net.ipv6.conf.all.forwarding=1",
    )


def test_settings_of_interfaces_with_dots_are_spelled_as_sysctl_reads_them() -> None:
    assert sysctl("net/ipv4/conf/eth0.5/forwarding", "1") == "sysctl -w net/ipv4/conf/eth0.5/forwarding=1"


@pytest.mark.parametrize("name", ["forwarding", "bridge", "conntrack"])
def test_what_only_kernel_paths_need_is_not_asked_in_userspace_mode(name: str) -> None:
    facts = replace(with_settings(net__ipv4__ip_forward="0"), mode="userspace")
    assert found(facts, name).state is State.UNNEEDED


def test_a_port_without_hairpin_is_named_with_its_command() -> None:
    facts = replace(SOUND, links=(*SOUND.links, Link("v3", "veth", "cbr0", is_far=True)))
    assert one(facts, "bridge").mend == ("bridge link set dev v3 hairpin on",)


@pytest.mark.parametrize(
    "link",
    [
        Link("eth1", "", "cbr0"),
        Link("v9", "veth", "cbr0", is_far=False),
        Link("v9", "veth", "cbr0", is_far=True, is_up=False),
        Link("v9", "veth", "other", is_far=True),
    ],
)
def test_ports_behind_which_no_pod_is_need_no_hairpin(link: Link) -> None:
    assert found(replace(SOUND, links=(*SOUND.links, link)), "bridge").state is State.OK


def test_settings_without_which_traffic_is_not_counted_are_notes() -> None:
    bytes_off = found(with_settings(net__netfilter__nf_conntrack_acct="0"), "traffic")
    assert (bytes_off.state, bytes_off.findings[0].mend) == (
        State.NOTE,
        ("sysctl -w net.netfilter.nf_conntrack_acct=1",),
    )
    nothing = found(with_settings(net__netfilter__nf_conntrack_events="0"), "traffic")
    assert (nothing.state, nothing.findings[0].mend) == (State.NOTE, ("sysctl -w net.netfilter.nf_conntrack_events=2",))
    assert found(with_settings(net__netfilter__nf_conntrack_events="1"), "traffic").state is State.OK


def test_bridged_packets_past_netfilter_are_told_once_there_are_two_pods() -> None:
    off = replace(SOUND, settings={**SOUND.settings, "net/bridge/bridge-nf-call-iptables": "0"})
    assert one(off, "bridge").mend == ("sysctl -w net.bridge.bridge-nf-call-iptables=1",)
    assert found(replace(off, links=off.links[:-1]), "bridge").state is State.OK
    assert found(replace(off, masquerade_all=True), "bridge").state is State.OK
    shown = (Link("cbr0", "bridge", calls_netfilter=frozenset({4})), *off.links[:2], *off.links[3:])
    assert found(replace(off, links=shown), "bridge").state is State.OK
    without = {k: v for k, v in SOUND.settings.items() if "bridge" not in k}
    assert one(replace(SOUND, settings=without), "bridge").mend[0] == "modprobe br_netfilter"


def test_strict_rp_filter_is_a_finding_once_it_dropped_something() -> None:
    strict = with_settings(net__ipv4__conf__all__rp_filter="1")
    assert one(strict, "rp_filter").level is Level.NOTE
    dropped = one(replace(strict, reverse_path_drops=3), "rp_filter")
    assert dropped.level is Level.FINDING
    assert dropped.mend == tuple(f"sysctl -w net.ipv4.conf.{name}.rp_filter=2" for name in ("eth0", "cbr0"))
    loose = replace(
        with_settings(net__ipv4__conf__all__rp_filter="2", net__ipv4__conf__eth0__rp_filter="1"), reverse_path_drops=3
    )
    assert found(loose, "rp_filter").state is State.OK


def test_a_connection_table_that_is_nearly_full_gets_four_times_the_room() -> None:
    full = replace(SOUND, settings={**SOUND.settings, "net/netfilter/nf_conntrack_count": "209716"})
    assert one(full, "conntrack").mend == ("sysctl -w net.netfilter.nf_conntrack_max=1048576",)
    inside = replace(full, fixed=frozenset({"net/netfilter/nf_conntrack_max"}))
    assert one(inside, "conntrack").mend[0].startswith("nsenter --net=/proc/1/ns/net sysctl -w ")
    assert found(replace(SOUND, table_drops=4, insert_failures=2), "conntrack").state is State.NOTE


def test_node_ports_in_the_range_of_outgoing_ports_are_reserved() -> None:
    wide = {**SOUND.settings, "net/ipv4/ip_local_port_range": "1024 65535", "net/ipv4/ip_local_reserved_ports": "8080"}
    assert one(replace(SOUND, settings=wide), "ports").mend == (
        "sysctl -w net.ipv4.ip_local_reserved_ports=8080,30000-32767",
    )
    wide["net/ipv4/ip_local_reserved_ports"] = "8080,30000-31000,31001-32767"
    assert found(replace(SOUND, settings=wide), "ports").state is State.OK


def test_a_missing_route_is_made_over_an_interface_that_has_an_address() -> None:
    lost = replace(SOUND, ways=(Way(SERVICE, error="Network is unreachable"),))
    assert one(lost, "route").mend == ("ip route add 10.0.0.0/16 dev eth0 src 192.0.2.1 proto 115",)
    looped = replace(SOUND, ways=(Way(SERVICE, device="lo", source=ip_address("127.0.0.1")),))
    assert one(looped, "route").mend == ("ip route replace 10.0.0.0/16 dev eth0 src 192.0.2.1 proto 115",)


def test_userspace_mode_needs_virtual_ips_to_be_local() -> None:
    assert "ip route replace local 10.0.0.0/16" in one(replace(SOUND, mode="userspace"), "route").mend[0]
    there = replace(SOUND, mode="userspace", ways=(Way(SERVICE, "local", "lo"),))
    assert found(there, "route").state is State.OK


def test_an_overlap_names_a_range_that_is_free() -> None:
    facts = replace(
        SOUND,
        overlaps=("--service-cidr 10.0.0.0/16 overlaps the route 10.0.3.0/24 dev eth0",),
        taken=(ip_network("10.0.3.0/24"), ip_network("10.96.0.0/12"), ip_network("0.0.0.0/0")),
    )
    assert one(facts, "overlap").mend == ("svcnet-proxy --service-cidr=10.112.0.0/16",)


@pytest.mark.parametrize(
    ("report", "mend"),
    [
        ({"ready": False}, "svcnet status"),
        ({"oldest_unapplied_seconds": 30.0, "last_error": "ENOENT"}, "svcnet status"),
        ({"store": {"connected": False, "reason": "no directory"}}, "svcnet status"),
        ({"store": {"connected": True, "held": {"missing": 20, "known": 21}}}, "svcnet release"),
        ({"parts": {"dns": "failed: address in use", "env": "running"}}, "svcnet status"),
    ],
)
def test_what_the_daemon_says_of_itself(report: dict[str, object], mend: str) -> None:
    finding = one(replace(SOUND, report=report), "daemon")
    assert (finding.level, finding.mend) == (Level.FINDING, (mend,))


def test_a_daemon_that_does_not_answer_is_started_with_the_options_in_force() -> None:
    facts = replace(SOUND, report=None, silence="svcnet-proxy doesn't answer", start="svcnet-proxy --mode=iptables")
    assert one(facts, "daemon").mend == ("svcnet-proxy --mode=iptables",)


def test_drift_and_what_is_left_out_are_notes() -> None:
    report = {"drift": 2, "left_out": [{"what": "default/web", "reason": "no address"}]}
    assert found(replace(SOUND, report=report), "daemon").state is State.NOTE


def test_a_resolver_that_asks_elsewhere_is_a_note() -> None:
    elsewhere = replace(SOUND, name_servers=(ip_address("192.0.2.53"),))
    assert found(elsewhere, "names").state is State.NOTE
    assert found(replace(elsewhere, dns_listen=()), "names").state is State.OK
    everywhere = replace(SOUND, dns_listen=("0.0.0.0",), name_servers=(ip_address("192.0.2.1"),))
    assert found(everywhere, "names").state is State.OK


def test_ipset_is_asked_for_in_iptables_mode_alone() -> None:
    assert found(replace(SOUND, mode="iptables"), "programs").state is State.NOTE
    assert found(replace(SOUND, mode="iptables", programs=frozenset({"ipset"})), "programs").state is State.OK
    assert found(SOUND, "programs").state is State.UNNEEDED


def test_what_could_not_be_read_is_not_said_to_be_well() -> None:
    unread = replace(SOUND, unread={RULES: "CAP_NET_ADMIN"})
    assert {r.check.name for r in examine(unread) if r.state is State.UNREAD} == {"filter", "nat", "mix"}
    some = replace(unread, tables=iptables("*filter\n:FORWARD DROP [0:0]\nCOMMIT\n"))
    assert found(some, "filter").state is State.FINDING


def test_without_a_data_path_only_the_daemon_and_names_are_looked_at() -> None:
    asked = {r.check.name for r in examine(replace(SOUND, mode="none")) if r.state is not State.UNNEEDED}
    assert asked == {"daemon", "names"}


def test_checks_have_names_of_their_own() -> None:
    assert len({check.name for check in CHECKS}) == len(CHECKS)


def test_the_page_has_a_row_for_every_check() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "doctor.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == [check.name for check in CHECKS]
