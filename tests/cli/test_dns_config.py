"""`svcnet dns-config`: its lines, its file, and what it refuses; dnspython reads it as a resolver would."""

from pathlib import Path
from typing import TYPE_CHECKING

import dns.resolver
import pytest

from svcnet.cli import dns_config

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

BEFORE = "nameserver 192.0.2.1\nsearch corp.example\n"


@pytest.mark.parametrize(
    ("arguments", "servers", "search", "ndots"),
    [
        ([], ["127.0.0.1"], ["svc."], 1),
        (["--dns-listen", "0.0.0.0:53,127.0.0.1:53,[::]:53"], ["127.0.0.1", "::1"], ["svc."], 1),
        (["--dns-listen", "10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4"], ["10.0.0.1", "10.0.0.2", "10.0.0.3"], ["svc."], 1),
        (["--zone", "corp,x.example"], ["127.0.0.1"], ["corp.", "x.example."], 1),
        (
            ["--search", "Corp.Example.,b.test", "--search", "svc"],
            ["127.0.0.1"],
            ["svc.", "corp.example.", "b.test."],
            1,
        ),
        (
            ["-n", "shop", "--dns-listen", "127.0.0.1,10.1.1.1,[fd00::1]:53,0.0.0.0"],
            ["10.1.1.1", "fd00::1"],
            ["shop.svc.cluster.local.", "svc.cluster.local.", "cluster.local."],
            2,
        ),
        (
            [
                "-n",
                "shop",
                "--server",
                "10.1.1.1",
                "--server",
                "10.1.1.1",
                "--ndots",
                "5",
                "--cluster-domain",
                "k8s.test",
            ],
            ["10.1.1.1"],
            ["shop.svc.k8s.test.", "svc.k8s.test.", "k8s.test."],
            5,
        ),
        (["--server", "fe80::1%lo", "--ndots", "0"], ["fe80::1%lo"], ["svc."], 0),
    ],
)
def test_a_host_and_a_pod_get_the_lines_that_lead_here(
    cli: "Cli", tmp_path: Path, arguments: list[str], servers: list[str], search: list[str], ndots: int
) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n")
    printed = cli("dns-config", *arguments).stdout
    assert cli("dns-config", *arguments, "--write", str(path)).stdout == ""
    assert path.read_text() == printed
    assert path.stat().st_mode & 0o777 == 0o644
    assert sorted(one.name for one in tmp_path.iterdir() if "resolv" in one.name) == [
        "resolv.conf",
        "resolv.conf.before-svcnet",
    ]
    resolver = dns.resolver.Resolver(str(path))
    assert resolver.nameservers == servers
    assert [str(one) for one in resolver.search] == search
    assert resolver.ndots == ndots


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--dns-listen", "off"], 2, "expected an address with port 53"),
        (["--dns-listen", "127.0.0.1:5353"], 2, "127.0.0.1:5353"),
        (["-n", "shop"], 2, "--dns-listen is 127.0.0.1:53, expected an address that a pod reaches, on port 53, or"),
        (["-n", "shop", "--dns-listen", "0.0.0.0,[::]:53,[::1]:53"], 2, "that a pod reaches"),
        (["-n", "a b", "--server", "10.1.1.1"], 2, "expected the name of a namespace"),
        (["-n", "a\nnameserver 192.0.2.1", "--server", "10.1.1.1"], 2, "expected the name of a namespace"),
        (["-n", "a,b", "--server", "10.1.1.1"], 2, "expected the name of a namespace"),
        (["-n", "", "--server", "10.1.1.1"], 2, "expected the name of a namespace"),
        (["--server", "here"], 2, "expected an IP address"),
        (["--server", "10.1.1.1:53"], 2, "expected an IP address"),
        (["--server", "0.0.0.0"], 2, "expected an address that somebody has"),
        (["--server", "::1", "--server", "::2", "--server", "::3", "--server", "::4"], 2, "at most 3"),
        (["--search", "a b"], 2, "expected a DNS name"),
        (["--ndots", "16"], 2, "0<=x<=15"),
        (["--write", "records/none/resolv.conf"], 1, "records/none/resolv.conf: No such file or directory"),
        (["--write", "records"], 1, "records: Is a directory"),
        (["--restore", "records/resolv.conf"], 1, "nothing to put back"),
        (["--restore", "x", "--write", "x"], 2, "expected one of them"),
    ],
)
def test_what_no_resolver_could_use_is_refused(cli: "Cli", arguments: list[str], code: int, said: str) -> None:
    result = cli("dns-config", *arguments)
    assert result.returncode == code
    assert said in result.stderr
    assert result.stdout == ""


def test_a_file_is_put_back_as_it_was(cli: "Cli", tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(BEFORE)
    path.chmod(0o640)
    for arguments in ([], ["--ndots", "3"], ["--ndots", "3"]):
        assert cli("dns-config", *arguments, "--write", str(path)).returncode == 0
    assert "ndots:3" in path.read_text()
    assert cli("dns-config", "--restore", str(path)).returncode == 0
    assert path.read_text() == BEFORE
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(one.name for one in tmp_path.iterdir() if "resolv" in one.name) == ["resolv.conf"]
    assert cli("dns-config", "--restore", str(path)).returncode == 1


def test_a_link_of_systemd_resolved_is_replaced_not_followed_and_comes_back(cli: "Cli", tmp_path: Path) -> None:
    stub = tmp_path / "stub-resolv.conf"
    stub.write_text("nameserver 127.0.0.53\n")
    path = tmp_path / "resolv.conf"
    path.symlink_to(stub.name)
    assert cli("dns-config", "--write", str(path)).returncode == 0
    assert not path.is_symlink()
    assert stub.read_text() == "nameserver 127.0.0.53\n"
    assert cli("dns-config", "--restore", str(path)).returncode == 0
    assert path.readlink() == Path(stub.name)
    stub.unlink()  # a link that leads nowhere is one too
    assert cli("dns-config", "--write", str(path)).returncode == 0
    assert cli("dns-config", "--restore", str(path)).returncode == 0
    assert path.is_symlink()


def test_the_same_again_touches_nothing(cli: "Cli", tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    assert cli("dns-config", "--write", str(path)).returncode == 0
    first = path.stat()
    assert cli("dns-config", "--write", str(path)).returncode == 0
    assert path.stat().st_ino == first.st_ino
    assert [one.name for one in tmp_path.iterdir() if "resolv" in one.name] == ["resolv.conf"]


def test_what_somebody_else_wrote_meanwhile_is_kept(cli: "Cli", tmp_path: Path) -> None:
    """A DHCP client takes the file back: that is the one to return to, and no restore overwrites it."""
    path = tmp_path / "resolv.conf"
    path.write_text(BEFORE)
    assert cli("dns-config", "--write", str(path)).returncode == 0
    path.write_text("nameserver 192.0.2.9\n")
    refused = cli("dns-config", "--restore", str(path))
    assert (refused.returncode, path.read_text()) == (1, "nameserver 192.0.2.9\n")
    assert "somebody else wrote it since" in refused.stderr
    assert cli("dns-config", "--write", str(path)).returncode == 0
    assert cli("dns-config", "--restore", str(path)).returncode == 0
    assert path.read_text() == "nameserver 192.0.2.9\n"


def test_the_file_that_the_daemon_itself_reads_is_written_only_when_it_need_not(
    cli: "Cli", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\nnameserver 127.0.0.1\nnameserver 2001:db8::1\n")
    monkeypatch.setattr(dns_config, "RESOLV_CONF", path)
    monkeypatch.chdir(tmp_path)
    for name in (str(path), "resolv.conf", "../" + tmp_path.name + "/resolv.conf"):
        refused = cli("dns-config", "--write", name)
        assert refused.returncode == 2
        assert "expected --dns-upstream 192.0.2.1,2001:db8::1 (or off) first" in refused.stderr
    assert path.read_text().startswith("nameserver 192.0.2.1")
    assert cli("dns-config", "--dns-upstream", "192.0.2.1", "--write", str(path)).returncode == 0
    assert path.read_text().startswith("# by svcnet")
