"""What names lead to, read by dnspython."""

import dns.flags
import dns.message
import dns.reversename
import pytest

from svcnet.dns.zone import Shape
from svcnet.feed import Whole
from svcnet.model.snapshot import Endpoint
from tests.dns.world import Asked, external, gone, headless, lines, namespace, pod, virtual

TOMCAT = virtual("tomcat", "10.0.0.5", "fd00:10::5")
WEB = virtual("web", "10.0.0.6", namespace="shop")
DB = headless("db", Endpoint("10.1.1.2", 5432, hostname="db-0"), Endpoint("10.1.2.2", 5432))


@pytest.mark.parametrize("name", ["tomcat.svc.", "tomcat.default.svc.", "tomcat.default.svc.cluster.local."])
def test_a_service_has_its_address_under_every_name(name: str) -> None:
    asked = Asked(TOMCAT, WEB)
    assert asked.text(name) == [f"{name} 5 IN A 10.0.0.5"]
    assert asked.text(name, "AAAA") == [f"{name} 5 IN AAAA fd00:10::5"]


def test_answers_are_authoritative_and_keep_the_spelling_of_the_question() -> None:
    message = Asked(TOMCAT).ask("ToMcAt.SvC.")
    assert message.flags & dns.flags.AA
    assert str(message.question[0].name) == "ToMcAt.SvC."
    assert lines(message.answer) == ["ToMcAt.SvC. 5 IN A 10.0.0.5"]


def test_only_the_default_namespace_has_short_names() -> None:
    asked = Asked(TOMCAT, WEB)
    assert asked.text("web.shop.svc.") == ["web.shop.svc. 5 IN A 10.0.0.6"]
    assert asked.text("web.svc.") == ["NXDOMAIN", "svc."]


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("nothing.svc.", "A", ["NXDOMAIN", "svc."]),
        ("nothing.default.svc.cluster.local.", "A", ["NXDOMAIN", "cluster.local."]),
        ("web.shop.svc.", "AAAA", ["NOERROR", "svc."]),
        ("shop.svc.", "A", ["NOERROR", "svc."]),
        ("_tcp.tomcat.svc.", "SRV", ["NOERROR", "svc."]),
        ("svc.", "A", ["NOERROR", "svc."]),
        ("svc.cluster.local.", "A", ["NOERROR", "cluster.local."]),
        ("cluster.local.", "A", ["NOERROR", "cluster.local."]),
        ("dns.cluster.local.", "A", ["NOERROR", "cluster.local."]),
        ("x.tomcat.svc.", "A", ["NXDOMAIN", "svc."]),
        ("tomcat.svc.", "TYPE65", ["NOERROR", "svc."]),
    ],
)
def test_what_is_not_there_and_what_has_no_such_record_are_told_apart(
    name: str, kind: str, expected: list[str]
) -> None:
    assert Asked(TOMCAT, WEB).text(name, kind) == expected


@pytest.mark.parametrize("kind", ["A", "SRV", "ANY"])
def test_a_service_without_address_exists(kind: str) -> None:
    asked = Asked(virtual("waits"))
    assert asked.text("waits.svc.", kind) == ["NOERROR", "svc."]
    asked.change(gone("waits"))
    assert asked.text("waits.svc.", kind) == ["NXDOMAIN", "svc."]


def test_a_negative_answer_with_edns_tells_the_serial_of_now_too() -> None:
    asked = Asked(TOMCAT)
    for serial in (7, 8):
        (soa,) = asked.ask("nothing.svc.", payload=1232).authority
        assert int(soa[0].serial) == serial
        asked.change(virtual(f"new{serial}", "10.0.0.77"))


def test_a_payload_below_512_bytes_counts_as_512() -> None:
    """RFC 6891 §6.2.5."""
    asked = Asked(TOMCAT)
    message = asked.ask("tomcat.svc.", payload=1)
    assert lines(message.answer) == ["tomcat.svc. 5 IN A 10.0.0.5"]
    assert not message.flags & dns.flags.TC


def test_whether_recursion_is_desired_goes_back_as_it_came() -> None:
    asked = Asked(TOMCAT)
    for flags in (0, dns.flags.RD):
        reply = asked.responder.respond(dns.message.make_query("tomcat.svc.", "A", flags=flags).to_wire(), False)
        assert isinstance(reply, bytes)
        assert dns.message.from_wire(reply).flags & dns.flags.RD == flags


def test_the_name_of_a_headless_service_without_endpoints_is_nobody_elses() -> None:
    """An endpoint `db` of the service `shop` would answer to it, were there no service `db` in a namespace `shop`."""
    asked = Asked(headless("shop", Endpoint("10.1.1.9", 80, hostname="db")))
    assert asked.text("db.shop.svc.") == ["db.shop.svc. 5 IN A 10.1.1.9"]
    asked.change(headless("db", namespace="shop"))
    assert asked.text("db.shop.svc.") == ["NXDOMAIN", "svc."]
    asked.change(headless("db", Endpoint("10.1.1.7", 80), namespace="shop"))
    assert asked.text("db.shop.svc.") == ["db.shop.svc. 5 IN A 10.1.1.7"]
    asked.change(headless("db", namespace="shop"))
    assert asked.text("db.shop.svc.") == ["NXDOMAIN", "svc."]
    asked.change(gone("db", namespace="shop"))
    assert asked.text("db.shop.svc.") == ["db.shop.svc. 5 IN A 10.1.1.9"]


def test_a_namespace_with_the_name_of_a_headless_service_without_endpoints_exists() -> None:
    asked = Asked(headless("shop"), census=(namespace("shop"),))
    assert asked.text("shop.svc.") == ["NOERROR", "svc."]
    assert asked.text("shop.default.svc.") == ["NXDOMAIN", "svc."]


@pytest.mark.parametrize("name", ["empty.svc.", "empty.svc.cluster.local.", "empty.pod.cluster.local."])
def test_a_namespace_without_services_exists(name: str) -> None:
    asked = Asked(TOMCAT, census=(namespace("empty"),))
    apex = "svc." if name == "empty.svc." else "cluster.local."
    assert asked.text(name) == ["NOERROR", apex]
    assert asked.text(f"x.{name}") == ["NXDOMAIN", apex]
    asked.change(census=(namespace("empty", there=False),))
    assert asked.text(name) == ["NXDOMAIN", apex]


def test_a_service_comes_before_a_namespace_that_has_a_record() -> None:
    asked = Asked(virtual("shop", "10.0.0.9"), census=(namespace("shop"),))
    assert asked.text("shop.svc.") == ["shop.svc. 5 IN A 10.0.0.9"]
    asked.change(gone("shop"))
    assert asked.text("shop.svc.") == ["NOERROR", "svc."]


def test_a_pod_has_a_name_while_it_has_the_address_in_its_own_namespace_alone() -> None:
    asked = Asked(TOMCAT, census=(namespace("shop"), pod("10.1.1.2"), pod("fd00::2"), pod("10.1.1.3", "shop")))
    name = "10-1-1-2.default.pod.cluster.local."
    assert asked.text(name) == [f"{name} 5 IN A 10.1.1.2"]
    assert asked.text(name, "AAAA") == ["NOERROR", "cluster.local."]
    six = "fd00--2.default.pod.cluster.local."
    assert asked.text(six, "AAAA") == [f"{six} 5 IN AAAA fd00::2"]
    assert asked.text("10-1-1-2.shop.pod.cluster.local.") == ["NXDOMAIN", "cluster.local."]
    assert asked.text("10-1-1-9.default.pod.cluster.local.") == ["NXDOMAIN", "cluster.local."]
    assert asked.text("pod.cluster.local.") == ["NOERROR", "cluster.local."]
    asked.change(census=(pod("10.1.1.2", there=False),))
    assert asked.text(name) == ["NXDOMAIN", "cluster.local."]
    asked.responder.take(Whole(20, (), census=(pod("10.1.1.2"),)))
    assert asked.text(name) == [f"{name} 5 IN A 10.1.1.2"]
    assert asked.text("10-1-1-3.shop.pod.cluster.local.") == ["NXDOMAIN", "cluster.local."]


def test_a_service_comes_before_an_endpoint_of_the_same_short_name() -> None:
    asked = Asked(headless("shop", Endpoint("10.1.1.9", 80, hostname="web")))
    assert asked.text("web.shop.svc.") == ["web.shop.svc. 5 IN A 10.1.1.9"]
    asked.change(WEB)
    assert asked.text("web.shop.svc.") == ["web.shop.svc. 5 IN A 10.0.0.6"]
    asked.change(gone("web", "shop"))
    assert asked.text("web.shop.svc.") == ["web.shop.svc. 5 IN A 10.1.1.9"]


def test_a_service_comes_before_a_namespace_of_its_name() -> None:
    asked = Asked(WEB, virtual("shop", "10.0.0.9"))
    assert asked.text("shop.svc.") == ["shop.svc. 5 IN A 10.0.0.9"]


def test_srv_of_a_virtual_ip_has_its_port_and_glue() -> None:
    message = Asked(TOMCAT).ask("_http._tcp.tomcat.svc.", "SRV")
    assert lines(message.answer) == ["_http._tcp.tomcat.svc. 5 IN SRV 0 100 8080 tomcat.default.svc.cluster.local."]
    assert lines(message.additional) == [
        "tomcat.default.svc.cluster.local. 5 IN A 10.0.0.5",
        "tomcat.default.svc.cluster.local. 5 IN AAAA fd00:10::5",
    ]


@pytest.mark.parametrize("zone", ["svc.", "default.svc.", "default.svc.cluster.local."])
def test_targets_are_spelled_as_the_specification_has_them_whatever_zone_was_asked(zone: str) -> None:
    asked = Asked(TOMCAT, DB)
    for name in ("tomcat", "db"):
        targets = {line.split()[-1] for line in asked.text(f"_http._tcp.{name}.{zone}", "SRV")}
        addresses = {line.split()[-1] for line in asked.text(f"{name}.{zone}")}
        back = {dns.reversename.from_address(address).to_text() for address in addresses}
        assert targets == {line.split()[-1] for one in back for line in asked.text(one, "PTR")}
        assert all(target.endswith(f"{name}.default.svc.cluster.local.") for target in targets)


def test_a_headless_service_leads_to_its_endpoints() -> None:
    asked = Asked(DB)
    assert asked.text("db.svc.") == ["db.svc. 5 IN A 10.1.1.2", "db.svc. 5 IN A 10.1.2.2"]
    assert asked.text("db-0.db.svc.") == ["db-0.db.svc. 5 IN A 10.1.1.2"]
    assert asked.text("10-1-2-2.db.default.svc.cluster.local.") == [
        "10-1-2-2.db.default.svc.cluster.local. 5 IN A 10.1.2.2"
    ]
    assert asked.text("_http._tcp.db.default.svc.", "SRV") == [
        "_http._tcp.db.default.svc. 5 IN SRV 0 1 5432 10-1-2-2.db.default.svc.cluster.local.",
        "_http._tcp.db.default.svc. 5 IN SRV 0 1 5432 db-0.db.default.svc.cluster.local.",
    ]


def test_several_addresses_come_in_turn() -> None:
    asked = Asked(DB)
    given = [lines(asked.once("db.svc.").answer) for _ in range(4)]
    one, other = given[0], given[1]
    assert one == other[::-1]
    assert given == [one, other, one, other]


def test_an_endpoint_of_weight_0_has_a_name_and_no_new_connections() -> None:
    asked = Asked(headless("db", Endpoint("10.1.1.2", 80), Endpoint("10.1.1.3", 80, weight=0)))
    assert asked.text("db.svc.") == ["db.svc. 5 IN A 10.1.1.2"]
    assert asked.text("10-1-1-3.db.svc.") == ["10-1-1-3.db.svc. 5 IN A 10.1.1.3"]


def test_addresses_lead_back_to_names() -> None:
    asked = Asked(TOMCAT, DB, virtual("other", "192.0.2.1"))
    assert asked.text("5.0.0.10.in-addr.arpa.", "PTR") == [
        "5.0.0.10.in-addr.arpa. 5 IN PTR tomcat.default.svc.cluster.local."
    ]
    assert asked.text("2.1.1.10.in-addr.arpa.", "PTR") == [
        "2.1.1.10.in-addr.arpa. 5 IN PTR db-0.db.default.svc.cluster.local."
    ]
    six = f"5.{'0.' * 23}0.1.0.0.0.d.f.ip6.arpa."
    six = "5.0.0.0." + "0.0.0.0." * 5 + "0.1.0.0." + "0.0.d.f." + "ip6.arpa."
    assert asked.text(six, "PTR") == [f"{six} 5 IN PTR tomcat.default.svc.cluster.local."]


def test_an_unused_address_of_ours_has_no_name_and_is_not_asked_elsewhere() -> None:
    asked = Asked(TOMCAT, recursion=True)
    assert asked.text("77.0.0.10.in-addr.arpa.", "PTR") == ["NXDOMAIN", "0.10.in-addr.arpa."]
    assert asked.text("0.0.10.in-addr.arpa.", "PTR") == ["NOERROR", "0.10.in-addr.arpa."]
    assert asked.forwards("1.2.0.192.in-addr.arpa.", "PTR").alias == b""


def test_two_services_that_share_an_endpoint_are_both_its_names() -> None:
    asked = Asked(headless("a", Endpoint("10.1.1.2", 80)), headless("b", Endpoint("10.1.1.2", 80)))
    name = "2.1.1.10.in-addr.arpa."
    assert asked.text(name, "PTR") == [
        f"{name} 5 IN PTR 10-1-1-2.{service}.default.svc.cluster.local." for service in ("a", "b")
    ]
    asked.change(gone("a"))
    assert asked.text(name, "PTR") == [f"{name} 5 IN PTR 10-1-1-2.b.default.svc.cluster.local."]


def test_the_apex_has_soa_and_ns_whose_names_resolve() -> None:
    asked = Asked(TOMCAT)
    for apex in ("svc.", "cluster.local.", "0.10.in-addr.arpa."):
        assert asked.text(apex, "NS") == [f"{apex} 5 IN NS ns.dns.cluster.local."]
        (soa,) = asked.text(apex, "SOA")
        assert soa.split()[4:7] == ["ns.dns.cluster.local.", "hostmaster.cluster.local.", "7"]
    assert asked.text("ns.dns.cluster.local.") == ["ns.dns.cluster.local. 5 IN A 127.0.0.1"]
    assert asked.text("dns-version.cluster.local.", "TXT") == ['dns-version.cluster.local. 5 IN TXT "1.1.0"']


def test_the_serial_rises_with_every_change_and_negative_answers_tell_it() -> None:
    asked = Asked(TOMCAT, rev=(1 << 32) - 1)

    def serial(name: str, kind: str) -> int:
        message = asked.ask(name, kind)
        return int((message.answer or message.authority)[0][0].serial)

    assert serial("svc.", "SOA") == serial("nothing.svc.", "A") == (1 << 32) - 1
    asked.change(WEB)
    assert serial("svc.", "SOA") == serial("nothing.svc.", "A") == 0
    asked.rev -= 1
    asked.change(DB)
    assert serial("svc.", "SOA") == 1


def test_a_change_reaches_every_answer_that_was_ready() -> None:
    asked = Asked(TOMCAT, virtual("web", "10.0.0.8"))
    srv = asked.ask("_http._tcp.tomcat.svc.", "SRV")
    assert lines(srv.additional)[0].endswith("10.0.0.5")
    asked.text("tomcat.svc.")
    asked.text("later.svc.")
    asked.change(virtual("tomcat", "10.0.0.55"), virtual("later", "10.0.0.7"))
    assert asked.text("tomcat.svc.") == ["tomcat.svc. 5 IN A 10.0.0.55"]
    assert lines(asked.ask("_http._tcp.tomcat.svc.", "SRV").additional)[0].endswith("10.0.0.55")
    assert asked.text("later.svc.") == ["later.svc. 5 IN A 10.0.0.7"]
    asked.change(gone("tomcat"))
    assert asked.text("tomcat.svc.") == ["NXDOMAIN", "svc."]
    assert asked.text("5.0.0.10.in-addr.arpa.", "PTR") == ["NXDOMAIN", "0.10.in-addr.arpa."]
    assert asked.text("web.svc.") == ["web.svc. 5 IN A 10.0.0.8"]


def test_a_whole_removes_what_it_lacks() -> None:
    asked = Asked(TOMCAT, WEB)
    asked.change(DB)
    asked.responder.take(Whole(20, (TOMCAT,), last=False))
    assert asked.text("web.shop.svc.") == ["web.shop.svc. 5 IN A 10.0.0.6"]
    asked.responder.take(Whole(20, (virtual("new", "10.0.0.9"),), last=True))
    assert asked.text("web.shop.svc.") == ["NXDOMAIN", "svc."]
    assert asked.text("db.svc.") == ["NXDOMAIN", "svc."]
    assert asked.text("tomcat.svc.") == ["tomcat.svc. 5 IN A 10.0.0.5"]
    assert asked.text("new.svc.") == ["new.svc. 5 IN A 10.0.0.9"]


def test_before_the_first_records_the_server_fails_rather_than_denies() -> None:
    asked = Asked()
    assert asked.text("tomcat.svc.") == ["SERVFAIL"]
    assert asked.text("5.0.0.10.in-addr.arpa.", "PTR") == ["SERVFAIL"]
    asked.change(TOMCAT)
    assert asked.text("tomcat.svc.") == ["SERVFAIL"]


def test_any_is_answered_with_one_record_that_says_no() -> None:
    asked = Asked(TOMCAT)
    assert asked.text("tomcat.svc.", "ANY") == ['tomcat.svc. 5 IN HINFO "RFC8482" ""']
    assert asked.text("nothing.svc.", "ANY") == ["NXDOMAIN", "svc."]


def test_an_alias_inside_is_followed() -> None:
    asked = Asked(TOMCAT, external("java", "tomcat.default.svc"), external("lost", "nowhere.svc."))
    assert asked.text("java.svc.") == [
        "java.svc. 5 IN CNAME tomcat.default.svc.",
        "tomcat.default.svc. 5 IN A 10.0.0.5",
    ]
    assert asked.text("java.svc.", "CNAME") == ["java.svc. 5 IN CNAME tomcat.default.svc."]
    lost = asked.ask("lost.svc.")
    assert lines(lost.answer) == ["lost.svc. 5 IN CNAME nowhere.svc."]
    assert (lost.rcode().name, len(lost.authority)) == ("NXDOMAIN", 1)
    asked.change(virtual("nowhere", "10.0.0.77"))
    assert asked.text("lost.svc.")[1] == "nowhere.svc. 5 IN A 10.0.0.77"


@pytest.mark.parametrize("target", ["a.svc", "b.svc", "a.default.svc.cluster.local", "b.svc.cluster.local"])
def test_aliases_in_a_circle_are_an_error(target: str) -> None:
    asked = Asked(external("a", target), external("b", "a.svc"))
    assert asked.text("a.svc.") == ["SERVFAIL"]
    assert [line.split()[-1] for line in asked.text("a.svc.", "CNAME")] == [f"{target}."]
    asked.change(external("a", "tomcat.svc"), TOMCAT)
    assert asked.text("b.svc.")[-1] == "tomcat.svc. 5 IN A 10.0.0.5"


def test_a_row_of_aliases_that_is_too_long_is_an_error() -> None:
    row = [external(f"a{number}", f"a{number + 1}.svc") for number in range(9)]
    asked = Asked(*row, TOMCAT)
    assert asked.text("a0.svc.") == ["SERVFAIL"]
    assert asked.text("a1.svc.")[-1].startswith("a8.svc. 5 IN CNAME")


def test_an_alias_outside_is_told_and_asked_for_upstream() -> None:
    assert Asked(external("shop", "shop.example")).text("shop.svc.") == ["shop.svc. 5 IN CNAME shop.example."]
    ask = Asked(external("shop", "shop.example"), recursion=True).forwards("shop.svc.")
    assert (ask.name, ask.aliases) == (b"\4shop\7example\0", 1)


def test_other_names_are_refused_without_upstream() -> None:
    assert Asked(TOMCAT).text("example.org.") == ["REFUSED"]
    assert Asked(TOMCAT).text("local.") == ["REFUSED"]
    assert Asked(TOMCAT).text(".", "NS") == ["REFUSED"]


def test_a_label_that_ends_like_a_zone_is_no_zone() -> None:
    assert Asked(TOMCAT).text("tomcat.xsvc.") == ["REFUSED"]
    assert Asked(TOMCAT).text(r"tomcat\003svc.") == ["REFUSED"]


def test_zones_have_the_names_they_were_given() -> None:
    asked = Asked(TOMCAT, shape=Shape(("corp", "x.example"), "k8s.test"))
    for name in ("tomcat.corp.", "tomcat.default.x.example.", "tomcat.default.svc.k8s.test."):
        assert asked.text(name) == [f"{name} 5 IN A 10.0.0.5"]
    assert asked.text("tomcat.svc.") == ["REFUSED"]


def test_a_long_answer_by_udp_is_cut_and_says_so() -> None:
    many = headless("db", *(Endpoint(f"10.1.{i // 250}.{i % 250 + 1}", 80) for i in range(300)))
    asked = Asked(many)
    for payload, bound in ((None, 512), (512, 512), (4096, 1232)):
        message = asked.once("db.svc.", payload=payload)
        assert message.flags & dns.flags.TC
        assert len(message.to_wire()) <= bound
    assert len(lines(asked.ask("db.svc.", stream=True).answer)) == 300


def test_glue_is_left_out_before_an_answer_is_cut() -> None:
    asked = Asked(headless("db", *(Endpoint(f"10.1.1.{i}", 80) for i in range(1, 9))))
    message = asked.ask("_http._tcp.db.svc.", "SRV")
    assert not message.flags & dns.flags.TC
    assert (len(lines(message.answer)), message.additional) == (8, [])
    assert len(lines(asked.ask("_http._tcp.db.svc.", "SRV", payload=1232).additional)) == 8


@pytest.mark.parametrize(("name", "kind"), [("many.svc.", "A"), ("_http._tcp.db.svc.", "SRV")])
def test_what_just_fits_is_whole_and_with_room_for_a_byte_less_it_is_not(name: str, kind: str) -> None:
    those = [Endpoint(f"10.1.1.{i}", 80) for i in range(1, 41)]
    asked = Asked(headless("many", *those), headless("db", *those[:8]))
    whole = size(asked, name, kind, 1232)
    assert 512 < whole < 1232
    assert size(asked, name, kind, whole) == whole
    assert size(asked, name, kind, whole - 1) < whole


def size(asked: Asked, name: str, kind: str, payload: int) -> int:
    """Bytes of the answer."""
    query = dns.message.make_query(name, kind, use_edns=True, payload=payload)
    reply = asked.responder.respond(query.to_wire(), False)
    assert isinstance(reply, bytes)
    return len(reply)


def test_names_too_long_for_dns_are_left_out_and_the_rest_is_served() -> None:
    asked = Asked(headless("db", Endpoint("10.1.1.1", 80, hostname="h" * 64)), virtual("s" * 63, "10.0.0.9"))
    assert asked.text("10-1-1-1.db.svc.") == ["10-1-1-1.db.svc. 5 IN A 10.1.1.1"]
    assert asked.text(f"{'s' * 63}.svc.") == [f"{'s' * 63}.svc. 5 IN A 10.0.0.9"]
