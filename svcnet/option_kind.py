"""Kinds of option values: how each is read from text, shown as text, and described to people.

Owns: the text forms of addresses, networks, lists, flags. Pure; knows no option by name and no source of values.
Every kind satisfies `parse(show(value)) == value`; `parse` raises ValueError with what is wrong, and the caller
adds `expected`.
"""

import re
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any, NamedTuple

from svcnet.model import selector

Network = IPv4Network | IPv6Network
"""A CIDR of either family."""

EVERYONE: tuple[Network, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
DNS_PORT, DNS_TLS_PORT = 53, 853
"""An address without a port means the first where DNS is meant (contract, DNS), the second behind tls://."""

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.ASCII)
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_YES = frozenset({"true", "yes", "on", "1"})
_NO = frozenset({"false", "no", "off", "0"})


class Listen(NamedTuple):
    """An IP address (canonical text, a scope id is kept) and a port, 0..65535; 0 lets the kernel choose."""

    host: str
    port: int

    def __str__(self) -> str:
        """ADDR:PORT, with brackets around IPv6."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Upstream(NamedTuple):
    """A DNS server that other names go to. `tls`: by DNS over TLS, with `name`, or else the address, certified."""

    host: str
    port: int
    tls: bool = False
    name: str = ""

    def __str__(self) -> str:
        """ADDR:PORT, or tls://ADDR:PORT[#NAME]."""
        at = Listen(self.host, self.port)
        return f"tls://{at}{self.name and '#' + self.name}" if self.tls else str(at)


class Kind(NamedTuple):
    """How one kind of value is read and shown."""

    metavar: str
    """For usage texts: CIDR[,CIDR6]."""
    expected: str
    """Ends the sentence "expected …"."""
    parse: Callable[[str], Any]
    show: Callable[[Any], str] = str
    toml: tuple[type, ...] = (str,)
    """Types that a TOML value of it may have; the text is always allowed."""


def _items(text: str) -> list[str]:
    items = [item.strip() for item in text.split(",")]
    if "" in items:
        raise ValueError("has an empty element")
    return items


def _network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        loose = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is no CIDR") from None
    raise ValueError(f"{text!r} has host bits set (did you mean {loose}?)")


def _networks(text: str) -> tuple[Network, ...]:
    if text == "none":
        return ()
    if text == "everyone":
        return EVERYONE
    return tuple(dict.fromkeys(_network(item) for item in _items(text)))


def _show_networks(value: tuple[Network, ...]) -> str:
    if value == EVERYONE:
        return "everyone"
    return ",".join(map(str, value)) or "none"


def _family_networks(text: str) -> tuple[Network, ...]:
    found = _networks(text)
    for version in (4, 6):
        same = [str(network) for network in found if network.version == version]
        if len(same) > 1:
            raise ValueError(f"{' and '.join(same)} are both IPv{version}")
    return found


def _service_networks(text: str) -> tuple[Network, ...]:
    found = _family_networks(text)
    if not found:
        raise ValueError("names no network")
    for network in found:
        if network.num_addresses < 4:
            raise ValueError(f"{network} has no room for a virtual IP")
    return found


def _listen(text: str, default_port: int | None) -> Listen:
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is no [ADDR]:PORT")
        port = rest[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        address = str(ip_address(host))
    except ValueError:
        hint = f" (did you mean 0.0.0.0:{port}?)" if not host and port else ""
        raise ValueError(f"{host!r} is no IP address{hint}") from None
    if not port and default_port is not None and not text.endswith(":"):
        return Listen(address, default_port)
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError(f"{text!r} has no port from 0 to 65535")
    return Listen(address, int(port))


def _dns_addresses(text: str) -> tuple[Listen, ...]:
    return tuple(dict.fromkeys(_listen(item, DNS_PORT) for item in _items(text)))


def _upstream(text: str) -> Upstream:
    scheme, tls, rest = text.rpartition("://")
    if scheme not in {"", "tls"} or (tls and not scheme):
        raise ValueError(f"{text!r} has a scheme other than tls://")
    if not tls:
        return Upstream(*_listen(text, DNS_PORT))
    at, mark, name = rest.partition("#")
    return Upstream(*_listen(at, DNS_TLS_PORT), tls=True, name=_name(name) if mark else "")


def _upstreams(text: str) -> tuple[Upstream, ...]:
    return tuple(dict.fromkeys(map(_upstream, _items(text))))


def _or(word: str, value: Any, parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return `parse`, with `word` standing for `value`."""
    return lambda text: value if text == word else parse(text)


def _show_or(word: str, value: Any, show: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda shown: word if shown == value else show(shown)


def _joined(value: tuple[Any, ...]) -> str:
    return ",".join(map(str, value))


def _name(text: str) -> str:
    name = text.lower().removesuffix(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(f"{text!r} is no DNS name")
    return name


def _bool(text: str) -> bool:
    if text.lower() in _YES:
        return True
    if text.lower() in _NO:
        return False
    raise ValueError(f"{text!r} is neither true nor false")


def _path(text: str) -> Path:
    if "\0" in text:
        raise ValueError(f"{text!r} holds a zero byte")
    return Path(text)


def _records(text: str) -> str:
    scheme, colon, rest = text.partition(":")
    if scheme == "etcd":
        hosts, _, prefix = rest.removeprefix("//").partition("/")
        if not (rest.startswith("//") and all(hosts.split(",")) and prefix.strip("/")):
            raise ValueError(f"{text!r} lacks a host or a prefix")
    elif scheme not in {"dir", "memory"} or not colon or bool(rest) != (scheme == "dir"):
        hint = f" (did you mean dir:{text}?)" if text.startswith(("/", ".")) else ""
        raise ValueError(f"{text!r} names no store{hint}")
    elif "\0" in rest:
        raise ValueError(f"{text!r} holds a zero byte")
    return text


def _node(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?", text, re.ASCII):
        raise ValueError(f"{text!r} is no name of a minion")
    return text


def _selector(text: str) -> selector.Selector:
    try:
        return selector.parse(text)
    except ValueError as error:
        raise ValueError(str(error).partition(", expected")[0]) from None


def _namespaces(text: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(_items(text)))
    for one in found:
        if not _NAMESPACE.fullmatch(one):
            raise ValueError(f"{one!r} is no name of a namespace")
    return found


def one_of(*words: str) -> Kind:
    """Return the kind of a closed set of words."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text!r} is not known")
        return text

    return Kind("|".join(words), f"one of {', '.join(words)}", parse)


def whole(low: int, high: int) -> Kind:
    """Return the kind of whole numbers from `low` to `high`."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,9}", text, re.ASCII) or not low <= int(text) <= high:
            raise ValueError(f"{text!r} is out of range")
        return int(text)

    return Kind("N", f"a whole number from {low} to {high}", parse, toml=(int,))


LONGEST_TTL_SECONDS = 3600


def _ttls(text: str) -> tuple[tuple[str, int], ...]:
    found: dict[str, int] = {}
    for item in _items(text):
        zone, _, seconds = item.rpartition("=")
        name = _name(zone.strip()) if "=" in item else ""
        if name in found:
            raise ValueError(f"{item!r} is a second one for the same zone")
        if not re.fullmatch(r"[0-9]{1,4}", seconds.strip(), re.ASCII) or int(seconds) > LONGEST_TTL_SECONDS:
            raise ValueError(f"{seconds.strip()!r} is no number of seconds from 0 to {LONGEST_TTL_SECONDS}")
        found[name] = int(seconds)
    return tuple(found.items())


def _show_ttls(value: tuple[tuple[str, int], ...]) -> str:
    return ",".join(f"{zone}={seconds}" if zone else str(seconds) for zone, seconds in value)


def toml_text(wanted: Kind, value: object) -> str | None:
    """Return a TOML value in the option's own syntax, None when its type doesn't fit."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower() if bool in wanted.toml else None
    if isinstance(value, int):
        return str(value) if int in wanted.toml else None
    if isinstance(value, list) and list in wanted.toml and all(isinstance(item, str) for item in value):
        return ",".join(value) or "none"
    return None


def toml_type(value: object) -> str:
    """Return what TOML calls the type of a value."""
    names = {bool: "boolean", int: "integer", float: "float", list: "array", dict: "table"}
    return names.get(type(value), "date")


_CIDRS = "CIDRs separated by commas, or none"
FLAG = Kind("", "true or false", _bool, lambda value: "true" if value else "false", (bool,))
TEXT = Kind("TEXT", "text", str)
PATH = Kind("PATH", "a path", _path)
PATH_OR_OFF = Kind("PATH", "a path, or off", _or("off", None, _path), _show_or("off", None, str))
RECORDS = Kind("URL", "dir:PATH or etcd://HOST:PORT[,HOST:PORT…]/PREFIX", _records)
NODE = Kind("NAME", "letters, digits, dashes and dots", _node)
NAME = Kind("NAME", "a DNS name", _name)
NAMES = Kind(
    "NAME[,…]",
    "DNS names separated by commas",
    lambda text: tuple(dict.fromkeys(map(_name, _items(text)))),
    _joined,
    (list,),
)
NETWORKS = Kind("CIDR[,…]", _CIDRS, _networks, _show_networks, (list,))
ALLOWED = Kind("CIDR[,…]", "CIDRs separated by commas, everyone, or none", _networks, _show_networks, (list,))
FAMILY_NETWORKS = Kind(
    "CIDR[,CIDR6]", "at most one CIDR of each family, or none", _family_networks, _show_networks, (list,)
)
SERVICE_NETWORKS = Kind(
    "CIDR[,CIDR6]", "one CIDR of each family at most, such as 10.0.0.0/16", _service_networks, _show_networks, (list,)
)
NODEPORT_ADDRESSES = Kind(
    "CIDR[,…]",
    "CIDRs separated by commas, or primary",
    _or("primary", None, _networks),
    _show_or("primary", None, _show_networks),
    (list,),
)
DNS_NAMESPACES = Kind(
    "NAME[,…]",
    "names of namespaces separated by commas, or all",
    _or("all", None, _namespaces),
    _show_or("all", None, _joined),
    (list,),
)
SELECTOR = Kind("SEL", f"a label selector: {selector.SYNTAX}", _selector, lambda value: str(value.text))
DNS_FALLTHROUGH = Kind(
    "ZONE[,…]",
    "zones separated by commas, all, or none",
    _or("all", ("",), _or("none", (), NAMES.parse)),
    _show_or("all", ("",), _show_or("none", (), _joined)),
    (list,),
)
LISTEN = Kind("ADDR:PORT", "ADDR:PORT, such as 127.0.0.1:10256", lambda text: _listen(text, None))
DNS_LISTEN = Kind(
    "ADDR:PORT[,…]",
    "ADDR:PORT separated by commas, or off",
    _or("off", (), _dns_addresses),
    _show_or("off", (), _joined),
    (list,),
)
DNS_UPSTREAM = Kind(
    "[tls://]ADDR[:PORT][#NAME][,…]",
    "addresses, or tls://ADDR[:PORT][#NAME], separated by commas, system (those of /etc/resolv.conf), or off",
    _or("system", None, _or("off", (), _upstreams)),
    _show_or("system", None, _show_or("off", (), _joined)),
    (list,),
)
DNS_PRIVATE = Kind(
    "NAME[,…]",
    "DNS names separated by commas, search (the domains of /etc/resolv.conf), all, or none",
    _or("search", None, _or("all", ("",), _or("none", (), NAMES.parse))),
    _show_or("search", None, _show_or("all", ("",), _show_or("none", (), _joined))),
    (list,),
)
DNS_NOTIFY = Kind(
    "ADDR:PORT[,…]",
    "ADDR:PORT separated by commas, or none",
    _or("none", (), _dns_addresses),
    _show_or("none", (), _joined),
    (list,),
)
DNS_TTL = Kind(
    "SECONDS[,ZONE=SECONDS…]",
    "seconds, and ZONE=SECONDS where a zone differs, separated by commas",
    _ttls,
    _show_ttls,
    (int, list),
)
