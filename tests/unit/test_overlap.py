"""Which service CIDRs are refused, and that each refusal names both sides."""

import json
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from svcnet.model.errors import KernelError
from svcnet.overlap import (
    OWN_PROTOCOL,
    Machine,
    MachineAddress,
    Route,
    check,
    check_external,
    parse_addresses,
    parse_name_servers,
    parse_routes,
    parse_search_domains,
    read_machine,
)

SERVICE = (ip_network("10.0.0.0/16"), ip_network("fd00:5::/108"))


def clashes(
    addresses: tuple[str, ...] = (),
    routes: tuple[Route, ...] = (),
    name_servers: tuple[str, ...] = (),
    cluster: tuple[str, ...] = (),
    service: tuple[IPv4Network | IPv6Network, ...] = SERVICE,
) -> list[str]:
    return check(
        service,
        [MachineAddress(ip_address(a), "eth0") for a in addresses],
        routes,
        [ip_address(a) for a in name_servers],
        [ip_network(c) for c in cluster],
    )


def route(destination: str, *gateways: str, dev: str = "eth0") -> Route:
    return Route(ip_network(destination), tuple(map(ip_address, gateways)), dev)


@pytest.mark.parametrize(
    ("found", "named"),
    [
        ({"addresses": ("10.0.3.4",)}, "the machine's address 10.0.3.4 (eth0)"),
        ({"addresses": ("fd00:5::7",)}, "the machine's address fd00:5::7 (eth0)"),
        ({"routes": (route("10.0.8.0/24"),)}, "the route 10.0.8.0/24 dev eth0"),
        ({"routes": (route("10.0.0.0/8", "192.0.2.1"),)}, "the route 10.0.0.0/8 dev eth0"),
        ({"routes": (route("0.0.0.0/0", "10.0.0.1"),)}, "the gateway 10.0.0.1 dev eth0"),
        ({"routes": (route("::/0", "fd00:5::1"),)}, "the gateway fd00:5::1 dev eth0"),
        ({"name_servers": ("10.0.0.2",)}, "the name server 10.0.0.2 of /etc/resolv.conf"),
        ({"cluster": ("10.0.0.0/14",)}, "10.0.0.0/14 of --cluster-cidr"),
    ],
)
def test_a_clash_names_both_sides(found: dict[str, Any], named: str) -> None:
    service = "fd00:5::/108" if "fd00" in named else "10.0.0.0/16"
    assert clashes(**found) == [f"--service-cidr {service} overlaps {named}"]


@pytest.mark.parametrize("external", ["10.0.0.0/24", "10.0.0.0/8", "fd00:5::1/128"])
def test_virtual_ips_are_not_for_records_to_claim(external: str) -> None:
    service = "fd00:5::/108" if "fd00" in external else "10.0.0.0/16"
    (said,) = check_external(SERVICE, [ip_network(external)])
    assert said.startswith(f"--service-cidr {service} overlaps {external} of --external-ips: a record may claim")


def test_who_allows_all_addresses_may() -> None:
    assert check_external(SERVICE, map(ip_network, ("0.0.0.0/0", "::/0", "198.51.100.0/24"))) == []


def test_default_routes_and_neighbours_are_no_clash() -> None:
    assert not clashes(
        addresses=("172.20.0.1", "fd00:20::1", "127.0.0.1", "::1"),
        routes=(route("0.0.0.0/0", "172.20.255.254"), route("::/0", "fd00:20::fffe"), route("10.1.0.0/16")),
        name_servers=("192.0.2.53", "2001:db8::53"),
        cluster=("10.1.0.0/16", "fd00:1::/48"),
    )


def test_an_address_on_two_sides_is_told_for_each_side_once() -> None:
    same = route("0.0.0.0/0", "10.0.0.1")
    assert len(clashes(routes=(same, same), name_servers=("10.0.0.1",))) == 2


def ip_json(*rows: dict[str, Any]) -> bytes:
    return json.dumps(rows).encode()


def test_routes_that_only_restate_an_address_or_are_our_own_are_left_out() -> None:
    text = ip_json(
        {"type": "local", "dst": "10.0.0.5", "dev": "eth0", "table": "local", "protocol": "kernel"},
        {"type": "broadcast", "dst": "10.0.0.255", "dev": "eth0", "table": "local", "protocol": "kernel"},
        {"type": "local", "dst": "10.0.0.0/16", "dev": "lo", "table": "local", "protocol": str(OWN_PROTOCOL)},
    )
    assert parse_routes(text, 4) == ()


def test_a_local_network_of_someone_else_is_a_route() -> None:
    text = ip_json({"type": "local", "dst": "10.0.0.0/24", "dev": "lo", "table": "local", "protocol": "boot"})
    assert clashes(routes=parse_routes(text, 4)) == ["--service-cidr 10.0.0.0/16 overlaps the route 10.0.0.0/24 dev lo"]


def test_every_gateway_of_a_multipath_route_counts() -> None:
    text = ip_json(
        {
            "dst": "default",
            "protocol": "static",
            "nexthops": [{"gateway": "192.0.2.1", "dev": "eth0"}, {"via": {"host": "fd00:5::1"}, "dev": "eth1"}],
        }
    )
    assert clashes(routes=parse_routes(text, 4)) == [
        "--service-cidr fd00:5::/108 overlaps the gateway fd00:5::1 dev eth0, eth1"
    ]


def test_an_empty_answer_of_older_iproute2_is_no_route() -> None:
    assert parse_routes(b"\n", 6) == ()
    assert parse_addresses(b"[{}]") == ()


@pytest.mark.parametrize(
    ("text", "domains"),
    [
        ("search Corp.Example. lan\nnameserver 10.0.0.2\n", ("corp.example", "lan")),
        ("domain corp.example\nsearch a.example .\n", ("a.example",)),
        ("# search corp.example\nsearch\n", ()),
    ],
)
def test_search_domains_are_read_as_the_resolver_reads_them(text: str, domains: tuple[str, ...]) -> None:
    assert parse_search_domains(text) == domains


def test_name_servers_are_read_as_the_resolver_reads_them() -> None:
    text = "# nameserver 10.0.0.9\nsearch svc\nnameserver  10.0.0.2\nnameserver fe80::1%eth0\nnameserver dns.example\n"
    assert parse_name_servers(text) == (ip_address("10.0.0.2"), ip_address("fe80::1"))


def test_without_ip_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(KernelError, match="Debian package iproute2"):
        read_machine()


@pytest.fixture
def namespace(tmp_path: Path) -> Iterator[str]:
    name = "overlap"
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield name
    subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.mark.kernel
def test_a_real_machine_is_read_as_it_is(namespace: str, tmp_path: Path) -> None:
    lines = (
        "link add eth0 type veth peer name eth1\nlink set eth1 up\nlink set eth0 up\naddr add 192.0.2.5/24 dev eth0\n"
        "route add default via 192.0.2.1\nroute add 10.0.7.0/24 via 192.0.2.9\n"
        "route add blackhole 10.0.9.0/24 table 77\n"
        f"route add local 10.0.0.0/16 dev lo proto {OWN_PROTOCOL}\n"
    )
    subprocess.run(["ip", "-n", namespace, "-batch", "-"], input=lines.encode(), check=True)
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("nameserver 192.0.2.1\n")
    code = (
        "import sys; from pathlib import Path; from svcnet.overlap import *\n"
        "machine = read_machine(Path(sys.argv[1]))\n"
        "print(*check([ip_network('10.0.0.0/16')], *machine, []), sep='\\n')"
    )
    command = ["ip", "netns", "exec", namespace, sys.executable, "-c", code, str(resolv)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert sorted(told) == [
        "--service-cidr 10.0.0.0/16 overlaps the route 10.0.7.0/24 dev eth0",
        "--service-cidr 10.0.0.0/16 overlaps the route 10.0.9.0/24",
    ]


def test_this_machine_can_be_read() -> None:
    machine = read_machine()
    assert isinstance(machine, Machine)
    assert ip_address("127.0.0.1") in {address.ip for address in machine.addresses}
