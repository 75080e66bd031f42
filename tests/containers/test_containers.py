"""Containers of a real engine use a service: by its variables, by its virtual IP, by its names."""

import pytest

from svcnet.lab import namespace
from tests.containers.engine import GATEWAY, SUBNET, Engine
from tests.harness.files import Written
from tests.harness.minion import TREE, Minion
from tests.harness.until import until
from tests.kernel.test_daemon_dns import ask

pytestmark = [pytest.mark.kernel, pytest.mark.needs("podman")]

SERVICE = TREE / "docs/examples/tomcat-service.json"
BACKEND = ("sh", "-c", "cd /srv; hostname > index.html; exec python3 -m http.server -b 0.0.0.0 8080")
CLIENT = ("sleep", "infinity")
WAYS = (
    "http://$TOMCAT_SERVICE_HOST:$TOMCAT_SERVICE_PORT/",
    "http://tomcat.svc:8080/",
    "http://tomcat:8080/",
    "http://tomcat.default.svc.cluster.local:8080/",
)
NAMES = ("tomcat.svc", "tomcat", "tomcat.default.svc.cluster.local")
EACH = 8
"""Connections of each way; that one of two endpoints gets none of all happens once in 2,000,000,000 times."""


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


def answers(engine: Engine, container: str) -> set[str]:
    """Who answers a container that asks often, in every way; each connection is answered, or the test fails."""
    urls = " ".join(f'"{url}"' for url in WAYS)
    script = (
        f'for i in $(seq {EACH}); do for url in {urls}; do curl -fsS --max-time 30 --noproxy "*" "$url"; done; done'
    )
    return set(engine.sh(container, script).split())


def serve(minion: Minion, engine: Engine, name: str) -> str:
    """Start a container that answers with its name, and register it when it does; its address."""
    address = engine.start(name, BACKEND)
    until(lambda: minion.run("curl", "-s", "--noproxy", "*", f"http://{address}:8080/").stdout.strip() == name)
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
    daemon.until(lambda: ask(minion, "tomcat.svc.", server=GATEWAY) not in ([], ["SERVFAIL"], ["NXDOMAIN"]))
    daemon.until((minion.env / "default.env").exists)

    variables = minion.root / "tomcat.env"
    variables.write_text(write(minion, "env", "--format", "docker"))
    names = ["--dns", GATEWAY, "--dns-search", "svc", "--dns-search", "default.svc.cluster.local"]
    engine.start("client", CLIENT, "--env-file", str(variables), *names)
    engine.start("by-file", CLIENT, "--env-file", str(minion.env / "default.env"))

    virtual_ip = engine.sh("client", "echo $TOMCAT_SERVICE_HOST")
    assert engine.sh("by-file", "env | grep ^TOMCAT_ | sort") == engine.sh("client", "env | grep ^TOMCAT_ | sort")
    assert f'"{virtual_ip}"' in write(minion, "get", "service", "tomcat", "-o", "json")
    for name in NAMES:
        assert engine.sh("client", f"getent ahostsv4 {name}").split()[0] == virtual_ip
    assert answers(engine, "client") == set(first)

    # The new one before the old one goes, as it would be done where nobody may notice.
    address = serve(minion, engine, "tomcat-3")
    assert address not in first.values()
    minion.remove(pod("tomcat-1", first["tomcat-1"]))
    until(lambda: answers(engine, "client") == {"tomcat-2", "tomcat-3"}, lambda: daemon.log)
    engine.stop("tomcat-1")
    assert answers(engine, "client") == {"tomcat-2", "tomcat-3"}
    assert engine.sh("client", "getent ahostsv4 tomcat.svc").split()[0] == virtual_ip
