"""A packet's way through our chains as iptables-save prints them. Pure.

Owns: what each option that we write does to the first packet of a connection. One that it does not know is an error,
never a guess. Others' rules are not walked: what they do, `svcnet doctor` looks at.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from svcnet.iptables.chain_text import FILTER, NAT, Chain
from svcnet.iptables.desired import packed
from svcnet.iptables.saved import Saved
from svcnet.iptables.tracer import Arrival, Outcome, Packet
from svcnet.jhash import jhash, scaled
from svcnet.model.errors import KernelError

_SILENT = frozenset({"-m", "--comment", "--mode", "--reject-with", "--timeout", "--to-ports"})
"""Options with a value that say nothing of where a packet goes."""
_FLAGS = frozenset({"--random-fully", "--exist"})
_LIMIT = 1e-12
"""A share below this is what rounding left."""


class End(NamedTuple):
    """One way out of a chain: what became of the packet, and how likely."""

    verdict: str
    packet: Packet
    share: float


@dataclass
class Walk:
    """One packet's. `is_member(set, address)` asks an ipset."""

    saved: Saved
    is_member: Callable[[str, str], bool]
    steps: dict[str, None] = field(default_factory=dict)

    def outcome(self, packet: Packet) -> Outcome:
        """Walk all hooks. KernelError: a rule that is not of our making."""
        arrivals: dict[Arrival, float] = {}
        verdicts: set[str] = set()
        for end in self._first_hooks(packet):
            if end.verdict:
                verdicts.add(end.verdict)
                continue
            after = list(self._hook(NAT, "POSTROUTING", end.packet, end.share))
            verdicts.add("translated" if end.packet.translated else "passed")
            for last in after:
                arrival = Arrival(end.packet.destination, end.packet.port, last.verdict == "masqueraded")
                arrivals[arrival] = arrivals.get(arrival, 0.0) + last.share
        if len(verdicts) > 1:
            raise KernelError(f"a part of the connections is {' and another '.join(sorted(verdicts))}")
        verdict = verdicts.pop()
        return Outcome(verdict, arrivals if verdict == "translated" else {}, tuple(self.steps))

    def _first_hooks(self, packet: Packet) -> Iterator[End]:
        for end in self._hook(NAT, "OUTPUT" if packet.outgoing else "PREROUTING", packet, 1.0):
            if end.verdict == "translated":
                yield End("", end.packet, end.share)
            elif end.verdict:
                yield end
            else:
                yield from self._hook(FILTER, "OUTPUT" if packet.outgoing else "FORWARD", end.packet, end.share)

    def _hook(self, table: str, hook: str, packet: Packet, share: float) -> Iterator[End]:
        jumps = self.saved.jumps.get(Chain(table, hook), [])
        states = [(packet, share)]
        for rule in jumps:
            target = rule.replace('"', "").split()[-1]
            ends = [end for p, s in states for end in self._run(table, target, p, s)]
            yield from (end for end in ends if end.verdict)
            states = [(end.packet, end.share) for end in ends if not end.verdict]
        yield from (End("", p, s) for p, s in states)

    def _run(self, table: str, chain: str, packet: Packet, share: float) -> list[End]:
        """What becomes of a packet in a chain; verdict "" where it comes out of it again."""
        lines = self.saved.chains.get(Chain(table, chain))
        if lines is None:
            raise KernelError(f"chain {chain} of table {table} is not there")
        states, done = [(packet, share)], list[End]()
        for line in lines:
            after: list[tuple[Packet, float]] = []
            for p, s in states:
                chance = self._chance(line, p)
                if chance < 1.0 and s * (1 - chance) > _LIMIT:
                    after.append((p, s * (1 - chance)))
                if chance:
                    self.steps.setdefault(f"{table} {chain}: {line}")
                    ends, on = self._act(table, line, p, s * chance)
                    done += ends
                    after += on
            states = after
            if not states:
                break
        return done + [End("", p, s) for p, s in states]

    def _act(self, table: str, line: str, p: Packet, share: float) -> tuple[list[End], list[tuple[Packet, float]]]:
        """Ends in this chain, and what goes on with its next rule."""
        words = line.split()
        going = "-g" in words
        target = words[words.index("-g" if going else "-j") + 1]
        match target:
            case "DNAT":
                host, _, port = words[words.index("--to-destination") + 1].rpartition(":")
                sent = replace(p, destination=host.strip("[]"), port=int(port), translated=True)
                return [End("translated", sent, share)], []
            case "MARK":
                value, mask = _pair(words[words.index("--set-xmark") + 1])
                return [], [(replace(p, mark=p.mark & ~mask ^ value), share)]
            case "MASQUERADE":
                return [End("masqueraded", p, share)], []
            case "REJECT":
                return [End("refused", p, share)], []
            case "DROP":
                return [End("dropped", p, share)], []
            case "RETURN":
                return [End("", p, share)], []
            case "SET":
                return [], [(p, share)]
        ends = self._run(table, target, p, share)
        if going:
            return ends, []
        return [e for e in ends if e.verdict], [(e.packet, e.share) for e in ends if not e.verdict]

    def _chance(self, line: str, p: Packet) -> float:
        """How likely a rule takes this packet: 0, 1, or what statistic says."""
        words, place, chance = line.split(), 0, 1.0
        if "--bytecode" in words:  # the one program that we write (chain_text.hairpin_line): who was led to itself
            return float(p.translated and p.source == p.destination and not p.outgoing)
        while place < len(words) and words[place] not in {"-j", "-g"}:
            negated = words[place] == "!"
            option = words[place + negated]
            if option in _FLAGS:
                place += 1
                continue
            after = place + negated + 1
            negated, after = (True, after + 1) if words[after] == "!" else (negated, after)
            value, place = words[after], after + 1
            if option == "--probability":
                chance *= float(value)
            elif option in {"--cluster-total-nodes", "--cluster-hash-seed"} or option in _SILENT:
                continue
            elif option == "--match-set":
                place += 1
                if self.is_member(value, p.source) == negated:
                    return 0.0
            elif _matches(option, value, words, p) == negated:
                return 0.0
        return chance


def _matches(option: str, value: str, words: list[str], p: Packet) -> bool:
    match option:
        case "-d":
            return ip_address(p.destination) in ip_network(value)
        case "-s":
            return ip_address(p.source) in ip_network(value)
        case "-p":
            return value == p.protocol
        case "--dport":
            return int(value) == p.port
        case "--ctstate":
            return "NEW" in value.split(",")
        case "--ctdir":
            return value == "ORIGINAL"
        case "--src-type":
            return p.outgoing == (value == "LOCAL")
        case "--mark":
            wanted, mask = _pair(value)
            return p.mark & mask == wanted
        case "--cluster-local-nodemask":
            seed, total = (int(words[words.index(f"--cluster-{o}") + 1], 0) for o in ("hash-seed", "total-nodes"))
            return bool(int(value, 0) >> scaled(jhash(packed(p.source), seed), total) & 1)
    raise KernelError(f"unknown option {option} in a rule of ours: {' '.join(words)}")


def _pair(text: str) -> tuple[int, int]:
    """VALUE/MASK."""
    value, _, mask = text.partition("/")
    return int(value, 0), int(mask or "0xffffffff", 0)
