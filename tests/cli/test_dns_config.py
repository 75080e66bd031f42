"""`svcnet dns-config`: its lines, its file, and what it refuses; dnspython reads it as a resolver would."""

from pathlib import Path
from typing import TYPE_CHECKING

import dns.resolver
import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Cli


@pytest.mark.parametrize(
    ("arguments", "servers", "search", "ndots"),
    [
        ([], ["127.0.0.1"], ["svc."], 1),
        (["--dns-listen", "0.0.0.0:53,127.0.0.1:53,[::]:53"], ["127.0.0.1", "::1"], ["svc."], 1),
        (["--zone", "corp,x.example"], ["127.0.0.1"], ["corp.", "x.example."], 1),
        (["-n", "shop"], ["127.0.0.1"], ["shop.svc.cluster.local.", "svc.cluster.local.", "cluster.local."], 2),
        (
            ["-n", "shop", "--server", "10.1.1.1", "--ndots", "5", "--cluster-domain", "k8s.test"],
            ["10.1.1.1"],
            ["shop.svc.k8s.test.", "svc.k8s.test.", "k8s.test."],
            5,
        ),
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
    assert [one.name for one in tmp_path.iterdir() if "resolv" in one.name] == ["resolv.conf"]
    resolver = dns.resolver.Resolver(str(path))
    assert resolver.nameservers == servers
    assert [str(one) for one in resolver.search] == search
    assert resolver.ndots == ndots


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--dns-listen", "off"], 2, "expected an address with port 53"),
        (["--dns-listen", "127.0.0.1:5353"], 2, "127.0.0.1:5353"),
        (["--server", "here"], 2, "expected an IP address"),
        (["--server", "::1", "--server", "::2", "--server", "::3", "--server", "::4"], 2, "at most 3"),
        (["--write", "records/none/resolv.conf"], 1, "records/none/resolv.conf: No such file or directory"),
    ],
)
def test_what_no_resolver_could_use_is_refused(cli: "Cli", arguments: list[str], code: int, said: str) -> None:
    result = cli("dns-config", *arguments)
    assert result.returncode == code
    assert said in result.stderr
