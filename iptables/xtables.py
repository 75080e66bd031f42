"""The programs iptables-save and iptables-restore, of one variant: legacy tables, or nftables under iptables' clothes.

Owns: which variant, how they are started, and what their errors mean. Knows no rule. They work in the network
namespace of the calling thread.
"""

import errno
import logging
import re
import shutil
import subprocess
import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Timer

from svcnet.iptables.chain_text import HAIRPIN
from svcnet.iptables.netlink import NetlinkError
from svcnet.iptables.ruleset import MOST_CLIENTS
from svcnet.iptables.saved import Saved, parse
from svcnet.iptables.service_text import AFFINITY, HASH, SET_PREFIX
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
PROBE = """*nat
-A POSTROUTING -m mark --mark 0x1/0x1 -m comment --comment x -j MARK --set-xmark 0x1/0x1
-A POSTROUTING -m conntrack --ctstate DNAT -j MASQUERADE --random-fully
-A PREROUTING -p tcp -m tcp --dport 1 -m statistic --mode random --probability 0.5 -j DNAT --to-destination :1
-A PREROUTING -p udp -m udp --dport 1 -m addrtype --src-type LOCAL -j RETURN
COMMIT
*filter
-A FORWARD -p tcp -j REJECT --reject-with tcp-reset
COMMIT
"""
"""What a kernel and programs must know."""
WISHES = {
    HASH: (
        "source hash is not kept",
        "-m cluster --cluster-total-nodes 5 --cluster-local-nodemask 1 --cluster-hash-seed 1 -j RETURN",
    ),
    AFFINITY: ("session affinity is not kept", f"-m set --match-set {SET_PREFIX}none src -j RETURN"),
    HAIRPIN: ("endpoints that reach themselves cost a chain each", '-m bpf --bytecode "1,6 0 0 1" -j RETURN'),
}
"""What not every kernel has → what is lost without, and a rule that needs it."""
SBIN = "/usr/sbin:/sbin"
SET_FAMILIES = {4: "inet", 6: "inet6"}
NO_IPSET = "the program ipset is missing (Debian: apt install ipset)"
DROP_PAUSE_SECONDS = 0.02


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
        self._works: set[tuple[int, str]] = set()
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

    def lacks(self, family: int) -> Mapping[str, str]:
        """Which of WISHES do not work here, and why. What works is not tried again."""
        found: dict[str, str] = {}
        for what, (loss, rule) in WISHES.items():
            if (family, what) not in self._works:
                why = self._try(family, rule) or (self._try_ipset() if what == AFFINITY else "")
                if why:
                    found[what] = f"{loss}: {why}"
                else:
                    self._works.add((family, what))
        return found

    def _try(self, family: int, rule: str) -> str:
        """Why a rule can't be, or ""."""
        try:
            self._restore(family, f"*nat\n-A POSTROUTING {rule}\nCOMMIT\n", "--test")
        except NotPermittedError:
            raise
        except KernelError as error:
            # Of an ipset that is not there only a kernel that knows ipsets says so.
            return "" if "doesn't exist" in str(error) else str(error)
        return ""

    def _try_ipset(self) -> str:
        """Why there can't be ipsets, or ""."""
        program = _ipset()
        if program is None:
            return NO_IPSET
        done = _run([program, "list", "-name"], "")
        return f"this kernel has no ipset (module ip_set_hash_ip): {_said(done)}" if done.returncode else ""

    def sets(self, family: int) -> frozenset[str]:
        """The ipsets of a family whose names are ours; none where there can't be any."""
        program = _ipset()
        done = _run([program, "list", "-name"], "") if program else None
        if done is None or done.returncode:
            return frozenset()
        return frozenset(name for name in done.stdout.split() if name.startswith(f"{SET_PREFIX}{family}-"))

    def make_sets(self, family: int, names: Iterable[str]) -> None:
        """Make ipsets, those that are there stay as they are."""
        shape = f"hash:ip family {SET_FAMILIES[family]} hashsize 64 maxelem {MOST_CLIENTS} timeout 0"
        _change_sets(f"create {name} {shape}" for name in sorted(names))

    def empty_sets(self, names: Iterable[str]) -> None:
        """Let ipsets forget their clients."""
        _change_sets(f"flush {name}" for name in sorted(names))

    def drop_sets(self, names: Iterable[str], seconds: float = 0.0) -> frozenset[str]:
        """Delete ipsets that no rule names; return the others, that are still named after so long."""
        left = frozenset(names)
        with suppress(KernelError):  # as a rule all of them are free, and to ask first would be one more program
            _change_sets(f"destroy {name}" for name in sorted(left))
            return frozenset()
        deadline = time.monotonic() + seconds
        while True:
            references = _references()
            left &= references.keys()
            free = frozenset(name for name in left if not references[name])
            with suppress(KernelError):  # a rule names one by now
                _change_sets(f"destroy {name}" for name in sorted(free))
                left -= free
            if not left or time.monotonic() >= deadline:
                return left
            time.sleep(DROP_PAUSE_SECONDS)

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
    waiting = "waiting for program=%s: does another one hold the xtables lock?"
    # Not communicate(timeout=…): called again after it, Python 3.11 writes nothing more of the text.
    slow = Timer(SILENT_SECONDS, log.warning, (waiting, command[0]))
    try:
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
            slow.start()
            said, errors = process.communicate(text)
    except OSError as error:
        raise KernelError(f"{command[0]}: {error.strerror}") from error
    finally:
        slow.cancel()
    return subprocess.CompletedProcess(command, process.returncode, said, errors)


def _module(name: str) -> str:
    """The kernel's module of a match or target."""
    return {"REJECT": "ipt_REJECT, ip6t_REJECT", "DNAT": "xt_nat", "MARK": "xt_mark"}.get(name, f"xt_{name}")


def _ipset() -> str | None:
    return _which("ipset")


def _change_sets(lines: Iterable[str]) -> None:
    """Carry commands of ipset out, until one fails. KernelError."""
    text = "\n".join(lines)
    if not text:
        return
    program = _ipset()
    if program is None:
        raise KernelError(NO_IPSET)
    done = _run([program, "restore", "-exist"], text + "\n")
    if done.returncode:
        raise KernelError(f"ipset: {_said(done)}")


def _references() -> dict[str, int]:
    """Every ipset, with the number of rules that name it. KernelError."""
    program = _ipset()
    if program is None:
        return {}
    done = _run([program, "list", "-terse"], "")
    if done.returncode:
        raise KernelError(f"ipset: {_said(done)}")
    names = re.findall(r"^Name: (\S+)", done.stdout, re.MULTILINE)
    return dict(zip(names, map(int, re.findall(r"^References: (\d+)", done.stdout, re.MULTILINE)), strict=True))


def _said(done: "subprocess.CompletedProcess[str]") -> str:
    """The first line of what a program complained of, without its name."""
    said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith(("#", "Try "))]
    return re.sub(r"^(?:\S*tables\S*(?: v\S+ \(\w+\))?|ipset v\S+): ", "", said[0]) if said else "no message"


def _error(done: "subprocess.CompletedProcess[str]") -> Exception:
    what = _said(done)
    if "Permission denied" in done.stderr or "must be root" in done.stderr:
        return NotPermittedError("programming iptables needs CAP_NET_ADMIN and CAP_NET_RAW (run as root)")
    if "xtables lock" in done.stderr:
        return KernelError(f"iptables: another program held the xtables lock for {WAIT_SECONDS} s")
    if extension := re.search(r"Couldn't load (match|target) `(\w+)'", done.stderr):
        kind, name = extension.groups()
        return KernelError(f"this kernel or iptables has no {kind} {name} (module {_module(name)})")
    if re.search(r"line:? \d+|not a chain|does not exist|No chain", done.stderr):
        return RuleMissingError(what)
    return KernelError(f"iptables: {what}")
