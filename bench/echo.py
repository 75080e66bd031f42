"""What a query costs without being looked at: `python -m svcnet.bench.echo SOCKET`, a descriptor. Ends when killed.

Owns: the row `echo` of the DNS suite. Datagrams are taken and sent by the calls and the memory of our own server,
and marked as replies without data; the loop does nothing else. Below that no server of such sockets in Python comes.
"""

import select
import socket
import sys

from svcnet.dns.batch import Batch, calls

REPLY = b"\x84\0\0\1\0\0\0\0\0\0"
"""A header behind its id: authoritative, one question."""


def main() -> None:
    """Echo for ever."""
    functions = calls()
    assert functions is not None, "a C library without recvmmsg"
    with socket.socket(fileno=int(sys.argv[1])) as bound, select.epoll() as waiting:
        waiting.register(bound, select.EPOLLIN)
        batch = Batch(bound, functions, control=False)
        while True:
            waiting.poll()
            batch.send([REPLY + packet[len(REPLY) :] for packet in batch.receive()])


if __name__ == "__main__":
    main()
