"""A machine on which all is well, for the tests of doctor, and what they ask of findings."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

from svcnet.doctor import iptables_text
from svcnet.doctor.examination import Result, examine
from svcnet.doctor.facts import Facts, Home, Link, Way
from svcnet.doctor.finding import Finding
from svcnet.doctor.packet_filter import Table

SERVICE, SERVICE_6, PODS = ip_network("10.0.0.0/16"), ip_network("fd00:10::/112"), ip_network("10.1.0.0/16")
SOUND = Facts(
    mode="nftables",
    service_cidr=(SERVICE,),
    cluster_cidr=(PODS,),
    dns_listen=("127.0.0.1",),
    settings={
        "net/ipv4/ip_forward": "1",
        "net/ipv4/ip_local_port_range": "32768\t60999",
        "net/ipv4/ip_local_reserved_ports": "",
        "net/bridge/bridge-nf-call-iptables": "1",
        "net/netfilter/nf_conntrack_max": "262144",
        "net/netfilter/nf_conntrack_count": "12",
        "net/netfilter/nf_conntrack_tcp_be_liberal": "1",
    },
    links=(
        Link("lo", is_loopback=True),
        Link("eth0"),
        Link("cbr0", "bridge"),
        Link("v1", "veth", "cbr0", hairpin=True, is_far=True),
        Link("v2", "veth", "cbr0", hairpin=True, is_far=True),
    ),
    homes=(
        Home(ip_address("127.0.0.1"), "lo", is_global=False),
        Home(ip_address("192.0.2.1"), "eth0"),
        Home(ip_address("10.1.1.1"), "cbr0"),
    ),
    ways=(Way(SERVICE, device="eth0", source=ip_address("192.0.2.1")),),
    name_servers=(ip_address("127.0.0.1"),),
    report={"mode": "nftables", "ready": True, "store": {"connected": True}},
)


def found(facts: Facts, name: str) -> Result:
    return next(result for result in examine(facts) if result.check.name == name)


def one(facts: Facts, name: str) -> Finding:
    (finding,) = found(facts, name).findings
    return finding


def with_settings(**values: str) -> Facts:
    """SOUND with other settings; `__` stands for a slash."""
    by_name = {name.replace("__", "/"): value for name, value in values.items()}
    return replace(SOUND, settings={**SOUND.settings, **by_name})


def iptables(text: str, program: str = "iptables-legacy") -> tuple[Table, ...]:
    return iptables_text.tables(program, text)
