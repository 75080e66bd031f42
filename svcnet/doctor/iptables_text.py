"""What iptables-save prints → tables in the common form. Pure."""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_network

from svcnet.doctor.packet_filter import OWN_CHAIN, Ask, Chain, Question, Rule, Table, Verdict

_VERDICTS: Mapping[str, Verdict] = {
    "ACCEPT": Verdict.ACCEPT,
    "DROP": Verdict.DROP,
    "REJECT": Verdict.DROP,
    "RETURN": Verdict.RETURN,
    "DNAT": Verdict.TRANSLATE,
    "REDIRECT": Verdict.TRANSLATE,
    "NETMAP": Verdict.TRANSLATE,
}
_PASSED_ON = frozenset(
    {"LOG", "NFLOG", "MARK", "CONNMARK", "TCPMSS", "MASQUERADE", "SNAT", "CT", "NOTRACK", "TRACE", "SET"}
)
"""Targets that let a packet go on, or concern its source alone."""
_HOOKS = {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}
_NETWORKS = {"-s": Ask.SOURCE, "-d": Ask.DESTINATION, "--ctorigdst": Ask.WANTED}
_PROTOCOLS = {"6": "tcp", "17": "udp"}
_SILENT = frozenset({"conntrack", "state", "comment", "addrtype", "tcp", "udp"})
"""Matches of `-m` that ask nothing by themselves."""
_NO_QUESTION = frozenset(
    {"--comment", "--reject-with", "--to-destination", "--to-ports", "--log-prefix", "--log-level"}
)


def tables(program: str, text: str) -> tuple[Table, ...]:
    """Read a listing of `program`, the one that edits these tables: `ip6tables-legacy`."""
    family = "ip6" if program.startswith("ip6") else "ip"
    return tuple(Table(program, family, name, _chains(name, lines)) for name, lines in _parts(text))


def _parts(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each table with its lines."""
    for part in ("\n" + text).split("\n*")[1:]:
        name, *lines = part.splitlines()
        yield name.strip(), lines


def _chains(table: str, lines: Iterable[str]) -> dict[str, Chain]:
    chains: dict[str, Chain] = {}
    rules: dict[str, list[Rule]] = {}
    for line in lines:
        if line.startswith(":"):
            name, policy, *_ = line[1:].split()
            chains[name] = _chain(name, policy, table)
        elif line.startswith("-A "):
            name, _, rest = line[3:].partition(" ")
            if not name.startswith(OWN_CHAIN):
                rules.setdefault(name, []).append(rule(rest))
    for name, those in rules.items():
        chains[name] = chains.get(name, Chain(name))._replace(rules=tuple(those))
    return chains


def _chain(name: str, policy: str, table: str) -> Chain:
    if name not in _HOOKS:
        return Chain(name)
    return Chain(name, hook=name.lower(), kind=table, policy=_VERDICTS.get(policy, Verdict.ACCEPT))


def rule(text: str) -> Rule:
    """Read what stands behind `-A CHAIN`."""
    questions: list[Question] = []
    verdict, target = Verdict.NONE, ""
    words = _words(text)
    negated = False
    for flag, values in _options(words):
        if flag == "!":
            negated = True
            continue
        if flag in {"-j", "-g"}:
            target = values[0] if values else ""
            verdict = _verdict(flag, target)
        elif (asked := _question(flag, values, negated=negated)) is not None:
            questions.append(asked)
        negated = False
    return Rule(tuple(questions), verdict, target if verdict in {Verdict.JUMP, Verdict.GOTO} else "", text)


def _verdict(flag: str, target: str) -> Verdict:
    if target in _VERDICTS:
        return _VERDICTS[target]
    if target in _PASSED_ON:
        return Verdict.NONE
    return Verdict.GOTO if flag == "-g" else Verdict.JUMP


def _question(flag: str, values: Sequence[str], *, negated: bool) -> Question | None:
    """The question of one option; None: none."""
    value = values[0] if values else ""
    if flag in _NETWORKS:
        try:
            return Question(_NETWORKS[flag], (ip_network(value, strict=False),), negated)
        except ValueError:  # a mask with holes
            return Question(Ask.OTHER)
    if flag in {"--ctstate", "--state"}:
        return Question(Ask.STATE, tuple(value.lower().split(",")), negated)
    if flag == "-p":
        return None if value == "all" else Question(Ask.PROTOCOL, (_PROTOCOLS.get(value, value),), negated)
    if flag == "--dst-type" and value == "LOCAL":
        return Question(Ask.LOCAL, (), negated)
    if flag in _NO_QUESTION or (flag == "-m" and value in _SILENT):
        return None
    return Question(Ask.OTHER)


def _options(words: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each option with its words; a `!` by itself belongs to the one that follows."""
    flag, values = "", list[str]()
    for word in words:
        if word == "!" or (word.startswith("-") and len(word) > 1 and not word[1:].isdigit()):
            if flag:
                yield flag, tuple(values)
            flag, values = word, []
        else:
            values.append(word)
    if flag:
        yield flag, tuple(values)


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()
