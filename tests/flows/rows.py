"""The packet table: every row runs through the tracer and through a real kernel (test_flows.py).

Owns: the rows. The services that they name are in records/.
"""

from tests.flows.flow import DROPPED, REFUSED, Flow, to, untouched

ENDPOINTS = (
    Flow(
        "a pod of another minion reaches one of two endpoints here and keeps its source",
        "pod-c",
        "local:80",
        to("pod-a:8080", "pod-b:8080"),
    ),
    Flow(
        "a pod reaches one of three endpoints, is masqueraded to itself, and else keeps its source",
        "pod-a",
        "three:80",
        to("pod-b:8080", "pod-c:8080") | to("pod-a:8080", source="masqueraded"),
    ),
    Flow(
        "a pod reaches the endpoints of another minion with its own source",
        "pod-a",
        "remote:80",
        to("pod-c:8080", "pod-d:8080"),
    ),
    Flow("a pod reaches the one endpoint of a service with its own source", "pod-b", "loner:80", to("pod-a:8080")),
    Flow("a pod reaches a host-network endpoint at the minion's address", "pod-a", "host:80", to("minion:8080")),
    Flow("a pod reaches any of twenty endpoints", "pod-a", "twenty:80", to(*(f"crowd-{i}:8080" for i in range(1, 21)))),
    Flow(
        "a pod reaches any of seventy endpoints", "pod-a", "seventy:80", to(*(f"crowd-{i}:8080" for i in range(1, 71)))
    ),
    Flow(
        "endpoints with weights 3 and 1 get three and one of four connections",
        "pod-a",
        "weighted:80",
        to("pod-b:8080*3", "pod-c:8080"),
    ),
    Flow(
        "pods with weights 4 and 2 get two and one of three connections",
        "pod-a",
        "scale:80",
        to("pod-b:8080*2", "pod-c:8080"),
    ),
    Flow("an endpoint of weight 0 gets no connection", "pod-a", "idle:80", to("pod-c:8080")),
    Flow("endpoints that all weigh 0 are refused", "pod-a", "weightless:80", REFUSED),
    Flow("an endpoint in two slices has one share", "pod-a", "twice:80", to("pod-b:8080", "pod-c:8080")),
    Flow("an endpoint that is ready in one of two slices serves", "pod-a", "moving:80", to("pod-b:8080")),
    Flow("endpoints on loopback and link-local are left out", "pod-a", "denied:80", to("pod-b:8080")),
    Flow("a service with forbidden endpoints alone is refused", "pod-a", "forbidden:80", REFUSED),
    Flow("a slice without service name, and one of host names, give no endpoint", "pod-a", "orphan:80", REFUSED),
    Flow("of an endpoint's addresses the first is used", "pod-a", "first:80", to("pod-b:8080")),
    Flow("an address that two services claim leads to the one that had it", "pod-a", "holder:80", to("pod-b:8080")),
)

SOURCES = (
    Flow(
        "a pod reaches itself through its service, masqueraded",
        "pod-a",
        "loner:80",
        to("pod-a:8080", source="masqueraded"),
    ),
    Flow(
        "a pod reaches itself by UDP, masqueraded",
        "pod-a",
        "udp:53",
        to("pod-b:5353", "pod-c:5353") | to("pod-a:5353", source="masqueraded"),
        "udp",
    ),
    Flow(
        "a pod reaches itself as an endpoint without a node, masqueraded",
        "pod-a",
        "nodeless:80",
        to("pod-a:8080", source="masqueraded"),
    ),
    Flow(
        "another pod reaches an endpoint without a node with its own source", "pod-b", "nodeless:80", to("pod-a:8080")
    ),
    Flow(
        "the minion itself reaches endpoints here and elsewhere",
        "minion",
        "three:80",
        to("pod-a:8080", "pod-b:8080", "pod-c:8080", source="masqueraded"),
    ),
    Flow(
        "the minion itself reaches an endpoint at its own address",
        "minion",
        "host:80",
        to("minion:8080", source="masqueraded"),
    ),
    Flow(
        "the minion itself reaches endpoints by UDP",
        "minion",
        "udp:53",
        to("pod-a:5353", "pod-b:5353", "pod-c:5353", source="masqueraded"),
        "udp",
    ),
    Flow(
        "a client outside the cluster is masqueraded to endpoints here and elsewhere",
        "outside",
        "three:80",
        to("pod-a:8080", "pod-b:8080", "pod-c:8080", source="masqueraded"),
    ),
    Flow(
        "a client outside the cluster is masqueraded by UDP",
        "outside",
        "udp:53",
        to("pod-a:5353", "pod-b:5353", "pod-c:5353", source="masqueraded"),
        "udp",
    ),
    Flow(
        "a pod of another minion keeps its source by UDP",
        "pod-d",
        "udp:53",
        to("pod-a:5353", "pod-b:5353", "pod-c:5353"),
        "udp",
    ),
)

READINESS = (
    Flow("a service without endpoints refuses TCP at once", "pod-a", "empty:80", REFUSED),
    Flow("a service without endpoints refuses UDP", "pod-a", "empty:53", REFUSED, "udp"),
    Flow(
        "twenty quick connections to a service without endpoints are all refused",
        "pod-b",
        "empty:80",
        REFUSED,
        tries=20,
    ),
    Flow("a service without endpoints refuses the minion itself", "minion", "empty:80", REFUSED),
    Flow("a service without endpoints refuses the minion itself by UDP", "minion", "empty:53", REFUSED, "udp"),
    Flow("a service without endpoints refuses clients outside", "outside", "empty:80", REFUSED),
    Flow("a service without endpoints refuses pods of other minions", "pod-c", "empty:80", REFUSED),
    Flow("endpoints that are all not ready are refused", "pod-b", "unready:80", REFUSED),
    Flow("endpoints that are all not ready are refused by UDP", "pod-b", "unready:53", REFUSED, "udp"),
    Flow(
        "when none is ready, an endpoint that still serves while it ends is reached",
        "pod-a",
        "draining:80",
        to("pod-b:8080"),
    ),
    Flow(
        "ready endpoints and those of unknown readiness are reached, others not",
        "pod-a",
        "mixed:80",
        to("pod-b:8080", "pod-d:8080"),
    ),
)

PORTS = (
    Flow("ports are joined by name, the first", "pod-b", "ports:80", to("pod-a:8081", "pod-c:8081")),
    Flow("ports are joined by name, the second", "pod-b", "ports:81", to("pod-a:8080", "pod-c:8080")),
    Flow("a port whose name no slice has is refused, whatever its number", "pod-b", "nameless:80", REFUSED),
    Flow("one number by TCP leads to its own endpoints", "pod-b", "dns:53", to("pod-c:8053")),
    Flow("the same number by UDP leads to others", "pod-c", "dns:53", to("pod-a:5353", "pod-b:5353"), "udp"),
    Flow("a UDP service is reached", "pod-d", "udp:53", to("pod-a:5353", "pod-b:5353", "pod-c:5353"), "udp", tries=12),
    Flow("a UDP service refuses TCP on its port", "pod-b", "udp:53", REFUSED),
    Flow("a TCP service refuses UDP on its port", "pod-b", "loner:80", REFUSED, "udp"),
    Flow("a port that a virtual IP does not have is refused", "pod-b", "loner:8080", REFUSED),
    Flow("a UDP port that a virtual IP does not have is refused", "pod-b", "loner:5353", REFUSED, "udp"),
    Flow("a port that a virtual IP does not have refuses the minion itself", "minion", "loner:8080", REFUSED),
    Flow("a port that a virtual IP does not have refuses clients outside", "outside", "loner:8080", REFUSED),
    Flow(
        "a port has different numbers in different slices",
        "pod-a",
        "numbers:80",
        to("pod-b:8080", "pod-b:8081", "pod-c:8081"),
    ),
    Flow(
        "an SCTP service is reached", "pod-a", "signalling:80", to("pod-b:8080", "pod-c:8080"), "sctp", needs=("sctp",)
    ),
    Flow("one number by TCP beside UDP and SCTP", "pod-a", "signalling:80", to("pod-b:8080", "pod-c:8080")),
    Flow("one number by UDP beside TCP and SCTP", "pod-a", "signalling:80", to("pod-b:8081", "pod-c:8081"), "udp"),
    Flow("a service without endpoints refuses SCTP", "pod-a", "empty:80", REFUSED, "sctp", needs=("sctp",)),
)

SELECTED = (
    Flow(
        "the pods that a selector matches are reached", "pod-d", "web:80", to("pod-a:8080", "pod-b:8080", "pod-c:8080")
    ),
    Flow("a selector of two labels needs both", "pod-d", "front-stable:80", to("pod-a:8080")),
    Flow("a selector that no pod matches is refused", "pod-d", "unmatched:80", REFUSED),
    Flow(
        "without target port the pods' port is the service's",
        "pod-d",
        "plain:8080",
        to("pod-a:8080", "pod-b:8080", "pod-c:8080"),
    ),
    Flow("a named target port is each pod's own number", "pod-c", "named:80", to("pod-a:8080", "pod-b:8081")),
    Flow("a named target port is of its protocol", "pod-c", "named-udp:53", to("pod-a:5353"), "udp"),
    Flow(
        "pods that start, ended or are ending are not reached while one is ready", "pod-a", "half:80", to("pod-c:8080")
    ),
    Flow("pods that are not ready yet are refused", "pod-a", "starting:80", REFUSED),
    Flow("pods that are not ready are reached when the service publishes them", "pod-a", "early:80", to("pod-d:8080")),
    Flow("a pod that ended is refused", "pod-a", "done:80", REFUSED),
    Flow("the last pod, ready and ending, is reached", "pod-a", "leaving:80", to("pod-b:8080")),
    Flow("a pod of another namespace is not selected", "pod-a", "lost:80", REFUSED),
    Flow("a pod of the service's own namespace is", "pod-a", "elsewhere/lost:80", to("pod-b:8080")),
    Flow("slices come before the selector", "pod-a", "sliced:80", to("pod-d:8081")),
    Flow(
        "subsets of Endpoints are reached, addresses that are not ready are not",
        "pod-a",
        "subsets:80",
        to("pod-b:8080", "pod-d:8081"),
    ),
    Flow("a subset's UDP port is reached", "pod-a", "subsets:53", to("pod-d:5353"), "udp"),
    Flow(
        "the service and pods of the 2014 walk-through",
        "pod-a",
        "tomcat:8080",
        to("pod-b:8080", "pod-c:8080"),
        families=(4,),
    ),
    Flow("the 2014 list of HOST:PORT", "pod-a", "legacy:80", to("pod-b:8080", "pod-c:8081"), families=(4,)),
)

ADDRESSES = (
    Flow("an address of the service CIDR that nobody has is dropped", "pod-a", "nobody:80", DROPPED),
    Flow("an address of the service CIDR that nobody has is dropped by UDP", "pod-b", "nobody:53", DROPPED, "udp"),
    Flow("an address that nobody has is dropped from the minion itself", "minion", "nobody:80", DROPPED),
    Flow("an address that nobody has is dropped from outside", "outside", "nobody:80", DROPPED),
    Flow("an ExternalName has no address", "pod-a", "10.0.0.42:80", DROPPED, families=(4,)),
    Flow("a pod reaches a server outside, untouched", "pod-a", "stranger:80", untouched("stranger:80")),
    Flow("a pod reaches a server outside by UDP, untouched", "pod-a", "stranger:53", untouched("stranger:53"), "udp"),
    Flow("a pod reaches another pod directly, untouched", "pod-a", "pod-b:80", untouched("pod-b:80")),
    Flow("a client outside reaches a pod directly, untouched", "outside", "pod-b:8080", untouched("pod-b:8080")),
    Flow(
        "an endpoint of a headless service is reached at its own address",
        "pod-a",
        "pod-b:8080",
        untouched("pod-b:8080"),
    ),
    Flow("a dual-stack service without IPv4 endpoints refuses IPv4", "pod-a", "only-six:80", REFUSED, families=(4,)),
    Flow("the same service is reached by IPv6", "pod-a", "only-six:80", to("pod-b:8080"), families=(6,)),
    Flow("a single-stack service is reached by IPv4", "pod-a", "single:80", to("pod-b:8080"), families=(4,)),
    Flow(
        "a single-stack service has no address of the other family", "pod-a", "[fd00:10::40]:80", DROPPED, families=(6,)
    ),
)

OPEN = "no-cluster-cidr"
NO_CLUSTER_CIDR = (
    Flow("without cluster CIDR a pod keeps its source", "pod-b", "loner:80", to("pod-a:8080"), world=OPEN),
    Flow(
        "without cluster CIDR a pod is masqueraded to itself alone",
        "pod-a",
        "three:80",
        to("pod-b:8080", "pod-c:8080") | to("pod-a:8080", source="masqueraded"),
        world=OPEN,
    ),
    Flow(
        "without cluster CIDR an endpoint without a node is masqueraded to itself",
        "pod-a",
        "nodeless:80",
        to("pod-a:8080", source="masqueraded"),
        world=OPEN,
    ),
    Flow(
        "without cluster CIDR a client outside keeps its source",
        "outside",
        "local:80",
        to("pod-a:8080", "pod-b:8080"),
        world=OPEN,
    ),
    Flow(
        "without cluster CIDR the minion itself reaches endpoints",
        "minion",
        "three:80",
        to("pod-a:8080", "pod-b:8080", "pod-c:8080"),
        world=OPEN,
    ),
    Flow(
        "without cluster CIDR UDP keeps its source",
        "outside",
        "dns:53",
        to("pod-a:5353", "pod-b:5353"),
        "udp",
        world=OPEN,
    ),
    Flow("without cluster CIDR a service without endpoints is refused", "pod-a", "empty:80", REFUSED, world=OPEN),
    Flow("without cluster CIDR an address that nobody has is dropped", "pod-a", "nobody:80", DROPPED, world=OPEN),
)

EVERYTHING = "masquerade-all"
MASQUERADE_ALL = (
    Flow(
        "with masquerade-all a pod is masqueraded",
        "pod-b",
        "loner:80",
        to("pod-a:8080", source="masqueraded"),
        world=EVERYTHING,
    ),
    Flow(
        "with masquerade-all a pod of another minion is masqueraded",
        "pod-c",
        "local:80",
        to("pod-a:8080", "pod-b:8080", source="masqueraded"),
        world=EVERYTHING,
    ),
    Flow(
        "with masquerade-all a client outside is masqueraded",
        "outside",
        "local:80",
        to("pod-a:8080", "pod-b:8080", source="masqueraded"),
        world=EVERYTHING,
    ),
    Flow(
        "with masquerade-all the minion itself reaches endpoints",
        "minion",
        "three:80",
        to("pod-a:8080", "pod-b:8080", "pod-c:8080", source="masqueraded"),
        world=EVERYTHING,
    ),
    Flow(
        "with masquerade-all UDP is masqueraded",
        "pod-c",
        "dns:53",
        to("pod-a:5353", "pod-b:5353", source="masqueraded"),
        "udp",
        world=EVERYTHING,
    ),
    Flow(
        "with masquerade-all direct traffic is untouched",
        "pod-a",
        "pod-b:8080",
        untouched("pod-b:8080"),
        world=EVERYTHING,
    ),
    Flow("with masquerade-all a service without endpoints is refused", "pod-a", "empty:80", REFUSED, world=EVERYTHING),
)

FLOWS = (*ENDPOINTS, *SOURCES, *READINESS, *PORTS, *SELECTED, *ADDRESSES, *NO_CLUSTER_CIDR, *MASQUERADE_ALL)
