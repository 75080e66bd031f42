"""A secondary of dnspython's: zones that were transferred, brought up to date by AXFR or IXFR.

Owns: what it holds. Must not know our own codec or where the messages come from.
"""

from collections.abc import Callable, Iterable

import dns.message
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.versioned
import dns.xfr

import dns.name

Ask = Callable[[dns.message.Message], Iterable[bytes]]
"""A query by TCP → the messages that come back, as many as there are."""


class Secondary:
    """One zone."""

    def __init__(self, apex: str) -> None:
        self.zone = dns.versioned.Zone(apex, relativize=False)
        self.incremental = 0
        """How many transfers were differences."""

    @property
    def serial(self) -> int:
        """Of what it holds."""
        with self.zone.reader() as reader:
            soa = reader.get(self.zone.origin, dns.rdatatype.SOA)
            assert soa is not None
            return int(soa[0].serial)

    def records(self) -> set[str]:
        """Every record as a line: NAME TTL IN TYPE DATA."""
        with self.zone.reader() as reader:
            return {line for name, rds in reader.iterate_rdatasets() for line in rds.to_text(name).split("\n")}

    def axfr(self, ask: Ask) -> None:
        """Transfer all of it."""
        self._transfer(ask, dns.rdatatype.AXFR, None)

    def ixfr(self, ask: Ask) -> None:
        """Transfer what is new."""
        self._transfer(ask, dns.rdatatype.IXFR, self.serial)

    def _transfer(self, ask: Ask, kind: dns.rdatatype.RdataType, serial: int | None) -> None:
        origin = self.zone.origin
        assert origin is not None
        query = query_for(origin, kind, serial)
        with dns.xfr.Inbound(self.zone, kind, serial) as inbound:
            done = False
            for wire in ask(query):
                assert not done, "nothing follows the end"
                message = dns.message.from_wire(wire, xfr=True, multi=True, one_rr_per_rrset=True)
                assert message.id == query.id
                done = inbound.process_message(message)
                self.incremental += done and bool(inbound.incremental)
            assert done, "the end is there"


def query_for(origin: dns.name.Name, kind: dns.rdatatype.RdataType, serial: int | None = None) -> dns.message.Message:
    """A query for a zone; IXFR from a serial."""
    query = dns.message.make_query(origin, kind)
    if serial is not None:
        soa = dns.rdata.from_text("IN", "SOA", f". . {serial} 0 0 0 0")
        query.find_rrset(query.authority, origin, dns.rdataclass.IN, dns.rdatatype.SOA, create=True).add(soa)
    return query
