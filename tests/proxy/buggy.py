"""A worker with bugs: `python -m tests.proxy.buggy FD`.
What says `bug`, or whose service is named for one, meets them.

Owns: where they are. Everything else is svcnet/proxy/worker.py as it is.
"""

import _socket
import socket
from collections.abc import Callable
from functools import wraps
from typing import Any

from svcnet.proxy import greeting, relay, worker
from svcnet.proxy.datagram import Flow
from svcnet.proxy.listener import TcpDoor
from svcnet.proxy.pump import End
from svcnet.proxy.relay import Relay
from svcnet.proxy.session import Session

SAID = b"bug"


def plant(where: Any, name: str, when: Callable[..., bool]) -> None:
    """Have it raise when it is so."""
    sound = getattr(where, name)

    @wraps(sound)
    def faulty(*arguments: Any) -> Any:
        if when(*arguments):
            raise LookupError(f"a bug in {name}")
        return sound(*arguments)

    setattr(where, name, faulty)


def says_so(_place: object, source: End, _sink: object) -> bool:
    """Whether that is what comes next."""
    try:
        return bytes(source.sock.recv(len(SAID), _socket.MSG_PEEK | socket.MSG_DONTWAIT)) == SAID
    except OSError:
        return False


def main() -> None:
    """Entry point."""
    plant(relay, "pump", says_so)
    plant(relay, "settle", lambda one, _place: one.host.name == "bug in settle")
    plant(Relay, "lose_patience", lambda one: one.host.name == "bug in lose_patience")
    plant(Relay, "_timed_out", lambda one: one.host.name == "bug in _timed_out")
    plant(Relay, "_dialled", lambda one, *_: one.host.name == "bug in _dialled")
    plant(Relay, "_queue", lambda one, _seconds: one.host.name == "bug in _queue")
    plant(Session, "seated", lambda one: one.watch.name == "bug in seated")
    plant(TcpDoor, "_greet", lambda one, *_: one.name == "bug in _greet")
    plant(greeting, "read", lambda data: data.startswith(b"PROXY bug"))
    plant(Flow, "send", lambda _flow, data: data == SAID)
    worker.main()


if __name__ == "__main__":
    main()
