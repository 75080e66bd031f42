"""The packet table, continued: how else a service is reached than by its virtual IP from a pod, and what it prefers.

Owns: the rows. The services that they name are in records/service.yaml; facts' lines 1a to 1c are their specification
(docs/services.md maps each to its rows).
"""

from tests.flows.flow import DROPPED, REFUSED, Flow, one_of, to, untouched

MASQUERADED = to("pod-a:8080", "pod-c:8080", source="masqueraded")
TO_A, TO_B, MASQUERADED_A = to("pod-a:8080"), to("pod-b:8080"), to("pod-a:8080", source="masqueraded")
OWN = to("pod-a:8080", "pod-b:8080")
OPEN, EVERYTHING = "no-cluster-cidr", "masquerade-all"

NODE_PORTS = (
    Flow("a client outside reaches all by the node port, masqueraded", "outside", "minion:30080", MASQUERADED),
    Flow("a pod reaches all endpoints by the node port, masqueraded", "pod-b", "minion:30080", MASQUERADED),
    Flow("a pod of another minion reaches them by the node port, masqueraded", "pod-d", "minion:30080", MASQUERADED),
    Flow("the minion itself reaches all endpoints by its node port", "minion", "minion:30080", MASQUERADED),
    Flow(
        "a node port by UDP",
        "outside",
        "minion:30053",
        to("pod-a:5353", "pod-c:5353", source="masqueraded"),
        "udp",
    ),
    Flow("a service with a node port keeps its virtual IP", "pod-b", "np:80", to("pod-a:8080", "pod-c:8080")),
    Flow("a node port is no port of the virtual IP", "pod-b", "np:30080", REFUSED),
    Flow("a node port without endpoints is refused", "outside", "minion:30084", REFUSED),
    Flow("a node port without endpoints refuses the minion itself", "minion", "minion:30084", REFUSED),
    Flow("two ports, two node ports, the first", "outside", "minion:30087", to("pod-a:8080", source="masqueraded")),
    Flow("two ports, two node ports, the second", "outside", "minion:30088", to("pod-a:8081", source="masqueraded")),
    Flow(
        "weights hold for node ports",
        "outside",
        "minion:30085",
        to("pod-b:8080*3", "pod-c:8080", source="masqueraded"),
    ),
    Flow("the minion's own servers are untouched", "outside", "minion:8080", untouched("minion:8080")),
    Flow("the service's port is no port of the minion's", "outside", "minion:81", untouched("minion:81")),
    Flow(
        "an SCTP node port", "outside", "minion:30100", to("pod-b:8080", source="masqueraded"), "sctp", needs=("sctp",)
    ),
    Flow("without cluster CIDR a node port is masqueraded", "outside", "minion:30080", MASQUERADED, world=OPEN),
    Flow("with masquerade-all a node port is masqueraded", "outside", "minion:30080", MASQUERADED, world=EVERYTHING),
)

EXTERNAL_LOCAL = (
    Flow(
        "under external policy Local a client outside reaches this minion's endpoints with its own source",
        "outside",
        "minion:30081",
        to("pod-a:8080"),
    ),
    Flow("the same by UDP", "outside", "minion:30054", to("pod-a:5353"), "udp"),
    Flow(
        "under external policy Local a pod reaches all endpoints with its own source",
        "pod-b",
        "minion:30081",
        to("pod-a:8080", "pod-c:8080"),
    ),
    Flow("a pod of another minion too", "pod-d", "minion:30081", to("pod-a:8080", "pod-c:8080")),
    Flow("under external policy Local the minion itself reaches all endpoints", "minion", "minion:30081", MASQUERADED),
    Flow(
        "external policy Local says nothing of the virtual IP",
        "outside",
        "np-local:80",
        MASQUERADED,
    ),
    Flow("external policy Local without endpoints here is dropped", "outside", "minion:30082", DROPPED),
    Flow("a pod reaches those elsewhere", "pod-b", "minion:30082", to("pod-c:8080")),
    Flow("the minion itself too", "minion", "minion:30082", to("pod-c:8080", source="masqueraded")),
    Flow("external policy Local without any endpoint is refused", "outside", "minion:30086", REFUSED),
    Flow("external policy Local without any endpoint refuses pods", "pod-b", "minion:30086", REFUSED),
    Flow(
        "external policy Local falls back to an endpoint here that still serves while it ends",
        "outside",
        "minion:30083",
        to("pod-a:8080"),
    ),
    Flow("while all others use the ready one elsewhere", "pod-b", "np-drain:80", to("pod-c:8080")),
    Flow(
        "without cluster CIDR a pod counts as outside for external policy Local",
        "pod-b",
        "minion:30081",
        to("pod-a:8080"),
        world=OPEN,
    ),
    Flow(
        "without cluster CIDR the minion itself reaches all under external policy Local",
        "minion",
        "minion:30081",
        MASQUERADED,
        world=OPEN,
    ),
    Flow(
        "with masquerade-all external policy Local is masqueraded",
        "outside",
        "minion:30081",
        to("pod-a:8080", source="masqueraded"),
        world=EVERYTHING,
    ),
)

INTERNAL_LOCAL = (
    Flow("under internal policy Local a pod reaches this minion's endpoints", "pod-b", "inside:80", to("pod-a:8080")),
    Flow("the same by UDP, internal", "pod-b", "inside-udp:53", to("pod-a:5353"), "udp"),
    Flow(
        "under internal policy Local a client outside too, masqueraded",
        "outside",
        "inside:80",
        to("pod-a:8080", source="masqueraded"),
    ),
    Flow(
        "under internal policy Local the minion itself too",
        "minion",
        "inside:80",
        to("pod-a:8080", source="masqueraded"),
    ),
    Flow(
        "under internal policy Local an endpoint reaches itself, masqueraded",
        "pod-a",
        "inside:80",
        to("pod-a:8080", source="masqueraded"),
    ),
    Flow("internal policy Local without endpoints here is dropped", "pod-b", "inside-away:80", DROPPED),
    Flow("internal policy Local without endpoints here drops the minion itself", "minion", "inside-away:80", DROPPED),
    Flow("internal policy Local without any endpoint is refused", "pod-b", "inside-empty:80", REFUSED),
    Flow("internal policy Local says nothing of node ports", "outside", "minion:30089", MASQUERADED),
    Flow("internal policy Local with a node port", "pod-b", "inside-node-port:80", to("pod-a:8080")),
)

EXTERNAL = (
    Flow("a client outside reaches an external IP, masqueraded", "outside", "external-ip:80", MASQUERADED),
    Flow("a pod reaches an external IP, masqueraded", "pod-b", "external-ip:80", MASQUERADED),
    Flow("the minion itself reaches an external IP", "minion", "external-ip:80", MASQUERADED),
    Flow("a port that an external IP has not is untouched", "pod-a", "external-ip:81", untouched("external-ip:81")),
    Flow("an external IP under policy Local keeps the source", "outside", "keeping-ip:80", to("pod-a:8080")),
    Flow(
        "a pod reaches all endpoints by an external IP under policy Local",
        "pod-b",
        "keeping-ip:80",
        to("pod-a:8080", "pod-c:8080"),
    ),
    Flow("an external IP without endpoints is refused", "outside", "empty-ip:80", REFUSED),
    Flow("an external IP that nobody allowed is untouched", "pod-b", "stranger:80", untouched("stranger:80")),
    Flow("a load balancer's address, from within its source ranges", "outside", "balancer:80", MASQUERADED),
    Flow("a load balancer's address drops a pod outside of its ranges", "pod-b", "balancer:80", DROPPED),
    Flow("a load balancer's address drops the minion outside of its ranges", "minion", "balancer:80", DROPPED),
    Flow("source ranges say nothing of the virtual IP", "pod-b", "balanced:80", to("pod-a:8080", "pod-c:8080")),
    Flow("source ranges say nothing of the node port", "pod-b", "minion:30090", MASQUERADED),
    Flow("a load balancer's address drops clients outside of its ranges", "outside", "closed-balancer:80", DROPPED),
    Flow("a range of all addresses is no limit", "pod-b", "open-balancer:80", MASQUERADED),
    Flow("source ranges under external policy Local", "outside", "keeping-balancer:80", to("pod-a:8080")),
    Flow("source ranges under external policy Local drop others", "pod-b", "keeping-balancer:80", DROPPED),
    Flow("within the ranges, without endpoints: refused", "outside", "empty-balancer:80", REFUSED),
    Flow("outside of the ranges, without endpoints: dropped", "pod-b", "empty-balancer:80", DROPPED),
    Flow("ipMode Proxy is left to the balancer", "pod-b", "proxy-balancer:80", untouched("proxy-balancer:80")),
    Flow("a load balancer without node ports", "outside", "portless-balancer:80", MASQUERADED),
)

STICKY = (
    Flow("with affinity a client stays", "pod-a", "sticky:80", one_of("pod-b:8080", "pod-c:8080"), tries=12),
    Flow("with affinity a client stays by UDP", "pod-a", "sticky-udp:53", one_of("pod-b:5353", "pod-c:5353"), "udp"),
    Flow(
        "with affinity a client stays by the node port",
        "outside",
        "minion:30096",
        one_of("pod-b:8080", "pod-c:8080", source="masqueraded"),
        tries=12,
    ),
    Flow(
        "with affinity the minion itself stays",
        "minion",
        "sticky:80",
        one_of("pod-b:8080", "pod-c:8080", source="masqueraded"),
    ),
    Flow("with affinity and one endpoint", "pod-a", "sticky-one:80", to("pod-b:8080")),
    Flow("with affinity and external policy Local", "outside", "minion:30097", to("pod-a:8080")),
    Flow("with affinity a pod's short circuit", "pod-b", "minion:30097", one_of("pod-a:8080", "pod-c:8080")),
    Flow("with affinity and no endpoint", "pod-a", "sticky-empty:80", REFUSED),
    Flow("by source hash a client stays", "pod-a", "hashed:80", one_of("pod-b:8080", "pod-c:8080"), tries=12),
    Flow(
        "by source hash a client stays by the node port",
        "outside",
        "minion:30098",
        one_of("pod-b:8080", "pod-c:8080", source="masqueraded"),
        tries=12,
    ),
    Flow("by source hash and external policy Local", "outside", "minion:30099", to("pod-a:8080")),
    Flow("by source hash and one endpoint", "pod-a", "hashed-one:80", to("pod-b:8080")),
)

TOPOLOGY = (
    Flow("hints of minions: those meant for this one", "pod-b", "hint-node:80", to("pod-a:8080")),
    Flow("hints of zones: those meant for this minion's", "pod-b", "hint-zone:80", to("pod-a:8080")),
    Flow("hints that an endpoint lacks are no hints", "pod-b", "hint-some:80", to("pod-a:8080", "pod-c:8080")),
    Flow("hints that mean nobody here are no hints", "pod-b", "hint-others:80", to("pod-a:8080", "pod-c:8080")),
    Flow("policy Local ignores hints", "pod-b", "hint-local:80", to("pod-a:8080")),
    Flow("PreferClose without hints: the zone's endpoints", "pod-b", "prefer-zone:80", to("pod-a:8080")),
    Flow("PreferSameNode without hints: this minion's endpoints", "pod-b", "prefer-node:80", to("pod-a:8080")),
    Flow("PreferSameZone with nobody in the zone: all", "pod-b", "prefer-absent:80", to("pod-a:8080", "pod-c:8080")),
    Flow("a service of another proxy is not served", "pod-b", "other-proxy:80", DROPPED),
)

SELECTED = (
    Flow("internal policy Local leads to selected pods of this minion", "pod-d", "web-inside:80", OWN),
    Flow("external policy Local leads to selected pods of this minion", "outside", "minion:30104", OWN),
    Flow("external policy Local leads pods to all selected pods", "pod-d", "minion:30104", OWN | to("pod-c:8080")),
    Flow("PreferSameNode leads to selected pods of this minion", "pod-d", "web-near:80", OWN),
    Flow("weights of pods hold under external policy Local", "pod-d", "minion:30106", to("pod-b:8080*2", "pod-c:8080")),
    Flow("under it clients outside have this minion's pod, whatever it weighs", "outside", "minion:30106", TO_B),
    Flow("internal policy Local falls back to a pod here that is ready and ending", "pod-a", "leaving-inside:80", TO_B),
)

ODD = (
    Flow("a named port has another number in each slice", "pod-b", "numbered:80", to("pod-a:8080", "pod-c:8053")),
    Flow("so it has by UDP on the same number", "pod-b", "numbered:80", to("pod-a:8081", "pod-c:5353"), "udp"),
    Flow("a slice's port 0 is no port", "pod-b", "gaps:80", REFUSED),
    Flow("a slice's port without a number is no port", "pod-b", "gaps:81", REFUSED),
    Flow("the other ports of that slice are, and its endpoints that have an address", "pod-b", "gaps:8081", TO_A),
    Flow("a service labelled headless is not served", "pod-b", "hidden:80", DROPPED),
    Flow("a node port that two services claim leads to the one that had it", "pod-b", "minion:30101", MASQUERADED_A),
    Flow("the other's virtual IP is served", "pod-b", "np-late:80", to("pod-c:8080")),
    Flow("one node port by TCP", "outside", "minion:30102", to("pod-b:8080", source="masqueraded")),
    Flow("the same node port by UDP", "outside", "minion:30102", to("pod-b:8081", source="masqueraded"), "udp"),
    Flow("the same port of the virtual IP by UDP", "pod-a", "np-three:80", to("pod-b:8081"), "udp"),
    Flow(
        "the same node port by SCTP",
        "outside",
        "minion:30102",
        to("pod-b:8053", source="masqueraded"),
        "sctp",
        needs=("sctp",),
    ),
    Flow("a node port without endpoints refuses UDP", "outside", "minion:30103", REFUSED, "udp"),
    Flow(
        "twenty quick connections to a node port without endpoints are all refused",
        "outside",
        "minion:30084",
        REFUSED,
        tries=20,
    ),
    Flow("a balancer's address by UDP, under policy Local", "outside", "udp-balancer:53", to("pod-a:5353"), "udp"),
    Flow("its source ranges hold for UDP", "pod-b", "udp-balancer:53", DROPPED, "udp"),
    Flow("internal policy Local falls back to an endpoint here that ends", "pod-b", "inside-drain:80", TO_A),
    Flow("an endpoint without a node is not of this minion", "pod-b", "inside-nodeless:80", DROPPED),
    Flow("weights hold among those that hints mean", "pod-d", "hint-weights:80", to("pod-a:8080*3", "pod-b:8080")),
)

SERVICE_FLOWS = (*NODE_PORTS, *EXTERNAL_LOCAL, *INTERNAL_LOCAL, *EXTERNAL, *STICKY, *TOPOLOGY, *SELECTED, *ODD)
