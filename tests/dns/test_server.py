"""A worker on its sockets: `dig` and dnspython ask it, and clients that don't keep to the rules."""

import contextlib
import resource
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator

import dns.flags
import dns.message
import dns.rdatatype
import pytest

import dns.name
import dns.query
from svcnet.dns.server import LAST_SECONDS
from svcnet.dns.settings import Settings
from svcnet.dns.upstream import Server
from svcnet.feed import Change, Whole
from svcnet.model.snapshot import Endpoint
from tests.dns.secondary import query_for
from tests.dns.serving import HOST, PATIENCE_SECONDS, Served, bound, worker
from tests.dns.world import REVERSE, gone, headless, lines, virtual
from tests.harness.until import until

SETTINGS = Settings(reverse=REVERSE, servers=(HOST,))
MANY = headless("many", *(Endpoint(f"10.1.{i // 250}.{i % 250 + 1}", 80) for i in range(300)))
NOBODY_IS_IDLE = {"server.IDLE_SECONDS": 3600.0}
"""However long a test takes, connections end for what it did."""
RECORDS = (virtual("tomcat", "10.0.0.5"), virtual("web", "10.0.0.6", namespace="shop"), MANY)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with worker(SETTINGS, RECORDS, changed=NOBODY_IS_IDLE) as running:
        until(lambda: running.udp("tomcat.svc.").answer)
        yield running


def query(name: str = "tomcat.svc.", kind: str = "A") -> bytes:
    return dns.message.make_query(name, kind, use_edns=False).to_wire()


def test_dig_finds_a_service_by_udp_and_tcp(served: Served) -> None:
    assert served.dig("+short", "tomcat.svc").split() == ["10.0.0.5"]
    assert served.dig("+short", "+tcp", "web.shop.svc.cluster.local").split() == ["10.0.0.6"]
    assert served.dig("+short", "-x", "10.0.0.5").split() == ["tomcat.default.svc.cluster.local."]
    assert served.dig("+short", "SRV", "_http._tcp.tomcat.svc").split()[3:] == ["tomcat.default.svc.cluster.local."]


def test_dig_with_its_cookie_sees_a_clean_answer(served: Served) -> None:
    output = served.dig("tomcat.svc", "A", "+cookie", "+norec")
    assert "status: NOERROR" in output
    assert "flags: qr aa;" in output
    assert "WARNING" not in output


def test_a_long_answer_comes_by_tcp_after_it_was_cut(served: Served) -> None:
    assert served.udp("many.svc.").flags & dns.flags.TC
    reply, by_tcp = dns.query.udp_with_fallback(
        dns.message.make_query("many.svc.", "A"), HOST, PATIENCE_SECONDS, served.port
    )
    assert by_tcp
    assert len(lines(reply.answer)) == 300


def test_a_change_is_answered_and_a_deletion(served: Served) -> None:
    served.tell(Change(2, (virtual("fresh", "10.0.0.9"),)))
    until(lambda: served.udp("fresh.svc.").answer)
    served.tell(Change(3, (gone("fresh"),)))
    until(lambda: served.udp("fresh.svc.").rcode().name == "NXDOMAIN")


def test_queries_on_one_connection_are_all_answered_however_they_come_in(served: Served) -> None:
    names = ["tomcat.svc.", "nothing.svc.", "many.svc.", "web.shop.svc."]
    queries = [query(name) for name in names]
    stream = b"".join(len(q).to_bytes(2) + q for q in queries)
    for pieces in ([stream], [stream[i : i + 1] for i in range(len(stream))]):
        with socket.create_connection((HOST, served.port), PATIENCE_SECONDS) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                client.sendall(piece)
            client.shutdown(socket.SHUT_WR)
            data = b"".join(iter(lambda: client.recv(65535), b""))
        replies = []
        while data:
            length = int.from_bytes(data[:2])
            replies.append(dns.message.from_wire(data[2 : 2 + length]))
            data = data[2 + length :]
        assert [str(r.question[0].name) for r in replies] == names
        assert [len(lines(r.answer)) for r in replies] == [1, 0, 300, 1]


def test_clients_that_leave_in_the_middle_disturb_nobody(served: Served) -> None:
    for data in (b"", b"\0", b"\0\x20", b"\0\x20abc", b"\xff\xff" + bytes(100), b"\0\0", b"\0\1x"):
        with socket.create_connection((HOST, served.port), PATIENCE_SECONDS) as client:
            client.sendall(data)
            # A reset, not a close: the worker may be writing.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert lines(served.tcp("tomcat.svc.").answer) == ["tomcat.svc. 5 IN A 10.0.0.5"]


def test_only_those_who_may_ask_are_answered() -> None:
    with worker(Settings(allow=("192.0.2.0/24",)), RECORDS) as running:
        assert until(lambda: running.udp("tomcat.svc.")).rcode().name == "REFUSED"
        assert running.tcp("tomcat.svc.").rcode().name == "REFUSED"
        assert running.udp("tomcat.svc.").rcode().name == "REFUSED"


def test_who_may_not_ask_may_not_transfer_either() -> None:
    settings = Settings(allow=("192.0.2.0/24",), transfer_to=("0.0.0.0/0",), reverse=REVERSE)
    with worker(settings, RECORDS) as running:
        until(lambda: running.udp("tomcat.svc."))
        for kind, serial in ((dns.rdatatype.AXFR, None), (dns.rdatatype.IXFR, 0)):
            wanted = query_for(dns.name.from_text("svc."), kind, serial)
            for ask in (dns.query.tcp, dns.query.udp):
                reply = ask(wanted, HOST, PATIENCE_SECONDS, running.port)
                assert (reply.rcode().name, reply.answer) == ("REFUSED", [])


def test_an_answer_leaves_from_the_address_that_was_asked() -> None:
    with worker(SETTINGS, RECORDS, host="0.0.0.0") as running:
        until(lambda: running.udp("tomcat.svc.").answer)
        for address in ("127.0.0.2", "127.3.4.5"):
            reply = dns.query.udp(dns.message.make_query("tomcat.svc.", "A"), address, PATIENCE_SECONDS, running.port)
            assert lines(reply.answer) == ["tomcat.svc. 5 IN A 10.0.0.5"]


def test_before_the_first_records_it_says_servfail_and_then_answers() -> None:
    with worker(SETTINGS, None) as running:
        assert running.udp("tomcat.svc.").rcode().name == "SERVFAIL"
        assert running.udp("example.org.").rcode().name == "REFUSED"
        running.tell(Change(1, RECORDS[:1]))
        assert running.udp("tomcat.svc.").rcode().name == "SERVFAIL"


def test_records_in_several_frames_are_served_when_the_last_is_there() -> None:
    with worker(SETTINGS, None) as running:
        running.tell(Whole(5, RECORDS[:1], last=False))
        assert running.udp("tomcat.svc.").rcode().name == "SERVFAIL"
        running.tell(Whole(5, RECORDS[1:], last=True))
        until(lambda: running.udp("tomcat.svc.").answer)
        assert running.udp("web.shop.svc.").answer


def connected(stack: contextlib.ExitStack, running: Served, source: str = HOST) -> socket.socket:
    """A connection from an address of loopback."""
    return stack.enter_context(socket.create_connection((HOST, running.port), PATIENCE_SECONDS, (source, 0)))


def asked_on(client: socket.socket) -> list[str]:
    """The answer on an open connection; [] when the server has closed it."""
    try:
        client.sendall(len(query()).to_bytes(2) + query())
        head = client.recv(2, socket.MSG_WAITALL)
        reply = client.recv(int.from_bytes(head), socket.MSG_WAITALL)
    except ConnectionError:
        return []
    return lines(dns.message.from_wire(reply).answer) if reply else []


TOMCAT = ["tomcat.svc. 5 IN A 10.0.0.5"]


def test_one_client_with_hundreds_of_idle_connections_shuts_nobody_out(served: Served) -> None:
    with contextlib.ExitStack() as stack:
        early = connected(stack, served, "127.0.0.2")
        assert asked_on(early) == TOMCAT
        crowd = [connected(stack, served, "127.0.0.3") for _ in range(400)]
        late = connected(stack, served, "127.0.0.4")
        assert asked_on(late) == TOMCAT
        assert asked_on(early) == TOMCAT, "it was idle for longest, and is not of the client with most connections"
        assert asked_on(crowd[-1]) == TOMCAT, "its newest connections are open"
        assert crowd[0].recv(1) == b"", "its oldest made room"


def test_the_connection_that_asked_last_stays(served: Served) -> None:
    with contextlib.ExitStack() as stack:
        crowd = [connected(stack, served, "127.0.0.5") for _ in range(64)]
        assert asked_on(crowd[-1]) == TOMCAT, "all are accepted"
        assert asked_on(crowd[0]) == TOMCAT
        crowd += [connected(stack, served, "127.0.0.5") for _ in range(5)]
        assert asked_on(crowd[-1]) == TOMCAT
        assert asked_on(crowd[0]) == TOMCAT
        assert crowd[1].recv(1) == b""


def test_many_clients_with_a_few_connections_each_leave_room_for_another() -> None:
    with worker(SETTINGS, RECORDS, changed=NOBODY_IS_IDLE) as running, contextlib.ExitStack() as stack:
        until(lambda: running.udp("tomcat.svc.").answer)
        resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (64, 64))
        for number in range(100):
            connected(stack, running, f"127.0.1.{number // 4}")
        for number in range(20):
            assert asked_on(connected(stack, running, f"127.0.2.{number}")) == TOMCAT


def test_without_descriptors_it_still_answers_and_recovers() -> None:
    settings = Settings(upstreams=(Server(HOST, 9),))
    with worker(settings, RECORDS) as running:
        until(lambda: running.udp("tomcat.svc.").answer)
        resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (40, 40))
        with contextlib.ExitStack() as stack:
            for _ in range(100):  # the kernel takes them all, the worker as many as it can
                stack.enter_context(socket.create_connection((HOST, running.port), PATIENCE_SECONDS))
            assert lines(running.udp("tomcat.svc.").answer) == ["tomcat.svc. 5 IN A 10.0.0.5"]
            assert running.udp("example.org.").rcode().name == "SERVFAIL"
            running.tell(Change(2, (virtual("fresh", "10.0.0.9"),)))
            until(lambda: running.udp("fresh.svc.").answer)
        until(lambda: running.tcp("tomcat.svc.").answer)
        assert running.process.poll() is None


def test_the_worker_ends_with_its_feed_and_frees_the_port() -> None:
    with worker(SETTINGS, RECORDS) as running:
        port = running.port
        until(lambda: running.udp("tomcat.svc.").answer)
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as free:
        free.bind((HOST, port))


def test_a_worker_told_nonsense_ends_and_says_so() -> None:
    ours, theirs = socket.socketpair()
    sockets = bound()
    numbers = [one.fileno() for one in (theirs, *sockets)]
    argv = [sys.executable, "-m", "svcnet.dns.worker", *map(str, numbers)]
    with ours, theirs, sockets[0], sockets[1]:
        process = subprocess.Popen(argv, pass_fds=numbers, stderr=subprocess.PIPE)
        ours.sendall(b"\xff" * 100)
        _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1
    assert b"a frame of" in said


def test_a_zone_that_goes_out_when_the_worker_ends_arrives_whole() -> None:
    entries = [virtual(f"web-{n}", f"10.0.{n // 250}.{n % 250 + 1}") for n in range(8000)]
    wanted = query("cluster.local.", "AXFR")
    with worker(SETTINGS, entries, changed=NOBODY_IS_IDLE) as served, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.settimeout(PATIENCE_SECONDS)
        client.connect((HOST, served.port))
        client.sendall(len(wanted).to_bytes(2) + wanted)
        with client.makefile("rb") as reader:
            messages = [reader.read(int.from_bytes(reader.read(2)))]
            served.feed.shutdown(socket.SHUT_RDWR)
            with pytest.raises(subprocess.TimeoutExpired):  # longer than anybody else is waited for
                served.process.wait(2 * LAST_SECONDS)
            while head := reader.read(2):
                messages.append(reader.read(int.from_bytes(head)))
    last = dns.message.from_wire(messages[-1]).answer[-1]
    assert last.rdtype == dns.rdatatype.SOA, "it ends with the SOA that it began with"
