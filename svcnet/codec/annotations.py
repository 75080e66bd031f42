"""The `svcnet.dev/…` annotations: which there are, on which kinds, and what their values may be.

Owns: the table of the contract. Must not know: what the annotations do, files, lines.
"""

import re
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from typing import NamedTuple

from svcnet.codec.check import FieldError, Path, address, quote
from svcnet.model.meta import Pairs

PREFIX = "svcnet.dev/"

_PART = r"\d{1,9}(?:\.\d{1,9})?(?:ms|h|m|s|us|µs)"
_DURATION = re.compile(rf"(?:{_PART}){{1,8}}", re.ASCII).fullmatch
_NUMBER = re.compile(r"\d{1,9}", re.ASCII).fullmatch
_MOST_NETWORKS = 64
_HTTP_PATH = re.compile(r"http:/[^\s,]*", re.ASCII).fullmatch
_SCRIPT = re.compile(r"script:[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII).fullmatch

Test = Callable[[str], bool]


def _duration(text: str) -> bool:
    return _DURATION(text) is not None


def _positive_duration(text: str) -> bool:
    return _duration(text) and re.search(r"[1-9]", text) is not None


def _within(low: int, high: int) -> Test:
    return lambda text: _NUMBER(text) is not None and low <= int(text) <= high


def _word(*words: str) -> Test:
    return lambda text: text in words


def _off(test: Test) -> Test:
    return lambda text: text == "off" or test(text)


def _timeouts(text: str) -> bool:
    return all(_positive_duration(part) for part in text.split(","))


def _options(parts: list[str], known: dict[str, Test]) -> bool:
    """Whether every part is NAME=VALUE of a known name, each name at most once."""
    names = [part.partition("=")[0] for part in parts]
    values = (part.partition("=")[::2] for part in parts)
    return len(set(names)) == len(names) and all(name in known and known[name](value) for name, value in values)


_COUNT = _within(1, 1000)
_CONNECTIONS = _within(1, 999_999_999)
_QUEUE: dict[str, Test] = {
    "queue": _within(0, 1_000_000),
    "timeout": _positive_duration,
    "abort-on-close": _word("on", "off"),
}
_HEALTH: dict[str, Test] = {
    "interval": _positive_duration,
    "timeout": _positive_duration,
    "rise": _COUNT,
    "fall": _COUNT,
    "panic": _within(0, 100),
    "send-proxy": _word("v1", "v2", "off"),
}
_EJECT: dict[str, Test] = {
    "failures": _COUNT,
    "base": _positive_duration,
    "max": _positive_duration,
    "share": _within(0, 100),
}


def _health(text: str) -> bool:
    probe, *options = text.split(",")
    is_known = probe in {"tcp", "off"} or _HTTP_PATH(probe) is not None or _SCRIPT(probe) is not None
    return is_known and _options(options, _HEALTH)


def _endpoint_limit(text: str) -> bool:
    number, *options = text.split(",")
    return _CONNECTIONS(number) and _options(options, _QUEUE)


def _locality(text: str) -> bool:
    first, *options = text.split(",")
    return first in {"node", "zone"} and _options(options, {"share": _within(1, 100)})


def _eject(text: str) -> bool:
    return text == "off" or _options(text.split(","), _EJECT)


_WEIGHT = _within(0, 256)


def _weights(text: str) -> bool:
    for part in text.split(","):
        ip, equals, weight = part.strip().partition("=")
        if not equals or not _WEIGHT(weight):
            return False
        try:
            address(ip)
        except FieldError:
            return False
    return True


def _networks(text: str) -> bool:
    parts = text.split(",")
    return len(parts) <= _MOST_NETWORKS and all(_is_network(part) for part in parts)


def _is_network(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return False
    return "%" not in text


class Rule(NamedTuple):
    """One annotation: the kinds that it belongs on, the test of its value, and what an error says is expected."""

    kinds: tuple[str, ...]
    test: Test
    expected: str


_SERVICE = ("Service",)
RULES: dict[str, Rule] = {
    "proxy": Rule(_SERVICE, _word("userspace"), "userspace"),
    "balance": Rule(
        _SERVICE,
        _word("random", "roundrobin", "leastconn", "source-hash"),
        "random, roundrobin, leastconn or source-hash",
    ),
    "weight": Rule(("Pod",), _WEIGHT, "a weight, 0..256"),
    "weights": Rule(("EndpointSlice", "Endpoints"), _weights, "ADDRESS=WEIGHT,… with weights 0..256"),
    "connect-timeouts": Rule(_SERVICE, _timeouts, "durations, as in 250ms,500ms,1s,2s"),
    "idle-timeout": Rule(_SERVICE, _positive_duration, "a duration, as in 30s"),
    "half-closed-timeout": Rule(_SERVICE, _positive_duration, "a duration, as in 30s"),
    "drain": Rule(_SERVICE, _duration, "a duration, as in 30s"),
    "max-connections": Rule(_SERVICE, _CONNECTIONS, "a number of connections, 1 or more"),
    "max-connection-rate": Rule(_SERVICE, _CONNECTIONS, "new connections a second, 1 or more"),
    "udp-replies": Rule(_SERVICE, _COUNT, "replies to a datagram, 1..1000"),
    "max-connections-per-endpoint": Rule(
        _SERVICE, _endpoint_limit, "a number of connections, then options, as in 100,queue=1000,timeout=5s"
    ),
    "send-proxy": Rule(_SERVICE, _word("v1", "v2", "off"), "v1, v2 or off"),
    "accept-proxy": Rule(
        _SERVICE, lambda text: text == "off" or _networks(text), "networks, as in 10.0.0.0/8,2001:db8::/32, or off"
    ),
    "health": Rule(
        ("Service", "Pod"),
        _health,
        "tcp, http:/PATH, script:NAME or off, then options, as in http:/ready,interval=2s,timeout=1s,fall=3,panic=50",
    ),
    "eject": Rule(_SERVICE, _eject, "off, or options, as in failures=3,base=5s,max=300s,share=50"),
    "hedge": Rule(_SERVICE, _off(_positive_duration), "a duration, as in 50ms, or off"),
    "locality": Rule(_SERVICE, _off(_locality), "node or zone, then options, as in zone,share=70, or off"),
    "slow-start": Rule(_SERVICE, _off(_positive_duration), "a duration, as in 30s, or off"),
    "ttl": Rule(_SERVICE, _within(0, 3600), "seconds, 0..3600"),
}
"""Annotation, without the prefix → rule. New ones go here and into the contract's table."""


def findings(annotations: Pairs, kind: str, path: Path) -> Iterator[FieldError | str]:
    """Yield what is wrong with the annotations of a record: an error for a bad value, a text for a warning."""
    for key, value in annotations:
        if not key.startswith(PREFIX):
            continue
        rule = RULES.get(key.removeprefix(PREFIX))
        if rule is None:
            yield f"{quote(key)}: unknown annotation, which has no effect"
        elif kind not in rule.kinds:
            yield f"{key}: has no effect on {kind}, expected on {' or '.join(rule.kinds)}"
        elif not rule.test(value):
            yield FieldError(f"got {quote(value)}, expected {rule.expected}", *path, key)
