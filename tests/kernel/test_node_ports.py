"""Node ports and health ports of the real daemon, as the machine's addresses come and go."""

import json
import socket
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException

import pytest

from tests.harness.client import LONG_SECONDS
from tests.harness.files import Written, endpoints, service
from tests.harness.minion import A6, VIP, VIP6, A, B, Minion
from tests.harness.until import until

pytestmark = pytest.mark.kernel

MINION, MINION6, NODE_PORT, HEALTH_PORT = "192.0.2.1", "fd00:99::1", 30080, 30180


def balanced(**spec: object) -> Written:
    record = service("web", VIP, protocols=("TCP",), **{"type": "LoadBalancer", **spec})
    record["spec"]["ports"][0]["nodePort"] = NODE_PORT
    return record


def here(*addresses: str, node: str = "m1", ready: bool = True, protocols: Sequence[str] = ("TCP",)) -> Written:
    record = endpoints("web", *addresses, protocols=protocols)
    for entry in record["endpoints"]:
        entry |= {"nodeName": node, "conditions": {"ready": ready, "serving": True, "terminating": not ready}}
    return record


def health(minion: Minion, address: str = MINION) -> tuple[int, str, int]:
    """(code, weight header, localEndpoints) of the health port; zeros while nobody listens."""

    def ask() -> tuple[int, str, int]:
        connection = HTTPConnection(address, HEALTH_PORT, timeout=LONG_SECONDS)
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            if answer.status == 404:  # on its way out
                return 404, "", 0
            told = json.loads(answer.read())
        except (OSError, HTTPException):  # nobody listens, or no more
            return 0, "", 0
        finally:
            connection.close()
        assert told["service"] == {"namespace": "default", "name": "web"}
        assert told["serviceProxyHealthy"] is True
        return answer.status, answer.headers["X-Load-Balancing-Endpoint-Weight"], told["localEndpoints"]

    return minion.inside(ask)


def test_a_node_port_answers_on_the_address_of_the_default_route_or_of_the_node_record(minion: Minion) -> None:
    minion.put(balanced(), endpoints("web", B, protocols=("TCP",)))
    minion.daemon().ready()
    assert minion.ask(MINION, port=NODE_PORT) == B
    assert minion.ask(A, port=NODE_PORT) == "refused"
    node = {"kind": "Node", "apiVersion": "v1", "metadata": {"name": "m1"}}
    minion.put(node | {"status": {"addresses": [{"type": "InternalIP", "address": A}]}})
    until(lambda: minion.ask(A, port=NODE_PORT) == B)
    assert minion.ask(MINION, port=NODE_PORT) == "refused"
    minion.put(service("web", VIP, protocols=("TCP",)))
    until(lambda: minion.ask(A, port=NODE_PORT) == "refused")


def test_node_ports_follow_the_addresses_of_the_machine(minion: Minion) -> None:
    minion.put(balanced(), endpoints("web", B, protocols=("TCP",)))
    daemon = minion.daemon("--nodeport-addresses=198.51.100.0/24,fd00:99::/64").ready()
    minion.run("ip", "addr", "add", "198.51.100.3/32", "dev", "lo")
    until(lambda: minion.ask("198.51.100.3", port=NODE_PORT) == B)
    assert minion.ask(MINION, port=NODE_PORT) == "refused"
    minion.run("ip", "addr", "del", "198.51.100.3/32", "dev", "lo")
    until(lambda: "30080" not in minion.ruleset())
    minion.put(endpoints("web", A6, protocols=("TCP",)), service("six", "fd00:10::6", protocols=("TCP",)))
    assert daemon.status()["drift"] == 0


def test_a_health_port_says_how_many_ready_endpoints_are_here(minion: Minion) -> None:
    local = {"externalTrafficPolicy": "Local", "healthCheckNodePort": HEALTH_PORT}
    minion.put(balanced(**local), here(A, B))
    minion.daemon().ready()
    until(lambda: health(minion) == (200, "2", 2))
    minion.put(here(A))
    until(lambda: health(minion) == (200, "1", 1))
    minion.put(here(A, ready=False))  # it still serves while it ends, but no balancer shall send more
    until(lambda: health(minion) == (503, "0", 0))
    minion.put(here(A, node="m2"))
    until(lambda: health(minion) == (503, "0", 0))
    minion.put(balanced())
    until(lambda: health(minion)[0] == 0)


def test_a_health_port_counts_the_endpoints_of_the_family_that_asks(minion: Minion) -> None:
    """A pod of both families is one endpoint, not two; so is one with two ports."""
    record = service("web", VIP, VIP6, ipFamilyPolicy="RequireDualStack")
    local = {"externalTrafficPolicy": "Local", "healthCheckNodePort": HEALTH_PORT}
    record["spec"] |= {"type": "LoadBalancer", **local}
    for entry, number in zip(record["spec"]["ports"], (NODE_PORT, NODE_PORT + 1), strict=True):
        entry["nodePort"] = number
    minion.put(record, here(A, B, protocols=("TCP", "UDP")), here(A6, protocols=("TCP", "UDP")))
    minion.daemon().ready()
    until(lambda: health(minion) == (200, "2", 2))
    until(lambda: health(minion, MINION6) == (200, "1", 1))
    minion.put(here(A6, ready=False))
    until(lambda: health(minion, MINION6) == (503, "0", 0))
    assert health(minion) == (200, "2", 2)


def test_a_health_port_that_is_taken_is_told_and_opened_once_it_is_free(minion: Minion) -> None:
    taken = minion.inside(lambda: socket.create_server((MINION, HEALTH_PORT)))
    with taken:
        minion.put(balanced(externalTrafficPolicy="Local", healthCheckNodePort=HEALTH_PORT), here(A))
        daemon = minion.daemon().ready()
        what = f"healthCheckNodePort {HEALTH_PORT} on {MINION} of Service default/web"
        until(lambda: {"what": what, "reason": "address already in use"} in _left_out(daemon.status()))
    until(lambda: health(minion) == (200, "1", 1))
    until(lambda: not _left_out(daemon.status()))


def _left_out(status: dict[str, list[dict[str, str]]]) -> list[dict[str, str]]:
    return [{**item, "reason": item["reason"].lower()} for item in status["left_out"]]
