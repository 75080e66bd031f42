"""What `nft -j list table` prints (libnftables-json(5)) → a table in the common form. Pure."""

from collections.abc import Iterable, Mapping
from ipaddress import ip_address as address
from ipaddress import ip_network, summarize_address_range
from typing import Any

from svcnet.doctor.packet_filter import Ask, Chain, Network, Question, Rule, Table, Verdict

_VERDICTS: Mapping[str, Verdict] = {
    "accept": Verdict.ACCEPT,
    "drop": Verdict.DROP,
    "reject": Verdict.DROP,
    "return": Verdict.RETURN,
    "jump": Verdict.JUMP,
    "goto": Verdict.GOTO,
    "dnat": Verdict.TRANSLATE,
    "redirect": Verdict.TRANSLATE,
    "queue": Verdict.NONE,
    "tproxy": Verdict.TRANSLATE,
}
_REJECT_VERSION = {"icmp": 4, "icmpv6": 6}
_NFPROTO = {"ipv4": 4, "ipv6": 6}
_EVERYTHING: Mapping[int, Network] = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


def table(items: Iterable[Mapping[str, Any]]) -> Table | None:
    """Read the list `nftables` of one table; None where there is none in it."""
    found: Table | None = None
    chains: dict[str, Chain] = {}
    rules: dict[str, list[Rule]] = {}
    for item in items:
        if "table" in item:
            found = Table("nft", item["table"]["family"], item["table"]["name"], chains)
        elif "chain" in item:
            chains[item["chain"]["name"]] = _chain(item["chain"])
        elif "rule" in item:
            rules.setdefault(item["rule"]["chain"], []).append(rule(item["rule"]))
    for name, those in rules.items():
        if name in chains:
            chains[name] = chains[name]._replace(rules=tuple(those))
    return found


def _chain(item: Mapping[str, Any]) -> Chain:
    if "hook" not in item:
        return Chain(item["name"])
    policy = Verdict.DROP if item.get("policy") == "drop" else Verdict.ACCEPT
    return Chain(item["name"], hook=item["hook"], kind=item.get("type", ""), policy=policy)


def rule(item: Mapping[str, Any]) -> Rule:
    """Read one rule; the verdict is its last statement that is one."""
    questions: list[Question] = []
    verdict, target = Verdict.NONE, ""
    for statement in item.get("expr", ()):
        name, body = next(iter(statement.items()), ("", None))
        if name == "match":
            questions.append(_question(body or {}))
        elif name in _VERDICTS:
            verdict = _VERDICTS[name]
            target = (body or {}).get("target", "") if verdict in {Verdict.JUMP, Verdict.GOTO} else ""
            if name == "reject":
                questions += _implied(body or {})
        elif name in {"xt", "vmap", "limit", "quota"}:
            questions.append(Question(Ask.OTHER))
    return Rule(tuple(questions), verdict, target, f"handle {item.get('handle', 0)}", int(item.get("handle", 0)))


def _implied(reject: Mapping[str, Any]) -> list[Question]:
    """What nft leaves out of its listing, as the kind of the reject says it."""
    kind = reject.get("type")
    if kind == "tcp reset":
        return [Question(Ask.PROTOCOL, ("tcp",))]
    if kind in _REJECT_VERSION:
        return [Question(Ask.DESTINATION, (_EVERYTHING[_REJECT_VERSION[kind]],))]
    return []


def _question(body: Mapping[str, Any]) -> Question:
    left, right, negated = body.get("left"), body.get("right"), body.get("op") == "!="
    kind = _asked(left)
    if kind in {Ask.STATE, Ask.PROTOCOL}:
        return Question(kind, tuple(word for word in _values(right) if isinstance(word, str)), negated)
    if kind is Ask.LOCAL:
        return Question(kind, (), negated) if right == "local" else Question(Ask.OTHER)
    if left == {"meta": {"key": "nfproto"}} and not negated and right in (*_NFPROTO,):
        return Question(Ask.DESTINATION, (_EVERYTHING[_NFPROTO[right]],))
    if kind is Ask.OTHER:
        return Question(kind)
    try:
        networks = tuple(network for value in _values(right) for network in _networks(value))
    except (ValueError, TypeError, KeyError):  # @a-set, or a form of a later nft
        return Question(Ask.OTHER)
    return Question(kind, networks, negated)


def _asked(left: Any) -> Ask:
    match left:
        case {"payload": {"protocol": "ip" | "ip6", "field": "saddr"}}:
            return Ask.SOURCE
        case {"payload": {"protocol": "ip" | "ip6", "field": "daddr"}}:
            return Ask.DESTINATION
        case {"ct": {"key": "ip daddr" | "ip6 daddr", "dir": "original"}}:
            return Ask.WANTED
        case {"meta": {"key": "l4proto"}} | {"payload": {"protocol": "ip", "field": "protocol"}}:
            return Ask.PROTOCOL
        case {"ct": {"key": "state" | "status"}}:
            return Ask.STATE
        case {"fib": {"result": "type", "flags": ["daddr"] | "daddr"}}:
            return Ask.LOCAL
    return Ask.OTHER


def _values(right: Any) -> list[Any]:
    if isinstance(right, Mapping) and "set" in right:
        return list(right["set"])
    return list(right) if isinstance(right, list) else [right]


def _networks(value: Any) -> list[Network]:
    match value:
        case {"prefix": {"addr": where, "len": length}}:
            return [ip_network(f"{where}/{length}", strict=False)]
        case {"range": [first, last]}:
            return list(summarize_address_range(address(first), address(last)))
        case {"elem": {"val": inner}}:
            return _networks(inner)
        case str():
            return [ip_network(value)]
    raise ValueError(value)
