"""Values of fields, made canonical or refused.

Owns: what a port, a name, an address, a range or an enum may be. Must not know: wire forms, files, lines.
Every check takes the path of the field last, piece by piece, so that the good case never builds one.
"""

import ipaddress
import re
import socket
from collections.abc import Callable, Collection, Sequence
from sys import intern

Path = tuple[str | int, ...]
"""Where a field is: keys and indexes from the record's top."""

PROTOCOLS = ("TCP", "UDP", "SCTP")
FAMILIES = ("IPv4", "IPv6")

_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?").fullmatch
_SUBDOMAIN = re.compile(r"[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?)*+")
_PORT_NAME = re.compile(r"(?=[^a-z]*[a-z])[a-z0-9]+(?:-[a-z0-9]+)*").fullmatch
_SHOWN_CHARS = 80


class FieldError(Exception):
    """One field is wrong. `what` says what was seen and what is expected; `path` says where."""

    def __init__(self, what: str, *path: str | int) -> None:
        super().__init__(what)
        self.what = what
        self.path: Path = path


def show(value: object) -> str:
    """Return a value as error messages quote it: its JSON type and, if short and simple, its text."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"bool {str(value).lower()}"
    if isinstance(value, int):
        return f"integer {value}" if abs(value) < 10**30 else "a huge integer"
    if isinstance(value, float):
        return f"number {value}"
    if isinstance(value, str):
        cut = value if len(value) <= _SHOWN_CHARS else value[:_SHOWN_CHARS] + "…"
        return f'string "{cut}"' if cut.isprintable() else f"string {cut!a}"
    return "array" if isinstance(value, Sequence) else "object"


def quote(text: str) -> str:
    """Return text in quotes, cut and escaped so that a message stays one readable line."""
    return show(text).removeprefix("string ")


def path_text(path: Path) -> str:
    """Write a path as `spec.ports[0].port`; keys that hold other characters stand in brackets."""
    parts: list[str] = []
    for step in path:
        if isinstance(step, int):
            parts.append(f"[{step}]")
        elif re.fullmatch(r"[A-Za-z][A-Za-z0-9]*", step):
            parts.append(f".{step}" if parts else step)
        else:
            parts.append(f"[{step if len(step) <= _SHOWN_CHARS and step.isprintable() else quote(step)}]")
    return "".join(parts)


def missing(expected: str, *path: str | int) -> FieldError:
    """Return the error for a required field that isn't there."""
    return FieldError(f"missing, expected {expected}", *path)


def port(value: int | None, *path: str | int) -> int:
    """Return a port number, 1..65535."""
    if value is None:
        raise missing("a port, 1..65535", *path)
    if not 1 <= value <= 65535:
        raise FieldError(f"got {value}, expected a port, 1..65535", *path)
    return value


def optional_port(value: int | None, *path: str | int) -> int:
    """Return a port number where Kubernetes lets 0 or nothing mean "none"."""
    return port(value, *path) if value else 0


def protocol(value: str | None, *path: str | int) -> str:
    """Return the protocol; Kubernetes' default is TCP."""
    return one_of(value, PROTOCOLS, "TCP", *path)


def one_of(value: str | None, allowed: Collection[str], default: str, *path: str | int) -> str:
    """Return an enum's value; null and "" mean the default."""
    if not value:
        return default
    if value not in allowed:
        raise FieldError(f"got {quote(value)}, expected {' or '.join(allowed)}", *path)
    return intern(value)


def port_name(value: str | None, *path: str | int) -> str:
    """Return a service port's name: a DNS label (Kubernetes ServicePort.name), "" when absent."""
    if value and not _LABEL(value):
        raise FieldError(f"got {quote(value)}, expected a DNS label: a-z, 0-9 and -, at most 63", *path)
    return intern(value) if value else ""


def container_port_name(value: str | None, *path: str | int) -> str:
    """Return a container port's name: IANA_SVC_NAME (RFC 6335 5.1), "" when absent."""
    if value and not (len(value) <= 15 and _PORT_NAME(value)):
        raise FieldError(
            f"got {quote(value)}, expected a port name: a-z, 0-9 and single -, a letter in it, at most 15", *path
        )
    return intern(value) if value else ""


def target_port(value: int | str | None, *path: str | int) -> int | str:
    """Return ServicePort.targetPort: a number, a container port's name, or 0 for "the same as port"."""
    if isinstance(value, str):
        if value.isdecimal():
            raise FieldError(f"got string {quote(value)}, expected a number without quotes, or a port's name", *path)
        return container_port_name(value, *path) or 0
    return optional_port(value, *path)


def label(value: str | None, what: str, *path: str | int) -> str:
    """Return a DNS label (RFC 1123); `what` names the thing, as in "a service name"."""
    if not value:
        raise missing(what, *path)
    if not _LABEL(value):
        raise FieldError(f"got {quote(value)}, expected {what}: a DNS label of a-z, 0-9 and -, at most 63", *path)
    return intern(value)


def optional_label(value: str | None, what: str, *path: str | int) -> str:
    """Return a DNS label, "" when absent."""
    return label(value, what, *path) if value else ""


def subdomain(value: str | None, what: str, *path: str | int) -> str:
    """Return a DNS subdomain (RFC 1123), letters of either case (v1beta1 ids hold capitals), at most 253."""
    if not value:
        raise missing(what, *path)
    if len(value) > 253 or not _SUBDOMAIN.fullmatch(value):
        raise FieldError(
            f"got {quote(value)}, expected {what}: labels of letters, 0-9 and - joined by dots, at most 253", *path
        )
    return value


def address(value: str | None, *path: str | int) -> str:
    """Return an IPv4 or IPv6 address as canonical text (RFC 5952)."""
    if not value:
        raise missing("an IP address", *path)
    try:
        # Accepts four plain decimal bytes and nothing else, ten times as fast as ipaddress.
        socket.inet_pton(socket.AF_INET, value)
    except (OSError, ValueError):
        return _address_v6(value, *path)
    return value


def _address_v6(value: str, *path: str | int) -> str:
    try:
        found = ipaddress.IPv6Address(value)
    except ValueError:
        raise FieldError(f"got {quote(value)}, expected an IP address{_hint(value)}", *path) from None
    if found.scope_id is not None:
        raise FieldError(f"got {quote(value)}, expected an IP address without a zone", *path)
    if found.ipv4_mapped is not None:
        raise FieldError(f"got {quote(value)}, expected the IPv4 address itself: {found.ipv4_mapped}", *path)
    return str(found)


def _hint(value: str) -> str:
    if "/" in value:
        return " without /"
    if re.fullmatch(r"\d+(?:\.\d+){3}", value, re.ASCII) and re.search(r"(?:^|\.)0\d", value):
        return " without leading zeros"
    return ""


def family(value: str) -> str:
    """Return the family of a canonical address: IPv4 or IPv6."""
    return "IPv6" if ":" in value else "IPv4"


def cidr(value: str | None, *path: str | int) -> str:
    """Return a range as canonical text: trimmed, host bits cleared, as Kubernetes does."""
    text = (value or "").strip()
    if not text:
        raise missing("a CIDR range", *path)
    try:
        if "/" in text and text.rpartition("/")[2].isdecimal():
            return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        pass
    raise FieldError(f"got {quote(text)}, expected a CIDR range, as in 10.0.0.0/8", *path)


def each(values: Sequence[str | None] | None, one: Callable[..., str], *path: str | int) -> tuple[str, ...]:
    """Check every entry of a list."""
    if not values:
        return ()
    return tuple([one(value, *path, i) for i, value in enumerate(values)])
