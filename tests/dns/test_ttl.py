"""How long answers may be kept: as the service says, else the zone; negative ones as the zone says."""

import dns.message
import dns.rdatatype
import pytest

from svcnet.model.snapshot import Endpoint
from tests.dns.world import SHAPE, Asked, external, headless, lines, pod, virtual

TOMCAT = virtual("tomcat", "10.0.0.5", "fd00:10::5")
DB = headless("db", Endpoint("10.1.1.2", 5432, hostname="db-0"), Endpoint("10.1.2.2", 5432))


@pytest.mark.parametrize(("given", "ttl"), [("0", 0), ("3600", 3600), ("3601", 5), ("-1", 5), ("soon", 5)])
def test_a_service_sets_its_ttl(given: str, ttl: int) -> None:
    asked = Asked(virtual("tomcat", "10.0.0.5", notes=(("svcnet.dev/ttl", given),)))
    assert asked.text("tomcat.svc.") == [f"tomcat.svc. {ttl} IN A 10.0.0.5"]


def test_records_of_one_name_and_type_have_one_ttl_the_shorter() -> None:
    notes = (("svcnet.dev/ttl", "60"),)
    one, other = virtual("a", "10.0.0.5", port=80, notes=notes), virtual("b", "10.0.0.5", port=81)
    name = "5.0.0.10.in-addr.arpa."
    message = Asked(one, other).ask(name, "PTR")
    assert sorted(lines(message.answer)) == [f"{name} 5 IN PTR {s}.default.svc.cluster.local." for s in ("a", "b")]


def ttls(message: dns.message.Message) -> set[int]:
    """TTLs of all sections, and how long a negative answer may be kept (RFC 2308 §5)."""
    sections = (message.answer, message.authority, message.additional)
    found = {rrset.ttl for section in sections for rrset in section}
    return found | {soa.minimum for rrset in message.authority for soa in rrset if rrset.rdtype == dns.rdatatype.SOA}


TTLS = SHAPE._replace(ttls=(("", 30), ("svc", 0), ("cluster.local", 120)))


@pytest.mark.parametrize(
    ("question", "ttl"),
    [
        (("tomcat.svc.", "A"), {0}),
        (("_http._tcp.tomcat.svc.", "SRV"), {0, 120}),
        (("svc.", "NS"), {0, 120}),
        (("nothing.svc.", "A"), {0}),
        (("tomcat.svc.", "ANY"), {0}),
        (("tomcat.default.svc.cluster.local.", "A"), {120}),
        (("_http._tcp.db.default.svc.cluster.local.", "SRV"), {120}),
        (("nothing.default.svc.cluster.local.", "A"), {120}),
        (("10-1-1-2.default.pod.cluster.local.", "A"), {120}),
        (("dns-version.cluster.local.", "TXT"), {120}),
        (("5.0.0.10.in-addr.arpa.", "PTR"), {30}),
        (("6.0.0.10.in-addr.arpa.", "PTR"), {30}),
        (("java.svc.", "A"), {0, 120}),
        (("slow.svc.", "A"), {900}),
        (("slow.default.svc.cluster.local.", "A"), {900}),
        (("slow.svc.", "AAAA"), {0}),
    ],
)
def test_answers_live_as_long_as_their_zone_says_negative_ones_too_unless_the_service_says(
    question: tuple[str, str], ttl: set[int]
) -> None:
    slow = virtual("slow", "10.0.0.7", notes=(("svcnet.dev/ttl", "900"),))
    java = external("java", "tomcat.default.svc.cluster.local")
    asked = Asked(TOMCAT, DB, slow, java, shape=TTLS, census=(pod("10.1.1.2"),))
    assert ttls(asked.ask(*question)) == ttl
