"""The lab's plan: addresses, wiring, records, and what its stand-ins say. No root, no processes but one of our own."""

import os
import socket
import subprocess
import sys
import threading
from ipaddress import ip_address, ip_network
from pathlib import Path

import msgspec
import pytest

from svcnet.lab import process, record, stand_in, wiring
from svcnet.lab.lab import Lab
from svcnet.lab.spec import LabSpec
from svcnet.lab.state import LabFiles, directory, locked
from svcnet.lab.topology import is_pod, plan
from svcnet.model.errors import ConfigError, SvcnetError


def test_every_member_has_its_own_address_in_both_families() -> None:
    topology = plan(LabSpec(minions=5, pods=30))
    held = [minion.addresses for minion in topology.minions] + [pod.addresses for pod in topology.pods]
    addresses = [str(address) for own in held for address in own]
    assert len(addresses) == 2 * (5 + 150) == len(set(addresses))
    assert {ip_address(a).version for a in addresses} == {4, 6}


def test_a_pod_is_in_the_network_of_its_minion_and_in_the_cluster_network() -> None:
    topology = plan(LabSpec(minions=3, pods=2, cluster_cidr="10.9.0.0/16,fd09::/48"))
    for minion in topology.minions:
        for pod in minion.pods:
            for address, network, cluster in zip(
                pod.addresses, minion.pod_networks, topology.cluster_networks, strict=True
            ):
                assert address.ip in network
                assert network.subnet_of(cluster)  # type: ignore[arg-type]  # zip pairs equal families
    assert [str(n) for n in topology.minions[1].pod_networks] == ["10.9.2.0/24", "fd09:0:0:2::/64"]


def test_without_ipv6_there_is_no_colon_in_any_line() -> None:
    topology = plan(LabSpec(ipv6=False, topology="bridge"))
    minion = topology.minions[0]
    lines = wiring.minion_lines(topology, minion) + wiring.pod_lines(topology, minion, minion.pods[0])
    assert not [line for line in lines + wiring.switch_lines(topology) if ":" in line]


def test_members_are_found_by_namespaces_named_after_the_lab() -> None:
    assert plan(LabSpec(name="x", minions=1, pods=2)).namespaces == {
        "switch": "svcnet-x-switch",
        "m1": "svcnet-x-m1",
        "m1p1": "svcnet-x-m1p1",
        "m1p2": "svcnet-x-m1p2",
    }
    assert [name for name in ("m1", "m1p2", "switch", "keeper", "m1.5") if is_pod(name)] == ["m1p2"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "Lab"}, "--name: 'Lab'"),
        ({"name": "a/b"}, "--name: 'a/b'"),
        ({"name": "x" * 33}, "up to 32"),
        ({"minions": 0}, "--minions: 0, expected 1 to 200"),
        ({"pods": 201}, "--pods: 201, expected 0 to 200"),
        ({"cluster_cidr": "10.1.0.0/23", "ipv6": False}, "10.1.0.0/23 is too small: minion 2"),
        ({"cluster_cidr": "10.1.0.0/16"}, "CIDR,CIDR6, or --no-ipv6"),
        ({"cluster_cidr": "fd00::/48"}, "expected an IPv4 network first"),
        ({"cluster_cidr": "10.1.0.0/16,10.2.0.0/16"}, "two of one family"),
        ({"cluster_cidr": "10.1.0.9/16"}, "has host bits set"),
        ({"service_cidr": "10.1.7.0/24"}, "--cluster-cidr 10.1.0.0/16 overlaps --service-cidr 10.1.7.0/24"),
        ({"service_cidr": "172.20.0.0/24"}, "node CIDR 172.20.0.0/16 overlaps --service-cidr"),
        ({"node_cidr": "192.0.2.0/30,fd00:20::/64"}, "too small for 3 minions"),
    ],
)
def test_a_spec_that_cannot_be_is_refused_by_the_name_of_its_option(change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        plan(msgspec.structs.replace(LabSpec(), **change))
    assert said in str(refused.value)


def test_routed_pods_have_host_addresses_and_a_route_each() -> None:
    topology = plan(LabSpec())
    minion = topology.minions[0]
    assert "addr add 10.1.1.2/32 dev eth0" in wiring.pod_lines(topology, minion, minion.pods[0])
    assert "route add 10.1.1.2 dev p1 src 172.20.0.1" in wiring.minion_lines(topology, minion)


def test_bridged_pods_share_cbr0_with_hairpin_ports_and_netfilter() -> None:
    topology = plan(LabSpec(topology="bridge"))
    minion = topology.minions[0]
    lines = wiring.minion_lines(topology, minion)
    assert "link set p1 type bridge_slave hairpin on" in lines
    assert "link set p1 master cbr0 addrgenmode none up" in lines
    assert dict(wiring.bridge_settings(topology, "m1")) == dict.fromkeys(wiring.BRIDGE_NF, "1")
    assert dict(wiring.bridge_settings(topology, "switch")) == dict.fromkeys(wiring.BRIDGE_NF, "0")


def test_only_minions_forward() -> None:
    topology = plan(LabSpec())
    forwarding = [name for name in topology.namespaces if "forward" in str(wiring.settings(topology, name))]
    assert forwarding == ["m1", "m2", "m3"]


def test_pods_are_registered_ready_with_the_labels_of_the_command_line() -> None:
    topology = plan(LabSpec(minions=1, pods=1, labels=(("tier", "web"), ("app", "x"))))
    node, pod = record.records(topology)
    assert node.key == ("Node", "", "m1")
    assert pod.key == record.pod_key("m1p1") == ("Pod", "default", "m1p1")
    assert pod.meta.labels == (("app", "x"), ("tier", "web"))
    assert msgspec.to_builtins(pod)["ips"] == ("10.1.1.2", "fd00:1:0:1::2")
    assert pod.is_ready  # type: ignore[union-attr]  # the second record is the pod
    assert ip_address(msgspec.to_builtins(node)["addresses"][0][1]) in ip_network("172.20.0.0/16")


# What a pod says.


def test_a_pod_answers_its_name_and_who_asked() -> None:
    session = stand_in.Session("m1p1", "10.1.2.2")
    assert session.receive(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").endswith(
        b"Content-Length: 5\r\nConnection: keep-alive\r\n\r\nm1p1\n"
    )
    assert session.receive(b"GET /client HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n10.1.2.2\n")
    assert not session.closing


def test_requests_in_pieces_and_in_one_piece_are_answered_one_by_one() -> None:
    asked = b"GET / HTTP/1.1\r\nA: b\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nbodyGET / HTTP/1.1\r\n\r\n"
    whole = stand_in.Session("p", "").receive(asked)
    session = stand_in.Session("p", "")
    assert b"".join(session.receive(asked[i : i + 1]) for i in range(len(asked))) == whole
    assert whole.count(b"HTTP/1.1 200 OK") == 3


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", b"200"),
        (b"GET / HTTP/1.1\r\nConnection: Close\r\n\r\n", b"200"),
        (b"hello\r\n\r\n", b"400"),
        (b"x" * 20000, b"431"),
    ],
)
def test_a_connection_ends_when_it_is_asked_to_or_makes_no_sense(asked: bytes, status: bytes) -> None:
    session = stand_in.Session("p", "")
    assert session.receive(asked).startswith(b"HTTP/1.1 " + status)
    assert session.closing


def test_a_head_request_has_no_body() -> None:
    assert stand_in.Session("p", "").receive(b"HEAD / HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n")


def test_the_loop_answers_tcp_and_udp_with_the_address_of_the_client() -> None:
    streams, datagrams = stand_in.listen(0, ipv6=False)
    threading.Thread(target=stand_in.serve, args=("m1p1", streams, datagrams), daemon=True).start()
    with socket.create_connection(("127.0.0.1", streams.getsockname()[1]), 30) as client:
        client.sendall(b"GET /client HTTP/1.0\r\n\r\n")
        assert b"".join(iter(lambda: client.recv(4096), b"")).endswith(b"127.0.0.1\n")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(30)
        client.sendto(b"hello", ("127.0.0.1", datagrams.getsockname()[1]))
        assert client.recv(100) == b"m1p1\n"


# Who runs.


def start(tmp_path: Path, *argv: str) -> process.Process:
    who = process.spawn(argv, tmp_path / "who", tmp_path / "log", {"PATH": os.environ["PATH"]})
    assert who is not None
    return who


def test_a_process_has_written_who_it_is_when_spawn_returns(tmp_path: Path) -> None:
    who = start(tmp_path, "sleep", "100")
    try:
        assert process.read(tmp_path / "who") == who
        assert process.is_alive(who)
    finally:
        assert process.end([who], 5.0) == []
    assert not process.is_alive(who)
    assert not Path(f"/proc/{who.pid}").exists(), "its exit status was taken"


def test_a_number_that_another_process_has_now_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "100"]) as other:
        try:
            (tmp_path / "who").write_text(
                f"{process.boot_id()} {other.pid} (sleep) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 7 0 0\n"
            )
            stale = process.read(tmp_path / "who")
            assert stale is not None
            assert stale.start == 7
            assert not process.is_alive(stale)
            process.end([stale], 0)
            assert other.poll() is None
        finally:
            other.kill()


def test_who_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    who = start(
        tmp_path,
        sys.executable,
        "-c",
        ("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(100)"),
    )
    log = tmp_path / "log"
    while not log.read_text():
        assert process.is_alive(who)
    assert process.end([who], 0.05) == []
    assert not process.is_alive(who)


@pytest.mark.parametrize("text", ["", "boot", "boot 5", "boot x (y) z", "boot 5 (a) S 1"])
def test_half_a_line_about_a_process_is_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / "who").write_text(text)
    assert process.read(tmp_path / "who") is None
    assert process.read(tmp_path / "absent") is None


def test_a_name_with_spaces_and_parentheses_is_parsed() -> None:
    stat = process.parse_stat("42 (a (b) c) S 1 42 41 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 777 0 0")
    assert stat == (42, "S", 41, 777)


def test_a_command_that_does_not_exist_leaves_the_reason_in_its_log(tmp_path: Path) -> None:
    who = start(tmp_path, "/no/such/program")
    while process.is_alive(who):
        pass
    process.end([who], 0)
    assert "/no/such/program" in (tmp_path / "log").read_text()


# Files.


def test_a_spec_survives_the_file(tmp_path: Path) -> None:
    files = LabFiles(tmp_path / "x")
    files.root.mkdir()
    spec = LabSpec(name="x", labels=(("a", "b"),), daemon=("svcnet-proxy",))
    files.make(spec)
    assert files.read() == spec
    files.remove()
    assert not files.root.exists()


def test_two_cannot_build_or_take_down_one_lab_at_once(tmp_path: Path) -> None:
    files = LabFiles(tmp_path)
    with locked(files, "build"), pytest.raises(SvcnetError, match="right now"), locked(files, "take down"):
        pass


def test_labs_are_kept_where_the_variable_says() -> None:
    assert directory({"SVCNET_LAB_DIR": "/x"}) == Path("/x")
    assert directory({}) == Path("/run/svcnet/lab")


def test_the_daemon_gets_the_lab_s_settings_and_ours_win_nothing_over_given_ones(tmp_path: Path) -> None:
    spec = LabSpec(minions=1, daemon=("svcnet-proxy",), mode="none", daemon_options=("--dns-listen", "127.0.0.1:53"))
    lab = Lab("lab", {"SVCNET_LAB_DIR": str(tmp_path)})
    lab.files.root.mkdir()
    lab.files.make(spec)
    argv = lab.proxy_argv("m1")
    assert argv[0] == "svcnet-proxy"
    assert argv[-2:] == ["--dns-listen", "127.0.0.1:53"]
    given = dict(zip(argv[1::2], argv[2::2], strict=True))
    assert given["--node"] == "m1"
    assert given["--mode"] == "none"
    assert given["--records"] == f"dir:{tmp_path}/lab/records"
    assert given["--cluster-cidr"] == "10.1.0.0/16,fd00:1::/48"
    assert Path(given["--state-dir"]).is_dir()


def test_what_runs_in_a_member_finds_the_lab_and_not_the_machine_s_settings(tmp_path: Path) -> None:
    lab = Lab("lab", {"SVCNET_LAB_DIR": str(tmp_path), "SVCNET_ZONE": "other", "HOME": "/h"})
    lab.files.root.mkdir()
    lab.files.make(LabSpec(minions=1))
    environ = lab.environment("m1p2")
    assert environ["SVCNET_NODE"] == "m1"
    assert environ["HOME"] == "/h"
    assert "SVCNET_ZONE" not in environ
    assert "SVCNET_NODE" not in lab.environment("switch")


def test_a_lab_that_is_not_there_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(SvcnetError, match="svcnet lab up --name gone"):
        Lab("gone", {"SVCNET_LAB_DIR": str(tmp_path)}).namespace("m1")


def test_the_command_line_does_not_load_the_lab_to_show_its_help() -> None:
    heavy = ("rich", "aiohttp", "yaml", "svcnet.lab.lab")
    code = f"import sys, svcnet.cli.lab; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
