"""The live half of `svcnet trace`: what the kernel, or the daemon, would do with a packet now. Changes nothing.

Owns: the reading: table `svcnet`, chains SVCNET-, ipsets, the daemon's answer. What it means is in svcnet/trace/.
"""

import subprocess
from contextlib import closing, suppress
from shutil import which

from svcnet.cli.control import ask
from svcnet.cli.data_path import parameters
from svcnet.cli.entrances import own_addresses
from svcnet.config import Config
from svcnet.iptables.fake import FakeKernel
from svcnet.iptables.held import is_sticky
from svcnet.iptables.nft import NftKernel
from svcnet.iptables.note import Note, note_of
from svcnet.iptables.ruleset import AFFINITY, LOCAL_SCOPE, MEMBERS, Parameters
from svcnet.iptables.tracer import Arrival, Outcome, Packet, UnknownStatementError, trace
from svcnet.iptables.xtables import installed
from svcnet.model.errors import KernelError, SvcnetError
from svcnet.nearness import Nearness
from svcnet.proxy import route
from svcnet.proxy.admission import admission, admits
from svcnet.proxy.lead import Neighbours
from svcnet.proxy.row import Reach, Rule
from svcnet.trace.answer import Answer, by_hash, elements_of, port_id
from svcnet.trace.chain_walk import Walk
from svcnet.trace.nft_state import READ, table_of

NOTHING = Outcome("passed", {}, ())


def live(config: Config, mode: str, packet: Packet) -> Answer:
    """Ask the data path of `mode`; `auto`: whatever is in force here. KernelError, NotPermittedError."""
    if mode == "auto":
        mode = _found(config, packet.family)
    match mode:
        case "nftables":
            return _through(config, packet, _nftables(config, packet))
        case "iptables":
            return _through(config, packet, _iptables(packet))
        case "userspace":
            return _userspace(config, packet)
    return Answer("nothing of svcnet is in this network namespace's kernel", NOTHING)


def _found(config: Config, family: int) -> str:
    """The mode of what is there."""
    with suppress(KernelError), closing(NftKernel()) as kernel:
        if kernel.chains(family):
            return "nftables"
    with suppress(KernelError):
        if any(tables.save(family).chains for tables in installed().values()):
            return "iptables"
    return "userspace" if route.is_there(config.service_cidr) else ""


def _nftables(config: Config, packet: Packet) -> Answer:
    family = packet.family
    what = f"nftables, table {'ip' if family == 4 else 'ip6'} svcnet"
    with closing(NftKernel()) as kernel:
        chains = kernel.chains(family)
        if not chains:
            return Answer(f"{what}: it is not there", NOTHING)
        of_family = [p for p in parameters(config) if p.family == family] or [Parameters(family)]
        table = table_of(of_family[0], chains, {name: kernel.dump(family, name) for name in READ})
    ident = port_id(table, packet)
    notes = [note_of(family, ident | scope, packet.source) for scope in (0, LOCAL_SCOPE)] if is_sticky(ident) else []
    held = [note for note in notes if note is not None and note.member in table.maps[MEMBERS]]
    table.maps[AFFINITY] = {note.key: note.member for note in held}
    fake = FakeKernel()
    fake.tables[family] = table
    try:
        outcome = trace(fake, packet)
    except (UnknownStatementError, KeyError) as error:
        raise KernelError(f"{what}: {error}") from error
    elements = tuple(elements_of(table, packet))
    hashed = by_hash(table, packet, outcome)
    if hashed is not None:
        return Answer(what, hashed, elements, pinned=True, remark=f"source-hash leads {packet.source} there")
    return Answer(what, outcome, elements, bool(held) and len(outcome.arrivals) == 1, _stay(packet, ident, held))


def _stay(packet: Packet, ident: int, held: list[Note]) -> str:
    if not ident or not is_sticky(ident):
        return ""
    if not held:
        return f"{packet.source} has no endpoint of its own yet: the first connection chooses one"
    return f"{packet.source} stays there, by affinity, for {held[0].seconds:.0f} s still unless it connects again"


def _iptables(packet: Packet) -> Answer:
    family = packet.family
    there = {variant: saved for variant, tables in installed().items() if (saved := tables.save(family)).chains}
    if not there:
        return Answer("iptables: no chains of ours", NOTHING)
    variant, saved = next(iter(there.items()))
    walk = Walk(saved, _is_member)
    outcome = walk.outcome(packet)
    named = [step.split() for step in outcome.steps]
    sets = [words[words.index("--match-set") + 1] for words in named if "--match-set" in words]
    hashed = any("--cluster-local-nodemask" in words for words in named)
    remark = f"source-hash leads {packet.source} there" if hashed else ""
    if sets:
        remark = f"{packet.source} stays there, by affinity{_for_how_long(sets[0], packet.source)}"
    return Answer(f"iptables, {variant} tables", outcome, (), bool(sets or hashed), remark)


def _ipset(*arguments: str) -> "subprocess.CompletedProcess[str]":
    program = which("ipset") or which("ipset", path="/usr/sbin:/sbin")
    if program is None:
        raise KernelError("the program ipset is missing (Debian: apt install ipset)")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def _is_member(name: str, address: str) -> bool:
    return _ipset("test", name, address).returncode == 0


def _for_how_long(name: str, address: str) -> str:
    for line in _ipset("save", name).stdout.splitlines():
        words = line.split()
        if words[:3] == ["add", name, address] and "timeout" in words and words[-1] != "0":
            return f", for {words[words.index('timeout') + 1]} s still unless it connects again"
    return ""


def _userspace(config: Config, packet: Packet) -> Answer:
    what = "userspace proxy"
    if not route.is_there(config.service_cidr):
        return Answer(f"{what}: no local route to the service CIDR", NOTHING)
    try:
        told = ask(config.state_dir, "frontend", address=packet.destination, protocol=packet.protocol, port=packet.port)
    except SvcnetError as error:
        raise KernelError(f"who is led where, only svcnet-proxy knows: {error}") from error
    listens = f"svcnet-proxy listens on {packet.destination} {packet.protocol}/{packet.port}"
    encoded = told.get("rule")
    found = Rule.decoded(encoded)._replace(ranges=tuple(told.get("ranges", ()))) if encoded else None
    if why := told.get("why"):
        steps = (f"svcnet-proxy does not listen: {why}",)
    elif found is not None and found.listens:
        return Answer(what, led(found, packet, [str(cidr) for cidr in config.cluster_cidr], listens))
    else:
        steps = ("the address is local, and nobody listens",)
    return Answer(what, Outcome("refused", {}, steps) if told.get("ours") else NOTHING)


def _through(config: Config, packet: Packet, answer: Answer) -> Answer:
    """Where the kernel leads to an entrance of the proxy: what that does."""
    own = own_addresses(config.service_cidr).get(packet.family)
    entrance = next((a for a in answer.outcome.arrivals if a.address == own), None)
    if entrance is None:
        return answer
    where = f"[{own}]:{entrance.port}" if packet.family == 6 else f"{own}:{entrance.port}"
    what = f"{answer.what}, through the userspace proxy at {where}"
    steps = answer.outcome.steps
    try:
        told = ask(config.state_dir, "frontend", address=own, protocol=packet.protocol, port=entrance.port)
    except SvcnetError as error:
        raise KernelError(f"{what}: who is led where, only svcnet-proxy knows: {error}") from error
    encoded = told.get("rule")
    if not encoded or told.get("why"):
        return Answer(what, Outcome("refused", {}, (*steps, f"nobody listens on {where}")), answer.elements)
    listens = f"svcnet-proxy listens on {where}"
    outcome = led(Rule.decoded(encoded), packet, [str(cidr) for cidr in config.cluster_cidr], listens)
    return Answer(what, Outcome(outcome.verdict, outcome.arrivals, (*steps, *outcome.steps)), answer.elements)


def led(found: Rule, packet: Packet, pods: list[str], listens: str) -> Outcome:
    """What a listener does with a client: its filter drops it, or it is led to some of the backends."""
    conditions = admission(found, pods)
    if not admits(conditions, packet.source, itself=packet.outgoing):
        return Outcome("dropped", {}, (listens, "its filter drops this client"))
    near = packet.outgoing or Neighbours(pods, lambda _: False).have(packet.source)
    local = found.reach is Reach.LOCAL or (found.reach is Reach.BY_SOURCE and not near)
    weights = found.service.local if local else found.service.targets
    if found.service.levels:
        levels = Nearness(found.service.levels, found.service.terms.share)
        weights = levels.weighed(weights, levels.parts(weights, ()))
    total = sum(weights.values())
    arrivals = {Arrival(b.address, b.port, masqueraded=True): weight / total for b, weight in weights.items()}
    return Outcome("translated", arrivals, (listens,))
