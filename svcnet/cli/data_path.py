"""Which data path: the only place that knows them by name.

Owns: `--mode`, the trial of what works here, `--cleanup`. Errors say what is missing and how to get it.
"""

import logging
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import NamedTuple

from svcnet.cli.succession import Predecessor, Succession
from svcnet.cli.userspace import UserspacePath
from svcnet.config import Config
from svcnet.endpoints import Networks
from svcnet.iptables.conntrack import Conntrack
from svcnet.iptables.iptables import Iptables
from svcnet.iptables.nft import NftKernel
from svcnet.iptables.nftables import Nftables
from svcnet.iptables.ruleset import Parameters
from svcnet.iptables.xtables import Xtables, foreign_rules, installed, require_privilege, select
from svcnet.model.errors import ConfigError, KernelError, NotPermittedError, SvcnetError
from svcnet.model.snapshot import LeftOut
from svcnet.proxy import route
from svcnet.status.gather import Mode

log = logging.getLogger(__name__)


class Chosen(NamedTuple):
    """The data path (None: off) with its connection table, and why this one."""

    mode: Mode
    path: Succession | None
    flows: Conntrack | None
    inline_changes: int = 200
    """`Parts.inline_changes`."""
    left_out: Callable[[], tuple[LeftOut, ...]] = tuple
    """What this path can't serve, and why."""
    states: Callable[[], dict[str, str]] = dict
    """The states of the processes that belong to it."""
    stop: Callable[[], None] = lambda: None
    """Ends them."""


def choose(config: Config) -> Chosen:
    """Try what `--mode` asks for; `auto` takes the first that works. NotPermittedError or SvcnetError says why none."""
    if config.mode == "none":
        return Chosen(Mode("none", "--mode none: no data path"), None, None)
    if config.mode == "auto":
        return _first(config)
    refuse_unbuilt(config)
    return _ATTEMPTS[config.mode](config, f"--mode {config.mode}")


def refuse_unbuilt(config: Config) -> None:
    """ConfigError for a mode that this version lacks."""
    if config.mode not in {"auto", "none", *_ATTEMPTS}:
        expected = ", ".join(["auto", *_ATTEMPTS, "none"])
        raise ConfigError(f"--mode {config.mode}: not in this version yet, expected one of {expected}")


def remove_all() -> list[str]:
    """Remove everything of ours from this network namespace; return what was there.

    KernelError when a path's rules can't be removed, after all others are; a path without programs left no rules.
    """
    removed: list[str] = []
    failed: list[str] = []
    for other in _predecessors():
        try:
            if other.remove():
                removed.append(other.what)
        except KernelError as error:
            failed.append(f"{other.what}: {error}")
    if failed:
        raise KernelError("; ".join([*failed, *(f"removed {what}" for what in removed)]))
    return removed


def parameters(config: Config) -> tuple[Parameters, ...]:
    """The rules' parameters of each family that virtual IPs come from."""
    return tuple(
        Parameters(
            cidr.version,
            (str(cidr),),
            tuple(str(c) for c in config.cluster_cidr if c.version == cidr.version),
            config.masquerade_all,
            config.masquerade_bit,
        )
        for cidr in config.service_cidr
    )


def _first(config: Config) -> Chosen:
    refused: list[str] = []
    missing = False
    for name, attempt in _ATTEMPTS.items():
        try:
            return attempt(config, "; ".join([f"auto: {name} is the first that works", *refused]))
        except NotPermittedError as error:
            missing = True
            refused.append(f"{name}: {error}")
        except SvcnetError as error:
            refused.append(f"{name}: {error}")
    kind = NotPermittedError if missing else SvcnetError
    raise kind("; ".join([*refused, "--mode none runs without a data path"]))


def _nftables(config: Config, reason: str) -> Chosen:
    kernel = NftKernel()
    kernel.chains(4)  # the cheapest request that needs the privilege
    path = Nftables(kernel, parameters(config))
    succession = Succession(path, _predecessors("nftables"), partial(_open_table, kernel, config))
    return Chosen(Mode("nftables", reason), succession, _flows(config))


def _iptables(config: Config, reason: str) -> Chosen:
    require_privilege()
    variants = installed()
    tables, warning = select(variants, foreign_rules(variants))
    if warning:
        log.warning("iptables %s", warning)
    for cidr in config.service_cidr:
        tables.probe(cidr.version)
    path = Iptables(tables, parameters(config))
    succession = Succession(path, _predecessors(f"iptables {tables.variant}"))
    return Chosen(Mode("iptables", f"{reason}; {tables.variant} tables"), succession, _flows(config), inline_changes=0)


def _userspace(config: Config, reason: str) -> Chosen:
    route.require(config.service_cidr)
    path = UserspacePath(config.service_cidr, config.proxy_workers)
    return Chosen(
        Mode("userspace", f"{reason}; at most {path.proxy.most_frontends} ports, by ulimit -Hn"),
        Succession(path, _predecessors("userspace", partial(_flows, config))),
        None,
        inline_changes=0,  # it waits for the workers
        left_out=path.left_out,
        states=path.states,
        stop=path.proxy.stop,
    )


def _flows(config: Config) -> Conntrack:
    return Conntrack(Networks(config.service_cidr))


def _open_table(kernel: NftKernel, config: Config) -> None:
    """Beside the rules of iptables: a table that drops nothing yet, which the first sync replaces in one commit.

    Where there is no table, the first sync makes one that drops what it does not translate, and fills it then.
    """
    if not any(x.save(family).chains for x in _variants().values() for family in (4, 6)):
        return
    for cidr in config.service_cidr:
        if not kernel.chains(cidr.version):
            kernel.install(Parameters(cidr.version), ())


def _predecessors(but: str = "", flows: Callable[[], Conntrack] | None = None) -> list[Predecessor]:
    """What every path of ours, `but` one, may have left in this network namespace.

    `flows`, where the next path has no rules: then those of the old one translate what is open through it until that
    ends. Rules of another path would do it too, as the kernel needs any.
    """
    found = {
        "nftables": _rules("nftables table svcnet", _table(Nftables.remove), _table(Nftables.silence), flows),
        "userspace": Predecessor("local routes of userspace mode", route.remove),
    }
    for name, tables in _variants().items():
        old = Iptables(tables, ())
        found[f"iptables {name}"] = _rules(f"iptables chains SVCNET- ({name} tables)", old.remove, old.silence, flows)
    return [other for name, other in found.items() if name != but]


def _rules(
    what: str, remove: Callable[[], bool], silence: Callable[[], bool], flows: Callable[[], Conntrack] | None
) -> Predecessor:
    if flows is None:
        return Predecessor(what, remove)

    def silence_and_sweep() -> bool:
        there = silence()
        if there:  # UDP has no end to wait for: the next datagram of each flow comes to the next path
            with closing(flows()) as table:
                table.sweep({})
        return there

    def is_used() -> bool:
        with closing(flows()) as table:
            return table.translated() > 0

    return Predecessor(what, remove, silence_and_sweep, is_used)


def _table(act: Callable[[Nftables], bool]) -> Callable[[], bool]:
    def try_it() -> bool:
        try:
            kernel = NftKernel()
        except KernelError as error:  # no program nft
            log.warning("whether there is a table svcnet is not known why=%s", error)
            return False
        with closing(kernel):
            return act(Nftables(kernel, ()))

    return try_it


def _variants() -> dict[str, Xtables]:
    try:
        return installed()
    except KernelError:  # no such programs: we left nothing with them
        return {}


_ATTEMPTS: dict[str, Callable[[Config, str], Chosen]] = {
    "nftables": _nftables,
    "iptables": _iptables,
    "userspace": _userspace,
}
"""In the order of `--mode auto`."""
