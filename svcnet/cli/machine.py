"""Reading this machine for doctor: settings, interfaces, routes, rules, counters.

Owns: the files and programs that are asked. Nothing is changed, and nothing comes into being by being asked for: legacy
tables of iptables are read only where there are some (docs/adr/0006-iptables.md). What can't be read is said.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import msgspec

from svcnet.doctor import iptables_text, nft_json
from svcnet.doctor.facts import ROUTES, RULES, Home, Link, Way
from svcnet.doctor.packet_filter import OWN_CHAIN, OWN_TABLE, Network, Table
from svcnet.iptables.xtables import COMMANDS, LEGACY, SBIN, TABLES_IN_USE, VARIANTS, programs
from svcnet.model.errors import KernelError, SvcnetError
from svcnet.overlap import check, read_machine

PROC = Path("/proc")
_SETTINGS = (
    "net/ipv4/ip_forward",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/ip_local_reserved_ports",
    "net/ipv4/conf/*/forwarding",
    "net/ipv4/conf/*/rp_filter",
    "net/ipv6/conf/all/forwarding",
    "net/ipv6/conf/*/accept_ra",
    "net/bridge/bridge-nf-call-ip*tables",
    "net/netfilter/nf_conntrack_max",
    "net/netfilter/nf_conntrack_count",
    "net/netfilter/nf_conntrack_acct",
    "net/netfilter/nf_conntrack_events",
    "net/netfilter/nf_conntrack_tcp_be_liberal",
)
_WITHOUT_PRIVILEGE = "not permitted", "denied", "must be root"
_PRIVILEGE = "CAP_NET_ADMIN and CAP_NET_RAW (run as root)"


def settings(proc: Path = PROC) -> dict[str, Any]:
    """Facts of /proc/sys: `settings`, and `fixed`, those that nobody may write here."""
    values: dict[str, str] = {}
    fixed = set[str]()
    root = proc / "sys"
    for pattern in _SETTINGS:
        for file in root.glob(pattern):
            name = str(file.relative_to(root))
            try:
                values[name] = file.read_text(encoding="ascii").strip()
                if not file.stat().st_mode & 0o222:
                    fixed.add(name)
            except OSError:  # an interface that went meanwhile
                continue
    return {"settings": values, "fixed": frozenset(fixed)}


def counters(proc: Path = PROC) -> dict[str, Any]:
    """Facts of what the kernel counts since boot: drops by rp_filter, and of the connection table."""
    net = proc / "thread-self/net"
    table = _columns(_text(net / "stat/nf_conntrack").splitlines())
    return {
        "reverse_path_drops": _netstat(_text(net / "netstat")).get("IPReversePathFilter", 0),
        "table_drops": table.get("drop", 0),
        "insert_failures": table.get("insert_failed", 0),
    }


def interfaces() -> dict[str, Any]:
    """Facts of interfaces and addresses. KernelError without `ip`."""
    links = tuple(_link(row) for row in _ip("-d", "link", "show"))
    homes = tuple(
        Home(ip_address(info["local"]), row.get("ifname", ""), info.get("scope") == "global")
        for row in _ip("addr", "show")
        for info in row.get("addr_info", ())
        if "local" in info
    )
    learnt = frozenset(str(row.get("dev", "")) for row in _ip("-6", "route", "show", "default", "proto", "ra"))
    return {"links": links, "homes": homes, "advertised": learnt}


def routes(service_cidr: Sequence[Network], cluster_cidr: Sequence[Network]) -> dict[str, Any]:
    """Facts of routes: the way to virtual IPs, what these would hide, and the name servers."""
    try:
        machine = read_machine()
    except KernelError as error:
        return {"unread": {ROUTES: str(error)}}
    taken = [route.destination for route in machine.routes]
    taken += [ip_network(home.ip) for home in machine.addresses]
    return {
        "ways": tuple(_way(network) for network in service_cidr),
        "overlaps": tuple(
            check(service_cidr, machine.addresses, machine.routes, machine.name_servers, cluster_cidr),
        ),
        "taken": tuple(taken),
        "name_servers": machine.name_servers,
    }


def rules() -> dict[str, Any]:
    """Facts of packet filters: tables of others, and which programs hold chains of ours."""
    tables: list[Table] = []
    own, unread = set[str](), list[str]()
    for variant in VARIANTS:
        paths = programs(variant)
        for family, command in COMMANDS.items():
            program = f"{command}-{variant}"
            try:
                text = _saved(variant, family, (paths or {}).get(f"{command}-save"))
            except SvcnetError as error:
                unread.append(f"{program}: {error}")
                continue
            found = iptables_text.tables(program, text)
            tables += found
            if any(name.startswith(OWN_CHAIN) for table in found for name in table.chains):
                own.add(program)
    known = {(table.family, table.name) for table in tables if table.program.endswith("-nft")}
    try:
        tables += _nft_tables(known)
    except SvcnetError as error:
        unread.append(f"nft: {error}")
    said = {RULES: "; ".join(dict.fromkeys(unread))} if unread else {}
    return {"tables": tuple(tables), "own_chains": frozenset(own), "unread": said}


def installed(names: Iterable[str]) -> frozenset[str]:
    """Those of these programs that are here."""
    return frozenset(name for name in names if shutil.which(name) or shutil.which(name, path=SBIN))


def _saved(variant: str, family: int, program: str | None) -> str:
    """What iptables-save says, "" where there is nothing to ask for or nothing to ask with."""
    if variant == LEGACY:
        try:
            if not TABLES_IN_USE[family].read_text(encoding="ascii").split():
                return ""
        except FileNotFoundError:  # the kernel has no legacy tables
            return ""
        except PermissionError as error:
            raise SvcnetError(_PRIVILEGE) from error
        if program is None:
            raise SvcnetError("there are legacy tables, and no program to read them (Debian: apt install iptables)")
    return _output([program]) if program else ""


def _nft_tables(known: set[tuple[str, str]]) -> Iterable[Table]:
    """Tables without their elements, of which there may be many; those of iptables-nft that were read are left out."""
    if not installed(["nft"]):
        return
    for item in _decode(_output(["nft", "-j", "list", "tables"])):
        where = item.get("table")
        if where is None or where["name"] == OWN_TABLE or (where["family"], where["name"]) in known:
            continue
        listing = _decode(_output(["nft", "-j", "-t", "list", "table", where["family"], where["name"]]))
        found = nft_json.table(listing)
        if found is not None:
            yield found


def _decode(text: str) -> list[dict[str, Any]]:
    if not text.strip():
        return []
    listed: list[dict[str, Any]] = msgspec.json.decode(text.encode())["nftables"]
    return listed


def _output(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=os.environ | {"LC_ALL": "C", "PATH": _path()}
        )
    except OSError as error:
        raise SvcnetError(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        said = " ".join(done.stderr.split())
        if any(words in said for words in _WITHOUT_PRIVILEGE):
            raise SvcnetError(_PRIVILEGE)
        raise SvcnetError(f"{' '.join(command)}: {said}")
    return done.stdout


def _path() -> str:
    """Where administration's programs are too, which an ordinary user's PATH leaves out."""
    return f"{os.environ.get('PATH', os.defpath)}:{SBIN}"


def _ip(*arguments: str) -> list[dict[str, Any]]:
    text = _output(("ip", "-j", *arguments))
    rows: list[dict[str, Any]] = msgspec.json.decode(text.encode()) if text.strip() else []
    return [row for row in rows if row]


def _link(row: Mapping[str, Any]) -> Link:
    flags, info = row.get("flags", ()), row.get("linkinfo", {})
    port = info.get("info_slave_kind") == "bridge"
    own = info.get("info_data", {}) if info.get("info_kind") == "bridge" else {}
    return Link(
        row["ifname"],
        info.get("info_kind", ""),
        row.get("master", "") if port else "",
        bool(info.get("info_slave_data", {}).get("hairpin")) if port else False,
        "UP" in flags,
        "LOOPBACK" in flags,
        "link_netnsid" in row,
        frozenset(v for v, name in ((4, "nf_call_iptables"), (6, "nf_call_ip6tables")) if own.get(name)),
    )


def _way(network: Network) -> Way:
    """Ask for the first address that a service may have."""
    first = network.network_address + min(1, network.num_addresses - 1)
    try:
        rows = _ip(f"-{network.version}", "route", "get", str(first))
    except SvcnetError as error:
        return Way(network, error=str(error).rpartition("answers: ")[2])
    row = rows[0] if rows else {}
    source = row.get("prefsrc")
    return Way(
        network,
        row.get("type", "unicast"),
        row.get("dev", ""),
        ip_address(source) if source else _source(str(first)),
    )


def _source(address: str) -> Any:
    """The source that a socket would take, where `ip` doesn't tell: no packet leaves."""
    import socket  # noqa: PLC0415 - rarely needed

    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))
            return ip_address(probe.getsockname()[0])
        except OSError:
            return None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:  # no such module
        return ""


def _columns(lines: Sequence[str]) -> dict[str, int]:
    """A header and a line of hexadecimal numbers a processor → sums."""
    names = lines[0].split() if lines else []
    sums = dict.fromkeys(names, 0)
    for line in lines[1:]:
        for name, word in zip(names, line.split(), strict=False):
            sums[name] += int(word, 16)
    return sums


def _netstat(text: str) -> dict[str, int]:
    """Pairs of lines: `TcpExt: names`, `TcpExt: numbers`."""
    lines = text.splitlines()
    found: dict[str, int] = {}
    for names, numbers in zip(lines[::2], lines[1::2], strict=False):
        found |= {n: int(v) for n, v in zip(names.split()[1:], numbers.split()[1:], strict=False)}
    return found
