"""Options, files and records that are wrong: what is refused, what is left out, and that all the rest works."""

import json
import socket
from pathlib import Path

import pytest

from tests.harness.files import endpoints, path, service
from tests.harness.minion import A6, VIP, VIP6, A, B, C, Minion
from tests.harness.until import until

pytestmark = pytest.mark.kernel

WEB = service("web", VIP, VIP6, ipFamilyPolicy="RequireDualStack")


@pytest.mark.parametrize(
    ("option", "other"),
    [
        ("--service-cidr=192.0.2.0/24", A),
        ("--service-cidr=fd00:99::/112", A6),
        ("--service-cidr=10.0.0.0/16,fd00:10::/112", "10.0.128.0/17"),
        ("--cluster-cidr=10.0.4.0/24", "10.0.4.0/24"),
    ],
)
def test_a_service_cidr_that_overlaps_is_refused_before_anything_is_written(
    minion: Minion, option: str, other: str
) -> None:
    if other == "10.0.128.0/17":
        assert minion.run("ip", "route", "add", other, "dev", "out").returncode == 0
    minion.put(WEB, endpoints("web", A))
    daemon = minion.daemon(option)
    assert daemon.ended() == 2
    assert "--service-cidr" in daemon.log
    assert "overlaps" in daemon.log
    assert other in daemon.log
    assert minion.ruleset() == ""
    assert not minion.state.exists()
    assert not minion.env.exists()
    assert sorted(f.name for f in minion.records.iterdir()) == ["EndpointSlice-web-4.json", "Service-web.json"]


@pytest.mark.parametrize(
    ("options", "file", "said"),
    [
        (["--mod=nftables"], "", ["--mod", "--mode"]),
        (["--mode=nftable"], "", ["--mode", "nftables"]),
        (["--service-cidr=10.0.0.0/33"], "", ["--service-cidr", "10.0.0.0/33"]),
        (["--service-cidr=10.0.0.1/16"], "", ["did you mean 10.0.0.0/16"]),
        (["--status-listen=nowhere"], "", ["--status-listen"]),
        (["--records=consul:x"], "", ["--records"]),
        ([], "\nservice-cdir = '10.0.0.0/16'\n", ["svcnet.toml:2", "service-cidr"]),
        ([], "masquerade-all = 'perhaps'", ["svcnet.toml:1", "masquerade-all"]),
        ([], "mode = ", ["svcnet.toml:1"]),
        (["--config=/nonexistent/file"], "", ["/nonexistent/file"]),
    ],
)
def test_a_wrong_option_is_named_with_what_was_expected(
    minion: Minion, options: list[str], file: str, said: list[str]
) -> None:
    if file:
        config = minion.root / "svcnet.toml"
        config.write_text(file)
        options = [*options, f"--config={config}"]
    daemon = minion.daemon(*options)
    assert daemon.ended() == 2
    assert [text for text in said if text not in daemon.log] == []
    assert "Traceback" not in daemon.log
    assert minion.ruleset() == ""
    assert not minion.state.exists()


def test_virtual_ips_that_records_may_claim_are_told_at_the_start_and_a_services_own_stays_its_own(
    minion: Minion,
) -> None:
    minion.put(WEB, endpoints("web", A))
    daemon = minion.daemon("--external-ips=10.0.0.0/24").ready()
    minion.put(service("late", "10.0.0.9", externalIPs=[VIP]), endpoints("late", B))
    assert "--service-cidr 10.0.0.0/16 overlaps 10.0.0.0/24 of --external-ips" in daemon.log
    assert minion.reaches("10.0.0.9", B)
    assert minion.reaches(VIP, A)
    assert any(VIP in item["reason"] or VIP in item["what"] for item in daemon.status()["left_out"])


def test_records_that_cannot_be_served_are_left_out_and_named_and_the_rest_works(minion: Minion) -> None:
    minion.put(WEB, endpoints("web", A), endpoints("web", A6))
    broken = minion.records / "broken.json"
    broken.write_text(
        '{"kind": "Service",\n "apiVersion": "v1",\n "metadata": {"name": "b"},\n "spec": {"ports": [{"port": 70000}]}}'
    )
    (minion.records / "junk.yaml").write_bytes(bytes(range(256)))
    (minion.records / "empty.json").touch()
    minion.put(service("bad-ends", "10.0.0.7"), endpoints("bad-ends", "127.0.0.1", "169.254.1.1", "224.0.0.1", B))
    minion.put(service("bad-six", "10.0.0.8", "fd00:10::8", ipFamilyPolicy="RequireDualStack"))
    minion.put(endpoints("bad-six", "::1", "fe80::1", "ff02::1"))
    minion.put(service("outside", "172.16.0.1"))
    daemon = minion.daemon().ready()

    def left_out() -> list[str]:
        return [f"{item['what']}: {item['reason']}" for item in daemon.status()["left_out"]]

    def reason(*words: str) -> bool:
        return any(all(word in line for word in words) for line in left_out())

    assert minion.ask(VIP) == A
    assert minion.ask(VIP6) == A6
    assert minion.reaches("10.0.0.7", B)
    assert minion.ask("fd00:10::8") == "refused"
    assert reason("broken.json:4", "70000")
    assert reason("junk.yaml")
    for address in ("127.0.0.1", "169.254.1.1", "224.0.0.1", "::1", "fe80::1", "ff02::1"):
        assert reason(address, "--endpoint-deny"), left_out()
    assert reason("outside", "172.16.0.1"), left_out()
    assert "broken.json" in minion.svcnet("status").stdout

    # Mended, it is served and no longer named.
    minion.put(service("b", "10.0.0.9"), endpoints("b", C))
    broken.unlink()
    assert minion.reaches("10.0.0.9", C)
    daemon.until(lambda: not reason("broken.json"))


def test_the_last_good_version_of_a_file_serves_while_it_is_broken(minion: Minion) -> None:
    minion.put(WEB, endpoints("web", A))
    daemon = minion.daemon().ready()
    file = path(minion.records, endpoints("web", A))
    whole = file.read_text()
    with minion.hammer(VIP) as hammer:
        until(lambda: hammer.answers)
        file.write_text(whole[: len(whole) // 2])
        daemon.until(lambda: any(file.name in item["what"] for item in daemon.status()["left_out"]))
        assert minion.ask(VIP) == A
        minion.put(endpoints("web", B))
        assert minion.reaches(VIP, B)
        daemon.until(lambda: not daemon.status()["left_out"])
        until(lambda: B in hammer.answered_by)
    assert hammer.answered_by == {A, B}


def test_a_virtual_ip_that_is_taken_stays_with_the_older_service(minion: Minion) -> None:
    minion.put(WEB, endpoints("web", A))
    daemon = minion.daemon().ready()
    minion.put(service("late", VIP), endpoints("late", B), service("own", "10.0.0.9"), endpoints("own", C))
    assert minion.reaches("10.0.0.9", C)
    assert minion.reaches(VIP, A)
    left_out = daemon.status()["left_out"]
    assert any("late" in item["what"] and VIP in item["reason"] and "web" in item["reason"] for item in left_out)
    daemon.stop()
    daemon = minion.daemon().ready()
    assert minion.ask(VIP) == A

    # Once the holder is gone, the other gets it.
    minion.remove(WEB, endpoints("web", A))
    assert minion.reaches(VIP, B)
    daemon.until(lambda: not daemon.status()["left_out"])


def test_a_taken_status_port_is_named_and_traffic_goes_on(minion: Minion) -> None:
    def listen() -> socket.socket:
        return socket.create_server(("127.0.0.1", 10256))

    minion.put(WEB, endpoints("web", A))
    with minion.inside(listen):
        daemon = minion.daemon()
        daemon.until(lambda: minion.ask(VIP) == A)
        said = daemon.until(lambda: told_by_control_socket(minion.state / "control.sock"))
        assert "in use" in said.lower()
        assert daemon.runs
        minion.put(endpoints("web", B))
        assert minion.reaches(VIP, B)


def told_by_control_socket(path: Path) -> str:
    """What became of the status server, once it failed."""
    with socket.socket(socket.AF_UNIX) as control:
        if control.connect_ex(str(path)):  # not there yet
            return ""
        control.sendall(b'{"command": "status"}\n')
        with control.makefile() as stream:
            report: dict[str, dict[str, str]] = json.loads(stream.readline())["status"]
    said = report["parts"].get("status", "")
    return said if said.startswith("failed: ") else ""


def test_a_control_socket_answers_nonsense_with_words(minion: Minion) -> None:
    minion.put(WEB)
    daemon = minion.daemon().ready()
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(str(minion.state / "control.sock"))
        control.sendall(b'{"command": "dance"}\n\xff\n')
        with control.makefile() as stream:
            answers = [json.loads(stream.readline()) for _ in range(2)]
    assert [a["ok"] for a in answers] == [False, False]
    assert "release" in answers[0]["message"]
    assert (minion.state / "control.sock").stat().st_mode & 0o777 == 0o600
    until(lambda: daemon.get("/healthz")[0] == 200)


def test_a_service_cidr_other_than_the_one_of_the_claims_is_refused_with_both_named(minion: Minion) -> None:
    minion.put(WEB, endpoints("web", A), service("claims"))
    minion.daemon().ready().stop()
    claims = (minion.records / ".virtual-ips").read_text()
    rules = minion.ruleset()
    daemon = minion.daemon("--service-cidr=10.9.0.0/16")
    assert daemon.ended() == 2
    assert "10.9.0.0/16" in daemon.log
    assert "10.0.0.0/16" in daemon.log
    assert minion.ruleset() == rules
    assert minion.ask(VIP) == A
    assert (minion.records / ".virtual-ips").read_text() == claims


def test_env_files_that_cannot_be_written_stop_nothing_and_follow_when_they_can(minion: Minion) -> None:
    minion.env.touch()  # a file where the directory should be
    minion.put(WEB, endpoints("web", A))
    daemon = minion.daemon().ready()
    error = daemon.until(lambda: daemon.status()["last_error"])
    assert error.startswith("env files: ")
    minion.put(endpoints("web", B))
    assert minion.reaches(VIP, B)

    minion.env.unlink()
    minion.put(service("more", "10.0.0.9"))
    text = daemon.until(lambda: (f := minion.env / "default.env").exists() and f.read_text())
    assert "WEB_SERVICE_HOST" in str(text)
    assert "MORE_SERVICE_HOST" in str(text)

    # The same while it runs: what was missed is made up for by the next change, of whatever namespace.
    (minion.env / "default.env").unlink()
    minion.env.rmdir()
    minion.env.touch()
    minion.put(service("missed", "10.0.0.10"))
    daemon.until(lambda: daemon.log.count("env files: ") >= 2)
    minion.env.unlink()
    other = service("other", "10.0.0.11")
    other["metadata"]["namespace"] = "apart"
    minion.put(other)
    daemon.until((minion.env / "apart.env").exists)
    daemon.until(lambda: (f := minion.env / "default.env").exists() and "MISSED_SERVICE_HOST" in f.read_text())
