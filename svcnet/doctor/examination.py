"""The checks, in the order in which they are told, and what came of each. Pure."""

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import NamedTuple

from svcnet.doctor import (
    bridge,
    connection_table,
    filtering,
    forwarding,
    ports,
    reachability,
    reverse_path,
    service,
    traffic,
)
from svcnet.doctor import translation as nat
from svcnet.doctor.facts import KERNEL_MODES, ROUTES, RULES, Facts
from svcnet.doctor.finding import Finding, Level

DATA_PATHS = KERNEL_MODES | {"userspace"}
EVERY = DATA_PATHS | {"none"}


class State(StrEnum):
    """What came of a check."""

    OK = "ok"
    NOTE = "note"
    FINDING = "finding"
    UNREAD = "not permitted"
    """Some of what it needs could not be read, and the rest shows nothing."""
    UNNEEDED = "not needed"
    """In this mode."""


class Check(NamedTuple):
    """One check."""

    name: str
    about: str
    """What is well when it finds nothing."""
    examine: Callable[[Facts], Iterable[Finding]]
    modes: frozenset[str] = KERNEL_MODES
    needs: frozenset[str] = frozenset()


class Result(NamedTuple):
    """A check, and what it found."""

    check: Check
    state: State
    findings: tuple[Finding, ...] = ()


CHECKS: tuple[Check, ...] = (
    Check("daemon", "svcnet-proxy runs and is in time", service.daemon, EVERY),
    Check("overlap", "virtual IPs hide nothing", reachability.overlaps, DATA_PATHS, frozenset({ROUTES})),
    Check("route", "this machine has a way to virtual IPs", reachability.routes, DATA_PATHS, frozenset({ROUTES})),
    Check("forwarding", "packets are passed on", forwarding.examine),
    Check("filter", "no packet filter stops services", filtering.examine, DATA_PATHS, frozenset({RULES})),
    Check("nat", "nobody else translates virtual IPs", nat.foreign, DATA_PATHS, frozenset({RULES})),
    Check("mix", "iptables has one kind of tables", nat.mixed, DATA_PATHS, frozenset({RULES})),
    Check("bridge", "pods of one bridge reach each other", bridge.examine),
    Check("rp_filter", "answers may take another way", reverse_path.examine, DATA_PATHS),
    Check("conntrack", "the connection table has room", connection_table.examine),
    Check("traffic", "the kernel tells what traffic there is", traffic.examine),
    Check("ports", "node ports are nobody else's", ports.examine, DATA_PATHS),
    Check("programs", "what the mode calls is installed", service.programs, frozenset({"iptables"})),
    Check("names", "this machine asks svcnet for names", service.names, EVERY),
)


def examine(facts: Facts) -> tuple[Result, ...]:
    """Carry all checks out, each by itself."""
    return tuple(_result(check, facts) for check in CHECKS)


def _result(check: Check, facts: Facts) -> Result:
    if facts.mode not in check.modes:
        return Result(check, State.UNNEEDED)
    findings = tuple(check.examine(facts))
    if any(finding.level is Level.FINDING for finding in findings):
        return Result(check, State.FINDING, findings)
    if check.needs & facts.unread.keys():
        return Result(check, State.UNREAD, findings)
    return Result(check, State.NOTE if findings else State.OK, findings)
