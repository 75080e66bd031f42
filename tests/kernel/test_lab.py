"""Labs in real namespaces: who reaches whom, with which source address, and that nothing is left of them."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from svcnet.lab import namespace, process
from svcnet.lab.lab import KEEPER, Lab
from svcnet.lab.registry import Registry
from svcnet.lab.spec import LabSpec
from svcnet.lab.status import status
from svcnet.model.errors import ConfigError, StoreError, SvcnetError
from tests.harness.until import PATIENCE_SECONDS, until

pytestmark = pytest.mark.kernel

NETNS = Path("/run/netns")

# A store that keeps a file a record: the keeper, a process of its own, imports it by name.
REGISTRY = '''
"""A file a record."""
from pathlib import Path
class Files:
    def __init__(self, path): self.path = Path(path); self.path.mkdir(exist_ok=True)
    def put(self, *records, create=False):
        for r in records: (self.path / "-".join(r.key)).write_text(repr(r))
        return records
    def delete(self, *keys):
        for k in keys: (self.path / "-".join(k)).unlink(missing_ok=True)
        return keys
def open_files(spec, url): return Files(url.removeprefix("dir:"))
'''

# A daemon that says 200 at /readyz, ignores SIGTERM, and has a worker in its session, as a real one has.
DAEMON = """
import http.server, signal, socketserver, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
worker = subprocess.Popen(["sleep", "1000"])
open(options["--state-dir"] + "/worker", "w").write(str(worker.pid))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" else 404); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *a): pass
host, port = options["--status-listen"].split(":")
socketserver.TCPServer.allow_reuse_address = True
socketserver.TCPServer((host, int(port)), Handler).serve_forever()
"""


def running(marker: str) -> list[str]:
    """Command lines and pids of processes that have `marker` in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if marker.encode() in (entry / "environ").read_bytes():
                    found.append(f"{entry.name} {(entry / 'cmdline').read_bytes().decode()}")
            except OSError:
                continue
    return found


class Place:
    """Where a test's labs live: their directory, environment and store."""

    def __init__(self, root: Path, *names: str) -> None:
        self.root = root
        self.names = names
        self.marker = f"LAB_TEST={root}"
        (root / "lab_test_registry.py").write_text(REGISTRY)
        self.environ = os.environ | {
            "SVCNET_LAB_DIR": str(root / "labs"),
            "LAB_TEST": str(root),
            "PYTHONPATH": str(root),
        }

    def lab(self, name: str = "") -> Lab:
        return Lab(name or self.names[0], self.environ)

    def open(self, spec: LabSpec, url: str) -> Registry:
        space: dict[str, Callable[[LabSpec, str], Registry]] = {}
        exec(compile(REGISTRY, "registry", "exec"), space)
        return space["open_files"](spec, url)

    def left(self) -> list[str]:
        """What is there of any lab of this test."""
        ours = tuple(f"svcnet-{name}-" for name in self.names)
        names = [file.name for file in NETNS.iterdir() if file.name.startswith(ours)]
        files = [str(file) for file in (self.root / "labs").rglob("*")]
        return names + files + running(self.marker)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path, "t", "t-m1")
    yield made
    for name in made.names:
        made.lab(name).down()
    until(lambda: made.left() == [], lambda: str(made.left()))


def small(**given: object) -> LabSpec:
    return msgspec.structs.replace(LabSpec(name="t", minions=2, pods=2, opener="lab_test_registry:open_files"), **given)


def fetch(lab: Lab, member: str, address: object, path: str = "client") -> str:
    host = f"[{address}]" if ":" in str(address) else str(address)
    done = lab.exec(member, ["curl", "-gsS", "--max-time", "30", f"http://{host}:8080/{path}"])
    assert done.returncode == 0, f"{member} → {host}: {done.stderr}"
    return done.stdout.strip()


@pytest.fixture(scope="module", params=["routed", "bridge"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Place(tmp_path_factory.mktemp(request.param), request.param)
    with made.lab().up(small(name=request.param, topology=request.param)) as lab:
        yield lab
    assert made.left() == []


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("target", [(1, 1), (1, 2), (2, 1)], ids=["itself", "same-minion", "other-minion"])
def test_a_pod_reaches_a_pod_and_keeps_its_source_address(both: Lab, target: tuple[int, int], family: int) -> None:
    own = str(both.pod(1, 1).addresses[family])
    assert fetch(both, "m1p1", both.pod(*target).addresses[family]) == own


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
def test_a_minion_reaches_its_own_pods_and_those_of_others(both: Lab, family: int) -> None:
    for minion, number in ((1, 2), (2, 2)):
        pod = both.pod(minion, number)
        assert fetch(both, "m1", pod.addresses[family], "") == pod.name


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
def test_a_client_outside_the_cluster_reaches_a_pod_with_its_own_address(both: Lab, family: int) -> None:
    own = str(both.topology.switch_addresses[family])
    assert fetch(both, "switch", both.pod(2, 1).addresses[family]) == own


def test_a_virtual_address_is_routed_out_by_minions_and_pods(both: Lab) -> None:
    for member in ("m1", "m1p1"):
        assert both.exec(member, ["ip", "route", "get", "10.0.0.5"]).stdout.startswith("10.0.0.5 via ")


@pytest.mark.needs("bridge-nf")
def test_bridged_packets_pass_netfilter_in_minions_and_the_machine_is_not_asked(both: Lab) -> None:
    file = "/proc/sys/net/bridge/bridge-nf-call-iptables"
    before = Path(file).read_text()
    if both.topology.spec.topology == "bridge":
        assert both.exec("m1", ["cat", file]).stdout == "1\n"
    assert both.exec("switch", ["cat", file]).stdout == "0\n"
    assert Path(file).read_text() == before


def test_same_minion_virtual_ip_keeps_the_client_in_both_topologies(both: Lab) -> None:
    """The row of the matrix that hangs where bridged answers bypass netfilter."""
    pod = both.pod(1, 2)
    hook = "type nat hook prerouting priority dstnat"
    rules = f"table ip t {{ chain c {{ {hook}; ip daddr 10.0.0.9 dnat to {pod.addresses[0]}; }}; }}"
    try:
        assert both.exec("m1", ["nft", rules]).returncode == 0
        assert fetch(both, "m1p1", "10.0.0.9") == str(both.pod(1, 1).addresses[0])
    finally:
        both.exec("m1", ["nft", "delete table ip t"])


def test_udp_is_answered_with_the_name(both: Lab) -> None:
    code = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(30); "
        f"s.sendto(b'x', ('{both.pod(2, 2).addresses[0]}', 8080)); print(s.recv(99).decode(), end='')"
    )
    assert both.exec("m1p1", [sys.executable, "-c", code]).stdout == "m2p2\n"


def test_exec_passes_the_exit_code_and_the_input(both: Lab) -> None:
    assert both.exec("m2p1", ["sh", "-c", "exit 7"]).returncode == 7
    assert both.exec("m2p1", ["cat"], given="hello").stdout == "hello"
    with pytest.raises(SvcnetError, match=r"no m9 in lab [a-z]+, expected one of switch, m1"):
        both.namespace("m9")


def test_status_shows_every_member(both: Lab) -> None:
    now = status(both)
    assert now.complete
    assert now.keeper
    assert [(m.name, m.state) for m in now.members] == [
        ("m1", "no proxy"),
        ("m1p1", "running"),
        ("m1p2", "running"),
        ("m2", "no proxy"),
        ("m2p1", "running"),
        ("m2p2", "running"),
    ]


def test_down_leaves_nothing_and_the_machine_s_own_network_is_as_it_was(place: Place) -> None:
    def network() -> str:
        shown = [
            subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout
            for words in (["-br", "link"], ["-br", "addr"], ["route", "show", "table", "all"])
        ]
        return re.sub(r" expires \d+sec", "", "".join(shown)) + Path("/proc/sys/net/ipv4/ip_forward").read_text()

    before = network()
    lab = place.lab().up(small(), place.open)
    assert network() == before
    assert len(place.left()) > 7
    assert lab.down()
    assert place.left() == []
    assert not (place.root / "labs").exists()
    assert network() == before
    assert not lab.down(), "there was nothing left to take down"


def test_a_lab_of_the_same_name_is_refused_and_goes_on(place: Place) -> None:
    lab = place.lab().up(small())
    with pytest.raises(SvcnetError, match="lab t exists already"):
        place.lab().up(small())
    assert fetch(lab, "m1p1", lab.pod(2, 1).addresses[0], "") == "m2p1"


def test_a_lab_whose_name_begins_with_another_s_is_left_alone(place: Place) -> None:
    other = place.lab("t-m1").up(small(name="t-m1", minions=1, pods=1))
    place.lab().up(small(minions=1, pods=1)).down()
    assert fetch(other, "m1", other.pod(1, 1).addresses[0], "") == "m1p1"


def test_namespaces_of_that_name_without_a_lab_are_refused_and_can_be_taken_down(place: Place) -> None:
    namespace.add(["svcnet-t-m1p1"])
    with pytest.raises(SvcnetError, match="namespace svcnet-t-m1p1"):
        place.lab().up(small())
    assert place.lab().down()


def test_minions_and_pods_are_registered_and_a_killed_pod_is_not_any_more(place: Place) -> None:
    lab = place.lab().up(small(), place.open)
    records = lab.files.records
    everyone = {"Node--m1", "Node--m2", *(f"Pod-default-{pod.name}" for pod in lab.topology.pods)}
    assert {file.name for file in records.iterdir()} == everyone
    lab.kill("m1p2")
    until(lambda: {file.name for file in records.iterdir()} == everyone - {"Pod-default-m1p2"})
    until(lambda: [m.name for m in status(lab).members if m.state == "ended"] == ["m1p2"])
    with pytest.raises(SvcnetError, match="m1p2 has no process"):
        lab.kill("m1p2")
    done = lab.exec("m1p1", ["curl", "-sS", "--max-time", "30", f"http://{lab.pod(1, 2).addresses[0]}:8080/"])
    assert "refused" in done.stderr or "connect" in done.stderr


def test_records_in_a_store_of_others_are_deleted_by_down(place: Place) -> None:
    store = place.root / "elsewhere"
    store.mkdir()
    (store / "Pod-default-foreign").write_text("")
    lab = place.lab().up(small(records=f"dir:{store}"), place.open)
    assert len(list(store.iterdir())) == 7
    lab.down(place.open)
    assert [file.name for file in store.iterdir()] == ["Pod-default-foreign"]


def test_a_store_that_is_away_does_not_keep_a_lab_up(place: Place) -> None:
    def away(*_: object) -> Registry:
        raise StoreError("away")

    lab = place.lab().up(small(records="dir:/nowhere", opener=""))
    with pytest.raises(StoreError):
        lab.down(away)
    assert place.left() == []
    with pytest.raises(StoreError):
        place.lab().up(small(records="dir:/nowhere"), away)
    assert place.left() == []


def test_pods_end_with_their_keeper_and_down_cleans_up(place: Place) -> None:
    lab = place.lab().up(small())
    keeper = process.read(lab.files.process(KEEPER))
    assert keeper is not None
    os.kill(keeper.pid, signal.SIGKILL)
    until(lambda: not any(lab.alive(pod.name) for pod in lab.topology.pods))
    assert not status(lab).complete
    lab.down()
    assert place.left() == []


@pytest.mark.parametrize("step", range(1, 9))
def test_up_that_is_killed_half_way_can_be_taken_down(place: Place, step: int) -> None:
    """kill -9 after each step of `up`, as a power switch would."""
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(place.root)!r})
from svcnet.lab import lab, namespace, process, state
left = [{step}]
def counted(act):
    def stepped(*given, **named):
        result = act(*given, **named)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return stepped
for module, name in ((state.LabFiles, "make"), (namespace, "add"), (namespace, "run_batches"), (process, "spawn")):
    setattr(module, name, counted(getattr(module, name)))
lab.Lab("t").up(lab.LabSpec(name="t", minions=2, pods=1, daemon=("sleep", "1000"), daemon_options=()))
"""
    done = subprocess.run([sys.executable, "-c", code], env=place.environ, check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert place.left()
    assert place.lab().down()
    until(lambda: place.left() == [], lambda: str(place.left()))


@pytest.fixture
def daemon(place: Place) -> tuple[str, ...]:
    script = place.root / "daemon.py"
    script.write_text(DAEMON)
    return (sys.executable, str(script))


def test_up_waits_until_every_proxy_is_ready_and_down_ends_its_workers_too(
    place: Place, daemon: tuple[str, ...]
) -> None:
    lab = place.lab().up(small(daemon=daemon, pods=0))
    assert [m.state for m in status(lab).members] == ["proxy ready"] * 2
    worker = Path(f"/proc/{(lab.files.state('m1') / 'worker').read_text()}")
    assert worker.exists()
    lab.kill("m1")
    until(lambda: [m.state for m in status(lab).members] == ["proxy ended", "proxy ready"])
    assert worker.exists()
    lab.start_proxy("m1")
    lab.wait_ready(["m1"], time.monotonic() + PATIENCE_SECONDS)
    with pytest.raises(SvcnetError, match="runs already"):
        lab.start_proxy("m1")
    for minion in ("m1", "m2"):  # their SIGTERM is ignored: don't wait for the grace to pass
        lab.kill(minion)
    lab.down()
    assert place.left() == []
    until(lambda: not worker.exists())


def test_a_proxy_that_ends_is_reported_with_its_last_words_and_nothing_is_left(place: Place) -> None:
    failing = ("sh", "-c", "echo nothing works here >&2; exit 3")
    with pytest.raises(SvcnetError, match=r"(?s)proxy of m1 is not ready: it ended.*m1: nothing works here"):
        place.lab().up(small(daemon=failing))
    assert place.left() == []


def test_what_takes_too_long_is_an_error_that_says_what(place: Place) -> None:
    with pytest.raises(SvcnetError, match="the proxy of m1 is not ready"):
        place.lab().up(small(pods=0, daemon=("sh", "-c", "exec sleep 1000")), timeout_seconds=0.3)
    assert place.left() == []


def test_two_at_once_make_one_lab(place: Place) -> None:
    outcomes: list[str] = []

    def build() -> None:
        try:
            place.lab().up(small(minions=1, pods=1))
            outcomes.append("up")
        except SvcnetError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("up") == 1
    assert all("exists already" in said for said in outcomes if said != "up")
    lab = place.lab()
    assert fetch(lab, "m1", lab.pod(1, 1).addresses[0], "") == "m1p1"


def test_a_bad_spec_touches_nothing(place: Place) -> None:
    with pytest.raises(ConfigError):
        place.lab().up(small(service_cidr="10.1.0.0/16"))
    assert place.left() == []
