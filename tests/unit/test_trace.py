"""`svcnet trace` without a kernel: what the records say, held against the packet tracer and the iptables chains."""

from ipaddress import ip_network

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from svcnet.cli.live import led
from svcnet.cli.userspace import rule
from svcnet.iptables.desired import PROXIED, Desired, Pick, Target, Treatment
from svcnet.iptables.elements import element_text
from svcnet.iptables.fake import FakeKernel
from svcnet.iptables.fake_xtables import FakeTables
from svcnet.iptables.iptables import Iptables
from svcnet.iptables.nftables import Nftables
from svcnet.iptables.ruleset import CLASSES, DISPATCH, INNER, Class, Parameters
from svcnet.iptables.saved import Saved, parse
from svcnet.iptables.tracer import Arrival, Outcome, Packet, UnknownStatementError, trace
from svcnet.jhash import jhash, scaled
from svcnet.model.errors import KernelError
from svcnet.model.frontend import Frontend
from svcnet.trace.addressee import Addressee, Kind
from svcnet.trace.chain_walk import Walk
from svcnet.trace.comparison import differences
from svcnet.trace.expectation import Said, expect, expect_of_userspace
from svcnet.trace.nft_state import READ, table_of

CIDR = ip_network("10.0.0.0/16")
WEB = Frontend(4, "10.0.0.1", "tcp", 80)
PODS = ("10.244.1.2", "10.244.1.3", "10.244.2.2", "10.244.2.3")
OUTSIDE, MINION = "203.0.113.9", "192.168.50.1"
NETWORK = "10.244.0.0/16"

targets = st.lists(
    st.builds(Target, st.sampled_from(PODS), st.just(8080), st.integers(1, 9), hairpin=st.booleans()),
    max_size=4,
    unique_by=lambda target: target.address,
).map(tuple)


@st.composite
def treatments(draw: st.DrawFn) -> Treatment:
    """What `desired` could make of a service."""
    everywhere = draw(targets)
    local = draw(st.sampled_from([(), everywhere[:1], everywhere]))
    kind = draw(st.sampled_from(sorted(set(Class) - PROXIED, key=lambda k: k.value)))
    if not everywhere:
        kind = Class.REFUSE
    elif kind is Class.INTERNAL_LOCAL and not local:
        kind = Class.DROP
    pick = draw(st.sampled_from([Pick(), Pick("hash"), Pick("affinity", 100)]))
    ranges = draw(st.sampled_from([(), ("203.0.113.0/24",), (NETWORK, "192.168.50.1/32")]))
    return Treatment(kind, None, everywhere, local, pick, ranges, virtual=draw(st.booleans()))


packets = st.sampled_from(
    [
        *(Packet(pod, WEB.address, "tcp", 80) for pod in PODS[:2]),
        Packet(OUTSIDE, WEB.address, "tcp", 80),
        Packet(MINION, WEB.address, "tcp", 80, outgoing=True),
    ]
)
parameters = st.builds(
    Parameters,
    st.just(4),
    st.just((str(CIDR),)),
    st.sampled_from([(), (NETWORK,)]),
    st.booleans(),
)
ADDRESSED = Addressee(Kind.VIRTUAL_IP)


def kernel_with(desired: Desired, given_parameters: Parameters) -> FakeKernel:
    kernel = FakeKernel()
    Nftables(kernel, (given_parameters,)).sync(desired)
    return kernel


def read_back(kernel: FakeKernel, given_parameters: Parameters) -> FakeKernel:
    """The kernel as the command sees it: by its dumps and numbers of rules alone."""
    dumps = {name: kernel.dump(4, name) for name in READ if name in kernel.tables[4].maps}
    dumps |= {name: [(b"some", b"")] for name, cidrs in kernel.tables[4].networks.items() if cidrs}
    seen = FakeKernel()
    seen.tables[4] = table_of(given_parameters, kernel.chains(4), dumps)
    return seen


@given(treatments(), packets, parameters)
def test_the_records_say_what_the_rules_do(treatment: Treatment, packet: Packet, rules: Parameters) -> None:
    kernel = read_back(kernel_with({WEB: treatment}, rules), rules)
    said, outcome = expect(packet, ADDRESSED, treatment, rules), trace(kernel, packet)
    assert said.verdict == outcome.verdict
    assert said.arrivals.keys() == outcome.arrivals.keys()
    if said.exact:
        assert said.arrivals == pytest.approx(outcome.arrivals)
    assert differences(said, outcome, pinned=False) == []


@given(treatments(), packets, parameters)
def test_the_records_say_what_the_chains_do(treatment: Treatment, packet: Packet, rules: Parameters) -> None:
    # An endpoint of another minion does not come by here; iptables' one rule for all would take it for a hairpin.
    assume(all(t.hairpin or t.address != packet.source for t in (*treatment.targets, *treatment.local)))
    tables = FakeTables()
    Iptables(tables, (rules,)).sync({WEB: treatment})
    said, there = expect(packet, ADDRESSED, treatment, rules), walk(tables.save(4), packet)
    assert differences(said, there, pinned=treatment.pick.kind == "hash") == []
    for client in (Packet(OUTSIDE, "10.0.3.3", "tcp", 80), Packet(OUTSIDE, "198.51.100.7", "tcp", 80)):
        whose = Addressee(Kind.UNALLOCATED if client.destination.startswith("10.") else Kind.NOT_OURS)
        assert differences(expect(client, whose, None, rules), walk(tables.save(4), client), pinned=False) == []


def test_a_table_of_other_options_is_not_read_as_ours() -> None:
    kernel = kernel_with({}, Parameters(4, (str(CIDR),), (NETWORK,)))
    with pytest.raises(KernelError, match="--cluster-cidr"):
        read_back(kernel, Parameters(4, (str(CIDR),)))


def test_a_chain_that_was_emptied_does_nothing_and_one_that_was_changed_is_not_guessed_at() -> None:
    rules = Parameters(4, (str(CIDR),))
    kernel = kernel_with({WEB: Treatment(Class.REFUSE, None)}, rules)
    packet = Packet(OUTSIDE, WEB.address, "tcp", 80)
    kernel.silence(4, [DISPATCH])
    assert trace(read_back(kernel, rules), packet).verdict == "dropped"  # by the guard behind it
    chains, dumps = dict(kernel.chains(4)), {name: kernel.dump(4, name) for name in (CLASSES, INNER)}
    chains[DISPATCH] = 1
    seen = FakeKernel()
    seen.tables[4] = table_of(rules, chains, {name: dumps.get(name, []) for name in READ})
    with pytest.raises(UnknownStatementError, match="somebody else changed chain dispatch: it has 1 rules, we wrote 3"):
        trace(seen, packet)


def said(*arrivals: tuple[str, float], verdict: str = "translated", masqueraded: bool = False) -> Said:
    return Said(verdict, {Arrival(address, 80, masqueraded): share for address, share in arrivals}, "")


def outcome(*arrivals: tuple[str, float], verdict: str = "translated", masqueraded: bool = False) -> Outcome:
    return Outcome(verdict, {Arrival(address, 80, masqueraded): share for address, share in arrivals}, ())


@pytest.mark.parametrize(
    ("records", "kernel", "pinned", "difference"),
    [
        (said(("a", 1)), outcome(("a", 1)), False, ""),
        (said(("a", 0.5), ("b", 0.5)), outcome(("a", 1)), True, ""),
        (said(("a", 0.5), ("b", 0.5)), outcome(("a", 1)), False, "the kernel never sends to b:80"),
        (said(("a", 1)), outcome(("a", 0.5), ("b", 0.5)), False, "sends to b:80, which the records don't have"),
        (
            said(("a", 0.5), ("b", 0.5)),
            outcome(("a", 0.3), ("b", 0.7)),
            False,
            "30 % in the kernel, by the records 50 %",
        ),
        (said(("a", 1)), outcome(("a", 1), masqueraded=True), False, "masqueraded in the kernel, by the records kept"),
        (said(verdict="refused"), outcome(verdict="dropped"), False, "it is refused, in the kernel dropped"),
        (said(("a", 1)), outcome(("c", 1)), True, "sends to c:80, which the records don't have"),
    ],
)
def test_every_difference_is_said(records: Said, kernel: Outcome, pinned: bool, difference: str) -> None:
    found = differences(records, kernel, pinned=pinned)
    assert bool(found) == bool(difference)
    assert difference in "; ".join(found)


@given(treatments(), packets, parameters)
def test_the_records_say_what_the_proxy_does(treatment: Treatment, packet: Packet, rules: Parameters) -> None:
    said, found = expect_of_userspace(packet, ADDRESSED, treatment, rules), rule(treatment)
    if found.listens:
        assert differences(said, led(found, packet, list(rules.cluster_cidrs), ""), pinned=False) == []
    else:
        assert said.verdict == "refused"


def of_userspace(whose: Addressee, treatment: Treatment | None) -> Said:
    return expect_of_userspace(Packet(OUTSIDE, WEB.address, "tcp", 80), whose, treatment, Parameters(4))


def test_userspace_serves_who_has_endpoints_as_this_minion() -> None:
    treatment = Treatment(Class.CLUSTER, None, (Target("10.244.1.2", 80),))
    assert of_userspace(ADDRESSED, treatment).arrivals == {Arrival("10.244.1.2", 80, masqueraded=True): 1.0}
    assert of_userspace(ADDRESSED, Treatment(Class.REFUSE, None)).verdict == "refused"
    assert of_userspace(ADDRESSED, Treatment(Class.DROP, None)).verdict == "dropped"
    assert of_userspace(Addressee(Kind.UNALLOCATED), None).verdict == "refused"
    assert of_userspace(Addressee(Kind.OUTSIDE_PORT), None).verdict == "refused"
    assert of_userspace(Addressee(Kind.NODE_PORT), Treatment(Class.REFUSE, None)).verdict == "passed"
    assert of_userspace(Addressee(Kind.NOT_OURS), None).verdict == "passed"


SAVED = """*nat
:SVCNET-SERVICES - [0:0]
:SVCNET-WEB - [0:0]
:SVCNET-POSTROUTING - [0:0]
-A PREROUTING -m comment --comment "svcnet/1" -j SVCNET-SERVICES
-A POSTROUTING -m comment --comment "svcnet/1" -j SVCNET-POSTROUTING
-A SVCNET-SERVICES -d 10.0.0.5/32 -g SVCNET-WEB
-A SVCNET-WEB ! -s 10.244.0.0/16 -j MARK --set-xmark 0x4000/0x4000
-A SVCNET-WEB -p tcp -m set --match-set svcnet-a src -j DNAT --to-destination 10.1.0.1:80
-A SVCNET-WEB -p tcp -m statistic --mode random --probability 0.25000000000 -j DNAT --to-destination 10.1.0.1:80
-A SVCNET-WEB -p tcp -j DNAT --to-destination 10.1.0.2:80
-A SVCNET-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A SVCNET-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A SVCNET-POSTROUTING -j MASQUERADE --random-fully
COMMIT
"""


def walk(saved: Saved, packet: Packet, *members: str) -> Outcome:
    return Walk(saved, lambda _, address: address in members).outcome(packet)


def test_chains_are_walked_as_they_were_saved() -> None:
    packet = Packet("10.244.1.2", "10.0.0.5", "tcp", 80)
    assert walk(parse(SAVED), packet).arrivals == {
        Arrival("10.1.0.1", 80, masqueraded=False): pytest.approx(0.25),
        Arrival("10.1.0.2", 80, masqueraded=False): pytest.approx(0.75),
    }
    assert walk(parse(SAVED), packet, "10.244.1.2").arrivals == {Arrival("10.1.0.1", 80, masqueraded=False): 1.0}
    outside = walk(parse(SAVED), Packet(OUTSIDE, "10.0.0.5", "tcp", 80))
    assert all(arrival.masqueraded for arrival in outside.arrivals)
    assert walk(parse(SAVED), Packet(OUTSIDE, "10.0.0.6", "tcp", 80)).verdict == "passed"


def test_a_rule_that_is_not_of_our_making_is_an_error() -> None:
    packet = Packet("10.244.1.2", "10.0.0.5", "tcp", 80)
    with pytest.raises(KernelError, match="unknown option --tos"):
        walk(parse(SAVED.replace("! -s 10.244.0.0/16", "--tos 8")), packet)
    with pytest.raises(KernelError, match="chain SVCNET-GONE of table nat is not there"):
        walk(parse(SAVED.replace("-g SVCNET-WEB", "-g SVCNET-GONE")), packet)


def test_elements_of_a_client_are_spelled_as_nft_does() -> None:
    kernel = kernel_with({WEB: Treatment(Class.REFUSE, None)}, Parameters(4, (str(CIDR),)))
    (op,) = [op for ops in kernel.log for op in ops if op.table == CLASSES]
    assert element_text(op) == "10.0.0.1 . tcp . 80 : 1:0"


@pytest.mark.parametrize(
    ("data", "seed", "value"),
    [
        # lookup3.c's own vectors: hashlittle("", seed) ends without mixing, and this sentence of 30 bytes.
        (b"Four score and seven years ago", 0, 0x17770551),
        (b"Four score and seven years ago", 1, 0xCD628161),
    ],
)
def test_jhash_is_the_published_one(data: bytes, seed: int, value: int) -> None:
    assert jhash(data, seed) == value


def test_a_hash_is_scaled_to_a_number_of_slots() -> None:
    assert {scaled(value << 28, 4) for value in range(16)} == {0, 1, 2, 3}
