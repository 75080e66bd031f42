"""What a user may write in flags, variables and the file, and what is said about mistakes."""

import contextlib
import ipaddress
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svcnet import config
from svcnet.config import BY_NAME, OPTIONS, Config, load, load_with_sources
from svcnet.model.errors import ConfigError
from svcnet.option_kind import EVERYONE, Listen, Upstream


def no_file(path: Path) -> bytes:
    raise FileNotFoundError(2, "No such file or directory", str(path))


def file(text: str) -> Callable[[Path], bytes]:
    return lambda _path: text.encode()


def refused(
    flags: dict[str, str | bool | None] | None = None,
    environ: dict[str, str] | None = None,
    read_file: Callable[[Path], bytes] = no_file,
) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load(flags or {}, environ or {}, "m1", read_file)
    assert error.value.exit_code == 2
    return str(error.value).split("\n")


def test_without_anything_the_defaults_of_the_contract_hold() -> None:
    found = load({}, {}, "M1.example", no_file)
    assert found.records == "dir:/var/lib/svcnet/records"
    assert found.node == "m1.example"
    assert found.service_cidr == (ipaddress.ip_network("10.0.0.0/16"),)
    assert found.cluster_cidr == ()
    assert found.nodeport_addresses is None
    assert found.masquerade_bit == 14
    assert found.dns_listen == (Listen("127.0.0.1", 53),)
    assert found.dns_upstream is None
    assert found.dns_allow == EVERYONE
    assert found.zone == ("svc",)
    assert found.env_dir == Path("/run/svcnet/env")
    assert found.status_listen == Listen("127.0.0.1", 10256)
    assert not found.takeover
    assert not found.cleanup


def test_options_and_fields_are_the_same_in_the_same_order() -> None:
    assert tuple(Config.__dataclass_fields__) == tuple(option.name for option in OPTIONS)


def test_flags_beat_variables_beat_the_file_beats_defaults() -> None:
    text = 'mode = "iptables"\nzone = ["a", "b"]\ndns-workers = 3\nmasquerade_all = true\n'
    environ = {"SVCNET_MODE": "userspace", "SVCNET_DNS_WORKERS": "4"}
    found, sources = load_with_sources({"mode": "none", "zone": None}, environ, "m1", file(text))
    assert (found.mode, found.dns_workers, found.zone, found.masquerade_all) == ("none", 4, ("a", "b"), True)
    assert sources["mode"] == "--mode"
    assert sources["dns_workers"] == "SVCNET_DNS_WORKERS"
    assert sources["zone"] == "/etc/svcnet/svcnet.toml:2: zone"
    assert sources["records"] == "default"


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load({}, {"SVCNET_MODE": ""}, "m1", no_file).mode == "auto"


def test_a_flag_given_as_bool_is_taken() -> None:
    assert load({"takeover": True, "masquerade-all": False}, {}, "m1", no_file).takeover


def test_the_file_named_by_flag_or_variable_must_exist() -> None:
    assert refused({"config": "/x.toml"}) == ["/x.toml: can't be read: No such file or directory"]
    assert refused(environ={"SVCNET_CONFIG": "/y.toml"}) == ["/y.toml: can't be read: No such file or directory"]


def test_a_default_file_that_may_not_be_read_is_said() -> None:
    def forbidden(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    assert refused(read_file=forbidden) == ["/etc/svcnet/svcnet.toml: can't be read: Permission denied"]


def test_a_real_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "svcnet.toml"
    path.write_text('mode = "none"\n')
    assert load({"config": str(path)}, {}, "m1").mode == "none"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('\nservice-cdir = "10.0.0.0/16"\n', ":2: service-cdir: unknown key, did you mean service-cidr?"),
        ("[zone]\nx = 1\n", ":1: zone: wrong type table, expected DNS names separated by commas"),
        ("dns_workers = true\n", ":1: dns_workers: wrong type boolean, expected a whole number from 1 to 256"),
        ("dns_workers = 0\n", ":1: dns_workers: '0' is out of range, expected a whole number from 1 to 256"),
        ("node = 5\n", ":1: node: wrong type integer, expected letters, digits, dashes and dots"),
        ("zone = [1]\n", ":1: zone: wrong type array, expected DNS names separated by commas"),
        ("records = 1979-05-27\n", ":1: records: wrong type date, expected dir:PATH or "),
        ("\nx = \n", ":2: invalid value, expected TOML"),
        ('zone = "a"\n"zone" = "b"\n', ":2: cannot overwrite a value, expected TOML"),
        ('env-dir = "off"\nenv_dir = "off"\n', ":2: env_dir: is given twice"),
        ("cleanup = true\n", ":1: cleanup: can't stand in a file, expected as a flag"),
        ("takeover = true\n", ":1: takeover: can't stand in a file, expected as a flag"),
        ('config = "x"\n', ":1: config: can't stand in a file, expected as a flag"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_line(text: str, said: str) -> None:
    (problem,) = refused(read_file=file(text))
    assert problem.startswith("/etc/svcnet/svcnet.toml" + said)


def test_a_file_that_is_not_text_is_refused_with_the_place() -> None:
    assert refused(read_file=lambda _path: b"a = 1\n\xff") == ["/etc/svcnet/svcnet.toml:2: byte 6 is not UTF-8"]


def test_a_mistyped_variable_names_the_nearest() -> None:
    assert refused(environ={"SVCNET_SERVICE_CIDER": "10.0.0.0/16"}) == [
        "SVCNET_SERVICE_CIDER: unknown variable, did you mean SVCNET_SERVICE_CIDR?"
    ]


@pytest.mark.parametrize(
    "name",
    [
        "SVCNET_SERVICE_HOST",
        "SVCNET_SERVICE_PORT",
        "SVCNET_SERVICE_PORT_HTTP",
        "SVCNET_NODE_SERVICE_HOST",
        "SVCNET_PORT",
        "SVCNET_DNS_PORT_53_UDP_ADDR",
        "SVCNET_LAB_DIR",
        "SVCNET_SOMETHING_ELSE_ENTIRELY",
        "OTHER_MODE",
    ],
)
def test_variables_that_are_not_options_are_left_alone(name: str) -> None:
    load({}, {name: "x"}, "m1", no_file)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("service-cidr", "10.0.0.5/16", "'10.0.0.5/16' has host bits set (did you mean 10.0.0.0/16?)"),
        ("service-cidr", "10.0.0.0/16,10.1.0.0/16", "10.0.0.0/16 and 10.1.0.0/16 are both IPv4"),
        ("service-cidr", "10.0.0.0/16,", "has an empty element"),
        ("service-cidr", "none", "names no network"),
        ("service-cidr", "10.0.0.0/31", "10.0.0.0/31 has no room for a virtual IP"),
        ("service-cidr", "ten", "'ten' is no CIDR"),
        ("service-cidr", "", "is empty"),
        ("cluster-cidr", "10.0.0.0/33", "'10.0.0.0/33' is no CIDR"),
        ("status-listen", "127.0.0.1", "'127.0.0.1' has no port from 0 to 65535"),
        ("status-listen", "127.0.0.1:70000", "'127.0.0.1:70000' has no port from 0 to 65535"),
        ("status-listen", ":80", "'' is no IP address (did you mean 0.0.0.0:80?)"),
        ("dns-ttl", "3601", "'3601' is no number of seconds from 0 to 3600"),
        ("dns-ttl", "soon", "'soon' is no number of seconds from 0 to 3600"),
        ("dns-ttl", "svc=", "'' is no number of seconds from 0 to 3600"),
        ("dns-ttl", "=5", "'' is no DNS name"),
        ("dns-ttl", "svc=5,svc=6", "'svc=6' is a second one for the same zone"),
        ("dns-listen", "localhost:53", "'localhost' is no IP address"),
        ("dns-listen", "[::1:53", "'[::1:53' is no [ADDR]:PORT"),
        ("dns-listen", "127.0.0.1:", "'127.0.0.1:' has no port from 0 to 65535"),
        ("masquerade-bit", "32", "'32' is out of range"),
        ("masquerade-bit", "0x4000", "'0x4000' is out of range"),
        ("masquerade-all", "maybe", "'maybe' is neither true nor false"),
        ("mode", "ebpf", "'ebpf' is not known"),
        ("node", "a b", "'a b' is no name of a minion"),
        ("zone", "a..b", "'a..b' is no DNS name"),
        ("records", "/var/lib/x", "'/var/lib/x' names no store (did you mean dir:/var/lib/x?)"),
        ("records", "dir:", "'dir:' names no store"),
        ("records", "etcd://h:1", "'etcd://h:1' lacks a host or a prefix"),
        ("env-dir", "a\0b", "'a\\x00b' holds a zero byte"),
    ],
)
def test_a_bad_value_names_flag_or_variable_and_what_is_expected(name: str, text: str, said: str) -> None:
    option = BY_NAME[name.replace("-", "_")]
    assert refused({name: text}) == [f"--{name}: {said}, expected {option.kind.expected}"]
    if text:
        assert refused(environ={option.variable: text}) == [
            f"{option.variable}: {said}, expected {option.kind.expected}"
        ]


def test_all_mistakes_are_reported_at_once() -> None:
    assert len(refused({"mode": "x", "zone": "-"}, {"SVCNET_NODDE": "x"}, file("foo = 1\n"))) == 4


def test_half_of_a_client_certificate_is_refused() -> None:
    assert refused({"etcd-cert": "/c.pem"}) == [
        "--etcd-cert and --etcd-key: only one is given, expected both or neither"
    ]


def test_a_ttl_is_for_a_zone_that_there_is() -> None:
    assert refused({"dns-ttl": "5,corp=9"}) == ["--dns-ttl: 'corp' is no zone, expected one of svc, cluster.local"]
    assert load({"zone": "corp", "dns-ttl": "5,corp=9"}, {}, "m1", no_file).dns_ttl == (("", 5), ("corp", 9))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("dns_listen", "off", ()),
        ("dns_listen", "10.0.0.1, [::1]:5353,::1", (Listen("10.0.0.1", 53), Listen("::1", 5353), Listen("::1", 53))),
        ("dns_upstream", "off", ()),
        ("dns_upstream", "9.9.9.9,[::1]:54", (Upstream("9.9.9.9", 53), Upstream("::1", 54))),
        ("dns_upstream", "tls://9.9.9.9#Dns.Quad9.net", (Upstream("9.9.9.9", 853, True, "dns.quad9.net"),)),
        ("dns_upstream", "tls://[2620:fe::fe]:8853", (Upstream("2620:fe::fe", 8853, True),)),
        ("dns_private", "all", ("",)),
        ("dns_private", "none", ()),
        ("dns_private", "Corp.Example.,lan", ("corp.example", "lan")),
        ("dns_notify", "10.0.0.9:54", (Listen("10.0.0.9", 54),)),
        ("dns_ttl", "5", (("", 5),)),
        ("dns_ttl", "30, svc=0,Cluster.Local.=3600", (("", 30), ("svc", 0), ("cluster.local", 3600))),
        ("dns_ttl", "svc=1", (("svc", 1),)),
        ("env_dir", "off", None),
        ("zone", "Svc.,corp", ("svc", "corp")),
        ("external_ips", "192.0.2.1", (ipaddress.ip_network("192.0.2.1/32"),)),
        ("endpoint_deny", "none", ()),
        ("nodeport_addresses", "10.0.0.0/8", (ipaddress.ip_network("10.0.0.0/8"),)),
        ("records", "etcd://a:1,b:2/p", "etcd://a:1,b:2/p"),
        ("masquerade_all", "on", True),
    ],
)
def test_values_are_parsed(name: str, text: str, value: object) -> None:
    assert getattr(load({name: text}, {}, "m1", no_file), name) == value


def test_what_is_shown_reads_back_to_the_same_configuration() -> None:
    first = load(
        {"dns_listen": "off", "zone": "a,b", "env_dir": "off", "etcd_user": "u", "dns_ttl": "7,b=0"}, {}, "m1", no_file
    )
    shown = {option.name: config.show(option, first) or None for option in OPTIONS}
    assert load(dict(shown), {}, "other", no_file) == first


@given(
    host=st.ip_addresses(),
    port=st.integers(0, 65535),
)
def test_any_address_and_port_reads_back(host: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> None:
    listen = Listen(str(host), port)
    assert load({"status_listen": str(listen)}, {}, "m1", no_file).status_listen == listen


@given(st.binary(max_size=200))
def test_no_file_content_raises_anything_else(data: bytes) -> None:
    with contextlib.suppress(ConfigError):
        load({}, {}, "m1", lambda _path: data)
