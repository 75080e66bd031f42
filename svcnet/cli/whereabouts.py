"""The addresses of this machine as they come and go, and what they make of node ports.

Owns: the reading, and the netlink socket that says when to read again (include/uapi/linux/rtnetlink.h).
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

from svcnet.config import Config
from svcnet.iptables.desired import Minion
from svcnet.model.errors import KernelError
from svcnet.model.node import Node
from svcnet.node_address import node_addresses
from svcnet.overlap import read_addresses

log = logging.getLogger(__name__)

GROUPS = 0x10 | 0x40 | 0x100 | 0x400
"""RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE."""
SETTLE_SECONDS = 0.2
"""An interface that comes up brings several messages."""
FAR = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Documentation addresses (RFC 5737, RFC 3849): nothing is sent, the kernel only says by which source it would be."""


class Whereabouts:
    """Reads at once when made; `run` reads again after each change."""

    def __init__(self, options: Config) -> None:
        self._options = options
        self._machine: tuple[str, ...] = ()
        self._sources: tuple[str, ...] = ()
        self.read()

    def read(self) -> bool:
        """Look at the machine; whether anything is different."""
        before = (self._machine, self._sources)
        self._sources = default_sources()
        if self._options.nodeport_addresses is not None:
            self._machine = tuple(str(a.ip) for a in read_addresses())
        return (self._machine, self._sources) != before

    def locate(self, node: Node | None) -> Minion:
        """What rules need to know of this machine; `node` is its own record, if there is one."""
        options = self._options
        found = node_addresses(options.nodeport_addresses, self._machine, node, self._sources)
        return Minion(options.node, found)

    async def run(self, moved: Callable[[], Awaitable[None]]) -> None:
        """Call `moved` after each change, for ever."""
        changed = asyncio.Event()
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as notices:
            notices.setblocking(False)
            notices.bind((0, GROUPS))

            def notice() -> None:
                with suppress(OSError):  # ENOBUFS: messages were lost, which says that something changed
                    notices.recv(1 << 16)
                changed.set()

            loop.add_reader(notices, notice)
            try:
                changed.set()  # what came between the first look and this socket
                while True:
                    await changed.wait()
                    await asyncio.sleep(SETTLE_SECONDS)
                    changed.clear()
                    try:
                        if await asyncio.to_thread(self.read):
                            log.info("the machine's addresses changed")
                            await moved()
                    except KernelError as error:
                        log.warning("addresses are not known why=%s", error)
            finally:
                loop.remove_reader(notices)


def default_sources() -> tuple[str, ...]:
    """Return by which address this machine would go out, one a family that has a default route."""
    found = []
    for family, far in FAR.items():
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((far, 9))
            found.append(str(probe.getsockname()[0]).partition("%")[0])
    return tuple(found)
