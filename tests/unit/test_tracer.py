"""The packet tracer: what it says of a packet, and what it refuses to guess. Rows of packets are in tests/flows."""

from dataclasses import dataclass, replace

import pytest

from svcnet.iptables.desired import Desired, Target, Treatment
from svcnet.iptables.elements import slot_key
from svcnet.iptables.fake import FakeKernel
from svcnet.iptables.nftables import Nftables
from svcnet.iptables.ruleset import DISPATCH, ENDPOINTS, Class, Drop, Parameters
from svcnet.iptables.tracer import Arrival, Packet, UnknownStatementError, trace
from svcnet.model.frontend import Frontend

WEB = Frontend(4, "10.0.0.1", "tcp", 80)
TO_WEB = Packet("10.244.1.2", WEB.address, "tcp", 80)
TARGETS = (Target("10.244.1.3", 8080, weight=3), Target("10.244.2.2", 8080))


def kernel_with(desired: Desired, **options: bool) -> FakeKernel:
    kernel = FakeKernel()
    Nftables(kernel, (Parameters(4, ("10.0.0.0/16",), ("10.244.0.0/16",), **options),)).sync(desired)
    return kernel


@pytest.fixture
def kernel() -> FakeKernel:
    return kernel_with({WEB: Treatment(Class.CLUSTER, None, TARGETS)})


def test_every_possible_end_comes_with_its_share(kernel: FakeKernel) -> None:
    outcome = trace(kernel, TO_WEB)
    assert outcome.verdict == "translated"
    assert outcome.arrivals == {
        Arrival("10.244.1.3", 8080, masqueraded=False): pytest.approx(0.75),
        Arrival("10.244.2.2", 8080, masqueraded=False): pytest.approx(0.25),
    }


def test_the_steps_are_the_rules_that_decided(kernel: FakeKernel) -> None:
    refused = trace(kernel, replace(TO_WEB, port=81))
    assert refused.verdict == "refused"
    assert refused.steps == (
        "prerouting: goto dispatch",
        "dispatch: ip daddr @virtual-ips goto refuse",
        "refuse: meta l4proto tcp reject with tcp reset",
    )


def test_a_packet_made_here_takes_the_output_hook(kernel: FakeKernel) -> None:
    outcome = trace(kernel, replace(TO_WEB, source="192.168.50.1", outgoing=True))
    assert outcome.steps[0] == "output: goto dispatch"
    assert all(arrival.masqueraded for arrival in outcome.arrivals)


def test_without_a_table_of_its_family_a_packet_passes(kernel: FakeKernel) -> None:
    assert trace(kernel, Packet("fd00::2", "fd00:10::1", "tcp", 80)).verdict == "passed"
    assert trace(FakeKernel(), TO_WEB).verdict == "passed"


def test_tracing_changes_nothing(kernel: FakeKernel) -> None:
    before = kernel.tables[4].copy()
    trace(kernel, TO_WEB)
    assert kernel.tables[4] == before


def test_a_slot_that_is_missing_is_an_error_for_it_loses_connections(kernel: FakeKernel) -> None:
    del kernel.tables[4].maps[ENDPOINTS][slot_key(1, 2)]
    with pytest.raises(UnknownStatementError, match="no slot 2 of id 1"):
        trace(kernel, TO_WEB)


@dataclass(frozen=True)
class Teleport:
    """A statement that no tracer knows."""


def test_a_statement_that_it_does_not_know_is_an_error(kernel: FakeKernel) -> None:
    chains = kernel.tables[4].chains
    chains[DISPATCH] = replace(chains[DISPATCH], rules=((Teleport(),),))  # type: ignore[arg-type]  # that is the point
    with pytest.raises(UnknownStatementError, match="Teleport"):
        trace(kernel, TO_WEB)


def test_the_guard_behind_nat_drops_what_still_carries_a_virtual_ip(kernel: FakeKernel) -> None:
    chains = kernel.tables[4].chains
    chains[DISPATCH] = replace(chains[DISPATCH], rules=())
    assert trace(kernel, TO_WEB).verdict == "dropped"
    chains["leak-guard"] = replace(chains["leak-guard"], rules=())
    assert trace(kernel, TO_WEB).verdict == "passed"
    chains["leak-guard"] = replace(chains["leak-guard"], rules=((Drop(),),))
    assert trace(kernel, replace(TO_WEB, destination="198.51.100.7")).verdict == "dropped"
