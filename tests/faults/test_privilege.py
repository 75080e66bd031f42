"""What is missing on the machine: the privilege, or the program nft. Each is named, and --mode none does without."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.harness.client import LONG_SECONDS, ask
from tests.harness.files import endpoints, service
from tests.harness.minion import VIP, A, Minion

pytestmark = pytest.mark.kernel

NOBODY = 65534
AS_NOBODY = (
    "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--bounding-set=-all,+dac_read_search",
    # Python itself may be installed where nobody may look.
    "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search", "--",
)  # fmt: skip
HIDE = """
for name in $2; do for directory in /usr/sbin /sbin /usr/bin; do
    test -e $directory/$name && mount --bind $1/nothing $directory/$name
done; done
PATH=$1; shift 2; exec "$@"
"""


@pytest.fixture
def place(minion: Minion) -> Iterator[Path]:
    """A directory that belongs to nobody (who may not enter the test's own)."""
    with TemporaryDirectory(prefix="svcnet-nobody-") as directory:
        os.chown(directory, NOBODY, NOBODY)
        yield Path(directory)


def test_without_root_it_says_what_is_missing(minion: Minion, place: Path) -> None:
    shutil.copytree(minion.records, place / "records")
    for mode in ("auto", "nftables"):
        daemon = minion.daemon(
            f"--mode={mode}", f"--state-dir={place}/state", f"--records=dir:{place}/records", wrap=AS_NOBODY
        )
        assert daemon.ended() == 5
        assert "CAP_NET_ADMIN" in daemon.log
        assert "root" in daemon.log
        assert "Traceback" not in daemon.log
        assert not (place / "state").exists()
        assert "--mode none" in daemon.log or mode == "nftables"


def test_without_root_mode_none_writes_env_files_and_is_ready(minion: Minion, place: Path) -> None:
    minion.put(service("web", VIP), endpoints("web", A))
    shutil.copytree(minion.records, place / "records")
    (place / "records").chmod(0o755)
    daemon = minion.daemon(
        "--mode=none", f"--state-dir={place}/state", f"--env-dir={place}/env", f"--records=dir:{place}/records",
        wrap=AS_NOBODY,
    ).ready()  # fmt: skip
    text = daemon.until(lambda: (f := place / "env/default.env").exists() and f.read_text())
    assert VIP in str(text)
    assert (place / "env/default.env").stat().st_uid == NOBODY
    report = daemon.status()
    assert (report["mode"], report["services"]) == ("none", 1)
    assert report["parts"]["data path"] == "off"
    assert minion.ask(VIP) == "silence"
    assert daemon.stop() == 0


def test_without_root_userspace_serves_high_ports_on_a_route_that_root_made(minion: Minion, place: Path) -> None:
    minion.put(
        service("web", VIP), service("high", "10.0.0.6", ports=[{"name": "tcp", "port": 8000, "targetPort": 8080}])
    )
    minion.put(endpoints("web", A, protocols=["TCP"]), endpoints("high", A, protocols=["TCP"]))
    shutil.copytree(minion.records, place / "records")
    (place / "records").chmod(0o755)
    options = ["--mode=userspace", "--service-cidr=10.0.0.0/16", f"--state-dir={place}/state", f"--env-dir={place}/env"]
    options.append(f"--records=dir:{place}/records")
    refused = minion.daemon(*options, wrap=AS_NOBODY)
    assert refused.ended() == 5
    said = next(line for line in refused.log.splitlines() if "ip route add" in line)
    command = said.partition("as root: ")[2].partition(";")[0]
    assert minion.run(*command.split()).returncode == 0, said
    minion.run("sysctl", "-qw", "net.ipv4.ip_unprivileged_port_start=1024")
    daemon = minion.daemon(*options, wrap=AS_NOBODY).ready()
    assert minion.inside(lambda: ask("10.0.0.6", port=8000, patience_seconds=LONG_SECONDS)) == A
    left = {item["what"]: item["reason"] for item in daemon.status()["left_out"]}
    assert "CAP_NET_BIND_SERVICE" in left[f"{VIP} tcp/80 (default/web tcp/80)"]
    assert daemon.stop() == 0


def test_a_state_directory_of_another_user_is_not_permitted(minion: Minion, place: Path) -> None:
    daemon = minion.daemon("--mode=none", "--state-dir=/proc/svcnet", wrap=AS_NOBODY)
    assert daemon.ended() in {1, 5}
    assert "--state-dir" in daemon.log
    (place / "theirs").mkdir(mode=0o700)
    daemon = minion.daemon("--mode=none", f"--state-dir={place}/theirs", wrap=AS_NOBODY)
    assert daemon.ended() == 5
    assert f"{place}/theirs" in daemon.log


def test_records_that_may_not_be_written_are_served_and_claims_are_missed(minion: Minion, place: Path) -> None:
    minion.put(service("web", VIP), endpoints("web", A), service("none"))
    shutil.copytree(minion.records, place / "records")
    daemon = minion.daemon(
        "--mode=none", f"--state-dir={place}/state", f"--env-dir={place}/env", f"--records=dir:{place}/records",
        wrap=AS_NOBODY,
    ).ready()  # fmt: skip
    left_out = daemon.until(lambda: daemon.status()["left_out"])
    assert any("none" in item["what"] for item in left_out), left_out
    text = daemon.until(lambda: (f := place / "env/default.env").exists() and f.read_text())
    assert "WEB_SERVICE_HOST" in str(text)
    assert "NONE_SERVICE_HOST" not in str(text)


def test_without_nft_it_says_how_to_install_it(minion: Minion) -> None:
    minion.put(service("web", VIP), endpoints("web", A))
    empty = minion.root / "empty"
    empty.mkdir()
    ip = shutil.which("ip")
    assert ip is not None
    (empty / "ip").symlink_to(ip)
    (empty / "nothing").touch()
    without_nft = ("unshare", "--mount", "sh", "-c", HIDE, "sh", str(empty), "nft")
    without_netfilter = (*without_nft[:-1], "nft xtables-legacy-multi xtables-nft-multi")
    daemon = minion.daemon("--mode=nftables", wrap=without_nft)
    assert daemon.ended() == 1
    assert "nft is missing" in daemon.log
    assert "apt install nftables" in daemon.log
    assert "Traceback" not in daemon.log
    assert not minion.state.exists()
    assert json.loads(minion.run("nft", "-j", "list", "ruleset").stdout)["nftables"][1:] == []
    auto = minion.daemon(wrap=without_netfilter).ready()
    assert minion.reaches(VIP, A)
    assert auto.status()["mode"] == "userspace"
    assert "nft is missing" in auto.status()["mode_reason"]
    assert "iptables" in auto.status()["mode_reason"]
    assert auto.stop() == 0
    none = minion.daemon("--mode=none", wrap=without_nft).ready()
    assert none.stop() == 0
