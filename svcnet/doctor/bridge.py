"""Whether pods on one bridge reach each other, and themselves, through a virtual IP. Pure."""

from collections.abc import Iterator

from svcnet.doctor.facts import Facts, Link
from svcnet.doctor.finding import Finding, sysctl

_CALLS = {4: "net/bridge/bridge-nf-call-iptables", 6: "net/bridge/bridge-nf-call-ip6tables"}
_POD_KINDS = frozenset({"veth", "tun"})


def examine(facts: Facts) -> Iterator[Finding]:
    """Only ports behind which pods or virtual machines are, on bridges that are their gateway."""
    for bridge in (link for link in facts.links if link.kind == "bridge" and link.is_up):
        ports = [link for link in facts.links if link.bridge == bridge.name and _is_pod(link)]
        versions = [v for v in facts.versions if _is_gateway(facts, bridge, v)]
        called = [v for v in versions if _is_called(facts, bridge, v)]
        if ports and called:
            yield from _hairpin(bridge, ports)
        if len(ports) > 1 and not facts.masquerade_all:
            for version in versions:
                if version not in called:
                    yield _uncalled(facts, bridge, version)


def _is_pod(link: Link) -> bool:
    return link.is_up and link.kind in _POD_KINDS and (link.is_far or link.kind == "tun")


def _is_gateway(facts: Facts, bridge: Link, version: int) -> bool:
    return any(h.interface == bridge.name and h.address.version == version and h.is_global for h in facts.homes)


def _is_called(facts: Facts, bridge: Link, version: int) -> bool:
    return version in bridge.calls_netfilter or facts.setting(_CALLS[version]) != 0


def _hairpin(bridge: Link, ports: list[Link]) -> Iterator[Finding]:
    off = [port.name for port in ports if not port.hairpin]
    if off:
        shown = ", ".join(off[:4]) + (f" and {len(off) - 4} more" if len(off) > 4 else "")
        yield Finding(
            f"hairpin is off for {shown} of bridge {bridge.name}",
            "A pod whose virtual IP leads back to the pod itself hangs, as a bridge sends nothing out by the"
            " port that it came"
            " in by. With the flag on it does; what makes the pods must set it for later ones.",
            tuple(f"bridge link set dev {name} hairpin on" for name in off),
        )


def _uncalled(facts: Facts, bridge: Link, version: int) -> Finding:
    setting = _CALLS[version]
    load = () if setting in facts.settings else ("modprobe br_netfilter",)
    return Finding(
        f"{setting.replace('/', '.')} is {facts.settings.get(setting, 'missing')}, and bridge {bridge.name} has pods",
        "An answer from one pod of the bridge to another goes past the kernel's translation, so a pod that"
        " gets an endpoint on"
        " its own bridge hangs. Once it is 1 bridged packets pass it too; --masquerade-all is the other way, at the"
        " price of the clients' addresses.",
        (*load, sysctl(setting, "1")),
    )
