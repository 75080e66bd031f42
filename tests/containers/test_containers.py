"""Containers of a real engine use a service: by its variables, by its virtual IP, by its names."""

import pytest

from svcnet.lab import namespace
from tests.containers.engine import GATEWAY, HOST_ROOT, SUBNET, Engine
from tests.harness.files import Written
from tests.harness.minion import TREE, Minion
from tests.harness.until import until

pytestmark = [pytest.mark.kernel, pytest.mark.needs("podman")]

SERVICE = TREE / "docs/examples/tomcat-service.json"
BACKEND = ("/bin/sh", "-c", "hostname > /www/index.html; exec httpd -f -p 8080 -h /www")
CLIENT = ("/bin/sleep", "infinity")
WAYS = (
    "http://$TOMCAT_SERVICE_HOST:$TOMCAT_SERVICE_PORT/",
    "http://tomcat.svc:8080/",
    "http://tomcat:8080/",
    "http://tomcat.default.svc.cluster.local:8080/",
)
ASKED = 16
"""Connections; that one of two endpoints gets none of them happens once in 32,000 times."""


def pod(name: str, address: str) -> Written:
    """The record of a container that serves tomcat."""
    ready = {"type": "Ready", "status": "True"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"name": "tomcatCluster"}},
        "spec": {"nodeName": "m1"},
        "status": {"podIP": address, "phase": "Running", "conditions": [ready]},
    }


def answers(engine: Engine, container: str, url: str) -> set[str]:
    """Who answers a container that asks often."""
    script = f'for i in $(seq {ASKED}); do curl -sS --max-time 10 --noproxy "*" "{url}"; done'
    return set(engine.sh(container, script).split())


def serve(minion: Minion, engine: Engine, name: str) -> str:
    """Start a container that answers with its name, and register it; its address."""
    address = engine.start(name, engine.busybox(), BACKEND)
    minion.put(pod(name, address))
    return address


def write(minion: Minion, *arguments: str) -> str:
    """What a command of svcnet prints."""
    done = minion.svcnet(*arguments, *minion.options()[:2])
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("bridge_filter", "options"),
    [
        pytest.param("1", [], marks=pytest.mark.needs("bridge-nf"), id="bridge-filtered"),
        pytest.param("0", ["--masquerade-all"], id="masqueraded"),
    ],
)
def test_a_container_uses_a_service_by_variable_and_by_name_also_after_a_backend_was_replaced(
    minion: Minion, engine: Engine, bridge_filter: str, options: list[str]
) -> None:
    namespace.write_settings(minion.name, [("net/bridge/bridge-nf-call-iptables", bridge_filter)])
    write(minion, "create", "-f", str(SERVICE))
    first = {name: serve(minion, engine, name) for name in ("tomcat-1", "tomcat-2")}
    listen = f"--dns-listen={GATEWAY}:53"
    daemon = minion.daemon(f"--cluster-cidr={SUBNET}", listen, "--dns-upstream=off", *options).ready()
    daemon.until(lambda: daemon.status()["parts"]["dns"] == "running")

    variables = minion.root / "tomcat.env"
    variables.write_text(write(minion, "env", "--format", "docker"))
    names = ["--dns", GATEWAY, "--dns-search", "svc", "--dns-search", "default.svc.cluster.local"]
    engine.start("client", HOST_ROOT, CLIENT, "--env-file", str(variables), *names)

    virtual_ip = engine.sh("client", "echo $TOMCAT_SERVICE_HOST")
    assert write(minion, "get", "service", "tomcat", "-o", "json").count(f'"{virtual_ip}"') > 0
    for name in ("tomcat.svc", "tomcat", "tomcat.default.svc.cluster.local"):
        assert engine.sh("client", f"getent ahostsv4 {name}").split()[0] == virtual_ip
    for way in WAYS:
        assert answers(engine, "client", way) == set(first)

    # The new one before the old one goes, as it would be done where nobody may notice.
    address = serve(minion, engine, "tomcat-3")
    assert address not in first.values()
    minion.remove(pod("tomcat-1", first["tomcat-1"]))
    until(lambda: "tomcat-1" not in answers(engine, "client", WAYS[0]))
    engine.stop("tomcat-1")
    for way in WAYS:
        assert answers(engine, "client", way) == {"tomcat-2", "tomcat-3"}
    assert engine.sh("client", "getent ahostsv4 tomcat.svc").split()[0] == virtual_ip
