"""Which service has which virtual IP and node ports: choosing, honouring, refusing.

Owns: the table of claims (`Claims`) and the choice. Must not know: where claims are kept, files, locks, time.
A choice starts at a hash of the service's name and probes, so that a name that comes back mostly gets its old
address, and one claim costs O(1) however many there are. Like Kubernetes (KEP-3070, KEP-3668) the choice leaves a
band at the low end for addresses and ports that people write into records by hand, and takes it last.
"""

import socket
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import NamedTuple

import msgspec

from svcnet.model.claim import NOTHING, Claim, Resource, claim_id
from svcnet.model.errors import ConflictError, RecordError, SvcnetError
from svcnet.model.service import Service, ServicePort
from svcnet.probe import Network, band, probe, room

FULL4, FULL6, FULL_PORTS = "full/IPv4", "full/IPv6", "full/node ports"
FULL: frozenset[Resource] = frozenset((FULL4, FULL6, FULL_PORTS))
"""What a service waits for that found no room; see Settled.waits_for."""
_PLAIN_FAMILIES, _PLAIN_POLICIES = ((), ("IPv4",)), ("", "SingleStack")


class Allocation(NamedTuple):
    """Where addresses and node ports come from. The first CIDR's family is the default one (SingleStack)."""

    cidrs: tuple[Network, ...]
    node_ports: range = range(30000, 32768)

    def __str__(self) -> str:
        """The CIDRs as the option writes them."""
        return ",".join(str(cidr) for cidr in self.cidrs)


class Settled(NamedTuple):
    """A service with what it holds now. `errors` (RecordError, ConflictError) say what it asked for and didn't get."""

    service: Service
    claim: Claim
    errors: tuple[SvcnetError, ...] = ()
    waits_for: tuple[Resource, ...] = ()
    """Resources (or FULL4, FULL6, FULL_PORTS) that are held by others: settle again when one is given up."""
    lacking: bool = False
    """Whether something was not chosen because the caller said so (`choose`)."""


def asks(service: Service) -> bool:
    """Whether the record itself names an address or a node port: such services are settled before the others."""
    return bool(service.cluster_ips or service.health_check_node_port or any(p.node_port for p in service.ports))


def wakes(resource: Resource) -> tuple[Resource, ...]:
    """Return what others may wait for (Settled.waits_for) that comes true when `resource` is given up."""
    if isinstance(resource, int):
        return resource, FULL_PORTS
    return resource, FULL6 if ":" in resource else FULL4


class Claims:
    """The table: who holds what. `settle` only decides; `hold` and `free` change it."""

    def __init__(self, allocation: Allocation, held: Mapping[str, Claim] | None = None) -> None:
        self.allocation = allocation
        self.held: dict[str, Claim] = {}
        """Claim id → claim, oldest first."""
        self.lapsed: set[str] = set()
        """Holders whose record is gone: they keep what they have until somebody asks for it."""
        self.changed = False
        """Whether anything has changed since the table was last saved (who saves it sets it back)."""
        self._holder: dict[Resource, str] = {}
        self.used = {4: 0, 6: 0}
        """Addresses held, by family; `room`: addresses that there are."""
        self.room = {version: sum(room(c) for c in allocation.cidrs if c.version == version) for version in (4, 6)}
        self._usable = tuple(
            range(int(c.network_address) + 1, int(c.network_address) + 1 + room(c))
            for c in allocation.cidrs
            if c.version == 4
        )
        for name, claim in (held or {}).items():
            self.hold(name, claim)

    def holder(self, resource: Resource) -> str | None:
        """Return the claim id of who holds it."""
        return self._holder.get(resource)

    def hold(self, name: str, claim: Claim) -> tuple[Resource, ...]:
        """Make `claim` what `name` holds; return what it gave up. A lapsed holder loses what is taken."""
        before = self.held.get(name, NOTHING)
        if claim == before:
            return ()
        self.changed = True
        kept = set(claim.resources())
        given_up = tuple(resource for resource in before.resources() if resource not in kept)
        for resource in given_up:
            self._drop(resource, name)
        for resource in kept:
            other = self._holder.get(resource)
            if other is not None and other != name:
                self.held[other] = self.held[other].without(resource)
            elif other is None and isinstance(resource, str):
                self.used[6 if ":" in resource else 4] += 1
            self._holder[resource] = name
        if claim == NOTHING:
            self.held.pop(name, None)
        else:
            self.held[name] = claim
        return given_up

    def free(self, name: str) -> tuple[Resource, ...]:
        """Give up all that `name` holds; return it."""
        self.lapsed.discard(name)
        return self.hold(name, NOTHING)

    def update(self, held: Mapping[str, Claim]) -> tuple[set[str], tuple[Resource, ...]]:
        """Become `held` (the table changed elsewhere); return whose claim is another one, and what was given up."""
        changed = {name: claim for name, claim in held.items() if self.held.get(name) != claim}
        given_up: list[Resource] = []
        for name in [name for name in self.held if name not in held or name in changed]:
            given_up += self.hold(name, NOTHING)
        for name, claim in changed.items():
            self.hold(name, claim)
        return set(changed), tuple(resource for resource in given_up if self.holder(resource) is None)

    def settle(self, service: Service, *, choose: bool = True, take_lapsed: bool = True) -> Settled:
        """Work out what `service` holds: what it has, what it asks for, else (with `choose`) something free.

        Nothing changes before `hold(claim_id(service.key), settled.claim)`. `take_lapsed`: lapsed holders count as
        gone. Errors are returned, and the service comes back without what was refused.
        """
        return self._plain(service) or _Settling(self, service, choose=choose, take_lapsed=take_lapsed).run()

    def _plain(self, service: Service) -> Settled | None:
        """The answer for what nearly every service is: one IPv4 address that it names and may have, nothing else.

        The same as the long way says, at a tenth of its cost: a start settles every service.
        """
        addresses = service.cluster_ips
        if len(addresses) != 1 or service.type != "ClusterIP" or service.health_check_node_port:
            return None
        if service.ip_families not in _PLAIN_FAMILIES or service.ip_family_policy not in _PLAIN_POLICIES:
            return None
        for port in service.ports:
            if port.node_port:
                return None
        try:
            value = int.from_bytes(socket.inet_pton(socket.AF_INET, addresses[0]))
        except OSError:
            return None
        if not any(value in usable for usable in self._usable):
            return None
        name = claim_id(service.key)
        if self._holder.get(addresses[0], name) != name:
            return None
        before = self.held.get(name, NOTHING)
        is_all = before.addresses == addresses and not before.node_ports and not before.health_check_node_port
        return Settled(service, before if is_all else Claim(addresses))

    def _drop(self, resource: Resource, name: str) -> None:
        if self._holder.get(resource) == name:
            del self._holder[resource]
            if isinstance(resource, str):
                self.used[6 if ":" in resource else 4] -= 1


class _Settling:
    """One call of Claims.settle: collects the parts of the claim, and the errors."""

    def __init__(self, claims: Claims, service: Service, *, choose: bool, take_lapsed: bool) -> None:
        self.claims = claims
        self.service = service
        self.name = claim_id(service.key)
        self.before = claims.held.get(self.name, NOTHING)
        self.choose = choose
        self.take_lapsed = take_lapsed
        self.errors: list[SvcnetError] = []
        self.waits_for: list[Resource] = []
        self.lacking = False

    def run(self) -> Settled:
        service = self.service
        addresses = self._addresses() if service.wants_address else ()
        ports = self._ports()
        health = self._health_check({port.node_port for port in ports})
        changes: dict[str, object] = {}
        if service.wants_address and addresses != service.cluster_ips:
            changes["cluster_ips"] = addresses
        if ports != service.ports:
            changes["ports"] = ports
        if health != service.health_check_node_port:
            changes["health_check_node_port"] = health
        node_ports = tuple((port.protocol, port.port, port.node_port) for port in ports if port.node_port)
        return Settled(
            msgspec.structs.replace(service, **changes) if changes else service,
            Claim(addresses, node_ports, health),
            tuple(self.errors),
            tuple(self.waits_for),
            self.lacking,
        )

    def _addresses(self) -> tuple[str, ...]:
        """Return one address a wanted family, less those refused."""
        asked = self._asked()
        got: list[str] = []
        for version in self._families(asked):
            text = asked.get(version)
            if text is None:
                text = self._kept(version) or self._chosen(version)
            elif not self._is_granted(text, version):
                text = None
            if text:
                got.append(text)
        return tuple(got)

    def _asked(self) -> dict[int, str]:
        """Return the addresses that the record names, by family, in its order."""
        asked: dict[int, str] = {}
        for text in self.service.cluster_ips:
            try:
                address = ip_address(text)
            except ValueError:
                self._refuse(f"clusterIP: {text!r}, expected an IP address")
                continue
            if address.version in asked:
                self._refuse(f"clusterIPs: {text} is a second IPv{address.version} address, expected one a family")
            else:
                asked[address.version] = str(address)
        return asked

    def _families(self, asked: Mapping[int, str]) -> tuple[int, ...]:
        """Return the wanted families, primary first (Service.spec.ipFamilies, ipFamilyPolicy)."""
        service, cidrs = self.service, self.claims.allocation.cidrs
        named = [6 if family == "IPv6" else 4 for family in service.ip_families]
        wanted = list(asked)
        if named and wanted and named[0] != wanted[0]:
            self._refuse(f"ipFamilies: IPv{named[0]} first, but clusterIP {asked[wanted[0]]} is IPv{wanted[0]}")
        wanted += [version for version in named if version not in wanted]
        if not wanted and cidrs:
            wanted = [cidrs[0].version]
        policy = service.ip_family_policy or ("RequireDualStack" if len(wanted) > 1 else "SingleStack")
        have = {cidr.version for cidr in cidrs}
        if policy == "SingleStack":
            wanted = wanted[:1]
        else:
            wanted += [version for version in (4, 6) if version not in wanted]
        if policy == "PreferDualStack":
            wanted = [version for version in wanted if version in have or version in asked] or wanted[:1]
        for version in wanted:
            if version not in have and version not in asked:
                self._refuse(
                    f"ipFamilyPolicy: {policy} needs an IPv{version} service CIDR, there is only {self._cidrs()}"
                )
        return tuple(version for version in wanted if version in have or version in asked)

    def _is_granted(self, text: str, version: int) -> bool:
        """Whether the service may have the address that it names."""
        address = ip_address(text)
        cidr = next((c for c in self.claims.allocation.cidrs if c.version == version and address in c), None)
        if cidr is None:
            self._refuse(f"clusterIP: {text} is outside the service CIDR {self._cidrs()}, expected an address of it")
            return False
        if not 0 <= int(address) - int(cidr.network_address) - 1 < room(cidr):
            self._refuse(f"clusterIP: {text} is the network or broadcast address of the service CIDR {cidr}")
            return False
        return self._is_free(text, f"clusterIP: {text}")

    def _kept(self, version: int) -> str | None:
        """Return the address of this family that the service holds already."""
        return next((a for a in self.before.addresses if (6 if ":" in a else 4) == version), None)

    def _chosen(self, version: int) -> str | None:
        """Return a free address of the family; a lapsed holder's only when there is no other."""
        if not self.choose:
            self.lacking = True
            return None
        claims = self.claims
        cidrs = [cidr for cidr in claims.allocation.cidrs if cidr.version == version]
        if claims.used[version] < claims.room[version]:
            for cidr in cidrs:
                base = cidr.network_address + 1
                for offset in probe(self.name, room(cidr), band(room(cidr), 16, 256)):
                    if claims.holder(text := str(base + offset)) is None:
                        return text
        for resource in self._lapsed():
            if isinstance(resource, str) and (6 if ":" in resource else 4) == version:
                return resource
        self.errors.append(ConflictError(f"{self.service.key}: the service CIDR {self._cidrs()} has no free address"))
        self.waits_for.append(FULL6 if version == 6 else FULL4)
        return None

    def _ports(self) -> tuple[ServicePort, ...]:
        """Return the ports with their node ports: those named, those held, else new ones; 0 where none belongs."""
        service = self.service
        if service.type not in ("NodePort", "LoadBalancer"):
            return tuple(_with_node_port(port, 0) for port in service.ports)
        allocate = service.type == "NodePort" or service.allocate_load_balancer_node_ports
        mine: dict[tuple[int, str], int] = {}
        for port in service.ports:
            if port.node_port and self._is_node_port(port, mine):
                mine[port.node_port, port.protocol] = port.port
        result = []
        for port in service.ports:
            number = port.node_port
            if number and mine.get((number, port.protocol)) != port.port:
                number = 0
            elif not number and allocate:
                number = self._node_port(port, mine)
                if number:
                    mine[number, port.protocol] = port.port
            result.append(_with_node_port(port, number))
        return tuple(result)

    def _is_node_port(self, port: ServicePort, mine: Mapping[tuple[int, str], int]) -> bool:
        """Whether a port may have the node port that the record names."""
        allowed = self.claims.allocation.node_ports
        if port.node_port not in allowed:
            self._refuse(f"nodePort: {port.node_port}, expected {allowed.start} to {allowed.stop - 1}")
            return False
        if (port.node_port, port.protocol) in mine:
            self._refuse(f"nodePort: {port.node_port}/{port.protocol} is named twice, expected one port a node port")
            return False
        return self._is_free(port.node_port, f"nodePort: {port.node_port}")

    def _node_port(self, port: ServicePort, mine: Mapping[tuple[int, str], int]) -> int:
        """Return the number that the port holds, or that the same port has with another protocol, or a free one."""
        held = [n for protocol, number, n in self.before.node_ports if (protocol, number) == (port.protocol, port.port)]
        twin = [number for (number, _), other in mine.items() if other == port.port]
        for number in (*held, *twin):
            if (number, port.protocol) not in mine:
                return number
        return self._free_number({number for number, _ in mine})

    def _health_check(self, mine: set[int]) -> int:
        """Return spec.healthCheckNodePort: for type LoadBalancer under externalTrafficPolicy Local alone."""
        service = self.service
        if service.type != "LoadBalancer" or service.external_traffic_policy != "Local":
            return 0
        number = service.health_check_node_port
        if not number:
            kept = self.before.health_check_node_port
            return kept if kept and kept not in mine else self._free_number(mine)
        allowed = self.claims.allocation.node_ports
        if number not in allowed:
            self._refuse(f"healthCheckNodePort: {number}, expected {allowed.start} to {allowed.stop - 1}")
            return 0
        if number in mine:
            self._refuse(f"healthCheckNodePort: {number} is a nodePort of the same service")
            return 0
        return number if self._is_free(number, f"healthCheckNodePort: {number}") else 0

    def _free_number(self, mine: set[int]) -> int:
        """Return a node port that nobody holds, 0 (and an error) when there is none."""
        if not self.choose:
            self.lacking = True
            return 0
        claims = self.claims
        ports = claims.allocation.node_ports
        for offset in probe(self.name, len(ports), band(len(ports), 32, 128)):
            if ports[offset] not in mine and claims.holder(ports[offset]) is None:
                return ports[offset]
        for resource in self._lapsed():
            if isinstance(resource, int) and resource not in mine:
                return resource
        text = f"{self.service.key}: no node port of {ports.start}-{ports.stop - 1} is free"
        self.errors.append(ConflictError(text))
        self.waits_for.append(FULL_PORTS)
        return 0

    def _is_free(self, resource: Resource, what: str) -> bool:
        other = self.claims.holder(resource)
        if other is None or other == self.name or (self.take_lapsed and other in self.claims.lapsed):
            return True
        self.errors.append(ConflictError(f"{self.service.key}: {what} is taken by Service {other}"))
        self.waits_for.append(resource)
        return False

    def _lapsed(self) -> Iterator[Resource]:
        """Yield what lapsed holders still have: taken only when nothing else is free."""
        for name in sorted(self.claims.lapsed) if self.take_lapsed else ():
            yield from self.claims.held.get(name, NOTHING).resources()

    def _refuse(self, text: str) -> None:
        self.errors.append(RecordError(f"{self.service.key}: {text}"))

    def _cidrs(self) -> str:
        return str(self.claims.allocation)


def _with_node_port(port: ServicePort, number: int) -> ServicePort:
    return port if port.node_port == number else msgspec.structs.replace(port, node_port=number)
