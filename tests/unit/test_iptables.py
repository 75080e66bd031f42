"""The iptables path over tables in memory: what is written, in what order, and what a packet finds at any moment."""

import logging
import os
import random
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest

from svcnet.iptables.chain_text import FILTER, JUMPS, NAME_LENGTH, NAT, Chain, chain_name, jump
from svcnet.iptables.desired import Desired, Target, Treatment
from svcnet.iptables.fake_xtables import FakeTables, Packet
from svcnet.iptables.iptables import Iptables
from svcnet.iptables.layout import Layout
from svcnet.iptables.ruleset import Class, Parameters
from svcnet.iptables.xtables import Xtables
from svcnet.model.errors import KernelError
from svcnet.model.frontend import Frontend
from svcnet.model.snapshot import PortKey
from svcnet.plan import diff

PARAMETERS = (
    Parameters(4, ("10.0.0.0/16",), ("10.244.0.0/16",)),
    Parameters(6, ("fd00:10::/112",), ("fd00:244::/32",)),
)


def row(address: str, *targets: str, port: int = 80, name: str = "web") -> tuple[Frontend, Treatment]:
    """A TCP frontend; targets are HOST, HOST*WEIGHT, and end with ! when they may be their own client."""
    family = 6 if ":" in address else 4
    parts = [(t.rstrip("!").partition("*"), t.endswith("!")) for t in targets]
    found = tuple(Target(host, 8080, int(weight or 1), hairpin=own) for (host, _, weight), own in parts)
    kind = Class.CLUSTER if targets else Class.REFUSE
    return Frontend(family, address, "tcp", port), Treatment(kind, PortKey("default", name, "TCP", port, family), found)


WORLD: Desired = dict(
    [
        row("10.0.0.5", "10.244.1.2", "10.244.1.3*3", "10.244.1.4!"),
        row("10.0.0.5", "10.244.1.9", port=443),
        row("10.0.0.6"),
        row("10.0.77.1", "10.244.1.2!"),
        row("192.0.2.1", "10.244.1.2"),
        row("fd00:10::5", "fd00:244::2", "fd00:244::3!"),
    ]
)


def ends(tables: FakeTables, address: str, port: int = 80, protocol: str = "tcp") -> set[str]:
    return set(tables.reach(Packet(address, protocol, port)))


def made(tables: FakeTables, desired: Desired) -> Iptables:
    path = Iptables(tables, PARAMETERS)
    path.sync(desired)
    return path


def test_packets_go_where_the_rows_say() -> None:
    tables = FakeTables()
    made(tables, WORLD)
    assert ends(tables, "10.0.0.5") == {"10.244.1.2:8080", "10.244.1.3:8080", "10.244.1.4:8080"}
    assert ends(tables, "10.0.0.5", 443) == {"10.244.1.9:8080"}
    assert ends(tables, "fd00:10::5") == {"[fd00:244::2]:8080", "[fd00:244::3]:8080"}
    # An address outside the service CIDR that a service has.
    assert ends(tables, "192.0.2.1") == {"10.244.1.2:8080"}
    assert ends(tables, "192.0.2.1", 81) == {"refused"}
    assert ends(tables, "10.0.0.6") == ends(tables, "10.0.0.5", 81) == {"refused"}
    assert ends(tables, "10.0.0.5", protocol="udp") == {"refused"}
    assert ends(tables, "10.0.0.7") == ends(tables, "10.0.99.1") == ends(tables, "fd00:10::6") == {"dropped"}
    assert ends(tables, "192.0.2.2") == ends(tables, "10.244.1.2") == {"passed"}


def test_a_dropped_frontend_is_silent_beside_a_refused_port() -> None:
    tables = FakeTables()
    front, treatment = row("10.0.0.9")
    path = made(tables, {front: treatment._replace(kind=Class.DROP)})
    assert ends(tables, "10.0.0.9") == {"dropped"}
    assert ends(tables, "10.0.0.9", 81) == {"refused"}
    path.apply(diff({front: treatment._replace(kind=Class.DROP)}, {front: treatment}))
    assert ends(tables, "10.0.0.9") == {"refused"}


def test_the_chain_of_a_service_reads_as_an_operator_expects() -> None:
    tables = FakeTables()
    made(tables, dict([row("10.0.0.5", "10.244.1.2", "10.244.1.3*3", "10.244.1.4")]))
    nat = tables.tables[4]["nat"]
    assert nat["SVCNET-SERVICES"] == ["-d 10.0.0.0/20 -g SVCNET-10.0.0.0/20"]
    assert nat["SVCNET-10.0.0.0/28"] == ["-d 10.0.0.5/32 -g SVCNET-10.0.0.5"]
    assert nat["SVCNET-10.0.0.5"] == [
        "-p tcp -m tcp --dport 80 -m comment --comment default/web -g SVCNET-10.0.0.5.tcp.80"
    ]
    chance = "-p tcp -m statistic --mode random --probability"
    assert nat["SVCNET-10.0.0.5.tcp.80"] == [
        "-j SVCNET-MASQ",
        f"{chance} 0.20000000019 -j DNAT --to-destination 10.244.1.2:8080",
        f"{chance} 0.75000000000 -m comment --comment weight=3 -j DNAT --to-destination 10.244.1.3:8080",
        "-p tcp -j DNAT --to-destination 10.244.1.4:8080",
    ]


def test_a_second_sync_of_another_daemon_finds_everything_and_writes_nothing() -> None:
    tables = FakeTables()
    made(tables, WORLD)
    written = len(tables.log)
    later = Iptables(tables, PARAMETERS)
    assert later.look(WORLD) == WORLD
    assert not later.sync(WORLD)
    assert not any(text for text in tables.log[written:])


@pytest.mark.parametrize(
    ("after", "chains"),
    [
        ([row("10.0.0.5", "10.244.1.7")], 2),  # its service chain and that of its ports
        ([row("10.0.0.6", "10.244.1.7")], 2),
        ([row("10.0.0.8", "10.244.1.7")], 4),  # and the last node of the tree, in both tables
        ([row("10.0.200.8", "10.244.1.7")], 2 + 2 * 4),
    ],
)
def test_a_change_writes_its_own_chains_alone_in_one_restore(
    after: list[tuple[Frontend, Treatment]], chains: int
) -> None:
    tables = FakeTables()
    front, treatment = row("10.0.0.5", "10.244.1.2")
    path = made(tables, {front: treatment} | dict([row("10.0.0.6")]))
    tables.log.clear()
    reads = tables.reads
    path.apply(diff({front: treatment} if after[0][0] == front else {}, dict(after)))
    assert len(tables.log) == 1
    assert sum(line.startswith(":") for line in tables.log[0].splitlines()) == chains
    assert tables.reads == reads


def random_world(chance: random.Random) -> Desired:
    numbers = chance.sample(range(1, 600), 8)
    hosts = ["10.244.1.2", "10.244.1.3!", "10.244.1.4*2", "10.244.2.2"]
    four = [row(f"10.0.{n >> 4}.{n % 16}", *chance.sample(hosts, chance.randrange(4))) for n in numbers]
    return dict(
        four + [row(f"fd00:10::{n:x}", *chance.sample(["fd00:244::2", "fd00:244::3!"], 1)) for n in numbers[:2]]
    )


@pytest.mark.parametrize("seed", range(20))
def test_changes_end_in_the_same_chains_as_a_load_from_nothing(seed: int) -> None:
    chance = random.Random(seed)
    worlds = [random_world(chance) for _ in range(6)]
    tables, fresh = FakeTables(), FakeTables()
    path = made(tables, worlds[0])
    for before, after in pairwise(worlds):
        path.apply(diff(before, after))
    made(fresh, worlds[-1])
    assert tables.tables == fresh.tables


@pytest.mark.parametrize("seed", range(3))
def test_a_load_in_pieces_never_leads_a_packet_astray(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each restore a packet goes its old or its new way, and a daemon that dies there is of no consequence."""
    monkeypatch.setattr("svcnet.iptables.iptables.PIECE_CHAINS", 5)
    chance = random.Random(seed)
    old, new = random_world(chance), random_world(chance)
    ways = {front: {reached(t) for t in (old.get(front), new.get(front))} for front in old | new}
    for cut in range(200):
        tables = FakeTables()
        made(tables, old)
        tables.fail_after = cut
        try:
            made(tables, new)
        except KernelError:
            for front, allowed in ways.items():
                # A frontend comes or goes table by table: for that long it may be refused.
                between = {frozenset({"refused"})} if (front in old) != (front in new) else set()
                assert ends_of(tables, front) in allowed | between, front
            made(tables, new)
        else:
            break
        assert all(ends_of(tables, front) == reached(treatment) for front, treatment in new.items())
    assert cut > 5


def reached(treatment: Treatment | None) -> frozenset[str]:
    if treatment is None:
        return frozenset({"dropped"})
    return frozenset(str(t._replace(weight=1)) for t in treatment.targets) or frozenset({"refused"})


def ends_of(tables: FakeTables, front: Frontend) -> frozenset[str]:
    return tables.reach(Packet(front.address, front.protocol, front.port))


DAMAGE = {
    "a jump": (NAT, "PREROUTING"),
    "the root": (NAT, "SVCNET-SERVICES"),
    "a node": (NAT, "SVCNET-10.0.0.0/28"),
    "a service": (NAT, "SVCNET-10.0.0.5.tcp.80"),
    "the refusal": (FILTER, "SVCNET-REFUSE"),
    "the refusal's tree": (FILTER, "SVCNET-10.0.0.0/24"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_sync_mends_what_was_flushed_and_that_alone(what: str) -> None:
    tables = FakeTables()
    path = made(tables, WORLD)
    whole = {table: dict(chains) for table, chains in tables.tables[4].items()}
    table, chain = DAMAGE[what]
    tables.tables[4][table][chain] = []
    tables.others += 1
    assert path.changed_by_others()
    tables.log.clear()
    assert bool(path.sync(WORLD)) == (what != "the refusal")  # every row is there; that chain is nobody's
    assert tables.tables[4] == whole
    assert not path.changed_by_others()
    assert sum(line.startswith(":") for text in tables.log for line in text.splitlines()) == (what != "a jump")


def test_a_change_is_refused_whole_where_our_jumps_are_gone() -> None:
    tables = FakeTables()
    path = made(tables, WORLD)
    tables.tables[4]["nat"]["PREROUTING"] = []
    before = dict(tables.tables[4]["nat"])
    with pytest.raises(KernelError, match="somebody else"):
        path.apply(diff({}, dict([row("10.0.0.8", "10.244.1.2")])))
    assert tables.tables[4]["nat"] == before


def test_jumps_come_before_rules_of_others_and_are_there_once() -> None:
    tables = FakeTables()
    tables.tables[4]["nat"]["PREROUTING"] = ["-j DOCKER"]
    made(tables, WORLD)
    ours = jump(JUMPS[Chain(NAT, "PREROUTING")])
    assert tables.tables[4]["nat"]["PREROUTING"] == [ours, "-j DOCKER"]
    tables.tables[4]["nat"]["PREROUTING"] = ["-j DOCKER", ours, ours, "-j SVCNET-OLD"]
    tables.tables[4]["nat"]["SVCNET-OLD"] = ["-j RETURN"]
    made(tables, WORLD)
    assert tables.tables[4]["nat"]["PREROUTING"] == [ours, "-j DOCKER"]
    assert "SVCNET-OLD" not in tables.tables[4]["nat"]


def test_remove_leaves_what_is_not_ours() -> None:
    tables = FakeTables()
    tables.tables[4]["filter"] |= {"INPUT": ["-j OTHER"], "OTHER": ["-j DROP"]}
    before = {family: {t: dict(c) for t, c in chains.items()} for family, chains in tables.tables.items()}
    path = made(tables, WORLD)
    assert path.remove()
    assert tables.tables == before
    assert not path.remove()


def test_silence_sends_nobody_anywhere_and_keeps_the_rules() -> None:
    tables = FakeTables()
    path = made(tables, WORLD)
    chains = {name for table in tables.tables[4].values() for name in table}
    assert path.silence()
    assert [ends(tables, address) for address in ("10.0.0.5", "10.0.0.6", "10.0.0.9")] == [{"passed"}] * 3
    assert {name for table in tables.tables[4].values() for name in table} == chains
    made(tables, WORLD)
    assert ends(tables, "10.0.0.6") == {"refused"}
    assert path.remove()
    assert not path.silence()


def test_a_family_that_the_service_cidr_has_no_more_goes() -> None:
    tables = FakeTables()
    made(tables, WORLD)
    four: Desired = {front: t for front, t in WORLD.items() if front.family == 4}
    Iptables(tables, PARAMETERS[:1]).sync(four)
    assert not [c for chains in tables.tables[6].values() for c in chains if c.startswith("SVCNET-")]


def test_changed_parameters_rewrite_the_chains_that_hold_them() -> None:
    tables = FakeTables()
    made(tables, WORLD)
    assert tables.tables[4]["nat"]["SVCNET-MASQ"][0] == "-s 10.244.0.0/16 -j RETURN"
    Iptables(tables, (Parameters(4, ("10.0.0.0/16",), masquerade_all=True), PARAMETERS[1])).sync(WORLD)
    assert tables.tables[4]["nat"]["SVCNET-MASQ"] == ["-j MARK --set-xmark 0x4000/0x4000"]
    assert ends(tables, "10.0.0.5", 443) == {"10.244.1.9:8080"}


@pytest.mark.parametrize("cidr", ["10.0.0.0/8", "10.0.0.0/15", "10.0.0.0/24", "10.0.0.1/32"])
def test_any_service_cidr_makes_a_tree_of_at_most_sixteen_branches(cidr: str) -> None:
    tables = FakeTables()
    desired: Desired = dict([row(f"10.0.0.{n}", "10.244.1.2") for n in range(1, 200)])
    Iptables(tables, (Parameters(4, (cidr,)),)).sync(desired)
    assert ends(tables, "10.0.0.1") == ends(tables, "10.0.0.199") == {"10.244.1.2:8080"}
    widest = max(len(rules) for chain, rules in tables.tables[4]["nat"].items() if "/" in chain or chain.endswith("ES"))
    assert widest <= 16


def test_names_of_chains_are_short_distinct_and_readable_by_nft() -> None:
    texts = ["255.255.255.255.sctp.65535", "2001:db8:1111:2222:3333:4444:5555:6666", "fd00:10::/124", "10.0.0.5"]
    names = [chain_name(text) for text in texts]
    assert names[2:] == ["SVCNET-fd00_10__/124", "SVCNET-10.0.0.5"]
    assert len(set(names)) == len(texts)
    assert all(len(name) <= NAME_LENGTH and ":" not in name for name in names)


def test_an_ipv6_service_with_the_longest_address_works() -> None:
    tables = FakeTables()
    address = "fd12:3456:789a:bcde:1234:5678:9abc:def0"
    made(tables, dict([row(address, "fd00:244::2")]))
    assert ends(tables, address) == {"[fd00:244::2]:8080"}


def all_chains(edit: Iterable[Chain]) -> set[str]:
    return {chain.name for chain in edit}


def test_a_layout_forgets_what_went() -> None:
    layout = Layout(PARAMETERS[0])
    four: Desired = {front: t for front, t in WORLD.items() if front.family == 4}
    written = all_chains(layout.everything(four))
    edit = layout.apply(diff(four, {}).changes()).edit
    assert {chain.name for chain, lines in edit.items() if lines is None} == {
        name for name in written if name[7:8].isdigit() or name.startswith("SVCNET-EP-")
    }


def test_a_load_that_takes_long_arrives_whole_and_says_what_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("svcnet.iptables.xtables.SILENT_SECONDS", 0.01)
    program, heard, ready = tmp_path / "restore", tmp_path / "heard", tmp_path / "ready"
    os.mkfifo(ready)
    program.write_text(f"#!/bin/sh\nread word <{ready}\ncat >{heard}\n")
    program.chmod(0o755)

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            ready.write_text(f"{record.getMessage()}\n")

    logger, handler = logging.getLogger("svcnet.iptables.xtables"), Heard()
    logger.addHandler(handler)
    text = "-A CHAIN -j RETURN\n" * 20_000
    try:
        Xtables("legacy", {"iptables-restore": str(program)}).restore(4, text)
    finally:
        logger.removeHandler(handler)
    assert heard.read_text() == text
    assert "xtables lock" in caplog.text
