"""Settings and counters as /proc shows them, read for doctor."""

from pathlib import Path

from svcnet.cli import machine


def put(root: Path, name: str, text: str, mode: int = 0o644) -> None:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(mode)


def test_settings_are_named_by_their_paths_and_those_that_nobody_may_write_are_told(tmp_path: Path) -> None:
    put(tmp_path, "sys/net/ipv4/ip_forward", "1\n")
    put(tmp_path, "sys/net/ipv4/conf/eth0.5/rp_filter", "2\n")
    put(tmp_path, "sys/net/netfilter/nf_conntrack_max", "262144\n", 0o444)
    put(tmp_path, "sys/net/ipv4/tcp_sack", "1\n")
    assert machine.settings(tmp_path) == {
        "settings": {
            "net/ipv4/ip_forward": "1",
            "net/ipv4/conf/eth0.5/rp_filter": "2",
            "net/netfilter/nf_conntrack_max": "262144",
        },
        "fixed": frozenset({"net/netfilter/nf_conntrack_max"}),
    }


def test_counters_are_the_sums_of_all_processors(tmp_path: Path) -> None:
    put(
        tmp_path,
        "thread-self/net/stat/nf_conntrack",
        "entries  insert_failed drop\n0000000a 00000001 00000010\n0000000a 00000002 00000000\n",
    )
    put(
        tmp_path, "thread-self/net/netstat", "TcpExt: ArpFilter IPReversePathFilter\nTcpExt: 1 7\nIpExt: In\nIpExt: 3\n"
    )
    assert machine.counters(tmp_path) == {"reverse_path_drops": 7, "table_drops": 16, "insert_failures": 3}


def test_a_kernel_without_them_has_none(tmp_path: Path) -> None:
    assert machine.settings(tmp_path) == {"settings": {}, "fixed": frozenset()}
    assert machine.counters(tmp_path) == {"reverse_path_drops": 0, "table_drops": 0, "insert_failures": 0}
