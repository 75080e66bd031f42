"""Load on one address, from the caller's network namespace, against bench/server.py.

Owns: the sockets and the clock. Every function ends by itself: after `seconds`, after MOST requests, or with an OSError
when nothing comes for PATIENCE_SECONDS. Must not know which path is being measured.
"""

import contextlib
import select
import socket
import struct
import time

Address = tuple[str, int]

PATIENCE_SECONDS = 3
MOST = 200_000
"""Requests in one measurement."""
FLIGHT = 32
"""Connections that are open at a time when new ones are counted."""
BULK = 24
"""log2 of the reply, in bytes, that throughput is measured with."""
BUFFER_BYTES = 1 << 20
_PATIENCE = struct.pack("ll", PATIENCE_SECONDS, 0)


def throughput(address: Address, seconds: float) -> float:
    """Bytes per second that one connection receives."""
    begin = time.perf_counter()
    deadline, received = begin + seconds, 0
    buffer = memoryview(bytearray(BUFFER_BYTES))
    with _connected(address) as sock:
        while time.perf_counter() < deadline:
            received += _pull(sock, BULK, buffer, deadline)
    return received / (time.perf_counter() - begin)


def payload(address: Address, exponent: int, seconds: float) -> float:
    """Bytes per second, with a new connection for each reply of 2^exponent bytes."""
    begin = time.perf_counter()
    deadline, received = begin + seconds, 0
    buffer = memoryview(bytearray(min(BUFFER_BYTES, 1 << exponent)))
    for _ in range(MOST):
        with _connected(address) as sock:
            received += _pull(sock, exponent, buffer, deadline)
        if time.perf_counter() >= deadline:
            break
    return received / (time.perf_counter() - begin)


def connect_seconds(address: Address, seconds: float) -> list[float]:
    """Of each connection, one after the other: connect, one byte there, one byte back."""
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(times) < MOST and (begin := time.perf_counter()) < deadline:
        once(address)
        times.append(time.perf_counter() - begin)
    return times


def once(address: Address) -> None:
    """Connect, one byte there, one byte back, close."""
    with _connected(address) as sock:
        _exchange(sock)


def exchange_seconds(address: Address, seconds: float) -> list[float]:
    """Of each byte there and byte back, on one connection that stays."""
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    with _connected(address) as sock:
        while len(times) < MOST and (begin := time.perf_counter()) < deadline:
            _exchange(sock)
            times.append(time.perf_counter() - begin)
    return times


def connections(address: Address, seconds: float) -> float:
    """New connections per second, each with a byte there and a byte back; FLIGHT are under way at any time."""
    begin = time.perf_counter()
    deadline, done = begin + seconds, 0
    under_way: dict[int, socket.socket] = {}
    with select.epoll() as epoll:
        try:
            for _ in range(FLIGHT):
                _launch(address, epoll, under_way)
            while done < MOST and time.perf_counter() < deadline:
                ready = epoll.poll(PATIENCE_SECONDS)
                if not ready:
                    raise TimeoutError(f"no connection got on in {PATIENCE_SECONDS} s")
                for fd, events in ready:
                    if events & select.EPOLLOUT:
                        under_way[fd].send(b"\0")
                        epoll.modify(fd, select.EPOLLIN)
                    else:
                        _land(under_way.pop(fd))
                        done += 1
                        _launch(address, epoll, under_way)
            return done / (time.perf_counter() - begin)
        finally:
            for sock in under_way.values():
                sock.close()


def answers(address: Address, seconds: float) -> bool:
    """Whether one exchange works, tried for at most so long."""
    try:
        with socket.create_connection(address, timeout=seconds) as sock:
            _exchange(sock)
    except OSError:
        return False
    return True


def _connected(address: Address) -> socket.socket:
    sock = socket.socket()
    try:
        # Not settimeout(), by which every call would be two.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _PATIENCE)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock


def _exchange(sock: socket.socket) -> None:
    sock.send(b"\0")
    if not sock.recv(1):
        raise ConnectionError("closed before the reply")


def _pull(sock: socket.socket, exponent: int, buffer: memoryview, deadline: float) -> int:
    """Ask for 2^exponent bytes; return how many came until the deadline, at least one."""
    sock.send(bytes([exponent]))
    received, wanted = 0, 1 << exponent
    while received < wanted:
        count = sock.recv_into(buffer)
        if not count:
            raise ConnectionError(f"closed after {received} of {wanted} bytes")
        received += count
        if time.perf_counter() >= deadline:
            break
    return received


def _launch(address: Address, epoll: select.epoll, under_way: dict[int, socket.socket]) -> None:
    sock = socket.socket()
    under_way[sock.fileno()] = sock
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        sock.connect(address)
    epoll.register(sock.fileno(), select.EPOLLOUT)


def _land(sock: socket.socket) -> None:
    with sock:
        if not sock.recv(1):
            raise ConnectionError("closed before the reply")
