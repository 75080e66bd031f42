"""The kernel behind nftables: chains and rules through nft, elements and dumps through netlink.

Owns: the conversation with the kernel of the network namespace that it was made in. Decides nothing.
Why two ways: nft writes rules that every tool can list again; netlink changes an element in 20 µs (docs/adr/0001).
"""

import errno
import shutil
import struct
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence

from svcnet.iptables.elements import (
    ELEM_LIST_SET,
    ELEM_LIST_TABLE,
    FAMILY_NUMBERS,
    GETSETELEM,
    Op,
    element_of,
    elements,
    messages,
)
from svcnet.iptables.netlink import (
    BATCH_BEGIN,
    BATCH_END,
    NLM_F_ACK,
    NetlinkError,
    Socket,
    attributes,
    message,
    text,
)
from svcnet.iptables.nft_text import render, render_class_chains, render_elements
from svcnet.iptables.ruleset import TABLE, Parameters
from svcnet.model.errors import KernelError, NotPermittedError

SUBSYSTEM = 10
GETCHAIN, GETRULE, GETGEN = (SUBSYSTEM << 8) + 4, (SUBSYSTEM << 8) + 7, (SUBSYSTEM << 8) + 16
CHAIN_TABLE, CHAIN_NAME = 1, 3
RULE_TABLE, RULE_CHAIN = 1, 2
GEN_ID = 1
DUMP_TRIES = 5
SETTLE_SECONDS = 0.1


class NftKernel:
    """Table `svcnet` of families ip and ip6 in this network namespace."""

    def __init__(self) -> None:
        program = shutil.which("nft") or shutil.which("nft", path="/usr/sbin:/sbin")
        if program is None:
            raise KernelError("the program nft is missing (Debian: apt install nftables)")
        self._nft = program
        self._socket = Socket()
        self._commits = 0
        self._first: int | None = None
        self._known: dict[int, dict[str, int]] = {}
        self._generation = -1
        """The kernel's count of commits as of our last one: as long as it stands, nobody else changed anything."""

    def close(self) -> None:
        """Give the socket back; the rules stay."""
        self._socket.close()

    def chains(self, family: int) -> Mapping[str, int]:
        """Our table's chains, and how many rules each has; empty when there is no table."""
        self._known[family] = self._chains(family)
        return self._known[family]

    def dump(self, family: int, table: str) -> list[tuple[bytes, bytes]]:
        """(key, data) of every element of one map or set."""
        ask = text(ELEM_LIST_TABLE, TABLE) + text(ELEM_LIST_SET, table)
        return [element for body in self._dump(GETSETELEM, family, ask) for element in elements(body)]

    def get(self, family: int, table: str, key: bytes) -> bytes | None:
        """The data of one element (b"" in a set); None without it."""
        try:
            answer = self._socket.ask(GETSETELEM, FAMILY_NUMBERS[family], element_of(table, key))
        except NetlinkError as error:
            if error.code == errno.ENOENT:
                return None
            raise
        return next((data for _, data in elements(memoryview(answer))), None)

    def install(
        self, parameters: Parameters, codes: Iterable[int], ops: Sequence[Op] = (), *, replace: bool = False
    ) -> None:
        """Make the table with these class chains, holding `ops`; `replace` an old one in the same commit."""
        ip = "ip" if parameters.family == 4 else "ip6"
        lines = [f"delete table {ip} {TABLE}"] if replace else []
        self._run([*lines, *render(parameters, codes), *render_elements(ops)])
        self.chains(parameters.family)

    def grow(self, parameters: Parameters, codes: Iterable[int]) -> None:
        """Add the class chains of these codes."""
        self._run(render_class_chains(parameters, codes))
        self.chains(parameters.family)

    def silence(self, family: int, chains: Iterable[str]) -> None:
        """Empty these chains in one transaction."""
        ip = "ip" if family == 4 else "ip6"
        self._run([f"flush chain {ip} {TABLE} {name}" for name in chains])

    def settle(self) -> None:
        """Wait until no packet is in rules that are gone.

        It is there for some microseconds, unless its processor is interrupted meanwhile, or taken away for a while.
        """
        time.sleep(SETTLE_SECONDS)

    def remove(self, family: int) -> None:
        """Delete the table."""
        self._run([f"delete table {'ip' if family == 4 else 'ip6'} {TABLE}"])

    def commit(self, ops: Sequence[Op]) -> None:
        """Carry out all or none. ENOENT: a key to delete, or a rule, is missing; EEXIST: a key has other data."""
        parts = list(messages(ops, seq=1))
        if not parts:
            return
        last = len(parts)
        # The acknowledgement of the last message comes after the commit, and so says that all is done.
        parts[-1] = parts[-1][:6] + struct.pack("=H", _flags(parts[-1]) | NLM_F_ACK) + parts[-1][8:]
        begin = message(BATCH_BEGIN, 0, 0, b"", 0, SUBSYSTEM)
        end = message(BATCH_END, 0, 0, b"", last + 1, SUBSYSTEM)
        number = self._count()
        if number != self._generation:
            self._check()
        self._socket.request(b"".join([begin, *parts, end]), last)
        self._commits += 1
        self._generation = number + 1

    def _check(self) -> None:
        """NetlinkError when somebody else took rules away: elements alone (`nft flush table`) translate nothing."""
        for family, known in self._known.items():
            if self._chains(family) != known:
                raise NetlinkError(errno.ENOENT)

    def _chains(self, family: int) -> dict[str, int]:
        found: dict[str, int] = {}
        for body in self._dump(GETCHAIN, family):
            parts = dict(attributes(body))
            if _name(parts.get(CHAIN_TABLE)) == TABLE:
                found[_name(parts[CHAIN_NAME])] = 0
        for body in self._dump(GETRULE, family, text(RULE_TABLE, TABLE)) if found else ():
            parts = dict(attributes(body))
            if _name(parts.get(RULE_TABLE)) == TABLE:
                found[_name(parts[RULE_CHAIN])] += 1
        return found

    def _dump(self, kind: int, family: int, ask: bytes = b"") -> list[memoryview]:
        """All messages of a dump; again when a change interrupts it."""
        for left in reversed(range(DUMP_TRIES)):
            try:
                return list(self._socket.dump(kind, FAMILY_NUMBERS[family], ask))
            except NetlinkError as error:
                if error.code != errno.EINTR or not left:
                    raise
        return []

    def strangers(self) -> int:
        """How many transactions were not ours since the first call: the kernel numbers them all (NFT_MSG_GETGEN)."""
        others = self._count() - self._commits
        if self._first is None:
            self._first = others
        return (others - self._first) & 0xFFFFFFFF

    def _count(self) -> int:
        """The kernel's number of the last transaction of this namespace, whoever made it."""
        return int.from_bytes(dict(attributes(self._socket.ask(GETGEN, 0)))[GEN_ID])

    def _run(self, lines: Sequence[str]) -> None:
        given = "\n".join(lines) + "\n"
        try:
            done = subprocess.run([self._nft, "-f", "-"], input=given, capture_output=True, text=True, check=False)
        except OSError as error:  # an upgrade takes the program away for a moment
            raise KernelError(f"{self._nft}: {error.strerror or error}") from error
        if done.returncode:
            what = done.stderr.strip().splitlines()[:1] or ["no message"]
            if "Operation not permitted" in done.stderr:
                raise NotPermittedError("programming nftables needs CAP_NET_ADMIN (run as root)")
            raise KernelError(f"nft: {what[0]}")
        self._commits += 1


def _name(value: memoryview | None) -> str:
    return bytes(value or b"").rstrip(b"\0").decode()


def _flags(part: bytes) -> int:
    flags: int = struct.unpack_from("=H", part, 6)[0]
    return flags
