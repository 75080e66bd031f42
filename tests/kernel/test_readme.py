"""The commands of the README and the demo, as a stranger types them; only the directories are the test's own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECTION = re.compile(r"^## (.*?)\n.*?^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = dict(SECTION.findall((ROOT / "README.md").read_text()))

SLOWLY = """svcnet() {
  command svcnet "$@" || return
  [ "$1 $2" != "lab kill" ] || while command svcnet get pods -o name | grep -q "^$3$"; do sleep 0.1; done
}
"""
"""Who types sees the record of a killed pod go before he has typed the next line; a script may be faster."""

TRACE = (ROOT / "docs" / "trace.md").read_text().partition("## A worked example")[2].split("```\n")

pytestmark = pytest.mark.kernel


def type_in(text: str, directory: Path, *, patient: bool = False) -> list[str]:
    """Run lines as a shell would, the first that fails ends it; return what was printed."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("SVCNET_")}
    environ |= {
        "SVCNET_LAB_DIR": str(directory / "labs"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    if patient:  # who is told that there is nothing tries again, as a person would; each minion follows by itself
        environ["HOME"] = str(directory)
        (directory / ".curlrc").write_text("retry = 30\nretry-delay = 1\nretry-all-errors\n")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text], cwd=ROOT, env=environ, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_the_walk_through_of_2014_ends_with_answers_and_a_pod_replaced(tmp_path: Path) -> None:
    # Installing is what the suite's own start does.
    lines = BLOCKS["The walk-through of 2014"].replace("make setup &&", "", 1)
    told = type_in(SLOWLY + lines, tmp_path, patient=True)
    answers = [line for line in told if re.fullmatch(r"tomcatcontroller-\w{5}", line)]
    assert len(answers) == 4, "by variable, by name, by host port, and by name in userspace mode"
    assert any(re.fullmatch(r"10\.0\.\d+\.\d+", line) for line in told), "dig"
    assert any(re.match(r"tomcat\.default\.svc\. 5 IN SRV 0 100 8080 ", line) for line in told)
    assert any(line.startswith("Mode") and "nftables" in line for line in told)
    assert any("map endpoints {" in line for line in told)
    listed = [re.match(r"(tomcatcontroller-\w{5}) +10\.1\.\d\.\d+ +m\d +Running ", line) for line in told]
    before, after = (names := [found[1] for found in listed if found])[:2], names[2:]
    assert len(after) == 2, told
    assert len({*before, *after}) == 3, "one of them is another"


def test_the_commands_for_a_real_machine_serve_a_service(tmp_path: Path) -> None:
    begin = (
        "ip link set lo up; ip link add eth0 type veth peer name eth1; ip link set eth0 up; ip link set eth1 up\n"
        "ip addr add 192.0.2.10/24 dev eth0; ip route add default via 192.0.2.1\n"
        "mount -t tmpfs none /var/lib; mount -t tmpfs none /run\n"
    )
    end = "until [ -e /run/svcnet/env/default.env ]; do sleep 0.1; done\n"
    end += "cat /run/svcnet/env/default.env; kill %1; wait %1; svcnet-proxy --cleanup; nft list tables\n"
    script = tmp_path / "script"
    script.write_text(f"set -euo pipefail\n{begin}{BLOCKS['On a real machine']}{end}")
    told = type_in(f"unshare --mount --net bash {script}", tmp_path)
    assert any(re.match(r"tomcat +10\.0\.\d+\.\d+ +8080/TCP +1/1 ", line) for line in told), told
    assert re.fullmatch(r"TOMCAT_SERVICE_HOST=10\.0\.\d+\.\d+", told[-2])
    assert told[-1] == "TOMCAT_SERVICE_PORT=8080"


def test_the_worked_example_of_trace_prints_what_it_says(tmp_path: Path) -> None:
    begin = (
        "ip link set lo up; ip link add eth0 type veth peer name eth1; ip link set eth0 up; ip link set eth1 up\n"
        "ip addr add 192.0.2.10/24 dev eth0; ip route add default via 192.0.2.1\n"
        "mount -t tmpfs none /var/lib; mkdir -p /var/lib/svcnet/records\n"
        f"cd {tmp_path}\n"
    )
    change = "kill %1; wait %1; nft delete element ip svcnet classes '{ 10.0.0.5 . tcp . 8080 }'\n"
    again = "svcnet trace 10.1.0.99 tomcat:8080 --cluster-cidr 10.1.0.0/16 | tail -3\n"
    script = tmp_path / "script"
    script.write_text(f"set -eu\n{begin}{TRACE[1]}{change}{again}")
    told = type_in(f"unshare --mount --net bash {script}", tmp_path)
    shown, changed = TRACE[3].splitlines(), TRACE[5].splitlines()
    assert told[-len(shown) - len(changed) :] == [*shown, *changed]


def test_the_demo_reaches_the_service_in_three_data_paths_while_a_pod_is_killed(tmp_path: Path) -> None:
    told = type_in("bench/demo.sh", tmp_path)
    answers = [line for line in told if re.fullmatch(r"tomcatcontroller-\w{5}", line)]
    assert len(answers) == 9, "by address, by variable and by name, in each of three data paths"
    (result,) = (line for line in told if line.startswith("400 requests, "))
    assert int(result.split()[2]) < 400, "how many depends on how soon a busy machine notices"
    assert {line.split()[0] for line in told if line} >= {"direct", "nftables", "iptables-nft", "userspace"}
    assert "# Lab down: nothing stays behind" in told
    assert not (tmp_path / "labs").exists()
