"""Every option of svcnet, as one table and one frozen value; where a value comes from and who wins.

Owns: names, defaults and help of the options, and their precedence: flags > environment > file > defaults.
Pure but for reading the one file, which is an argument. Knows no click and no process environment of its own:
flags, TOML keys (`service-cidr` or `service_cidr`), SVCNET_… variables and the documentation all come from OPTIONS.
"""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from svcnet import option_kind as kind
from svcnet.model.errors import ConfigError
from svcnet.model.selector import Selector
from svcnet.option_kind import Kind, Listen, Network, Upstream

DEFAULT_FILE = Path("/etc/svcnet/svcnet.toml")
PREFIX = "SVCNET_"
REVERSE_ZONES = ("in-addr.arpa", "ip6.arpa")
"""What the zones of addresses end with (RFC 1035 §3.5, RFC 3596 §2.5)."""
_NEAR = 0.75
"""How alike (difflib ratio) an unknown variable must be to one of ours to count as mistyped."""

# What another program may set: SVCNET_LAB_… is the lab's; the rest are the variables that a service named
# svcnet or svcnet-x gives to its clients (contract, Environment), and must not stop a daemon that sees them.
_NOT_OPTIONS = re.compile(r"SVCNET_LAB_.*|SVCNET_(.*_)?(SERVICE_(HOST|PORT(_.*)?)|PORT(_[0-9]+_(TCP|UDP|SCTP).*)?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All options with their values, parsed. Fields are those of OPTIONS, in the same order."""

    records: str
    etcd_cacert: Path | None
    etcd_cert: Path | None
    etcd_key: Path | None
    etcd_user: str
    etcd_password_file: Path | None
    node: str
    mode: str
    takeover: bool
    takeover_seconds: int
    service_cidr: tuple[Network, ...]
    """One or two, at most one a family; the first is the primary family."""
    cluster_cidr: tuple[Network, ...]
    nodeport_addresses: tuple[Network, ...] | None
    """None is `primary`."""
    external_ips: tuple[Network, ...]
    endpoint_deny: tuple[Network, ...]
    masquerade_all: bool
    masquerade_bit: int
    """0..31; the mark is 1 << masquerade_bit."""
    dns_listen: tuple[Listen, ...]
    """() is `off`."""
    zone: tuple[str, ...]
    """Lower case, no dot at the end."""
    cluster_domain: str
    dns_ttl: tuple[tuple[str, int], ...]
    """(zone, seconds); zone "" stands for all that are not named."""
    dns_namespaces: tuple[str, ...] | None
    """None is `all`."""
    dns_namespace_labels: Selector
    dns_labels: Selector
    dns_endpoints: bool
    dns_endpoint_pod_names: bool
    dns_empty_services: str
    dns_pods: str
    dns_fallthrough: tuple[str, ...]
    dns_upstream: tuple[Upstream, ...] | None
    """None: the servers of /etc/resolv.conf; (): `off`."""
    dns_upstream_policy: str
    dns_upstream_max_fails: int
    dns_upstream_concurrent: int
    dns_private: tuple[str, ...] | None
    """None: the search domains of /etc/resolv.conf; ("",): `all`, as in dns_fallthrough."""
    dns_allow: tuple[Network, ...]
    dns_transfer_to: tuple[Network, ...]
    dns_notify: tuple[Listen, ...]
    dns_log_every: int
    """One DNS query of so many is logged; 0: none. `proxy_log_every` is the same for connections through the proxy."""
    dns_workers: int
    proxy_workers: int
    proxy_log_every: int
    health_scripts: Path | None
    env_dir: Path | None
    """None is `off`, of this and of the one before."""
    status_listen: Listen
    traffic_series: int
    """Most services, and most endpoints, of which traffic is counted by itself; 0: none is counted."""
    state_dir: Path
    cleanup: bool


class Option(NamedTuple):
    """One option. `default` is text in the option's own syntax; None means that there is no value."""

    name: str
    kind: Kind
    default: str | None
    help: str
    unit: str = ""
    in_file: bool = True
    in_environment: bool = True

    @property
    def flag(self) -> str:
        """--service-cidr."""
        return f"--{self.key}"

    @property
    def key(self) -> str:
        """service-cidr: the TOML key as documentation writes it."""
        return self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """SVCNET_SERVICE_CIDR."""
        return PREFIX + self.name.upper()


OPTIONS: tuple[Option, ...] = (
    Option("records", kind.RECORDS, "dir:/var/lib/svcnet/records", "where the records are"),
    Option("etcd_cacert", kind.PATH, None, "certificates that etcd's must be signed by"),
    Option("etcd_cert", kind.PATH, None, "client certificate for etcd"),
    Option("etcd_key", kind.PATH, None, "key of the client certificate for etcd"),
    Option("etcd_user", kind.TEXT, "", "user name for etcd"),
    Option("etcd_password_file", kind.PATH, None, "file with the password for etcd"),
    Option("node", kind.NODE, None, "which minion this is (default: the host name)"),
    Option(
        "mode",
        kind.one_of("auto", "nftables", "iptables", "userspace", "none"),
        "auto",
        "data path; auto takes the first that works, none: only DNS, env files and status",
    ),
    Option("takeover", kind.FLAG, "false", "take the sockets over from the running daemon, which ends", in_file=False),
    Option("takeover_seconds", kind.whole(1, 3600), "60", "a take-over not done by then is given up", "seconds"),
    Option("service_cidr", kind.SERVICE_NETWORKS, "10.0.0.0/16", "virtual IPs come from it"),
    Option("cluster_cidr", kind.FAMILY_NETWORKS, "none", "pod addresses; others are masqueraded"),
    Option("nodeport_addresses", kind.NODEPORT_ADDRESSES, "primary", "addresses on which node ports answer"),
    Option("external_ips", kind.NETWORKS, "none", "external and load-balancer addresses that records may claim"),
    Option(
        "endpoint_deny",
        kind.NETWORKS,
        "127.0.0.0/8,169.254.0.0/16,224.0.0.0/4,::1/128,fe80::/10,ff00::/8",
        "endpoint addresses that are never served",
    ),
    Option("masquerade_all", kind.FLAG, "false", "masquerade every connection to a virtual IP"),
    Option("masquerade_bit", kind.whole(0, 31), "14", "bit of the packet mark that asks for masquerade", "bit"),
    Option("dns_listen", kind.DNS_LISTEN, "127.0.0.1:53", "where DNS answers, UDP and TCP; off: nowhere"),
    Option("zone", kind.NAMES, "svc", "short zones of service names"),
    Option("cluster_domain", kind.NAME, "cluster.local", "domain of the long service names"),
    Option("dns_ttl", kind.DNS_TTL, "5", "how long answers may be kept, negative ones too", "seconds"),
    Option("dns_namespaces", kind.DNS_NAMESPACES, "all", "namespaces that have names"),
    Option("dns_namespace_labels", kind.SELECTOR, "", "labels that a namespace needs to have names"),
    Option("dns_labels", kind.SELECTOR, "", "labels that a service needs to have names"),
    Option("dns_endpoints", kind.FLAG, "true", "names of endpoints, and of headless services"),
    Option("dns_endpoint_pod_names", kind.FLAG, "false", "endpoints without a host name are called as their pods"),
    Option(
        "dns_empty_services",
        kind.one_of("spec", "exist", "absent"),
        "spec",
        "services without endpoints: headless ones are not there (spec), all are (exist), none is (absent)",
    ),
    Option(
        "dns_pods",
        kind.one_of("verified", "insecure", "disabled"),
        "verified",
        "names of pods: of addresses that a pod has, of any address, none",
    ),
    Option("dns_fallthrough", kind.DNS_FALLTHROUGH, "none", "zones of which names that are not there go upstream"),
    Option("dns_upstream", kind.DNS_UPSTREAM, "system", "where other names go; off: REFUSED"),
    Option("dns_upstream_policy", kind.one_of("sequential", "random", "round-robin"), "sequential", "who comes first"),
    Option(
        "dns_upstream_max_fails",
        kind.whole(0, 1000),
        "2",
        "failed probes after which a server upstream is down; 0: never, it is not probed",
        "probes",
    ),
    Option(
        "dns_upstream_concurrent",
        kind.whole(1, 65535),
        "1000",
        "most questions upstream at a time, for each worker; others get REFUSED",
        "questions",
    ),
    Option("dns_private", kind.DNS_PRIVATE, "search", "which other names may lead to private addresses"),
    Option("dns_allow", kind.ALLOWED, "everyone", "who may ask"),
    Option("dns_transfer_to", kind.ALLOWED, "127.0.0.0/8,::1/128", "who may transfer zones"),
    Option("dns_notify", kind.DNS_NOTIFY, "none", "whom to notify of changes"),
    Option("dns_log_every", kind.whole(0, 1_000_000), "0", "log one DNS query of so many, as JSON; 0: none", "queries"),
    Option("dns_workers", kind.whole(1, 256), "1", "DNS worker processes", "processes"),
    Option("proxy_workers", kind.whole(1, 256), "1", "proxy worker processes", "processes"),
    Option(
        "proxy_log_every",
        kind.whole(0, 1_000_000),
        "0",
        "log one connection of so many, as JSON; 0: none",
        "connections",
    ),
    Option("health_scripts", kind.PATH_OR_OFF, "off", "executables that records may name as health checks; off: none"),
    Option("env_dir", kind.PATH_OR_OFF, "/run/svcnet/env", "where NAMESPACE.env files are kept; off: nowhere"),
    Option("status_listen", kind.LISTEN, "127.0.0.1:10256", "status page, health, metrics"),
    Option(
        "traffic_series",
        kind.whole(0, 100_000),
        "2000",
        "most services and endpoints with traffic metrics of their own; 0: no traffic is counted",
        "series",
    ),
    Option("state_dir", kind.PATH, "/var/lib/svcnet/state", "last-good checkpoint, lock, control socket"),
    Option(
        "cleanup",
        kind.FLAG,
        "false",
        "remove all that svcnet put in the kernel, and exit",
        in_file=False,
        in_environment=False,
    ),
)
BY_NAME: Mapping[str, Option] = {option.name: option for option in OPTIONS}


class Given(NamedTuple):
    """One value as some source gives it."""

    text: str
    source: str
    """`--flag`, `SVCNET_VARIABLE`, `FILE:LINE: key`, or `default`."""


class Loaded(NamedTuple):
    """A Config, and for each option where its value came from, as people are told."""

    config: Config
    sources: Mapping[str, str]


def load(
    flags: Mapping[str, str | bool | None],
    environ: Mapping[str, str],
    host_name: str,
    read_file: Callable[[Path], bytes] = Path.read_bytes,
) -> Config:
    """Return the options in force.

    `flags` maps option names (either spelling, `config` among them) to what was given, None for what was not.
    An empty variable counts as not set. ConfigError holds every problem found, one a line, each naming its source.
    """
    return load_with_sources(flags, environ, host_name, read_file).config


def load_with_sources(
    flags: Mapping[str, str | bool | None],
    environ: Mapping[str, str],
    host_name: str,
    read_file: Callable[[Path], bytes] = Path.read_bytes,
) -> Loaded:
    """Return what `load` returns, and the source of every value."""
    problems: list[str] = []
    given: dict[str, Given] = {
        option.name: Given(option.default, "default") for option in OPTIONS if option.default is not None
    }
    given["node"] = Given(host_name.lower(), "host name")
    given |= _from_file(flags, environ, read_file, problems)
    given |= _from_environment(environ, problems)
    given |= _from_flags(flags)
    values: dict[str, Any] = {}
    for option in OPTIONS:
        values[option.name] = _parse(option, given.get(option.name), problems)
    if not problems and (values["etcd_cert"] is None) != (values["etcd_key"] is None):
        problems.append("--etcd-cert and --etcd-key: only one is given, expected both or neither")
    if not problems:
        problems += _no_zones(values, given)
    if problems:
        raise ConfigError("\n".join(problems))
    sources = {o.name: given[o.name].source if o.name in given else "default" for o in OPTIONS}
    return Loaded(Config(**values), sources)


def _no_zones(values: Mapping[str, Any], given: Mapping[str, Given]) -> Iterator[str]:
    """Yield what is wrong with options that name zones."""
    zones = (*values["zone"], values["cluster_domain"])
    for name, named, others in (
        ("dns_ttl", [zone for zone, _ in values["dns_ttl"]], ()),
        ("dns_fallthrough", values["dns_fallthrough"], REVERSE_ZONES),
    ):
        for zone in named:
            if zone and zone not in zones and not zone.endswith(others):
                expected = ", ".join((*zones, *others))
                yield f"{given[name].source}: {zone!r} is no zone, expected one of {expected}"


def show(option: Option, config: Config) -> str:
    """Return the value of `option` in its own syntax, "" for none."""
    value = getattr(config, option.name)
    return "" if value is None and option.default is None else option.kind.show(value)


def _parse(option: Option, value: Given | None, problems: list[str]) -> Any:
    if value is None:
        return None
    try:
        if not value.text and option.default != "":
            raise ValueError("is empty")  # noqa: TRY301 - one way out for every bad value
        return option.kind.parse(value.text)
    except ValueError as error:
        problems.append(f"{value.source}: {error}, expected {option.kind.expected}")
        return None


def _from_flags(flags: Mapping[str, str | bool | None]) -> dict[str, Given]:
    found: dict[str, Given] = {}
    for name, value in flags.items():
        option = BY_NAME.get(name.replace("-", "_"))
        if option is not None and value is not None:
            text = str(value).lower() if isinstance(value, bool) else value
            found[option.name] = Given(text, option.flag)
    return found


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, Given]:
    found: dict[str, Given] = {}
    known = {option.variable: option for option in OPTIONS if option.in_environment}
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name == f"{PREFIX}CONFIG":
            continue
        if name in known:
            if environ[name]:
                found[known[name].name] = Given(environ[name], name)
        elif not _NOT_OPTIONS.fullmatch(name) and (near := difflib.get_close_matches(name, known, 1, _NEAR)):
            problems.append(f"{name}: unknown variable, did you mean {near[0]}?")
    return found


def _from_file(
    flags: Mapping[str, str | bool | None],
    environ: Mapping[str, str],
    read_file: Callable[[Path], bytes],
    problems: list[str],
) -> dict[str, Given]:
    named = flags.get("config") or environ.get(f"{PREFIX}CONFIG")
    path = Path(str(named)) if named else DEFAULT_FILE
    try:
        data = read_file(path)
    except OSError as error:
        if named or not isinstance(error, FileNotFoundError | NotADirectoryError):
            problems.append(f"{path}: can't be read: {error.strerror or error}")
        return {}
    return _from_toml(path, data, problems)


def _from_toml(path: Path, data: bytes, problems: list[str]) -> dict[str, Given]:
    import tomllib  # noqa: PLC0415 - most commands run without a file

    try:
        text = data.decode()
        document = tomllib.loads(text)
    except UnicodeDecodeError as error:
        problems.append(f"{path}:{data[: error.start].count(10) + 1}: byte {error.start} is not UTF-8")
        return {}
    except tomllib.TOMLDecodeError as error:
        message, _, place = str(error).partition(" (at line ")
        line = place.partition(",")[0] if place else str(text.count("\n") + 1)
        problems.append(f"{path}:{line}: {message[:1].lower()}{message[1:]}, expected TOML")
        return {}
    found: dict[str, Given] = {}
    known = {option.name: option for option in OPTIONS if option.in_file}
    for key, value in document.items():
        name, where = key.replace("-", "_"), f"{path}:{_line_of(text, key)}: {key}"
        if name not in known:
            problems.append(f"{where}: {_unknown_key(name, known)}")
        elif name in found:
            problems.append(f"{where}: is given twice")
        elif (shown := kind.toml_text(known[name].kind, value)) is None:
            problems.append(f"{where}: wrong type {kind.toml_type(value)}, expected {known[name].kind.expected}")
        else:
            found[name] = Given(shown, where)
    return found


def _unknown_key(name: str, known: Mapping[str, Option]) -> str:
    if name in BY_NAME or name == "config":
        return "can't stand in a file, expected as a flag"
    near = difflib.get_close_matches(name, known, 1, 0.0)[0]
    return f"unknown key, did you mean {known[near].key}?"


def _line_of(text: str, key: str) -> int:
    """Return the line where a top-level key stands (tomllib keeps no places); 1 when it is hidden by quoting."""
    quoted = re.escape(key)
    pattern = rf"^[ \t]*(?:\[+[ \t]*)?[\"']?{quoted}[\"']?[ \t]*[=.\]]"
    match = re.search(pattern, text, re.MULTILINE)
    return text.count("\n", 0, match.start()) + 1 if match else 1
