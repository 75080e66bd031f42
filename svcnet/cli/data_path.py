"""Which data path: the only place that knows them by name.

Owns: `--mode`, the trial of what works here, `--cleanup`. Errors say what is missing and how to get it.
"""

import logging
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import closing, suppress
from functools import partial
from typing import Any, NamedTuple

from svcnet.cli.drain import Drain
from svcnet.cli.entrances import own_addresses
from svcnet.cli.hybrid import Hybrid, KernelPath
from svcnet.cli.succession import Predecessor, Steps, Succession
from svcnet.cli.userspace import UserspacePath
from svcnet.config import Config
from svcnet.endpoints import Networks
from svcnet.iptables.conntrack import Conntrack
from svcnet.iptables.desired import Treatment
from svcnet.iptables.iptables import Iptables
from svcnet.iptables.nft import NftKernel
from svcnet.iptables.nftables import Nftables
from svcnet.iptables.ruleset import Parameters
from svcnet.iptables.xtables import Xtables, foreign_rules, installed, require_privilege, select
from svcnet.model.errors import ConfigError, KernelError, NotPermittedError, SvcnetError
from svcnet.model.frontend import Frontend
from svcnet.model.snapshot import LeftOut
from svcnet.parts import Flows
from svcnet.plan import Plan
from svcnet.proxy import route
from svcnet.proxy.ledger import Counted
from svcnet.proxy.left import Left
from svcnet.proxy.userspace import Userspace
from svcnet.status.gather import Mode

log = logging.getLogger(__name__)

NOBODY = Left()
"""No workers of an earlier program."""


class Chosen(NamedTuple):
    """The data path (None: off) with its connection table, and why this one."""

    mode: Mode
    path: Succession | None
    flows: Flows | None
    inline_changes: int = 200
    """`Parts.inline_changes`."""
    left_out: Callable[[], tuple[LeftOut, ...]] = tuple
    """What this path can't serve, and why."""
    states: Callable[[], dict[str, str]] = dict
    """The states of the processes that belong to it."""
    stop: Callable[[], object] = lambda: None
    """Ends them."""
    led: Callable[[str, str, int], dict[str, Any]] = lambda *_: {}
    """Where an address, protocol and port leads, if only the process itself knows: `targets`, or `why` not."""
    counted: Callable[[], Iterable[Counted]] | None = None
    """What a proxy has carried since the last time, where it is not the kernel that does."""
    proxy: Userspace | None = None
    """The userspace proxy, be it alone or beside a kernel path."""
    leave: Callable[[], None] = lambda: None
    """Instead: lets them serve on for the program that comes after this one."""
    at_ready: Sequence[Callable[[], object]] = ()
    """What else is to be done then."""
    waits: Callable[[Plan[Frontend, Treatment]], bool] = lambda _plan: False
    """`Parts.waits`."""
    own: frozenset[str] = frozenset()
    """Addresses where the proxy listens beside a kernel path: flows to them are the proxy's to count."""


class Handing(NamedTuple):
    """What is done with another daemon that runs, around the first sync: nothing without one."""

    rest: Callable[[], object] = lambda: None
    """Before it: that one changes nothing any more."""
    take: Callable[[], object] = lambda: None
    """After it: that one ends."""


NOTHING = Handing()


def choose(config: Config, left: Left = NOBODY, handing: Handing = NOTHING) -> Chosen:
    """Try what `--mode` asks for; `auto` takes the first that works. NotPermittedError or SvcnetError says why none.

    `left` serves until the first sync is done, and those connected to it as long as they are.
    """
    if config.mode == "none":
        stays = _left_behind()
        if stays:
            log.warning("%s stays in the kernel as it was: nobody keeps it in time with the records", stays)
        why = f"; {stays} stays as it was, until svcnet-proxy --cleanup" if stays else ""
        end = left.serve if stays else left.end  # rules that stay may lead to them
        mode = Mode("none", f"--mode none: no data path{why}")
        return Chosen(mode, None, None, stop=end, at_ready=(handing.rest, handing.take, end))
    if config.mode == "auto":
        return _first(config, left, handing)
    refuse_unbuilt(config)
    return _ATTEMPTS[config.mode](config, left, handing, f"--mode {config.mode}")


def refuse_unbuilt(config: Config) -> None:
    """ConfigError for a mode that this version lacks."""
    if config.mode not in {"auto", "none", *_ATTEMPTS}:
        expected = ", ".join(["auto", *_ATTEMPTS, "none"])
        raise ConfigError(f"--mode {config.mode}: not in this version yet, expected one of {expected}")


def remove_all() -> list[str]:
    """Remove everything of ours from this network namespace; return what was there.

    KernelError when a path's rules can't be removed, after all others are; a path without programs left no rules.
    """
    removed = ["proxy workers without a daemon"] * Left().find(orphans=True).end()
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


def _first(config: Config, left: Left, handing: Handing) -> Chosen:
    refused: list[str] = []
    missing = False
    for name, attempt in _ATTEMPTS.items():
        try:
            return attempt(config, left, handing, "; ".join([f"auto: {name} is the first that works", *refused]))
        except NotPermittedError as error:
            missing = True
            refused.append(f"{name}: {error}")
        except SvcnetError as error:
            refused.append(f"{name}: {error}")
    kind = NotPermittedError if missing else SvcnetError
    raise kind("; ".join([*refused, "--mode none runs without a data path"]))


def _nftables(config: Config, left: Left, handing: Handing, reason: str) -> Chosen:
    kernel = NftKernel()
    kernel.chains(4)  # the cheapest request that needs the privilege
    path = Nftables(kernel, parameters(config))
    beside = _hybrid(config, path, left)
    others = _predecessors("nftables", left=left, needed=beside.needed)
    steps = _steps(beside, left, handing, partial(_before_nftables, path, left))
    return _beside(beside, Chosen(Mode("nftables", reason), Succession(beside, others, steps), None))


def _iptables(config: Config, left: Left, handing: Handing, reason: str) -> Chosen:
    require_privilege()
    variants = installed()
    tables, warning = select(variants, foreign_rules(variants))
    if warning:
        log.warning("iptables %s", warning)
    for cidr in config.service_cidr:
        tables.probe(cidr.version)
    path = Iptables(tables, parameters(config))
    beside = _hybrid(config, path, left)
    others = _predecessors(f"iptables {tables.variant}", left=left, needed=beside.needed)
    steps = _steps(beside, left, handing, partial(_before_iptables, path, left))
    mode = Mode("iptables", f"{reason}; {tables.variant} tables")
    chosen = Chosen(mode, Succession(beside, others, steps), None, inline_changes=0, left_out=path.left_out)
    return _beside(beside, chosen)


def _userspace(config: Config, left: Left, handing: Handing, reason: str) -> Chosen:
    route.require(config.service_cidr)
    path = UserspacePath(config.service_cidr, config.proxy_workers, config.cluster_cidr, config.proxy_log_every, left)
    if not config.traffic_series:
        path.proxy.ledger.forgo()
    before = handing.rest, partial(left.find, orphans=False)
    steps = Steps(before, (handing.take, path.proxy.begin), (path.proxy.relieve, partial(_await_end, left)))
    return Chosen(
        Mode("userspace", f"{reason}; at most {path.proxy.most_frontends} ports, by ulimit -Hn"),
        Succession(path, _predecessors("userspace", partial(_flows, config)), steps),
        None,
        inline_changes=0,  # it waits for the workers
        left_out=path.left_out,
        states=path.states,
        stop=path.proxy.stop,
        led=path.led,
        counted=path.proxy.ledger.take,
        proxy=path.proxy,
        leave=path.proxy.leave,
    )


def _await_end(left: Left) -> None:
    """After a reload they are children of this process, and stay as zombies until somebody looks."""
    if left.serve():
        Drain("proxy workers of another program", left.serve, lambda: True).start()


def _hybrid(config: Config, path: KernelPath, left: Left) -> Hybrid:
    proxy = Userspace(
        (),
        config.proxy_workers,
        [str(network) for network in config.cluster_cidr],
        frozenset(own_addresses(config.service_cidr).values()),
        config.proxy_log_every,
        left,
    )
    if not config.traffic_series:
        proxy.ledger.forgo()
    return Hybrid(path, config.service_cidr, proxy, _flows(config))


def _steps(path: Hybrid, left: Left, handing: Handing, prepare: Callable[[], object]) -> Steps:
    before = handing.rest, partial(left.find, orphans=False), prepare
    return Steps(before, (handing.take, path.proxy.begin), (path.relieve,))


def _beside(path: Hybrid, chosen: Chosen) -> Chosen:
    """A kernel path, with what the proxy beside it adds."""
    return chosen._replace(
        flows=path.flows,
        left_out=lambda: (*chosen.left_out(), *path.left_out()),
        states=path.states,
        stop=path.stop,
        led=path.led,
        counted=path.counted,
        proxy=path.proxy,
        leave=path.proxy.leave,
        waits=lambda plan: bool(path.touched(plan)),
        own=frozenset(path.addresses.values()),
    )


def _flows(config: Config) -> Conntrack:
    return Conntrack(Networks(config.service_cidr), Networks(config.external_ips), Networks(config.cluster_cidr))


def _before_nftables(path: Nftables, left: Left) -> None:
    """Beside rules of iptables, or workers: a table that drops nothing yet.

    Where there is no table, the first sync makes one that drops what it does not translate, and fills it then.
    """
    ruled = any(x.save(family).chains for x in _variants().values() for family in (4, 6))
    if (left.serve() or ruled) and path.track() and not ruled:
        left.stir()


def _before_iptables(path: Iptables, left: Left) -> None:
    """What conntrack has seen being opened is never translated later; what it sees later, in the middle, would be."""
    if left.serve() and path.track():
        left.stir()


def _predecessors(
    but: str = "",
    flows: Callable[[], Conntrack] | None = None,
    left: Left = NOBODY,
    needed: Callable[[], Container[str]] = frozenset,
) -> list[Predecessor]:
    """What every path of ours, `but` one, may have left in this network namespace.

    `flows`, where the next path has no rules: then those of the old one translate what is open through it until that
    ends. Rules of another path would do it too, as the kernel needs any. `needed`: addresses that stay local.
    """
    found = {
        "nftables": _rules("nftables table svcnet", _table(Nftables.remove), _table(Nftables.silence), flows),
        "userspace": _routes(left, needed),
    }
    for name, tables in _variants().items():
        old = Iptables(tables, ())
        found[f"iptables {name}"] = _rules(f"iptables chains SVCNET- ({name} tables)", old.remove, old.silence, flows)
    return [other for name, other in found.items() if name != but]


def _left_behind() -> str:
    """What a path of ours left in this network namespace, as far as this user may see."""
    found: list[str] = []
    with suppress(SvcnetError, OSError), closing(NftKernel()) as kernel:
        found += ["nftables table svcnet"] * any(kernel.chains(family) for family in (4, 6))
    for name, tables in _variants().items():
        with suppress(SvcnetError, OSError):
            found += [f"iptables chains SVCNET- ({name} tables)"] * any(tables.save(f).chains for f in (4, 6))
    return " and ".join(found)


def _rules(
    what: str, remove: Callable[[], bool], silence: Callable[[], bool], flows: Callable[[], Conntrack] | None
) -> Predecessor:
    if flows is None:
        return Predecessor(what, remove)

    def silence_and_sweep() -> bool:
        there = silence()
        if there:  # UDP has no end to wait for: the next datagram of each flow comes to the next path
            with closing(flows()) as table:
                table.sweep(lambda _fronts: {})
        return there

    def is_used() -> bool:
        with closing(flows()) as table:
            return table.translated() > 0

    return Predecessor(what, remove, silence_and_sweep, is_used)


def _routes(left: Left, needed: Callable[[], Container[str]]) -> Predecessor:
    """Workers that serve need them for their clients."""

    def remove() -> bool:
        return route.remove(needed())

    what = "local routes of userspace mode"
    if not left.serve():
        return Predecessor(what, remove)
    return Predecessor(what, remove, left.drain_after_handshakes, left.serve)


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


_ATTEMPTS: dict[str, Callable[[Config, Left, Handing, str], Chosen]] = {
    "nftables": _nftables,
    "iptables": _iptables,
    "userspace": _userspace,
}
"""In the order of `--mode auto`."""
