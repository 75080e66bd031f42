"""What runs in a pod: answers its name over HTTP/1.1 and UDP; `python -m svcnet.lab.stand_in [PORT]` by itself.

Owns: the protocol (pure: Session) and its loop. Must not know the lab.

`GET /client` answers the client's address as the pod sees it, any other path the pod's name; UDP likewise: the payload
`client` asks for the address. Bodies end with a line feed.
"""

import os
import re
import selectors
import socket
import sys
from collections.abc import Mapping, Sequence
from functools import partial

LARGEST_HEAD = 16384
"""Bytes of a request's head; more is answered 431 and closed."""

LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,12})[ \t]*(?=\r\n|\Z)", re.IGNORECASE)
CONNECTION = re.compile(rb"\r\nconnection:[ \t]*([^\r\n]*)", re.IGNORECASE)


class Session:
    """One connection: bytes in, bytes out. `closing`: close once they are sent."""

    def __init__(self, name: str, client: str) -> None:
        self.closing = False
        self._name = name
        self._client = client
        self._buffer = b""
        self._skip = 0

    def receive(self, data: bytes) -> bytes:
        """Take what arrived, return the answers to all requests that it completes."""
        self._buffer += data
        answers = []
        while not self.closing:
            skipped = min(self._skip, len(self._buffer))
            self._buffer, self._skip = self._buffer[skipped:], self._skip - skipped
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                if len(self._buffer) > LARGEST_HEAD:
                    answers.append(self._refuse(b"431 Request Header Fields Too Large"))
                break
            self._buffer = rest
            answers.append(self._answer(head))
        return b"".join(answers)

    def _answer(self, head: bytes) -> bytes:
        line = head.partition(b"\r\n")[0].split(b" ")
        if len(line) != 3 or not line[2].startswith(b"HTTP/1."):
            return self._refuse(b"400 Bad Request")
        method, target, version = line
        length = LENGTH.search(head)
        self._skip = int(length[1]) if length else 0
        connection = CONNECTION.search(head)
        said = connection[1].strip().lower() if connection else b""
        self.closing = said == b"close" or (version == b"HTTP/1.0" and said != b"keep-alive")
        return self._response(b"200 OK", reply(target.lstrip(b"/"), self._name, self._client), method == b"HEAD")

    def _refuse(self, status: bytes) -> bytes:
        self.closing = True
        return self._response(status, status + b"\n", False)

    def _response(self, status: bytes, body: bytes, head_only: bool) -> bytes:
        keep = b"close" if self.closing else b"keep-alive"
        head = b"HTTP/1.1 %b\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: %b\r\n\r\n"
        return head % (status, len(body), keep) + (b"" if head_only else body)


def reply(asked: bytes, name: str, client: str) -> bytes:
    """Return the client's address if that was asked, else the pod's name, as one line."""
    return (client if asked.strip() == b"client" else name).encode() + b"\n"


def address_of(peer: str) -> str:
    """Return an address as text, an IPv4 one without the prefix that a dual-stack socket gives it."""
    return peer.removeprefix("::ffff:")


def listen(port: int, ipv6: bool) -> tuple[socket.socket, socket.socket]:
    """Return the (TCP, UDP) sockets, bound to every address of the pod, both families if `ipv6`."""
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    streams, datagrams = socket.socket(family, socket.SOCK_STREAM), socket.socket(family, socket.SOCK_DGRAM)
    for listener in (streams, datagrams):
        if ipv6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("::" if ipv6 else "0.0.0.0", port))  # noqa: S104 - the pod's namespace holds its own addresses only
        listener.setblocking(False)
    streams.listen(4096)
    return streams, datagrams


def serve(name: str, streams: socket.socket, datagrams: socket.socket) -> None:
    """Answer for ever."""
    selector = selectors.DefaultSelector()
    selector.register(streams, selectors.EVENT_READ, partial(_accept, selector, name, streams))
    selector.register(datagrams, selectors.EVENT_READ, partial(_echo, name, datagrams))
    while True:
        for key, _ in selector.select():
            key.data()


def _accept(selector: selectors.BaseSelector, name: str, listener: socket.socket) -> None:
    try:
        connection, peer = listener.accept()
    except OSError:  # gone again before it was accepted
        return
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    session = Session(name, address_of(peer[0]))
    selector.register(connection, selectors.EVENT_READ, partial(_converse, selector, connection, session))


def _converse(selector: selectors.BaseSelector, connection: socket.socket, session: Session) -> None:
    try:
        data = connection.recv(65536)
        answer = session.receive(data)
        # Answers are far smaller than a socket's buffer: one that doesn't fit has a client that doesn't read.
        unread = bool(answer) and connection.send(answer) < len(answer)
        done = not data or session.closing or unread
    except BlockingIOError:
        done = False
    except OSError:
        done = True
    if done:
        selector.unregister(connection)
        connection.close()


def _echo(name: str, datagrams: socket.socket) -> None:
    try:
        data, peer = datagrams.recvfrom(65536)
        datagrams.sendto(reply(data, name, address_of(peer[0])), peer)
    except OSError:  # an ICMP error of an earlier answer, or no room: UDP may lose
        return


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> None:
    """Answer $POD_NAME on a port, 8080 if none is given, for ever."""
    streams, datagrams = listen(int(arguments[0]) if arguments else 8080, ":" in environ.get("POD_IPS", ""))
    serve(environ.get("POD_NAME") or socket.gethostname(), streams, datagrams)


if __name__ == "__main__":
    main(sys.argv[1:], os.environ)
