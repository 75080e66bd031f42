"""A DNS worker as the daemon starts it, and a server upstream that does what a test wants.

Owns: processes, sockets and threads; nothing is left of them. Only loopback is used.
"""

import contextlib
import select
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Self

import dns.message
import msgspec

import dns.query
from svcnet.dns.settings import Settings
from svcnet.dns.upstream import Server
from svcnet.feed import Change, Entry, Frame, Whole, encode, framed

HOST = "127.0.0.1"
PATIENCE_SECONDS = 30.0
PATIENT = MappingProxyType(
    {
        "upstream.LEAST_PATIENCE": 3600.0,
        "upstream.FIRST_PATIENCE": 3600.0,
        "upstream.MOST_PATIENCE": 3600.0,
        "inquiry.WHOLE_SECONDS": 3600.0,
    }
)
"""For a worker whose servers upstream answer, soon or late: none is asked again or given up meanwhile."""

Behaviour = Callable[[dns.message.Message, bool], dns.message.Message | bytes | None]
"""(query, whether it came by TCP) → what goes back."""


def bound(host: str = HOST) -> tuple[socket.socket, socket.socket]:
    """A UDP and a listening TCP socket on one free port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for _ in range(100):
        stream = socket.create_server((host, 0), family=family)
        datagram = socket.socket(family, socket.SOCK_DGRAM)
        with contextlib.suppress(OSError):
            datagram.bind((host, stream.getsockname()[1]))
            return datagram, stream
        stream.close()
        datagram.close()
    raise AssertionError("no port is free by UDP and TCP alike")


class Served(NamedTuple):
    """A worker that runs."""

    process: subprocess.Popen[bytes]
    feed: socket.socket
    port: int

    def tell(self, *frames: Frame) -> None:
        """Send frames of records."""
        for frame in frames:
            self.feed.sendall(encode(frame))

    def udp(self, name: str, kind: str = "A", edns: bool = False) -> dns.message.Message:
        """Ask by UDP."""
        query = dns.message.make_query(name, kind, use_edns=edns)
        return dns.query.udp(query, HOST, PATIENCE_SECONDS, self.port)

    def tcp(self, name: str, kind: str = "A") -> dns.message.Message:
        """Ask by TCP."""
        return dns.query.tcp(dns.message.make_query(name, kind), HOST, PATIENCE_SECONDS, self.port)

    def dig(self, *arguments: str) -> str:
        """What `dig` prints."""
        command = ["dig", f"@{HOST}", "-p", str(self.port), "+tries=1", "+time=29", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_SECONDS).stdout

    def raw(self, packet: bytes, seconds: float = PATIENCE_SECONDS) -> bytes | None:
        """Send bytes by UDP; the reply, None for none."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(seconds)
            client.connect((HOST, self.port))
            client.send(packet)
            try:
                return client.recv(65535)
            except TimeoutError:
                return None


@contextlib.contextmanager
def worker(
    settings: Settings,
    entries: Sequence[Entry] | None = (),
    host: str = HOST,
    shared: Sequence[int] = (),
    changed: Mapping[str, float] = MappingProxyType({}),
) -> Iterator[Served]:
    """Run a worker on a free port with these records (None: none yet). `shared`: descriptors that it inherits.

    `changed`: durations (MODULE.NAME of svcnet.dns → seconds) that must not pass however busy the machine is.
    """
    ours, theirs = socket.socketpair()
    sockets = bound(host)
    numbers = [one.fileno() for one in (theirs, *sockets)]
    code = ["import sys"]
    for name, seconds in changed.items():
        module, _, constant = name.partition(".")
        code += [f"from svcnet.dns import {module}", f"{module}.{constant}", f"{module}.{constant} = {seconds}"]
    code += ["from svcnet.dns import worker", "worker.main(sys.argv[1:])"]  # after those that it takes them from
    program = ["-c", "\n".join(code)] if changed else ["-m", "svcnet.dns.worker"]
    argv = [sys.executable, *program, *map(str, numbers)]
    process = subprocess.Popen(argv, pass_fds=(*numbers, *shared))
    with ours:
        served = Served(process, ours, sockets[1].getsockname()[1])
        for one in (theirs, *sockets):
            one.close()
        ours.sendall(framed(msgspec.msgpack.encode(settings)))
        served.tell(Change(0, ()) if entries is None else Whole(1, tuple(entries)))
        try:
            yield served
        finally:
            ours.close()
            assert process.wait(PATIENCE_SECONDS) == 0, "a worker ends well when its feed does"


class Upstream:
    """A DNS server in a thread; `asked` are the questions, in order, with how they came.

    What its behaviour raises is raised by the end of the `with` block; the server goes on meanwhile, without a reply.
    """

    def __init__(self, behave: Behaviour, keeps: bool = True, tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        self._behave = behave
        self._keeps = keeps
        self.connections = 0
        self._datagram, self._stream = bound()
        self.address = Server(HOST, self._stream.getsockname()[1])
        self.asked: list[tuple[str, bool]] = []
        self.signs: list[str] = []
        """What it was asked only to know whether it lives, and whether it leads back."""
        self.ports: set[int] = set()
        self.client: tuple[str, int] = ("", 0)
        """Who asked last by UDP."""
        self.ids: list[int] = []
        self._raised: list[Exception] = []
        self._over = threading.Event()
        self._busy: set[int] = set()
        """The threads that have something to do."""
        self._talking: socket.socket | None = None
        self._threads = [threading.Thread(target=run) for run in (self._run_udp, self._run_tcp)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        RUNNING.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        RUNNING.remove(self)
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._datagram.close()
        self._stream.close()
        for error in self._raised:
            raise error

    def send(self, packet: bytes) -> None:
        """Send whoever asked last something else, from the same port."""
        self._datagram.sendto(packet, self.client)

    @property
    def busy(self) -> bool:
        """Whether it has not yet answered all that it was sent."""
        # In this order: what waits no more is in work by then.
        waits = any(_waits(one, 0) for one in (self._datagram, self._stream, self._talking) if one is not None)
        return waits or bool(self._busy)

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        self._busy.add(threading.get_ident())
        try:
            yield
        finally:
            self._busy.remove(threading.get_ident())

    def _reply(self, packet: bytes, stream: bool) -> bytes | None:
        query = dns.message.from_wire(packet)
        name = str(query.question[0].name)
        if name == "." or name.endswith(".svcnet-loop."):
            self.signs.append(name)
        else:
            self.asked.append((name, stream))
            self.ids.append(query.id)
        try:
            reply = self._behave(query, stream)
        except Exception as error:  # noqa: BLE001 (whatever it is, the test is to fail with it)
            self._raised.append(error)
            return None
        return reply.to_wire(max_size=65535) if isinstance(reply, dns.message.Message) else reply

    def _run_udp(self) -> None:
        while not self._over.is_set():
            if not _waits(self._datagram):
                continue
            with self._at_work():
                packet, client = self._datagram.recvfrom(65535)
                self.ports.add(client[1])
                self.client = client
                reply = self._reply(packet, stream=False)
                if reply is not None:
                    self._datagram.sendto(reply, client)

    def _run_tcp(self) -> None:
        while not self._over.is_set():
            if not _waits(self._stream):
                continue
            connection, _ = self._stream.accept()
            self.connections += 1
            with connection, contextlib.suppress(OSError):
                connection.settimeout(PATIENCE_SECONDS)
                if self.tls is None:
                    self._converse(connection)
                    continue
                with self._at_work():
                    secure = self.tls.wrap_socket(connection, server_side=True)
                with secure:
                    self._converse(secure)

    def _converse(self, connection: socket.socket | ssl.SSLSocket) -> None:
        """Answer on one connection: one query, or (`keeps`) as many as come."""
        held = b""
        self._talking = connection
        try:
            while not self._over.is_set():
                if not (isinstance(connection, ssl.SSLSocket) and connection.pending()) and not _waits(connection):
                    continue
                with self._at_work():
                    data = connection.recv(65536)
                    held += data
                    if not data:
                        return
                    while len(held) >= 2 and len(held) >= (end := 2 + int.from_bytes(held[:2])):
                        packet, held = held[2:end], held[end:]
                        reply = self._reply(packet, stream=True)
                        if reply is not None:
                            connection.sendall(len(reply).to_bytes(2) + reply)
                        if not self._keeps:
                            return
        finally:
            self._talking = None


RUNNING: set[Upstream] = set()


def busy() -> bool:
    """Whether a server upstream has not yet answered all that it was sent."""
    return any(one.busy for one in list(RUNNING))


def _waits(sock: socket.socket, seconds: float = 0.05) -> bool:
    """Whether there is something to read, now or soon."""
    poll = select.poll()
    try:
        poll.register(sock, select.POLLIN)
    except ValueError:  # its thread has just closed it
        return False
    return bool(poll.poll(seconds * 1000))
