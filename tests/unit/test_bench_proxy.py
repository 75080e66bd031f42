"""What the suite `proxy` says of what it measured, and what it tells the others."""

from pathlib import Path

from svcnet.bench.far import ECHO, SHORT
from svcnet.bench.proxies import DEAD, haproxy_config, nginx_config, rules
from svcnet.bench.proxy import FIGURES, Measured, table
from svcnet.model.terms import USUAL

ONE = Measured(rate=1000, cpu=1e-5, p50=0.001, p99=0.002, highest=0.003, failures=0)


def test_ratios_are_those_of_the_same_round() -> None:
    rounds = {
        "svcnet": [ONE._replace(rate=500), ONE._replace(rate=900)],
        "haproxy": [ONE, ONE._replace(rate=600)],
    }
    lines = list(table(FIGURES["conn"], rounds))
    assert "1.00 (0.50-1.50)" in lines[2]
    assert any("p99 of svcnet to haproxy: 1.00" in line for line in lines)


def test_what_can_not_be_measured_has_no_column() -> None:
    assert not [line for line in table(FIGURES["udp"], {"svcnet": [ONE], "nginx": [ONE]}) if "haproxy" in line]


def test_bulk_is_in_gigabits_and_its_cost_in_seconds_a_gibibyte() -> None:
    lines = list(table(FIGURES["down1"], {"svcnet": [ONE._replace(rate=1.25e9, cpu=1 / (1 << 30))]}))
    assert lines[2].split()[:3] == ["svcnet", "10.0", "1.000"]


def test_the_full_set_has_every_term_that_leaves_bytes_alone() -> None:
    other = {"send_proxy", "accept_proxy", "userspace", "eject"}
    full = {rule.service.terms for rule in rules("127.1.0.1", full=True).values()}
    assert {name for terms in full for name in terms._fields if getattr(terms, name) == getattr(USUAL, name)} == other


def test_a_dead_endpoint_is_beside_a_living_one_everywhere() -> None:
    haproxy = haproxy_config("127.1.0.2", ["splice-request"])
    assert f"bind 127.1.0.2:{DEAD}" in haproxy
    assert "option splice-request" in haproxy
    nginx = nginx_config("127.1.0.3", Path("/tmp"), None)
    assert f"upstream p{DEAD} {{ server 127.0.0.1:9; server 127.0.0.1:{SHORT}; }}" in nginx
    assert f"listen 127.1.0.3:{ECHO} backlog=4096" in nginx
