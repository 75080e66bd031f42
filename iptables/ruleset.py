"""The rules as data: what the tracer walks and what nft is given are the same tables.

Owns: the names and keys of every map, set and chain of table `svcnet` (docs/adr/0001-flat-maps.md) and the
statements that rules are made of. Knows no service. A statement that is not in this file does not exist.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

TABLE = "svcnet"

# Maps and sets: name → (key fields, data).
SERVICES = "services"  # address . protocol . port → service-port id
CLASSES = "classes"  # address . protocol . port → class : number of slots
ENDPOINTS = "endpoints"  # service-port id . slot → address . port
CHAINS = "chains"  # class : number of slots → class chain
INNER = "inner-chains"  # the same for what is behind a gate, as a chain may not lead back to itself
BEHIND = "behind"  # address . protocol . port → the class behind the check of source ranges
SOURCE_RANGES = "source-ranges"  # address . protocol . port . client
SHORT = "short"  # service-port id → class for pods and the minion itself, under externalTrafficPolicy Local
HERE = "here"  # service-port id → class for everybody else
PICKS = "picks"  # service-port id . slot → member
MEMBERS = "members"  # member → address . port
AFFINITY = "affinity"  # service-port id . client → member; rules fill it
VIRTUAL_IPS = "virtual-ips"  # addresses that services hold: their undefined ports are refused
HAIRPINS = "hairpins"  # address . the same address, of endpoints that may be clients of themselves here
SERVICE_CIDR = "service-cidr"  # what nobody holds in it is dropped
CLUSTER_CIDR = "cluster-cidr"  # pods: their source address is kept

DISPATCH, REFUSE, DISCARD, LEAK_GUARD = "dispatch", "refuse", "discard", "leak-guard"
EXTERNAL_LOCAL, RANGED, RANGED_LOCAL = "external-local", "ranged", "ranged-local"
LOCAL_SCOPE = 0x8000
"""Slots of scope `local` (endpoints of this minion) begin here; those of scope `all` at 0."""
MOST_CLIENTS = 1 << 20
"""Clients with an endpoint of their own, over all services. One more is served, and not remembered."""


class Field(Enum):
    """A part of a packet, with its nft spelling (%s is ip or ip6)."""

    SADDR = "%s saddr"
    DADDR = "%s daddr"
    CLIENT = "%c"
    """Who a note is about: the IPv4 source, or the last 96 bits of the IPv6 one. With all of them nft 1.0.6 writes the
    data over the key's end ("dynset update reg_key 1 … sreg_data 2": registers 2 and 9 share bytes)."""
    PROTO = "meta l4proto"
    DPORT = "th dport"
    SCRATCH = "meta priority"
    SLOT = "numgen random mod 65536"
    NEW_DPORT = "ct original proto-dst"
    """A port as data of a map. As `th dport`, nft 1.0.6 reads it back so that no later rule may translate by the map
    ("conflicting protocols specified: tcp vs. th"); this is the one other expression of that type without protocol."""
    VERDICT = "verdict"


ADDRESS_KEY = (Field.DADDR, Field.PROTO, Field.DPORT)


class Class(Enum):
    """How traffic to an address is treated. The value is the high half of its code; the low half counts slots."""

    REFUSE = 1
    DROP = 2
    CLUSTER = 3
    """A virtual IP: all endpoints; who is not of the cluster is masqueraded."""
    INTERNAL_LOCAL = 4
    """A virtual IP under internalTrafficPolicy Local: the endpoints of this minion."""
    EXTERNAL = 5
    """A node port, external or load-balancer address: all endpoints, always masqueraded."""
    EXTERNAL_LOCAL = 6
    """The same under externalTrafficPolicy Local: endpoints of this minion, with the client's own source; pods and the
    minion itself reach all (kube-proxy's short circuit)."""
    PROXIED = 10
    """To where the userspace proxy listens on this minion, with the client's own source: who reaches which endpoint is
    the proxy's to decide."""
    PROXIED_LOCAL = 11
    """The same for those addresses of a service port that have another policy than its others: in scope `local` is
    where the proxy listens for them."""

    def code(self, slots: int = 0) -> int:
        """The 32 bits that map `classes` holds; nft prints them as CLASS:SLOTS in hex. More kinds: classes.py."""
        return self.value << 16 | slots


@dataclass(frozen=True)
class Load:
    """Look `key` up in `table` and put the answer in the scratch; a miss ends the rule."""

    table: str
    key: tuple[Field, ...]


@dataclass(frozen=True)
class Dispatch:
    """Go where map `table` sends the scratch; a miss ends the rule."""

    table: str


@dataclass(frozen=True)
class Within:
    """Go on if the fields are (or are not) in set `table`."""

    fields: tuple[Field, ...]
    table: str
    negated: bool = False


@dataclass(frozen=True)
class Protocols:
    """Go on if the transport protocol is one of these."""

    names: tuple[str, ...] = ("tcp", "udp", "sctp")


@dataclass(frozen=True)
class Mark:
    """Set the masquerade bit in the packet's mark."""

    bit: int


@dataclass(frozen=True)
class TakeMark:
    """Go on if the masquerade bit is set, and clear it."""

    bit: int


@dataclass(frozen=True)
class Translated:
    """Go on if this connection's destination was translated."""


@dataclass(frozen=True)
class Replying:
    """Go on if the packet answers a connection, going back to who opened it."""


@dataclass(frozen=True)
class Translate:
    """Send the connection to one of the `slots` endpoints of the id in the scratch: at random, or by the client."""

    table: str
    slots: int
    offset: int = 0
    hashed: bool = False


@dataclass(frozen=True)
class Choose:
    """Put one of the `slots` members of the id in the scratch there, at random."""

    table: str
    slots: int
    offset: int = 0


@dataclass(frozen=True)
class SetBits:
    """Set bits of the scratch."""

    bits: int


@dataclass(frozen=True)
class Remember:
    """Note the member in the scratch as this client's, or begin its time anew (then the member stays as noted)."""

    table: str
    seconds: int


@dataclass(frozen=True)
class Forget:
    """Take this client's note away, if there is one."""

    table: str


@dataclass(frozen=True)
class TranslateTo:
    """Send the connection to the member in the scratch; one that is gone ends the rule."""

    table: str


@dataclass(frozen=True)
class FromHere:
    """Go on if the source is an address of this minion."""


@dataclass(frozen=True)
class Goto:
    """Continue in another chain, for good."""

    chain: str


@dataclass(frozen=True)
class Refuse:
    """Answer at once: a TCP reset, or an ICMP port unreachable for the rest."""

    tcp: bool


@dataclass(frozen=True)
class Staying:
    """Go on if the packet does not leave this minion."""


@dataclass(frozen=True)
class Pass:
    """Leave this hook's chain: nothing more is done to the packet here."""


@dataclass(frozen=True)
class Drop:
    """Say nothing."""


@dataclass(frozen=True)
class ClearScratch:
    """Put the packet's priority back, which qdiscs read; forwarding resets it by itself, local output does not."""


@dataclass(frozen=True)
class Masquerade:
    """Give the connection an address of this minion as its source."""


Match = Load | Dispatch | Within | Protocols | TakeMark | Translated | Replying | Staying | FromHere | Choose
Action = Mark | Translate | TranslateTo | Goto | Refuse | Drop | Pass | ClearScratch | Masquerade
Note = SetBits | Remember | Forget
Statement = Match | Action | Note
Rule = tuple[Statement, ...]


@dataclass(frozen=True)
class Chain:
    """A chain; `hook` is (type, hook, priority) for a base chain."""

    name: str
    rules: tuple[Rule, ...]
    hook: tuple[str, str, int] | None = None


@dataclass(frozen=True)
class Table:
    """A map (data fields) or a set (none), declared by the fields of its key."""

    name: str
    key: tuple[Field, ...]
    data: tuple[Field, ...] = ()
    interval: bool = False
    """Networks, as the operator gave them."""
    options: str = ""
    """More of its declaration."""


TABLES = (
    Table(SERVICES, ADDRESS_KEY, (Field.SCRATCH,)),
    Table(CLASSES, ADDRESS_KEY, (Field.SCRATCH,)),
    Table(ENDPOINTS, (Field.SCRATCH, Field.SLOT), (Field.DADDR, Field.NEW_DPORT)),
    Table(CHAINS, (Field.SCRATCH,), (Field.VERDICT,)),
    Table(INNER, (Field.SCRATCH,), (Field.VERDICT,)),
    Table(BEHIND, ADDRESS_KEY, (Field.SCRATCH,)),
    Table(SOURCE_RANGES, (*ADDRESS_KEY, Field.SADDR), options="flags interval"),
    Table(SHORT, (Field.SCRATCH,), (Field.SCRATCH,)),
    Table(HERE, (Field.SCRATCH,), (Field.SCRATCH,)),
    Table(PICKS, (Field.SCRATCH, Field.SLOT), (Field.SCRATCH,)),
    Table(MEMBERS, (Field.SCRATCH,), (Field.DADDR, Field.NEW_DPORT)),
    Table(
        AFFINITY,
        (Field.SCRATCH, Field.CLIENT),
        (Field.SCRATCH,),
        options=f"size {MOST_CLIENTS}; flags dynamic,timeout",
    ),
    Table(VIRTUAL_IPS, (Field.DADDR,)),
    Table(HAIRPINS, (Field.SADDR, Field.DADDR)),
    Table(SERVICE_CIDR, (Field.DADDR,), interval=True),
    Table(CLUSTER_CIDR, (Field.SADDR,), interval=True),
)


@dataclass(frozen=True)
class Parameters:
    """What the operator decides about the rules of one family (4 or 6). CIDRs as text."""

    family: int
    service_cidrs: tuple[str, ...] = ()
    cluster_cidrs: tuple[str, ...] = ()
    masquerade_all: bool = False
    masquerade_bit: int = 14


def _gates(parameters: Parameters) -> Iterator[Chain]:
    """Chains that choose a class by the client. What is behind them is looked up in map INNER."""
    bit = 1 << parameters.masquerade_bit
    find = (Protocols(), Load(SERVICES, ADDRESS_KEY))
    short = (*find, Load(SHORT, (Field.SCRATCH,)), Dispatch(INNER))
    pods = ((Within((Field.SADDR,), CLUSTER_CIDR), *short),) if parameters.cluster_cidrs else ()
    yield Chain(
        EXTERNAL_LOCAL,
        (
            *pods,
            (FromHere(), Mark(bit)),
            (FromHere(), *short),
            (*find, Load(HERE, (Field.SCRATCH,)), Dispatch(INNER)),
            (Drop(),),
        ),
    )
    check = (Within((*ADDRESS_KEY, Field.SADDR), SOURCE_RANGES, negated=True), Drop())
    yield Chain(RANGED, (check, (Protocols(), Load(BEHIND, ADDRESS_KEY), Dispatch(INNER)), (Drop(),)))
    yield Chain(RANGED_LOCAL, (check, (Goto(EXTERNAL_LOCAL),)))


def base_chains(parameters: Parameters) -> tuple[Chain, ...]:
    """Every chain that does not depend on a number of slots."""
    bit = 1 << parameters.masquerade_bit
    return (
        Chain("prerouting", ((Goto(DISPATCH),),), ("nat", "prerouting", -100)),
        Chain("output", ((Goto(DISPATCH),),), ("nat", "output", -100)),
        Chain(
            DISPATCH,
            (
                (Protocols(), Load(CLASSES, ADDRESS_KEY), Dispatch(CHAINS)),
                (Within((Field.DADDR,), VIRTUAL_IPS), Goto(REFUSE)),
                (Within((Field.DADDR,), SERVICE_CIDR), Drop()),
            ),
        ),
        Chain(REFUSE, ((Protocols(("tcp",)), Refuse(tcp=True)), (Refuse(tcp=False),))),
        Chain(DISCARD, ((Drop(),),)),
        *_gates(parameters),
        # NAT hooks see the first packet of a connection alone; what conntrack calls invalid must not leave either.
        # A reply may go to a virtual IP: in userspace mode, and while it takes over, the minion's own clients have one.
        # After it they are still connected to its listeners for a while.
        Chain(
            LEAK_GUARD,
            ((Replying(), Pass()), (Staying(), Pass()), (Within((Field.DADDR,), SERVICE_CIDR), Drop())),
            ("filter", "postrouting", 0),
        ),
        Chain(
            "postrouting",
            (
                (Translated(), ClearScratch()),
                (TakeMark(bit), Masquerade()),
                (Translated(), Within((Field.SADDR, Field.DADDR), HAIRPINS), Masquerade()),
            ),
            ("nat", "postrouting", 100),
        ),
    )
