"""The programs iptables-save and iptables-restore, of one variant: legacy tables, or nftables under iptables' clothes.

Owns: which variant, how they are started, and what their errors mean. Knows no rule. They work in the network
namespace of the calling thread.
"""

import errno
import logging
import re
import shutil
import subprocess
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from svcnet.iptables.netlink import NetlinkError
from svcnet.iptables.ruleset import MOST_CLIENTS
from svcnet.iptables.saved import Saved, parse
from svcnet.iptables.service_text import SET_PREFIX
from svcnet.iptables.watermark import LegacyWatermark, NftWatermark
from svcnet.model.errors import KernelError, NotPermittedError

log = logging.getLogger(__name__)

LEGACY, NFT = "legacy", "nft"
VARIANTS = (LEGACY, NFT)
COMMANDS = {4: "iptables", 6: "ip6tables"}
WAIT_SECONDS = 20
"""How long to wait for whoever holds the lock of the legacy tables; then the change is tried again later."""
SILENT_SECONDS = 1.0
"""After so long the log says what is waited for."""
TABLES_IN_USE = {
    4: Path("/proc/thread-self/net/ip_tables_names"),
    6: Path("/proc/thread-self/net/ip6_tables_names"),
}
"""The legacy tables that this network namespace has. To ask iptables-legacy would make them."""
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}
"""Bit numbers of capabilities(7)."""
PROBE = "*nat\n-A POSTROUTING -j MASQUERADE --random-fully\nCOMMIT\n*filter\nCOMMIT\n"
"""What a kernel and programs must know."""
SBIN = "/usr/sbin:/sbin"
SET_FAMILIES = {4: "inet", 6: "inet6"}
NO_IPSET = "the program ipset is missing (Debian: apt install ipset)"


class RuleMissingError(NetlinkError):
    """A rule or chain that we wrote is not there any more, so nothing was changed. `code` is ENOENT."""

    def __init__(self, said: str) -> None:
        super().__init__(errno.ENOENT)
        self.args = (f"iptables-restore: {said}: somebody else changed our chains",)


class Xtables:
    """One variant's programs."""

    def __init__(self, variant: str, programs: Mapping[str, str]) -> None:
        self.variant = variant
        self._programs = programs
        self._ipset = _which("ipset")
        self._watermark: LegacyWatermark | NftWatermark | None = None

    def save(self, family: int) -> Saved:
        """What is in force of a family, read without changing anything."""
        if self.variant == LEGACY and not _legacy_tables(family):
            return Saved()
        done = _run([self._programs[f"{COMMANDS[family]}-save"]], "")
        if done.returncode:
            raise _error(done)
        return parse(done.stdout)

    def restore(self, family: int, text: str) -> None:
        """Carry a text out: all of a table or nothing. Waits for the lock."""
        if text:
            self._restore(family, text)

    def sets(self, family: int) -> frozenset[str] | None:
        """The ipsets of a family whose names are ours; None without the program."""
        if self._ipset is None:
            return None
        done = _run([self._ipset, "save"], "")
        if done.returncode:
            raise _error(done)
        created = (line.split() for line in done.stdout.splitlines() if line.startswith(f"create {SET_PREFIX}"))
        return frozenset(words[1] for words in created if SET_FAMILIES[family] in words)

    def make_sets(self, family: int, names: Iterable[str]) -> None:
        """Make ipsets, those that are there stay as they are."""
        shape = f"hash:ip family {SET_FAMILIES[family]} hashsize 64 maxelem {MOST_CLIENTS} timeout 0"
        self._restore_sets(f"create {name} {shape}" for name in sorted(names))

    def drop_sets(self, names: Iterable[str]) -> None:
        """Delete ipsets that no rule names."""
        self._restore_sets(f"destroy {name}" for name in sorted(names))

    def _restore_sets(self, lines: Iterable[str]) -> None:
        text = "\n".join(lines)
        if not text:
            return
        if self._ipset is None:
            raise KernelError(NO_IPSET)
        done = _run([self._ipset, "restore", "-exist"], text + "\n")
        if done.returncode:
            raise _error(done)

    def probe(self, family: int) -> None:
        """KernelError, with the reason, where this kernel has no such tables. Changes no rule."""
        self._restore(family, PROBE, "--test")

    def watermark(self) -> Hashable:
        """A value that is another after a change of these tables, whoever made it. It costs some microseconds."""
        if self._watermark is None:
            self._watermark = LegacyWatermark() if self.variant == LEGACY else NftWatermark()
        return self._watermark.read()

    def _restore(self, family: int, text: str, *options: str) -> None:
        program = self._programs[f"{COMMANDS[family]}-restore"]
        done = _run([program, "--noflush", "--wait", str(WAIT_SECONDS), *options], text)
        if done.returncode:
            raise _error(done)

    def close(self) -> None:
        """Give the sockets back; the rules stay."""
        if self._watermark is not None:
            self._watermark.close()


def require_privilege() -> None:
    """NotPermittedError that names the capability which is missing."""
    status = Path("/proc/thread-self/status").read_text(encoding="utf-8", errors="replace")
    effective = int(status.split("CapEff:")[1].split()[0], 16)
    missing = [name for name, bit in CAPABILITIES.items() if not effective >> bit & 1]
    if missing:
        raise NotPermittedError(f"programming iptables needs {' and '.join(missing)} (run as root)")


def programs(variant: str) -> dict[str, str] | None:
    """Command → path of a variant's four programs; None if one is missing."""
    found: dict[str, str] = {}
    for command in COMMANDS.values():
        for part in ("save", "restore"):
            path = _which(f"{command}-{variant}-{part}")
            if path is None and (path := _which(f"{command}-{part}")) and _variant_of(path) != variant:
                path = None
            if path is None:
                return None
            found[f"{command}-{part}"] = path
    return found


def installed() -> dict[str, Xtables]:
    """Every variant that is here, that of the plain `iptables-restore` first. KernelError when there is none."""
    plain = _which("iptables-restore")
    first = _variant_of(plain) if plain else NFT
    order = sorted(VARIANTS, key=lambda variant: variant != first)
    found = {v: Xtables(v, paths) for v in order if (paths := programs(v)) is not None}
    if not found:
        raise KernelError(
            "the programs iptables-restore and ip6tables-restore are missing (Debian: apt install iptables)"
        )
    return found


def select(variants: Mapping[str, Xtables], rules: Mapping[str, int]) -> tuple[Xtables, str]:
    """The variant to use, and a warning or "". `rules`: how many of others' rules each variant holds.

    Where the machine's other rules are, its operator looks. Without any, or with both, the plain program decides.
    """
    first = next(iter(variants))
    with_rules = [v for v in variants if rules.get(v)]
    chosen = with_rules[0] if len(with_rules) == 1 else first
    other = [f"{rules[v]} rules in {v} tables" for v in with_rules if v != chosen]
    warning = f"using {chosen} tables, but there are {other[0]} too: packets pass both" if other else ""
    return variants[chosen], warning


def foreign_rules(variants: Mapping[str, Xtables]) -> dict[str, int]:
    """Variant → rules of others, of both families; 0 where they can't be read."""
    counts = dict.fromkeys(variants, 0)
    for name, tables in variants.items():
        for family in COMMANDS:
            with suppress(KernelError):
                counts[name] += tables.save(family).foreign
    return counts


def _legacy_tables(family: int) -> list[str]:
    try:
        return TABLES_IN_USE[family].read_text(encoding="ascii").split()
    except OSError:  # no such module, or not permitted: then there is nothing that we could have made
        return []


def _which(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=SBIN)


def _variant_of(path: str) -> str:
    """`iptables-restore v1.8.9 (nf_tables)`; before 1.8 there was legacy alone, and no word of it."""
    return NFT if "nf_tables" in _run([path, "--version"], "").stdout else LEGACY


def _run(command: Sequence[str], text: str) -> "subprocess.CompletedProcess[str]":
    pipe = subprocess.PIPE
    try:
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
            try:
                said, errors = process.communicate(text, timeout=SILENT_SECONDS)
            except subprocess.TimeoutExpired:
                log.warning("waiting for program=%s: does another one hold the xtables lock?", command[0])
                said, errors = process.communicate()
    except OSError as error:
        raise KernelError(f"{command[0]}: {error.strerror}") from error
    return subprocess.CompletedProcess(command, process.returncode, said, errors)


def _error(done: "subprocess.CompletedProcess[str]") -> Exception:
    said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith(("#", "Try "))]
    what = re.sub(r"^\S*tables\S*(?: v\S+ \(\w+\))?: ", "", said[0]) if said else "no message"
    if "Permission denied" in done.stderr or "must be root" in done.stderr:
        return NotPermittedError("programming iptables needs CAP_NET_ADMIN and CAP_NET_RAW (run as root)")
    if "xtables lock" in done.stderr:
        return KernelError(f"iptables: another program held the xtables lock for {WAIT_SECONDS} s")
    if re.search(r"line:? \d+|not a chain|does not exist|No chain", done.stderr):
        return RuleMissingError(what)
    return KernelError(f"iptables: {what}")
