"""Servers that say who was reached and whom they saw, on TCP and UDP, in any number of namespaces.

Owns: the listening sockets and the thread that answers. An answer is `ADDRESS PORT SOURCE`, as the server saw them; a
datagram `?NUMBER` gets that back at its end, so that late answers are told from those that are waited for.
Must not know what a service is.
"""

import os
import selectors
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from itertools import product
from typing import Self

SCTP = 132
BACKLOG = 4096
IPV6_FREEBIND = 78
"""linux/in6.h; lets an answer leave from an address that is local by a route alone."""
_PKTINFO = struct.Struct("16sI")


def plain(address: str) -> str:
    """An address as rows write it: IPv4 ones that came through an IPv6 socket without their prefix."""
    return address.removeprefix("::ffff:")


class Echo:
    """One thread for all; `listen` is called inside the namespaces."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._stop = os.eventfd(0)
        self._selector.register(self._stop, selectors.EVENT_READ)
        self._sockets: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, name="echo")

    def __enter__(self) -> Self:
        """Answer from now on."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Close every socket."""
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        self._selector.close()
        os.close(self._stop)
        for one in self._sockets:
            one.close()

    def listen(self, ports: Iterable[int], protocols: Iterable[str], addresses: Iterable[str] = ("::",)) -> None:
        """Answer on addresses of the caller's namespace: on all, those that are local by a route too, or on these."""
        for address, port, protocol in product(addresses, ports, protocols):
            self._open(address, port, protocol)

    def _open(self, address: str, port: int, protocol: str) -> None:
        kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
        one = socket.socket(socket.AF_INET6, kind, SCTP if protocol == "sctp" else 0)
        self._sockets.append(one)
        one.setblocking(False)
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        one.bind((address if ":" in address else f"::ffff:{address}", port))
        answer: Callable[[socket.socket], None] = _accepted
        if protocol == "udp":
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            one.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
            answer = _received
        else:
            one.listen(BACKLOG)
        self._selector.register(one, selectors.EVENT_READ, answer)

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fd == self._stop:
                    return
                key.data(key.fileobj)


def _accepted(listener: socket.socket) -> None:
    try:
        connection, peer = listener.accept()
    except BlockingIOError:
        return
    with connection:
        here = connection.getsockname()
        try:
            connection.send(f"{plain(here[0])} {here[1]} {plain(peer[0])}".encode())
        except ConnectionError:
            return  # the client gave up


def _received(server: socket.socket) -> None:
    question, ancillary, _, peer = server.recvmsg(512, socket.CMSG_SPACE(_PKTINFO.size))
    packed, _interface = _PKTINFO.unpack_from(ancillary[0][2])
    here = plain(socket.inet_ntop(socket.AF_INET6, packed))
    text = f"{here} {server.getsockname()[1]} {plain(peer[0])}".encode()
    if len(question) > 1 and question.startswith(b"?"):
        text += b" " + question
    # From the address that was asked, which a wildcard socket would not choose by itself.
    answer = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _PKTINFO.pack(packed, 0))]
    server.sendmsg([text], answer, 0, peer)
