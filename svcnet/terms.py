"""The `svcnet.dev/…` annotations of a Service → the terms on which the userspace proxy carries it. Pure.

Owns: what their texts mean. What they may be is svcnet/codec/annotations.py's: a value that is not, which only a record
made otherwise than from text can have, counts as absent.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from svcnet.model.meta import Pairs
from svcnet.model.terms import USUAL, Eject, EndpointLimit, Locality, Terms

PREFIX = "svcnet.dev/"
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|h|m|s)", re.ASCII)
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}


def seconds(text: str) -> float:
    """A duration as Go writes it: `1m30s`, `250ms`. ValueError for anything else."""
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"got {text!r}, expected a duration, as in 30s")
    return float(sum(float(number) * _UNITS[unit] for number, unit in parts))


def terms_of(annotations: Pairs) -> Terms:
    """What a Service's annotations ask."""
    found: dict[str, Any] = {}
    for key, text in annotations:
        known = _FIELDS.get(key.removeprefix(PREFIX)) if key.startswith(PREFIX) else None
        if known is not None:
            field, read = known
            try:
                found[field] = read(text)
            except ValueError:
                continue
    return Terms(**found) if found else USUAL


def options(text: str, readers: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """`a=1,b=2s` read by name. ValueError."""
    pairs = [part.partition("=") for part in text.split(",")]
    unknown = [name for name, _, _ in pairs if name not in readers]
    if unknown:
        raise ValueError(f"got {unknown[0]!r}, expected one of {', '.join(readers)}")
    return {name: readers[name](value) for name, _, value in pairs}


def _eject(text: str) -> Eject | None:
    if text == "off":
        return None
    found = options(text, {"failures": int, "base": seconds, "max": seconds, "share": int})
    renamed = {"base": "base_seconds", "max": "most_seconds"}
    return Eject(**{renamed.get(name, name): value for name, value in found.items()})


def _endpoint_limit(text: str) -> EndpointLimit:
    number, _, rest = text.partition(",")
    readers: dict[str, Callable[[str], Any]] = {"queue": int, "timeout": seconds, "abort-on-close": "on".__eq__}
    found = options(rest, readers) if rest else {}
    renamed = {"timeout": "seconds", "abort-on-close": "abort_on_close"}
    return EndpointLimit(int(number), **{renamed.get(name, name): value for name, value in found.items()})


def _locality(text: str) -> Locality:
    first, _, rest = text.partition(",")
    return Locality(first, **(options(rest, {"share": int}) if rest else {}))


def _off(read: Callable[[str], Any], nothing: object) -> Callable[[str], Any]:
    return lambda text: nothing if text == "off" else read(text)


def _ladder(text: str) -> tuple[float, ...]:
    return tuple(map(seconds, text.split(",")))


_FIELDS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "proxy": ("userspace", lambda text: text == "userspace"),
    "balance": ("balance", str),
    "connect-timeouts": ("connect_seconds", _ladder),
    "idle-timeout": ("idle_seconds", seconds),
    "half-closed-timeout": ("half_closed_seconds", seconds),
    "drain": ("drain_seconds", seconds),
    "max-connections": ("most_connections", int),
    "max-connection-rate": ("most_rate", int),
    "udp-replies": ("udp_replies", int),
    "max-connections-per-endpoint": ("endpoint_limit", _endpoint_limit),
    "send-proxy": ("send_proxy", _off(str, "")),
    "accept-proxy": ("accept_proxy", _off(lambda text: tuple(text.split(",")), ())),
    "eject": ("eject", _eject),
    "hedge": ("hedge_seconds", _off(seconds, 0.0)),
    "locality": ("locality", _off(_locality, None)),
    "slow-start": ("slow_start_seconds", _off(seconds, 0.0)),
}
"""Annotation → field of Terms, and how its text is read."""
