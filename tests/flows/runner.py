"""Ways to run rows: through the tracer, and through a real kernel with any data path.

Owns: how often a row is tried and how long silence is waited for; what was seen, in the words of rows.
"""

import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from typing import NamedTuple, Protocol, Self

from svcnet.cli.entrances import own_addresses
from svcnet.cli.hybrid import Hybrid, KernelPath
from svcnet.cli.userspace import UserspacePath, rule
from svcnet.endpoints import Networks
from svcnet.iptables.conntrack import Conntrack
from svcnet.iptables.desired import Treatment
from svcnet.iptables.fake import FakeKernel
from svcnet.iptables.iptables import Iptables
from svcnet.iptables.nft import NftKernel
from svcnet.iptables.nftables import Nftables
from svcnet.iptables.tracer import Packet, trace
from svcnet.iptables.xtables import installed
from svcnet.model.frontend import Frontend
from svcnet.model.terms import Terms
from svcnet.plan import Plan, diff
from svcnet.proxy.userspace import PROTOCOLS
from svcnet.proxy.userspace import Userspace as Proxy
from tests.flows.flow import DROPPED, REFUSED, Arrival, Case, Expectation, Flow, Seen, untouched
from tests.flows.ground import MINION, Ground
from tests.flows.places import NAMES, PLACES
from tests.flows.probe import Answer, Question, ask
from tests.flows.world import World, address_of, wanted

SILENCE_SECONDS = 0.7
"""How long a row that expects to be dropped waits. What leaks is answered in a few ms."""
PATIENCE_SECONDS = 30.0
"""How long all others wait: as long as a loaded machine may take."""
MOST_TRIES = 40
"""Tries for each unit of weight at most: that one of n is never chosen by chance in 40·n tries has odds of e⁻⁴⁰."""

_LIMIT = "net/ipv4/icmp_ratelimit", "net/ipv6/icmp/ratelimit"
UNLIMITED = [(path, "0") for path in _LIMIT]
LIMITED = [(path, "1000") for path in _LIMIT]
"""ICMP errors, ms between two to one client, the kernel's default: a TCP refusal must not depend on it."""


class Result(NamedTuple):
    """What each row saw, and what a second sync changed: "" when the first did all."""

    seen: Mapping[Case, Seen]
    drift: str


class Runner(Protocol):
    """Runs rows in a world."""

    name: str

    def __enter__(self) -> Self:
        """Make what it needs."""
        ...

    def __exit__(self, *_: object) -> None:
        """Leave nothing."""
        ...

    def run(self, world: World, cases: Sequence[Case]) -> Result:
        """Put the rules of a world in force, and try the rows."""
        ...


def destination(case: Case) -> tuple[str, int]:
    """(address, port) that a row's client connects to."""
    host, _, port = case.flow.destination.rpartition(":")
    literal = host.strip("[]")
    return literal if literal[:1].isdigit() or host != literal else address_of(host, case.family), int(port)


class Tracer:
    """The fake kernel and the packet tracer: every possible end of a packet, with its exact share."""

    name = "tracer"

    def __enter__(self) -> Self:
        """Make a kernel without rules; it keeps its tables from world to world."""
        self._kernel = FakeKernel()
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left."""

    def run(self, world: World, cases: Sequence[Case]) -> Result:
        """Trace each row once."""
        Nftables(self._kernel, world.parameters).sync(wanted())
        seen = {case: self._trace(case) for case in cases}
        return Result(seen, _shown(Nftables(self._kernel, world.parameters).sync(wanted())))

    def _trace(self, case: Case) -> Seen:
        address, port = destination(case)
        source = PLACES[case.family][case.flow.source]
        packet = Packet(source, address, case.flow.protocol, port, outgoing=case.flow.source == MINION)
        outcome = trace(self._kernel, packet)
        if outcome.verdict == "passed":
            return Seen(frozenset({"answered"}), {Arrival(_place(address, port), "kept"): 1.0}, exact=True)
        arrivals = {
            Arrival(_place(a.address, a.port), "masqueraded" if a.masqueraded else "kept"): share
            for a, share in outcome.arrivals.items()
        }
        verdict = "answered" if outcome.verdict == "translated" else outcome.verdict
        return Seen(frozenset({verdict}), arrivals, exact=True)


class Tally:
    """What a row's connections came to so far."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.tries = 0
        self.verdicts: set[str] = set()
        self.arrivals: Counter[Arrival] = Counter()

    @property
    def open(self) -> bool:
        """Whether more tries may still change the judgement."""
        expect = self.case.flow.expect
        limit = MOST_TRIES * sum(expect.arrivals.values())
        missing = expect.arrivals.keys() - self.arrivals.keys()
        return bool(missing) and not expect.stays and self.verdicts <= {expect.verdict} and self.tries < limit

    def questions(self) -> list[Question]:
        """The next round."""
        flow, (address, port) = self.case.flow, destination(self.case)
        number = max(flow.tries, 4 * len(flow.expect.arrivals))
        self.tries += number
        patience = SILENCE_SECONDS if flow.expect.verdict == "dropped" else PATIENCE_SECONDS
        source = PLACES[self.case.family][flow.source]
        return [Question(source, address, port, flow.protocol, patience)] * number

    def add(self, answer: Answer) -> None:
        """Take one answer in."""
        self.verdicts.add(answer.verdict)
        if answer.verdict == "answered":
            place = _place(answer.by, answer.port)
            self.arrivals[Arrival(place, self._source(place, answer.source))] += 1

    def seen(self) -> Seen:
        """All answers, with counted shares."""
        total = self.arrivals.total()
        return Seen(frozenset(self.verdicts), {a: n / total for a, n in self.arrivals.items()}, exact=False)

    def _source(self, place: str, address: str) -> str:
        places, flow = PLACES[self.case.family], self.case.flow
        if address == places[MINION] == places[flow.source]:
            # Kept or masqueraded, it is the same address.
            return next((a.source for a in flow.expect.arrivals if a.place == place), "kept")
        return {places[flow.source]: "kept", places[MINION]: "masqueraded"}.get(address, address)


class Network:
    """A real kernel. `sync` puts a world's rules in force in the namespace of its caller, and says what it changed."""

    def __init__(self, name: str, sync: Callable[[World], str], minion_answers_on: Iterable[str] = ("::",)) -> None:
        self.name = name
        self._sync = sync
        self._minion_answers_on = minion_answers_on

    def __enter__(self) -> Self:
        """Rules of one world replace those of another in the same namespaces."""
        self._ground: Ground | None = None
        return self

    def __exit__(self, *_: object) -> None:
        """Take the namespaces down."""
        if self._ground is not None:
            self._ground.__exit__()

    def run(self, world: World, cases: Sequence[Case]) -> Result:
        """Try each row until all that may be reached was, all rows at once."""
        if self._ground is None:
            protocols = {"tcp", "udp", *(case.flow.protocol for case in cases)}
            self._ground = Ground(protocols, self._minion_answers_on).__enter__()
        self._ground.inside(MINION, partial(self._sync, world))
        # A new connection that gets the ports of an old one would be translated as that was, in another world.
        self._ground.inside(MINION, _forget_connections)
        tallies = {case: Tally(case) for case in cases}
        by_icmp = [t for c, t in tallies.items() if c.flow.expect.verdict == "refused" and c.flow.protocol != "tcp"]
        self._try(self._ground, [t for t in tallies.values() if t not in by_icmp])
        self._ground.set_minion(UNLIMITED)
        self._try(self._ground, by_icmp)
        self._ground.set_minion(LIMITED)
        seen = {case: tally.seen() for case, tally in tallies.items()}
        return Result(seen, self._ground.inside(MINION, partial(self._sync, world)))

    @staticmethod
    def _try(ground: Ground, tallies: Iterable[Tally]) -> None:
        while tallies:
            rounds: defaultdict[str, list[tuple[Tally, Question]]] = defaultdict(list)
            for tally in tallies:
                rounds[tally.case.flow.source] += [(tally, question) for question in tally.questions()]
            with ThreadPoolExecutor(max_workers=len(rounds)) as pool:

                def ask_from(source: str) -> list[Answer]:
                    return ground.inside(source, lambda: ask([q for _, q in rounds[source]]))  # noqa: B023 - ends here

                for source, answers in zip(rounds, pool.map(ask_from, rounds), strict=True):
                    for (tally, _), answer in zip(rounds[source], answers, strict=True):
                        tally.add(answer)
            tallies = [tally for tally in tallies if tally.open]


class Userspace(Network):
    """The userspace proxy, with the rows in its own words (`userspace_row`)."""

    def __init__(self) -> None:
        own = [places[MINION] for places in PLACES.values()]
        super().__init__("userspace", self._sync_path, own)
        self._path: UserspacePath | None = None
        self._world: World | None = None

    def __exit__(self, *arguments: object) -> None:
        """End the workers first."""
        self._stop()
        super().__exit__(*arguments)

    def run(self, world: World, cases: Sequence[Case]) -> Result:
        """Try the rows as they are here."""
        rows = {case: Case(userspace_row(case.flow), case.family) for case in cases}
        seen, drift = super().run(world, list(rows.values()))
        return Result({case: seen[row] for case, row in rows.items()}, drift)

    def _stop(self) -> None:
        if self._path is not None:
            self._path.proxy.stop()

    def _sync_path(self, world: World) -> str:
        if self._path is None or world is not self._world:  # another world has other pods
            self._stop()
            self._path, self._world = UserspacePath(world.config.service_cidr, 1, world.config.cluster_cidr), world
        asked = {front: t._replace(terms=t.terms._replace(connect_seconds=DIAL)) for front, t in wanted().items()}
        changed = _shown(self._path.sync(asked))
        return changed + _shown(diff(self._path.look(asked), asked))


DIAL = (PATIENCE_SECONDS,)
"""A dial that takes long must not lead a client with affinity elsewhere: all rows are tried at once."""
ASKED = Terms(userspace=True, connect_seconds=DIAL)


class Proxied(Network):
    """A kernel path with everything led to the userspace proxy: what the kernel does, and endpoints see the minion."""

    def __init__(self, name: str, path: Callable[[World, ExitStack], KernelPath]) -> None:
        super().__init__(name, self._sync_path)
        self._path = path
        self._stack = ExitStack()
        self._hybrid: Hybrid | None = None
        self._world: World | None = None

    def __exit__(self, *arguments: object) -> None:
        """End the workers first."""
        self._stack.close()
        super().__exit__(*arguments)

    def run(self, world: World, cases: Sequence[Case]) -> Result:
        """Try the rows as they are here."""
        rows = {case: Case(proxied_row(case.flow), case.family) for case in cases}
        seen, drift = super().run(world, list(rows.values()))
        return Result({case: seen[row] for case, row in rows.items()}, drift)

    def _sync_path(self, world: World) -> str:
        asked = {front: t._replace(terms=ASKED) for front, t in wanted().items()}
        if self._hybrid is None or world is not self._world:  # another world has other pods
            self._stack.close()
            self._hybrid, self._world = self._make(world, self._stack), world
            return _shown(self._hybrid.sync(asked))
        changed = _shown(self._hybrid.sync(asked))
        with ExitStack() as stack:
            return changed + _shown(diff(self._make(world, stack).look(asked), asked))

    def _make(self, world: World, stack: ExitStack) -> Hybrid:
        config = world.config
        table = stack.enter_context(closing(Conntrack(Networks(config.service_cidr))))
        own = frozenset(own_addresses(config.service_cidr).values())
        proxy = Proxy((), 1, [str(network) for network in config.cluster_cidr], own)
        hybrid = Hybrid(self._path(world, stack), config.service_cidr, proxy, table)
        stack.callback(proxy.stop)
        return hybrid


def nftables(world: World, stack: ExitStack) -> KernelPath:
    """The nftables data path, until the stack is closed."""
    return Nftables(stack.enter_context(closing(NftKernel())), world.parameters)


def iptables(world: World, stack: ExitStack) -> KernelPath:
    """The iptables data path on legacy tables, likewise."""
    return Iptables(stack.enter_context(closing(installed()["legacy"])), world.parameters)


def proxied_row(flow: Flow) -> Flow:
    """A row of a service that goes through the proxy: only what is answered, and by whom it is, differs."""
    left_alone = flow.protocol not in PROTOCOLS or flow.expect == untouched(flow.destination)
    served = {Arrival(a.place, "masqueraded"): weight for a, weight in flow.expect.arrivals.items()}
    return flow if left_alone else replace(flow, expect=replace(flow.expect, arrivals=served))


def userspace_row(flow: Flow) -> Flow:
    """A row as it is in userspace mode: endpoints see the minion as their client.

    Where nobody listens the kernel refuses, so only a listener that lets in some alone can drop (contract).
    """
    row = _frontend(Case(flow, flow.families[0]))
    treatment = wanted().get(row)
    may_drop = treatment is not None and rule(treatment).listens
    claimed = row.address in {f.address for f in wanted() if f.address != PLACES[row.family][MINION]}
    served = {Arrival(a.place, "masqueraded"): weight for a, weight in flow.expect.arrivals.items()}
    ends = (
        (flow.protocol not in PROTOCOLS, REFUSED),
        (flow.expect == DROPPED and may_drop, DROPPED),
        (flow.expect.verdict != "answered", REFUSED),
        (flow.expect == untouched(flow.destination), REFUSED if claimed else flow.expect),
        (True, replace(flow.expect, arrivals=served)),
    )
    return replace(flow, expect=next(expect for applies, expect in ends if applies))


def _frontend(case: Case) -> Frontend:
    address, port = destination(case)
    return Frontend(case.family, address, case.flow.protocol, port)


def expectation(runner: str, flow: Flow) -> Expectation:
    """What a row is to see."""
    if runner.startswith("proxied"):
        return proxied_row(flow).expect
    return (userspace_row(flow) if runner == "userspace" else flow).expect


def sync_nftables(world: World) -> str:
    """The nftables data path."""
    kernel = NftKernel()
    try:
        return _shown(Nftables(kernel, world.parameters).sync(wanted()))
    finally:
        kernel.close()


def sync_iptables(variant: str, world: World) -> str:
    """The iptables data path, on the tables of one variant."""
    tables = installed()[variant]
    try:
        return _shown(Iptables(tables, world.parameters).sync(wanted()))
    finally:
        tables.close()


def _shown(plan: Plan[Frontend, Treatment]) -> str:
    return plan.render() if plan else ""


def _forget_connections() -> None:
    subprocess.run(["conntrack", "-F"], check=True, capture_output=True)


def _place(address: str, port: int) -> str:
    return f"{NAMES.get(address, address)}:{port}"


RUNNERS: dict[str, Callable[[], Runner]] = {
    "tracer": Tracer,
    "nftables": partial(Network, "nftables", sync_nftables),
    "iptables-legacy": partial(Network, "iptables-legacy", partial(sync_iptables, "legacy")),
    "iptables-nft": partial(Network, "iptables-nft", partial(sync_iptables, "nft")),
    "userspace": Userspace,
    "proxied-nftables": partial(Proxied, "proxied-nftables", nftables),
    "proxied-iptables": partial(Proxied, "proxied-iptables", iptables),
}
"""Name → how to make it. All but the tracer need a kernel."""
